//! What a thread that waits for our answer is about to do, as the kernel shows it in `/proc`.
//!
//! With the writeback cache a write(2) reaches us only as the GETATTR that the kernel sends before it (`fuse_cache_write_iter`, fs/fuse/file.c,
//! which fails the write with our error), and lseek(2) and reads behind the end send the same. The thread sleeps in its system call meanwhile, so
//! `/proc/<tid>/syscall` (proc(5)) tells which one, with its arguments. Whether a write grows the file is judged by the size that the
//! kernel has, since ours lags behind what was not written back.
//!
//! Nothing here waits for the mount: the kernel's size is asked with AT_STATX_DONT_SYNC, through the descriptor's link in `/proc`, which walks no path
//! of the mount. What cannot be seen counts as no growth: a quota that lets a page through harms less than one that fails a checkpoint.

use nix::libc;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use std::fs;
use std::io;

/// How often a thread that was not asleep yet is looked at again. It queued its request a moment ago, and sleeps as soon as it gets its turn.
const LOOKS: usize = 200;

/// What a write extends a file to, in bytes; `None` if the thread `tid` does anything else than growing the file `ino`.
/// An error if it may not be looked at: the kernel wants to let us trace it (ptrace(2), PTRACE_MODE_ATTACH_FSCREDS).
pub(super) fn grows_to(tid: u32, ino: u64) -> io::Result<Option<u64>> {
    let Some(call) = system_call(tid)? else { return Ok(None) };
    let Some(write) = Write::of(call) else { return Ok(None) };
    let (at, appends) = match write.at {
        Some(at) => (at, false),
        None => position(tid, write.descriptor)?,
    };
    let link = format!("/proc/{tid}/fd/{}", write.descriptor);
    let found = statx(CWD, &link, AtFlags::STATX_DONT_SYNC, StatxFlags::SIZE | StatxFlags::INO)?;
    if found.stx_ino != ino {
        // copy_file_range(2) asks for the file that it reads from, too.
        return Ok(None);
    }
    let end = if appends { found.stx_size } else { at }.saturating_add(write.least_length);
    Ok((end > found.stx_size).then_some(end))
}

/// Whether the thread recovers the database: what it cannot write ends the server.
pub(super) fn is_recovery(tid: u32) -> bool {
    // "postgres: [cluster name: ]startup [recovering 0000…]" (`init_ps_display`, ps_status.c), in any process of any version since 13.
    let title = fs::read(format!("/proc/{tid}/cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    let title = title.trim_end_matches(['\0', ' ']);
    title.starts_with("postgres: ") && (title.ends_with(": startup") || title.contains(": startup recovering "))
}

/// A system call's number and arguments.
type Call = [u64; 7];

/// `None` for a thread that never was seen asleep, or is in no system call.
fn system_call(tid: u32) -> io::Result<Option<Call>> {
    for _ in 0..LOOKS {
        let line = fs::read_to_string(format!("/proc/{tid}/syscall"))?;
        if line.trim_end() != "running" {
            return Ok(parse(&line));
        }
        std::thread::yield_now();
    }
    Ok(None)
}

/// `17 0x3 0x7f… …`: the number in decimal, six arguments, stack and program counter; `-1` outside of system calls.
fn parse(line: &str) -> Option<Call> {
    let mut words = line.split_ascii_whitespace();
    let mut call = [words.next()?.parse().ok()?, 0, 0, 0, 0, 0, 0];
    for argument in &mut call[1..] {
        *argument = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some(call)
}

/// A call that writes.
#[derive(Debug, PartialEq, Eq)]
struct Write {
    descriptor: u64,
    /// `None`: where the descriptor stands.
    at: Option<u64>,
    /// Of a vector only that it is not empty: Postgres begins at a file's end when it extends one.
    least_length: u64,
}

impl Write {
    fn of([number, a, _, c, d, e, _]: Call) -> Option<Write> {
        let write = |descriptor, at, least_length| Some(Write { descriptor, at, least_length });
        match number as i64 {
            libc::SYS_write => write(a, None, c),
            libc::SYS_pwrite64 => write(a, Some(d), c),
            libc::SYS_writev => write(a, None, 1),
            libc::SYS_pwritev => write(a, Some(d), 1),
            libc::SYS_pwritev2 => write(a, (d != u64::MAX).then_some(d), 1),
            libc::SYS_sendfile => write(a, None, d),
            // With a pointer to the offset instead (`d`), it cannot be seen from here.
            libc::SYS_copy_file_range if d == 0 => write(c, None, e),
            _ => None,
        }
    }
}

/// Where a descriptor stands, and whether it appends (proc(5), fdinfo).
fn position(tid: u32, descriptor: u64) -> io::Result<(u64, bool)> {
    let about = fs::read_to_string(format!("/proc/{tid}/fdinfo/{descriptor}"))?;
    let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let at = field("pos:").and_then(|position| position.parse().ok());
    let flags = field("flags:").and_then(|flags| i32::from_str_radix(flags, 8).ok());
    let (Some(at), Some(flags)) = (at, flags) else { return Err(io::Error::from(io::ErrorKind::InvalidData)) };
    Ok((at, flags & libc::O_APPEND != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write as _};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_system_call_is_read_from_its_line() {
        let line = format!("{} 0x9 0x55d0 0x2000 0x4000 0x0 0x1 0x7ffc22137038 0x7f302e76f2ad\n", libc::SYS_pwrite64);
        let call = parse(&line).expect("a system call");
        assert_eq!(Write::of(call), Some(Write { descriptor: 9, at: Some(0x4000), least_length: 0x2000 }));
        let seek = parse(&line.replacen(&libc::SYS_pwrite64.to_string(), &libc::SYS_lseek.to_string(), 1));
        assert_eq!(Write::of(seek.expect("a system call")), None);
        assert_eq!(parse("-1 0x7ffc22137038 0x7f302e76f2ad\n"), None);
        assert_eq!(parse("running\n"), None);
    }

    #[test]
    fn a_descriptors_place_is_seen() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"twelve bytes").expect("written");
        file.seek(SeekFrom::Start(5)).expect("sought");
        let found = position(std::process::id(), file.as_raw_fd() as u64).expect("our own descriptor");
        assert_eq!(found, (5, false));
    }

    #[test]
    fn this_process_is_no_recovery() {
        assert!(!is_recovery(std::process::id()));
    }
}
