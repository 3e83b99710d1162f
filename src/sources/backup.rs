//! A live source's base backup, streamed (Postgres manual, "Streaming Replication Protocol", BASE_BACKUP).
//!
//! One connection does it all: its temporary slot holds the WAL from before the backup starts until the server has sent it at
//! the backup's end, and goes with the connection. There is no local copy: chunks go from the socket through
//! `archive` into the sink, and what is in flight is bounded.

use super::archive::{self, Chunk};
use super::connection::{Connection, Row, server_message};
use super::inquiry::Inquiry;
use super::sink::Sink;
use super::{ImportError, Progress};
use crate::model::Entropy;
use crate::pageserver::WriteError;
use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;
use tokio::sync::mpsc;

/// Streams the backup into what `open_sink` returns, and returns that. When cancelled, the thread that fills it ends with
/// an error and drops it.
pub(super) async fn back_up<S: Sink>(
    mut connection: Connection,
    inquiry: &Inquiry,
    entropy: &Entropy,
    open_sink: impl FnOnce() -> Result<S, WriteError> + Send + 'static,
    progress: &Progress,
) -> Result<S, ImportError> {
    reserve_wal(&mut connection, inquiry.major, entropy).await?;
    progress.wait_for("waiting for the source's checkpoint");
    connection.send_commands(&[backup_command(inquiry.major).to_owned()]).await?;
    let _start_position = connection.result().await?;
    let tablespaces = connection.result().await?;
    let estimate = main_tablespace_size(&tablespaces)?;
    progress.begin("copying the source", estimate);

    let (chunks, reader) = archive::channel();
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut sink = open_sink()?;
        archive::unpack(reader, &mut sink).map(|()| sink)
    });
    let streamed = stream(connection, Framing::of(inquiry.major), chunks, progress).await;
    let unpacked = unpacking.await.expect("unpacking a backup does not panic");
    match (streamed, unpacked) {
        // Either of them, when it ends early, stops the other one: the first cause counts.
        (Err(Stop::Source(error)), _) | (Err(Stop::Sink) | Ok(()), Err(error)) => Err(error),
        (_, Ok(sink)) => {
            progress.finish();
            Ok(sink)
        }
    }
}

/// Why the stream ended before its time.
enum Stop {
    Source(ImportError),
    /// The thread at the other end of the channel has an error.
    Sink,
}

impl From<ImportError> for Stop {
    fn from(error: ImportError) -> Stop {
        Stop::Source(error)
    }
}

/// How a server wraps the archive in COPY messages.
#[derive(Clone, Copy, PartialEq)]
enum Framing {
    /// Until PostgreSQL 14: one COPY for each tablespace, all data.
    Plain,
    /// From PostgreSQL 15 on: one COPY, each message with a type byte in front.
    Typed,
}

impl Framing {
    fn of(major: u32) -> Framing {
        if major >= 15 { Framing::Typed } else { Framing::Plain }
    }
}

/// No manifest: a sealed base has its own sums. No waiting for the archive: the WAL comes along.
fn backup_command(major: u32) -> &'static str {
    match Framing::of(major) {
        Framing::Typed => {
            "BASE_BACKUP (LABEL 'offshoot', PROGRESS, CHECKPOINT 'fast', WAL, WAIT 0, MANIFEST 'no', TARGET 'client')"
        }
        Framing::Plain => "BASE_BACKUP LABEL 'offshoot' PROGRESS FAST WAL NOWAIT",
    }
}

async fn reserve_wal(connection: &mut Connection, major: u32, entropy: &Entropy) -> Result<(), ImportError> {
    let slot = format!("offshoot_import_{:016x}", entropy.bits() as u64);
    let reserve = if major >= 15 { "(RESERVE_WAL)" } else { "RESERVE_WAL" };
    connection.send_commands(&[format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY PHYSICAL {reserve}")]).await?;
    match connection.answer().await? {
        Ok(_) => Ok(()),
        Err(message) => Err(connection.refused(message)),
    }
}

/// The estimated bytes of the data directory. Each row is a tablespace: OID, location, kB; the main one has no OID.
fn main_tablespace_size(rows: &[Row]) -> Result<u64, ImportError> {
    let field = |row: &Row, at: usize| row.get(at).cloned().flatten();
    let names: Vec<String> =
        rows.iter().filter(|row| field(row, 0).is_some()).map(|row| field(row, 1).unwrap_or_default()).collect();
    if !names.is_empty() {
        return Err(ImportError::ExtraTablespaces { names });
    }
    let kib = rows.first().and_then(|row| field(row, 2)).and_then(|size| size.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) * 1024)
}

/// Moves the archive from the connection into `chunks`, and confirms it there once the server has confirmed it here.
async fn stream(
    mut connection: Connection,
    framing: Framing,
    chunks: mpsc::Sender<Chunk>,
    progress: &Progress,
) -> Result<(), Stop> {
    let mut in_archive = framing == Framing::Plain;
    loop {
        match connection.receive().await? {
            Message::CopyOutResponse(_) => {}
            Message::CopyData(body) => {
                let content = match framing {
                    Framing::Plain => Some(body.into_bytes()),
                    Framing::Typed => typed(&connection, body.into_bytes(), &mut in_archive)?,
                };
                let Some(content) = content else { continue };
                progress.advance(content.len() as u64);
                chunks.send(Chunk::Data(content)).await.map_err(|_| Stop::Sink)?;
            }
            Message::CopyDone => break,
            Message::ErrorResponse(body) => return Err(connection.refused(server_message(body.fields())).into()),
            _ => return Err(connection.unexpected("a piece of the backup").into()),
        }
    }
    let _end_position = connection.result().await?;
    // Checksum failures are reported here, after everything was sent.
    if let Err(message) = connection.answer().await? {
        return Err(connection.refused(message).into());
    }
    chunks.send(Chunk::End).await.map_err(|_| Stop::Sink)
}

/// The archive's bytes in a message of [`Framing::Typed`]: `n` begins an archive, `d` is data, `p` progress, `m` a manifest.
fn typed(connection: &Connection, mut message: Bytes, in_archive: &mut bool) -> Result<Option<Bytes>, ImportError> {
    if message.is_empty() {
        return Err(connection.protocol("an empty piece of the backup"));
    }
    match message.get_u8() {
        b'n' if *in_archive => Err(connection.protocol("a second archive")),
        b'n' => {
            *in_archive = true;
            Ok(None)
        }
        b'd' if *in_archive => Ok(Some(message)),
        b'p' => Ok(None),
        other => Err(connection.protocol(format!("a piece of the backup of type {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_main_tablespace_is_taken() {
        let main = vec![None, None, Some("24".to_owned())];
        assert_eq!(main_tablespace_size(std::slice::from_ref(&main)).unwrap(), 24 * 1024);
        let extra = vec![Some("16388".to_owned()), Some("/fast".to_owned()), Some("1".to_owned())];
        let error = main_tablespace_size(&[extra, main]).unwrap_err();
        assert!(matches!(&error, ImportError::ExtraTablespaces { names } if names == &["/fast"]), "{error}");
    }
}
