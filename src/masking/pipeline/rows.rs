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
use crate::masking::catalog::{Table, field};
use crate::masking::plan::{Copying, TablePlan};
use crate::masking::row::{RowError, RowMasker, Step};
use crate::sources::{Connection, ImportError, ServerMessage};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Rows that are tried.
const TRIED: usize = 500;
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

/// What a server objects to, without the value that it is about.
pub(super) fn objection(message: &ServerMessage) -> String {
    [&[format!("SQLSTATE {}", message.sqlstate)], message.objects.as_slice()].concat().join(", ")
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
    /// With how many rows ended in it.
    Rows(Bytes, u64),
    /// The range is complete, with so many rows.
    End(u64),
}

impl TableCopy<'_> {
    /// Copies all rows, in one transaction of the masked side that is left open, and returns how many. `sources` are sessions in one snapshot, at least one; they
    /// come back. `advance` is told of rows as they go.
    pub(in crate::masking) async fn run(
        &self,
        sources: &mut Vec<Connection>,
        fresh: &mut Connection,
        advance: impl Fn(u64),
    ) -> Result<u64, MaskingError> {
        // Frozen rows need a table that this transaction made or emptied.
        let is_frozen = !self.is_added_to_others();
        fresh.query("BEGIN").await?;
        if is_frozen {
            fresh.query(&format!("TRUNCATE ONLY {}", self.table.quoted())).await?;
        }
        fresh.begin_copy_in(&self.copying.write(is_frozen)).await?;
        let ranges = self.ranges(sources.len());
        let read = self.feed(ranges, sources, fresh, advance).await?;
        let written = fresh.end_copy_in().await?.map_err(|message| self.refused(&message))?;
        if read != written {
            return Err(self.stopped(Stop::Count(read, written)));
        }
        Ok(written)
    }

    /// Its rows go to where others are: partitions that masked keys route to, or an extension's table, which has rows of the extension's own.
    pub(in crate::masking) fn is_added_to_others(&self) -> bool {
        self.plan.through.is_some() || self.table.extension_condition.is_some()
    }

    /// Masks some of the rows, and has the masked side take them and forget them: what is wrong with a mask or breaks a check shows before many rows
    /// have moved. `then` are statements over them.
    pub(in crate::masking) async fn try_out(
        &self,
        sources: &mut Vec<Connection>,
        fresh: &mut Connection,
        then: Option<String>,
    ) -> Result<(), MaskingError> {
        // In files that this transaction makes: nothing of it is left.
        let whole = if self.plan.through.is_some() { "" } else { "ONLY " };
        fresh.query(&format!("BEGIN; TRUNCATE {whole}{}", self.copying.target())).await?;
        let tried = self.try_some(sources, fresh, then).await;
        fresh.query("ROLLBACK").await?;
        tried
    }

    async fn try_some(
        &self,
        sources: &mut Vec<Connection>,
        fresh: &mut Connection,
        then: Option<String>,
    ) -> Result<(), MaskingError> {
        fresh.begin_copy_in(&self.copying.write(false)).await?;
        let fed = self.feed(vec![self.copying.look(self.table, Some(TRIED))], sources, fresh, |_| ()).await;
        // Whatever became of the rows, the COPY has to end before anything else is said.
        let taken = fresh.end_copy_in().await;
        fed?;
        taken?.map_err(|message| self.refused(&message))?;
        if let Some(then) = then {
            fresh.try_query(&then).await?.map_err(|message| self.refused(&message))?;
        }
        Ok(())
    }

    fn refused(&self, message: &ServerMessage) -> MaskingError {
        let (database, table) = (self.database.to_owned(), self.table.full_name());
        MaskingError::Refused { database, table, objection: objection(message) }
    }

    /// Makes sure that the `rows` are there that a former run committed, as far as they can be told from others. They cannot be loaded again: keys and triggers
    /// may be there, too.
    pub(in crate::masking) async fn check_there(&self, fresh: &mut Connection, rows: u64) -> Result<(), MaskingError> {
        if self.is_added_to_others() {
            return Ok(());
        }
        let counted = fresh.query(&format!("SELECT count(*) FROM ONLY {}", self.table.quoted())).await?;
        match field(counted.first(), 0).parse().unwrap_or_default() {
            counted if counted == rows => Ok(()),
            counted => Err(self.stopped(Stop::Count(rows, counted))),
        }
    }

    /// Reads some of the rows and masks them, for what is kept of raw values; nothing is written.
    pub(in crate::masking) async fn look(&self, source: &mut Connection) -> Result<(), MaskingError> {
        let begun = source.begin_copy_out(&self.copying.look(self.table, None)).await;
        begun.map_err(|error| self.stopped(error.into()))?;
        let mut masker = RowMasker::new(self.copying.steps.clone());
        let (mut masked, mut unread) = (BytesMut::new(), 0);
        loop {
            let piece =
                source.read_copy_out(&mut unread, |piece| masker.feed(piece, &mut masked).map_err(Stop::Row)).await;
            masked.clear();
            if piece.map_err(|stop| self.stopped(stop))?.is_some() {
                return Ok(());
            }
        }
    }

    /// Sends what the statements `ranges` read to the COPY that `fresh` is in.
    async fn feed(
        &self,
        ranges: Vec<String>,
        sources: &mut Vec<Connection>,
        fresh: &mut Connection,
        advance: impl Fn(u64),
    ) -> Result<u64, MaskingError> {
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
                    Piece::Rows(data, more) => {
                        fresh.write_copy_in(&data).await?;
                        advance(more);
                    }
                    Piece::End(more) => {
                        rows += more;
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
    let (mut unread, mut sent_rows) = (0, 0);
    loop {
        let end = source.read_copy_out(&mut unread, |piece| masker.feed(piece, &mut masked).map_err(Stop::Row)).await?;
        if (masked.len() >= WRITE_SIZE || end.is_some()) && !masked.is_empty() {
            // Nobody waits for it any more: the other half knows why.
            let _ = out.send(Ok(Piece::Rows(masked.split().freeze(), masker.rows() - sent_rows))).await;
            sent_rows = masker.rows();
            masked.reserve(2 * WRITE_SIZE);
        }
        match end {
            Some(sent) if sent == masker.rows() && masker.is_between_rows() => return Ok(sent),
            Some(sent) => return Err(Stop::Count(sent, masker.rows())),
            None => {}
        }
    }
}
