//! Where an awake branch lives on this node's disk.
//!
//! ```text
//! <data_dir>/branch/<branch-id>/note    whose it is; written first, so that a restart knows what it finds
//!                              /delta   the branch's own pages and their journal
//!                              /mnt     mount point: the data directory
//!                              /wal     pg_wal, outside the mount: every commit's fsync goes there
//!                              /shm     pg_dynshmem
//!                              /run     socket, generated settings, the server's log
//! ```
//!
//! Only `delta` and `wal` hold anything that is not elsewhere, and only while the branch's head is dirty.

use super::error::LifecycleError;
use crate::compute::Identity;
use crate::model::{BranchId, BranchName, PAGE_SIZE, PageNo, ProjectName, WalSegment};
use crate::pageserver::{Disk, LocalDisk};
use crate::settings::Durability;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder of all branches below `data_dir`.
pub(crate) fn branches(data_dir: &Path) -> PathBuf {
    data_dir.join("branch")
}

/// Where what nobody can account for is kept.
pub(super) fn lost(data_dir: &Path) -> PathBuf {
    data_dir.join("lost")
}

/// The places in `folder`, which need not exist. Blocking.
pub(super) fn list(folder: &Path) -> Result<Vec<Place>, LifecycleError> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(Place(entry?.path()))).collect()),
    };
    entries.map_err(LifecycleError::io(format!("cannot read {}", folder.display())))
}

/// One branch's folder.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

/// Whose folder it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub project: ProjectName,
    pub name: BranchName,
    pub id: BranchId,
    pub epoch: u64,
    /// A compute may have been started on it: from then on it may hold what is nowhere else.
    pub started: bool,
    /// Nothing is synced: what is here counts only until the machine starts anew (`boot_id`, proc(5)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl Place {
    pub(super) fn of(data_dir: &Path, id: &BranchId) -> Place {
        Place(branches(data_dir).join(id.as_str()))
    }

    /// A folder that is no branch's: an import's private start.
    pub(crate) fn at(folder: PathBuf) -> Place {
        Place(folder)
    }

    pub(crate) fn delta(&self) -> PathBuf {
        self.0.join("delta")
    }

    /// The disk of its delta. Blocking, shortly.
    pub(crate) fn disk(&self, durability: Durability) -> Result<Arc<dyn Disk>, LifecycleError> {
        let folder = self.delta();
        let disk = match durability {
            Durability::Durable => LocalDisk::open(&folder),
            Durability::Ephemeral => LocalDisk::open_ephemeral(&folder),
        };
        let disk = disk.map_err(LifecycleError::io(format!("cannot make {}", folder.display())))?;
        Ok(Arc::new(disk))
    }

    pub(crate) fn mount(&self) -> PathBuf {
        self.0.join("mnt")
    }

    pub(crate) fn wal(&self) -> PathBuf {
        self.0.join("wal")
    }

    pub(crate) fn dynshmem(&self) -> PathBuf {
        self.0.join("shm")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Makes the folders, those the compute writes owned by `identity`. Blocking.
    pub(crate) fn make(&self, identity: Identity) -> Result<(), LifecycleError> {
        let make = |path: &Path, mode: u32, owner: Option<Identity>| -> io::Result<()> {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            match owner {
                Some(owner) => chown(path, Some(owner.uid), Some(owner.gid)),
                None => Ok(()),
            }
        };
        let steps = [
            // Passable, not readable: the compute must reach its mount and socket.
            (self.0.clone(), 0o711, None),
            (self.delta(), 0o700, None),
            (self.mount(), 0o700, Some(identity)),
            (self.wal(), 0o700, Some(identity)),
            (self.dynshmem(), 0o700, Some(identity)),
            (self.run(), 0o700, Some(identity)),
        ];
        for (path, mode, owner) in steps {
            make(&path, mode, owner).map_err(LifecycleError::io(format!("cannot make {}", path.display())))?;
        }
        // The note's own sync makes what is below durable; without its name the folder would be gone with all of it.
        let parent = self.0.parent().unwrap_or(Path::new("/"));
        let synced = fs::File::open(parent).and_then(|folder| folder.sync_all());
        synced.map_err(LifecycleError::io(format!("cannot sync {}", parent.display())))
    }

    /// Writes, durably, whose folder it is. Blocking.
    pub(super) fn write_note(&self, note: &Note) -> Result<(), LifecycleError> {
        let path = self.0.join("note");
        let json = serde_json::to_vec(note).map_err(|e| LifecycleError::Other(e.to_string()))?;
        write_durably(&path, &json).map_err(LifecycleError::io(format!("cannot write {}", path.display())))
    }

    /// Whose folder it is, or `None` where nobody got to say. Blocking.
    pub(super) fn read_note(&self) -> Result<Option<Note>, LifecycleError> {
        let path = self.0.join("note");
        match fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(LifecycleError::io(format!("cannot read {}", path.display()))(e)),
        }
    }

    /// Moves what nobody can account for to `<data_dir>/lost`: never deleted, never in the way. Blocking.
    pub(super) fn set_aside(&self, data_dir: &Path) -> Result<PathBuf, LifecycleError> {
        self.move_to(&lost(data_dir))
    }

    /// The reverse of [`Place::set_aside`]. Blocking.
    pub(super) fn bring_back(&self, data_dir: &Path) -> Result<PathBuf, LifecycleError> {
        self.move_to(&branches(data_dir))
    }

    fn move_to(&self, folder: &Path) -> Result<PathBuf, LifecycleError> {
        let target = folder.join(self.0.file_name().unwrap_or_default());
        let moved = fs::create_dir_all(folder).and_then(|()| fs::rename(&self.0, &target));
        moved.map_err(LifecycleError::io(format!("cannot move {} to {}", self.0.display(), target.display())))?;
        Ok(target)
    }

    /// Puts the WAL segments a start needs: their kept pages, of which `content` holds one after another, among zeros. Blocking.
    pub(super) fn write_wal(
        &self,
        segments: &[WalSegment],
        content: &[u8],
        identity: Identity,
    ) -> Result<(), LifecycleError> {
        let mut content = content.chunks_exact(PAGE_SIZE);
        for segment in segments {
            let path = self.wal().join(&segment.name);
            let pages = content.by_ref().take(segment.pages.len());
            let written = write_segment(&path, segment, pages, identity);
            written.map_err(LifecycleError::io(format!("cannot write {}", path.display())))?;
        }
        let synced = fs::File::open(self.wal()).and_then(|folder| folder.sync_all());
        synced.map_err(LifecycleError::io(format!("cannot sync {}", self.wal().display())))
    }

    /// Removes everything. The mount must be gone. Blocking.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // Not remove_dir_all: were something still mounted, its files would be deleted through the mount.
        match fs::remove_dir(self.mount()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

fn write_segment<'a>(
    path: &Path,
    segment: &WalSegment,
    pages: impl Iterator<Item = &'a [u8]>,
    identity: Identity,
) -> io::Result<()> {
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    // Sparse: zeros that the disk need not hold until the compute writes them.
    file.set_len(segment.size)?;
    for (page, content) in segment.pages.iter().zip(pages) {
        file.write_all_at(content, PageNo(*page).offset())?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    chown(path, Some(identity.uid), Some(identity.gid))?;
    file.sync_all()
}

/// Tells one start of this machine from any other. Blocking, shortly.
pub(super) fn boot_id() -> Result<String, LifecycleError> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).map_err(LifecycleError::io(format!("cannot read {path}")))?.trim().to_owned())
}

