//! Sinks that keep what they get in memory or in a folder, that block, or that fail.

use crate::compute::Identity;
use crate::pageserver::WriteError;
use crate::sources::sink::Sink;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};

/// Mode and content of each file, mode of each folder.
#[derive(Default)]
pub(in crate::sources) struct MemorySink {
    pub files: BTreeMap<String, (u32, Vec<u8>)>,
    pub directories: BTreeMap<String, u32>,
}

impl Sink for MemorySink {
    fn directory(&mut self, path: &str, mode: u32) -> Result<(), WriteError> {
        self.directories.insert(path.to_owned(), mode);
        Ok(())
    }

    fn symlink(&mut self, path: &str, _: &str) -> Result<(), WriteError> {
        panic!("{path} is a symlink");
    }

    fn file(&mut self, path: &str, mode: u32, content: &mut dyn Read) -> Result<(), WriteError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(WriteError::Source)?;
        self.files.insert(path.to_owned(), (mode, bytes));
        Ok(())
    }
}

/// A folder that a server can be started on.
pub(super) struct FolderSink {
    pub root: PathBuf,
    pub owner: Identity,
}

impl FolderSink {
    fn give(&self, path: &str, mode: u32) {
        let path = self.root.join(path);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        chown(&path, Some(self.owner.uid), Some(self.owner.gid)).unwrap();
    }
}

impl Sink for FolderSink {
    fn directory(&mut self, path: &str, mode: u32) -> Result<(), WriteError> {
        std::fs::create_dir(self.root.join(path)).unwrap();
        self.give(path, mode);
        Ok(())
    }

    fn symlink(&mut self, path: &str, _: &str) -> Result<(), WriteError> {
        panic!("{path} is a symlink");
    }

    fn file(&mut self, path: &str, mode: u32, content: &mut dyn Read) -> Result<(), WriteError> {
        let mut file = std::fs::File::create_new(self.root.join(path)).unwrap();
        io::copy(content, &mut file).map_err(WriteError::Source)?;
        self.give(path, mode);
        Ok(())
    }
}

/// Tells when it has got its first file, and goes on only when told to. Its sender closes when it is dropped.
pub(super) struct BlockingSink {
    pub arrived: Sender<()>,
    pub go_on: Receiver<()>,
}

impl Sink for BlockingSink {
    fn directory(&mut self, _: &str, _: u32) -> Result<(), WriteError> {
        Ok(())
    }

    fn symlink(&mut self, _: &str, _: &str) -> Result<(), WriteError> {
        Ok(())
    }

    fn file(&mut self, _: &str, _: u32, content: &mut dyn Read) -> Result<(), WriteError> {
        let _ = self.arrived.send(());
        let _ = self.go_on.recv();
        io::copy(content, &mut io::sink()).map(drop).map_err(WriteError::Source)
    }
}

/// Fails at its first file.
pub(super) struct FailingSink(pub Option<WriteError>);

impl Sink for FailingSink {
    fn directory(&mut self, _: &str, _: u32) -> Result<(), WriteError> {
        Ok(())
    }

    fn symlink(&mut self, _: &str, _: &str) -> Result<(), WriteError> {
        Ok(())
    }

    fn file(&mut self, _: &str, _: u32, _: &mut dyn Read) -> Result<(), WriteError> {
        Err(self.0.take().expect("nothing is written after an error"))
    }
}
