//! The kernel's throttling of a mount, by its backing device (Linux, `Documentation/ABI/testing/sysfs-class-bdi`).
//!
//! A FUSE mount starts with `strict_limit` 1 and `max_ratio` 1: its writers are throttled as soon as it has a percent of the dirty pages a
//! machine may have. Lifting that took TPC-B from 0.75 to 0.91 of native (FACTS.md). Only root may; without, the mount works, slower.
//! A branch that nears its limit gets a throttle again, of our choosing: what the kernel has taken cannot be refused any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// INIT offers only 128 KiB of read-ahead; a sequential scan wants more.
const READ_AHEAD_KB: &str = "1024";

/// Lifts the throttle of the mount at `mountpoint`, and returns its place in sysfs. Reads the mount table rather than the mount, so it may be called
/// from anywhere.
pub(super) fn lift_throttle(mountpoint: &Path) -> io::Result<PathBuf> {
    let bdi = Path::new("/sys/class/bdi").join(device(mountpoint)?);
    fs::write(bdi.join("read_ahead_kb"), READ_AHEAD_KB)?;
    bound_dirty(&bdi, None)?;
    Ok(bdi)
}

/// Lets the kernel hold at most `bytes` of dirty pages of the mount behind `bdi`, or as much as it holds of any file system.
pub(super) fn bound_dirty(bdi: &Path, bytes: Option<u64>) -> io::Result<()> {
    if let Some(bytes) = bytes {
        match fs::write(bdi.join("max_bytes"), bytes.to_string()) {
            Ok(()) => return fs::write(bdi.join("strict_limit"), "1"),
            // More than all file systems together may have (`bdi_set_max_bytes`, mm/backing-dev.c).
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {}
            Err(e) => return Err(e),
        }
    }
    fs::write(bdi.join("strict_limit"), "0")?;
    fs::write(bdi.join("max_ratio"), "100")
}

fn device(mountpoint: &Path) -> io::Result<String> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let device = device_of(&table, mountpoint).map(str::to_owned);
    device.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the mount is not in /proc/self/mountinfo"))
}

/// The `major:minor` of a mount; proc(5): the third and fifth field.
fn device_of<'a>(table: &'a str, mountpoint: &Path) -> Option<&'a str> {
    let fields = table.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields.len() > 4).find(|fields| Path::new(fields[4]) == mountpoint).map(|fields| fields[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_mount_at_a_place_counts() {
        let table = "22 1 0:21 / /a rw - ext4 x rw\n23 1 0:55 / /b rw - fuse y rw\n24 1 0:56 / /b rw - fuse y rw\n";
        assert_eq!(device_of(table, Path::new("/b")), Some("0:56"));
        assert_eq!(device_of(table, Path::new("/c")), None);
    }
}
