//! Conditional puts for a store that is a folder.
//!
//! `object_store`'s local backend has an atomic create but no conditional update. Here the version of a mutable object
//! is the SHA-256 of its content, and a put compares and replaces it under an exclusive `flock`:
//! read, compare, write a temporary file, fsync it, rename it over the object, fsync the folder. The kernel drops the lock when its holder dies,
//! so a crash leaves either version whole. Locks lie in `.lock/`, outside the listed prefix `v1/`.
//!
//! `.lock/` is made when the store is opened and never again: where it is missing, the folder was moved or its file system is not
//! mounted. That is a store which cannot be reached, not an empty one, and nothing may be written in its place.

use super::{Expect, StoreError, Version, Versioned};
use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg};
use object_store::UpdateVersion;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Mutable objects of a `file://` store.
pub(super) struct LocalConditional {
    root: PathBuf,
}

/// Lock files that keys are spread over, so that many branches can change their heads at once.
const STRIPES: u8 = 64;

impl LocalConditional {
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(lock_folder(&root))?;
        Ok(Self { root })
    }

    /// An error where the folder that was opened is not there now.
    pub(super) async fn check_present(&self, key: &str) -> Result<(), StoreError> {
        let locks = lock_folder(&self.root);
        let found = tokio::task::spawn_blocking(move || locks.try_exists()).await.map_err(|e| unavailable(key, e))?;
        match found {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.away(key)),
            Err(e) => Err(StoreError::from_io(key, e)),
        }
    }

    fn away(&self, key: &str) -> StoreError {
        let reason = format!("the folder {} is not what it was; is its file system mounted?", self.root.display());
        StoreError::Unavailable { key: key.to_owned(), reason }
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let path = self.path(key);
        let read = tokio::task::spawn_blocking(move || fs::read(path));
        match read.await.map_err(|e| unavailable(key, e))? {
            Ok(bytes) => Ok(Some(Versioned { version: version_of(&bytes), bytes: bytes.into() })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.check_present(key).await.map(|()| None),
            Err(e) => Err(StoreError::from_io(key, e)),
        }
    }

    /// `range` of an immutable object.
    pub(super) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let read = tokio::task::spawn_blocking(move || {
            let file = File::open(path)?;
            // Before memory is asked for: a damaged index may say anything.
            if file.metadata()?.len() < range.end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start).map(|()| bytes)
        });
        match read.await.map_err(|e| unavailable(key, e))? {
            Ok(bytes) => Ok(bytes.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::shorter(key.to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.check_present(key).await?;
                Err(StoreError::Missing { key: key.to_owned() })
            }
            Err(e) => Err(StoreError::from_io(key, e)),
        }
    }

    pub(super) async fn put_if(&self, key: &str, bytes: Bytes, expect: Expect) -> Result<Version, StoreError> {
        let (root, path) = (self.root.clone(), self.path(key));
        let put = tokio::task::spawn_blocking(move || replace(&root, &path, &bytes, &expect));
        match put.await.map_err(|e| unavailable(key, e))? {
            Ok(Some(version)) => Ok(version),
            Ok(None) => Err(StoreError::Conflict { key: key.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(self.away(key)),
            Err(e) => Err(StoreError::from_io(key, e)),
        }
    }
}

fn unavailable(key: &str, error: tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable { key: key.to_owned(), reason: error.to_string() }
}

fn version_of(bytes: &[u8]) -> Version {
    Version(UpdateVersion { e_tag: Some(format!("{:x?}", Sha256::digest(bytes).as_slice())), version: None })
}

/// Replaces the object at `path` if it is what `expect` says; `None` when it is not.
fn replace(root: &Path, path: &Path, bytes: &[u8], expect: &Expect) -> io::Result<Option<Version>> {
    let _lock = lock(root, path)?;
    let current = match fs::read(path) {
        Ok(bytes) => Some(version_of(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let as_expected = match expect {
        Expect::Absent => current.is_none(),
        Expect::Version(version) => current.as_ref() == Some(version),
    };
    if !as_expected {
        return Ok(None);
    }
    let folder = path.parent().unwrap_or(root);
    make_durable_folders(root, folder)?;
    // Only the lock's holder writes this name, so that a crash leaves at most one such file to be overwritten.
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()?;
    Ok(Some(version_of(bytes)))
}

/// Makes `folder` and what is missing above it, each synced into its parent.
fn make_durable_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() || folder == root {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_durable_folders(root, parent)?;
        match fs::create_dir(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => File::open(parent)?.sync_all()?,
        }
    }
    Ok(())
}

fn lock_folder(root: &Path) -> PathBuf {
    root.join(".lock")
}

fn lock(root: &Path, path: &Path) -> io::Result<Flock<File>> {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock_folder(root).join(format!("{:02}", digest[0] % STRIPES)))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}
