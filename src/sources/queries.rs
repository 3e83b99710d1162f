//! A connection as a client's: queries with their rows, and COPY both ways in pieces of any size.
//!
//! A row of a table may be as long as 1 GB, so COPY data is handed on as it comes, and neither side ever holds a whole message of it.

use super::ImportError;
use super::connection::{Connection, Row, server_message};
use super::error::ServerMessage;
use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;

/// Tag and length of a message.
const HEADER: usize = 5;
/// The backend's CopyData (Postgres manual, "Message Formats").
const COPY_DATA: u8 = b'd';

impl Connection {
    /// The rows that one statement answers with.
    pub(crate) async fn query(&mut self, statement: &str) -> Result<Vec<Row>, ImportError> {
        self.try_query(statement).await?.map_err(|message| self.refused(message))
    }

    /// The same, with what the server objects to for the caller to judge.
    pub(crate) async fn try_query(&mut self, statement: &str) -> Result<Result<Vec<Row>, ServerMessage>, ImportError> {
        self.send(|buffer| frontend::query(statement, buffer)).await?;
        self.answer().await
    }

    /// Begins `COPY … TO STDOUT`.
    pub(crate) async fn begin_copy_out(&mut self, statement: &str) -> Result<(), ImportError> {
        self.begin_copy(statement, |message| matches!(message, Message::CopyOutResponse(_))).await
    }

    /// Begins `COPY … FROM STDIN`.
    pub(crate) async fn begin_copy_in(&mut self, statement: &str) -> Result<(), ImportError> {
        self.begin_copy(statement, |message| matches!(message, Message::CopyInResponse(_))).await
    }

    async fn begin_copy(&mut self, statement: &str, begins: impl Fn(&Message) -> bool) -> Result<(), ImportError> {
        self.send(|buffer| frontend::query(statement, buffer)).await?;
        match self.receive().await? {
            message if begins(&message) => Ok(()),
            Message::ErrorResponse(body) => {
                let message = server_message(body.fields());
                self.drain().await?;
                Err(self.refused(message))
            }
            _ => Err(self.unexpected("the beginning of a COPY")),
        }
    }

    /// Reads once, and hands what has come of the data to `take`, in pieces that end anywhere. Returns the number of rows the server says it
    /// has sent once that is all.
    ///
    /// `unread` is what is left of a message whose beginning was handed on: 0 at the first call, the caller's to keep.
    pub(crate) async fn read_copy_out<E: From<ImportError>>(
        &mut self,
        unread: &mut usize,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Option<u64>, E> {
        if self.received.is_empty() {
            self.read().await?;
        }
        loop {
            let piece = self.received.len().min(*unread);
            if piece > 0 {
                take(&self.received[..piece])?;
                self.received.advance(piece);
                *unread -= piece;
            }
            if *unread > 0 || self.received.is_empty() {
                return Ok(None);
            }
            if self.received[0] != COPY_DATA {
                return Ok(self.after_copy_data().await?);
            }
            if self.received.len() < HEADER {
                self.read().await?;
                continue;
            }
            let length = u32::from_be_bytes([self.received[1], self.received[2], self.received[3], self.received[4]]);
            // It counts itself.
            *unread = (length as usize).saturating_sub(HEADER - 1);
            self.received.advance(HEADER);
        }
    }

    /// Any message but data.
    async fn after_copy_data(&mut self) -> Result<Option<u64>, ImportError> {
        match self.receive().await? {
            Message::CopyDone => {
                let rows = self.end_of_copy().await?.map_err(|message| self.refused(message))?;
                Ok(Some(rows))
            }
            Message::ErrorResponse(body) => {
                let message = server_message(body.fields());
                self.drain().await?;
                Err(self.refused(message))
            }
            _ => Err(self.unexpected("the data of a COPY")),
        }
    }

    /// Sends data. Rows may end anywhere in it.
    pub(crate) async fn write_copy_in(&mut self, data: &[u8]) -> Result<(), ImportError> {
        let length = (data.len() + HEADER - 1) as u32;
        let mut header = [COPY_DATA; HEADER];
        header[1..].copy_from_slice(&length.to_be_bytes());
        let sent = async {
            self.stream.write_all(&header).await?;
            self.stream.write_all(data).await
        };
        sent.await.map_err(|source| self.disconnected(source))
    }

    /// Ends the data: how many rows the server took, or what it objects to.
    pub(crate) async fn end_copy_in(&mut self) -> Result<Result<u64, ServerMessage>, ImportError> {
        self.send(|buffer: &mut BytesMut| {
            frontend::copy_done(buffer);
            Ok(())
        })
        .await?;
        self.end_of_copy().await
    }

    /// The answer to a COPY after its data: `COPY <rows>`.
    async fn end_of_copy(&mut self) -> Result<Result<u64, ServerMessage>, ImportError> {
        let mut outcome = None;
        loop {
            match self.receive().await? {
                Message::CommandComplete(body) => {
                    let tag = body.tag().map_err(|error| self.protocol(error))?;
                    let rows = tag.strip_prefix("COPY ").and_then(|rows| rows.parse().ok());
                    outcome = Some(Ok(rows.ok_or_else(|| self.protocol(format!("{tag:?} after a COPY")))?));
                }
                Message::ErrorResponse(body) => outcome = Some(Err(server_message(body.fields()))),
                Message::ReadyForQuery(_) => return outcome.ok_or_else(|| self.unexpected("the end of a COPY")),
                _ => return Err(self.unexpected("the end of a COPY")),
            }
        }
    }

    /// Reads up to where the server is ready for the next statement.
    async fn drain(&mut self) -> Result<(), ImportError> {
        while !matches!(self.receive().await?, Message::ReadyForQuery(_)) {}
        Ok(())
    }
}
