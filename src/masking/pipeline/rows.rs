//! The rows of one table: COPY out, mask, COPY FREEZE in.
//!
//! ```text
//!  small table                   session ── mask ──────────────┐
//!  large table   pages 0-255     session ── mask ── channel ──┐│
//!                pages 256-511   session ── mask ── channel ──┼┴─► one COPY in, in the order of the pages
//!                pages 512-767   …
//! ```
//!
//! Only who made or emptied a table may freeze its rows, so they go in through one session, however many read and mask. Each takes every n-th range
//! of pages and waits where it is ahead by what its channel holds. What is in memory is a read buffer, a few write buffers and a masked value
//! at most for each session.

use crate::masking::MaskingError;
use crate::masking::catalog::Table;
use crate::masking::plan::{Copying, TablePlan};
use crate::masking::row::{RowError, RowMasker, Step};
use crate::sources::{Connection, ImportError};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Sent at once to the masked side.
const WRITE_SIZE: usize = 128 * 1024;
/// Pages of a range: 2 MiB, some tens of milliseconds of work.
const RANGE: u64 = 256;
/// Write buffers that a session may be ahead by.
const AHEAD: usize = 8;

/// One table on its way.
pub(in crate::masking) struct TableCopy<'a> {
    pub database: &'a str,
    pub table: &'a Table,
    pub plan: &'a TablePlan,
    pub copying: &'a Copying,
}

/// What ends a stream of rows before its end.
enum Stop {
    Source(ImportError),
    Row(RowError),
    /// So many rows were sent, and so many masked.
    Count(u64, u64),
}

impl From<ImportError> for Stop {
    fn from(error: ImportError) -> Stop {
        Stop::Source(error)
    }
}

/// What a session that reads a range hands on.
enum Piece {
    Rows(Bytes),
    /// The range is complete, with so many rows.
    End(u64),
}

impl TableCopy<'_> {
    /// Copies all rows, in one transaction of the masked side, and returns how many. `sources` are sessions in one snapshot, at least one; they come back. `advance` is
    /// told of rows as they go.
    pub(in crate::masking) async fn run(
        &self,
        sources: &mut Vec<Connection>,
        fresh: &mut Connection,
        advance: impl Fn(u64),
    ) -> Result<u64, MaskingError> {
        // Frozen rows need a table that this transaction made or emptied; an extension's has rows of the extension's own.
        let is_frozen = self.plan.through.is_none() && self.table.extension_condition.is_none();
        fresh.query("BEGIN").await?;
        if is_frozen {
            fresh.query(&format!("TRUNCATE ONLY {}", self.table.quoted())).await?;
        }
        fresh.begin_copy_in(&self.copying.write(is_frozen)).await?;
        let read = self.feed(sources, fresh, advance).await?;
        let written = fresh.end_copy_in().await?.map_err(|message| MaskingError::Refused {
            database: self.database.to_owned(),
            table: self.table.full_name(),
            sqlstate: message.sqlstate,
            column: None,
        })?;
        if read != written {
            return Err(self.stopped(Stop::Count(read, written)));
        }
        fresh.query("COMMIT").await?;
        Ok(written)
    }

    /// Sends everything to the COPY that `fresh` is in.
    async fn feed(
        &self,
        sources: &mut Vec<Connection>,
        fresh: &mut Connection,
        advance: impl Fn(u64),
    ) -> Result<u64, MaskingError> {
        let ranges = self.ranges(sources.len());
        let (count, sessions_count) = (ranges.len(), sources.len());
        let mut sessions = JoinSet::new();
        let mut channels = Vec::new();
        for (number, source) in sources.drain(..).enumerate() {
            let own = ranges.iter().skip(number).step_by(sessions_count).cloned().collect();
            let (sender, receiver) = mpsc::channel(AHEAD);
            sessions.spawn(read(source, own, self.copying.steps.clone(), sender));
            channels.push(receiver);
        }
        let mut rows = 0;
        for number in 0..count {
            let place = number % channels.len();
            loop {
                // A session that ends before its range does has said why.
                let piece = channels[place].recv().await.unwrap_or(Err(Stop::Count(rows, 0)));
                match piece.map_err(|stop| self.stopped(stop))? {
                    Piece::Rows(data) => fresh.write_copy_in(&data).await?,
                    Piece::End(more) => {
                        rows += more;
                        advance(more);
                        break;
                    }
                }
            }
        }
        while let Some(ended) = sessions.join_next().await {
            sources.push(ended.expect("a session that reads does not panic"));
        }
        Ok(rows)
    }

    /// The statements that read the table, one after the other its ranges.
    fn ranges(&self, sessions: usize) -> Vec<String> {
        if sessions < 2 {
            return vec![self.copying.read(None, None)];
        }
        let pages = self.table.pages;
        let starts: Vec<u64> = (0..pages.max(1)).step_by(RANGE as usize).collect();
        // The last has no end: the table may have grown since it was measured.
        let end = |start: u64| (start + RANGE < pages).then_some(start + RANGE);
        starts.into_iter().map(|start| self.copying.read(Some(start), end(start))).collect()
    }

    fn stopped(&self, stop: Stop) -> MaskingError {
        let (database, table) = (self.database.to_owned(), self.table.full_name());
        match stop {
            // What a server objects to while it computes rows quotes them.
            Stop::Source(ImportError::Server { sqlstate, .. }) => {
                MaskingError::SourceRefused { database, table, sqlstate }
            }
            Stop::Source(error) => error.into(),
            Stop::Count(read, written) => MaskingError::RowCount { database, table, read, written },
            Stop::Row(RowError { column, row, error }) => MaskingError::Value {
                database,
                table,
                column: self.copying.columns.get(column).cloned().unwrap_or_default(),
                row: row + 1,
                reason: error.to_string(),
            },
        }
    }
}

/// Reads ranges one after the other and masks their rows, until all are read or nobody waits for them.
async fn read(
    mut source: Connection,
    ranges: Vec<String>,
    steps: Arc<[Step]>,
    out: mpsc::Sender<Result<Piece, Stop>>,
) -> Connection {
    for range in ranges {
        let outcome = read_range(&mut source, &range, &steps, &out).await;
        let has_failed = outcome.is_err();
        if out.send(outcome.map(Piece::End)).await.is_err() || has_failed {
            break;
        }
    }
    source
}

async fn read_range(
    source: &mut Connection,
    range: &str,
    steps: &Arc<[Step]>,
    out: &mpsc::Sender<Result<Piece, Stop>>,
) -> Result<u64, Stop> {
    source.begin_copy_out(range).await?;
    let mut masker = RowMasker::new(steps.clone());
    let mut masked = BytesMut::with_capacity(2 * WRITE_SIZE);
    let mut unread = 0;
    loop {
        let end = source.read_copy_out(&mut unread, |piece| masker.feed(piece, &mut masked).map_err(Stop::Row)).await?;
        if (masked.len() >= WRITE_SIZE || end.is_some()) && !masked.is_empty() {
            // Nobody waits for it any more: the other half knows why.
            let _ = out.send(Ok(Piece::Rows(masked.split().freeze()))).await;
            masked.reserve(2 * WRITE_SIZE);
        }
        match end {
            Some(sent) if sent == masker.rows() && masker.is_between_rows() => return Ok(sent),
            Some(sent) => return Err(Stop::Count(sent, masker.rows())),
            None => {}
        }
    }
}
