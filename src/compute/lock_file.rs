//! What a killed server leaves: its lock file `postmaster.pid`, and the System V shared memory segment that the file names.
//!
//! A start would refuse if the lock file's pid belonged to another server of the same user by now. The segment (56 bytes; buffers
//! are elsewhere) is never removed by a server on another mount, and the kernel has room for 4,096 (kernel.shmmni).

use super::data_files::DataFiles;
use super::orphans;
use nix::libc;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

const LOCK_FILE: &str = "postmaster.pid";
/// The line that holds the segment's key and id, counted from 0 (`LOCK_FILE_LINE_SHMEM_KEY` of pidfile.h).
const SEGMENT_LINE: usize = 6;

/// Removes both, if they are there, and kills what may still use them: nothing but one compute works in `data_dir`.
pub(super) async fn clear(files: &DataFiles, data_dir: &Path) -> io::Result<()> {
    let reading = files.clone();
    let content = tokio::task::spawn_blocking(move || reading.read(Path::new(LOCK_FILE))).await?;
    let content = match content {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => String::from_utf8_lossy(&read?).into_owned(),
    };
    orphans::reap_users(data_dir).await?;
    if let Some(id) = segment_id(&content) {
        remove_if_unused(id);
    }
    let removing = files.clone();
    tokio::task::spawn_blocking(move || removing.remove(Path::new(LOCK_FILE))).await?
}

fn segment_id(lock: &str) -> Option<i32> {
    lock.lines().nth(SEGMENT_LINE)?.split_whitespace().nth(1)?.parse().ok()
}

/// Not one that a process has attached: a branch's superuser can write any number into its lock file.
#[expect(unsafe_code, reason = "shmctl(2) has no safe wrapper among our dependencies")]
fn remove_if_unused(id: i32) {
    let mut state = MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: IPC_STAT fills the structure it is given, which plain zeros are a valid value of.
    let unused =
        unsafe { libc::shmctl(id, libc::IPC_STAT, state.as_mut_ptr()) == 0 && state.assume_init().shm_nattch == 0 };
    if unused {
        // SAFETY: IPC_RMID looks at no memory of ours. A segment that is gone already is what is wanted.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_is_named_in_the_seventh_line() {
        assert_eq!(segment_id("42\n/data\n1700000000\n5432\n/run\n\n  10073589    950420\nready   \n"), Some(950_420));
        assert_eq!(segment_id("42\n/data\n"), None);
    }
}
