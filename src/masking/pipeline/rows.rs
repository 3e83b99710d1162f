//! The rows of one table: COPY out, mask, COPY FREEZE in.
//!
//! Reading, masking and writing take turns in one task, over two sockets whose buffers keep both servers busy meanwhile. What is in memory is a
//! read buffer, a write buffer, and a masked value at most.

use crate::masking::MaskingError;
use crate::masking::catalog::Table;
use crate::masking::plan::{Copying, TablePlan};
use crate::masking::row::{RowError, RowMasker};
use crate::sources::{Connection, ImportError};
use bytes::BytesMut;

/// Sent at once to the masked side.
const WRITE_SIZE: usize = 128 * 1024;

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
}

impl From<ImportError> for Stop {
    fn from(error: ImportError) -> Stop {
        Stop::Source(error)
    }
}

impl TableCopy<'_> {
    /// Copies all rows, in one transaction of the masked side, and returns how many. `advance` is told of rows as they go.
    pub(in crate::masking) async fn run(
        &self,
        source: &mut Connection,
        fresh: &mut Connection,
        advance: impl Fn(u64),
    ) -> Result<u64, MaskingError> {
        // Frozen rows need a table that this transaction made or emptied; an extension's has rows of the extension's own.
        let is_frozen = self.plan.through.is_none() && self.table.extension_condition.is_none();
        fresh.query("BEGIN").await?;
        if is_frozen {
            fresh.query(&format!("TRUNCATE ONLY {}", self.table.quoted())).await?;
        }
        let written = self.stream(source, fresh, is_frozen, advance).await?;
        fresh.query("COMMIT").await?;
        Ok(written)
    }

    async fn stream(
        &self,
        source: &mut Connection,
        fresh: &mut Connection,
        is_frozen: bool,
        advance: impl Fn(u64),
    ) -> Result<u64, MaskingError> {
        fresh.begin_copy_in(&self.copying.write(is_frozen)).await?;
        source.begin_copy_out(&self.copying.read(None)).await?;
        let mut masker = RowMasker::new(self.copying.steps.clone());
        let mut out = BytesMut::with_capacity(2 * WRITE_SIZE);
        let (mut unread, mut told) = (0, 0);
        let read = loop {
            let end = source.read_copy_out(&mut unread, |piece| masker.feed(piece, &mut out).map_err(Stop::Row)).await;
            let end = end.map_err(|stop| self.stopped(stop))?;
            if out.len() >= WRITE_SIZE || end.is_some() {
                fresh.write_copy_in(&out).await?;
                out.clear();
                advance(masker.rows() - told);
                told = masker.rows();
            }
            if let Some(read) = end {
                break read;
            }
        };
        let written = fresh.end_copy_in().await?.map_err(|message| MaskingError::Refused {
            database: self.database.to_owned(),
            table: self.table.full_name(),
            sqlstate: message.sqlstate,
            column: None,
        })?;
        if read != written || read != masker.rows() || !masker.is_between_rows() {
            return Err(self.miscounted(read, written));
        }
        Ok(written)
    }

    fn miscounted(&self, read: u64, written: u64) -> MaskingError {
        MaskingError::RowCount { database: self.database.to_owned(), table: self.table.full_name(), read, written }
    }

    fn stopped(&self, stop: Stop) -> MaskingError {
        match stop {
            Stop::Source(error) => error.into(),
            Stop::Row(RowError { column, row, error }) => MaskingError::Value {
                database: self.database.to_owned(),
                table: self.table.full_name(),
                column: self.copying.columns.get(column).cloned().unwrap_or_default(),
                row: row + 1,
                reason: error.to_string(),
            },
        }
    }
}
