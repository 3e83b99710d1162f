//! The tar archive of a base backup, from the connection to the pages.
//!
//! The connection's task puts chunks into a bounded channel, a blocking thread reads them as one tar archive. The thread
//! believes the archive complete only when told so: a backup that broke off, or that the server at its end calls corrupt,
//! closes the channel instead, and the thread ends with an error.

use super::ImportError;
use super::contents::comes_along;
use super::sink::Sink;
use bytes::{Buf, Bytes};
use std::io::{self, Read};
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

/// Chunks on their way, of at most 32 KiB each (`SINK_BUFFER_LENGTH` of basebackup.c).
const IN_FLIGHT: usize = 64;

/// A piece of the archive.
pub(super) enum Chunk {
    Data(Bytes),
    /// The backup is complete and the server vouches for it.
    End,
}

/// The way from the connection to the thread.
pub(super) fn channel() -> (mpsc::Sender<Chunk>, ChunkReader) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    (sender, ChunkReader { receiver, current: Bytes::new(), ended: false })
}

/// The chunks as one stream, for a blocking thread.
pub(super) struct ChunkReader {
    receiver: mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(data)) => self.current = data,
                Some(Chunk::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the backup broke off")),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Hands what is in the archive to `sink`, and reads it to its confirmed end. Blocks.
pub(super) fn unpack(mut content: impl Read, sink: &mut impl Sink) -> Result<(), ImportError> {
    let unreadable = |source| ImportError::Archive { source };
    sink.directory("", 0o700)?;
    let mut archive = Archive::new(&mut content);
    for entry in archive.entries().map_err(unreadable)? {
        unpack_entry(entry.map_err(unreadable)?, sink)?;
    }
    io::copy(&mut content, &mut io::sink()).map_err(unreadable)?;
    Ok(())
}

fn unpack_entry(mut entry: Entry<'_, impl Read>, sink: &mut impl Sink) -> Result<(), ImportError> {
    let unreadable = |source| ImportError::Archive { source };
    let path = entry_path(&entry).map_err(unreadable)?;
    let mode = entry.header().mode().map_err(unreadable)? & 0o777;
    if !comes_along(&path) || path.is_empty() {
        return Ok(());
    }
    match entry.header().entry_type() {
        EntryType::Directory => sink.directory(&path, mode)?,
        EntryType::Regular => sink.file(&path, mode, &mut entry)?,
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default().into_owned();
            sink.symlink(&path, &String::from_utf8_lossy(&target))?;
        }
        other => {
            return Err(unreadable(io::Error::other(format!("{path} is a {other:?}, which no data directory holds"))));
        }
    }
    Ok(())
}

/// The entry's path without a trailing slash; never one that leads out of the data directory.
fn entry_path(entry: &Entry<'_, impl Read>) -> io::Result<String> {
    let bytes = entry.path_bytes().into_owned();
    let path = String::from_utf8(bytes).map_err(|_| io::Error::other("a file name is not UTF-8"))?;
    let path = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/');
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(io::Error::other(format!("{path} leads out of the data directory")));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::MemorySink;
    use super::*;

    fn archive_of(path: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o100_600);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        let mut sink = MemorySink::default();
        for path in ["../x", "/etc/x", "base/../../x"] {
            let error = unpack(&archive_of(path)[..], &mut sink).unwrap_err();
            assert!(matches!(error, ImportError::Archive { .. }), "{path}: {error}");
        }
        unpack(&archive_of("base/5/1")[..], &mut sink).unwrap();
        assert_eq!(sink.files["base/5/1"], (0o600, b"hello".to_vec()));
    }

    #[tokio::test]
    async fn only_a_confirmed_archive_is_complete() {
        let archive = archive_of("x");
        for confirmed in [true, false] {
            let (sender, reader) = channel();
            let unpacking = tokio::task::spawn_blocking(move || unpack(reader, &mut MemorySink::default()));
            for piece in archive.chunks(100) {
                sender.send(Chunk::Data(Bytes::copy_from_slice(piece))).await.ok().unwrap();
            }
            if confirmed {
                sender.send(Chunk::End).await.ok().unwrap();
            }
            drop(sender);
            assert_eq!(unpacking.await.unwrap().is_ok(), confirmed);
        }
    }
}