/// Writes a small file so that after a crash it is whole, in its old form or its new one.
pub(super) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    io::Write::write_all(&mut file, content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes the folder of all branches and checks that the compute's user can reach it. Returns `data_dir` without symlinks, as the
/// mount table has it. Blocking.
pub(crate) fn prepare(data_dir: &Path, identity: Identity) -> Result<PathBuf, LifecycleError> {
    let folder = branches(data_dir);
    fs::create_dir_all(&folder)
        .map_err(LifecycleError::io(format!("cannot make server.data_dir {}", data_dir.display())))?;
    for path in [data_dir, &folder] {
        let passable = fs::Permissions::from_mode(0o711);
        fs::set_permissions(path, passable)
            .map_err(LifecycleError::io(format!("cannot set the mode of {}", path.display())))?;
    }
    for ancestor in folder.ancestors() {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(ancestor).map_err(LifecycleError::io(ancestor.display().to_string()))?;
        let bit = if found.uid() == identity.uid {
            0o100
        } else if found.gid() == identity.gid {
            0o010
        } else {
            0o001
        };
        if found.mode() & bit == 0 {
            return Err(LifecycleError::Other(format!(
                "the user that computes run as (uid {}) may not pass through {}; choose another server.data_dir or `chmod o+x` it",
                identity.uid,
                ancestor.display()
            )));
        }
    }
    data_dir.canonicalize().map_err(LifecycleError::io(data_dir.display().to_string()))
}
