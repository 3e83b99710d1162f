//! Moves bytes between a client and its compute: both directions in one task, one buffer each.
//!
//! A direction reads only when its buffer is empty, so that a slow reader slows its writer and nothing queues up.
//! Buffers start small, grow while reads fill them, and shrink again once the session was quiet for a moment: an idle
//! session costs two small buffers. 64 KiB is where a bulk `COPY` stops getting cheaper (200 ms of CPU for 400 MB
//! against 340 ms with 8 KiB). While buffers keep their size nothing is allocated.
//!
//! A client may close its side and still wait for the answer; or it may be gone, which looks the same. Its end is
//! passed on, and it has [`ABANDON_GRACE`] of silence to get what it asked for. A Postgres would work on for a client
//! that is gone until the query ends; here that would keep a branch awake for nobody.

use super::scanner::MessageScanner;
use super::stream::ClientStream;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes of a buffer: holds any query and answer of an ordinary transaction.
const BUFFER_START: usize = 4 << 10;
/// Under bulk load.
const BUFFER_MAX: usize = 64 << 10;
/// Each step up; two of them lead from start to maximum.
const BUFFER_GROWTH: usize = 4;

/// How long nothing moves before grown buffers are given back.
const QUIET_PERIOD: Duration = Duration::from_secs(1);

/// How long a compute may work without a word for a client that closed its side.
pub(super) const ABANDON_GRACE: Duration = Duration::from_secs(5);

/// The `Terminate` message, whole.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// Why a relay ended.
#[derive(Debug)]
pub(super) enum RelayEnd {
    /// The client closed its side, and the compute then closed its own.
    ClientClosed,
    /// The client closed its side, and the compute has been busy without a word since.
    Abandoned,
    /// The client can no longer be read from or written to.
    ClientLost(io::Error),
    /// The compute closed its side first. The client was told why unless `unexplained`.
    ComputeClosed { unexplained: bool },
    /// The proxy ends the session.
    Stopped,
}

/// What a relay leaves behind.
pub(super) struct Relayed {
    pub end: RelayEnd,
    pub bytes_to_client: u64,
    pub bytes_to_compute: u64,
    /// Came from the compute and did not reach the client.
    pub unsent: Vec<u8>,
}

/// Relays until either side ends or `stop` resolves. `early` came from the client already. `scanner` follows what comes
/// from the compute, `unsent` included.
pub(super) async fn relay(
    client: &mut ClientStream,
    compute: &mut UnixStream,
    scanner: &mut MessageScanner,
    early: Vec<u8>,
    stop: impl Future<Output = ()>,
) -> Relayed {
    let mut relay = Relay {
        client,
        compute,
        scanner,
        to_compute: Flow::new(early),
        to_client: Flow::new(Vec::new()),
        client_closed: false,
        compute_deaf: false,
        terminated: false,
        quiet: None,
        abandoned: None,
    };
    let end = tokio::select! {
        biased;
        end = poll_fn(|cx| relay.poll(cx)) => end,
        () = stop => RelayEnd::Stopped,
    };
    Relayed {
        end,
        bytes_to_client: relay.to_client.moved,
        bytes_to_compute: relay.to_compute.moved,
        unsent: relay.to_client.pending().to_vec(),
    }
}

struct Relay<'a> {
    client: &'a mut ClientStream,
    compute: &'a mut UnixStream,
    scanner: &'a mut MessageScanner,
    to_compute: Flow,
    to_client: Flow,
    /// The client will send no more.
    client_closed: bool,
    /// The compute will read no more; it may still have something to say.
    compute_deaf: bool,
    /// The client's last message seems to be `Terminate`.
    terminated: bool,
    /// Runs while a buffer is grown.
    quiet: Option<Quiet>,
    /// Runs once the client has closed its side.
    abandoned: Option<Quiet>,
}

/// Tells when nothing was moved for a whole `period`.
struct Quiet {
    timer: Pin<Box<Sleep>>,
    period: Duration,
    /// Bytes moved when `timer` was set.
    moved: u64,
}

impl Quiet {
    fn new(period: Duration, moved: u64) -> Quiet {
        Quiet { timer: Box::pin(sleep(period)), period, moved }
    }

    /// Ready after each quiet period, where `moved` counts the bytes moved by now.
    fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            self.timer.as_mut().reset(Instant::now() + self.period);
            if std::mem::replace(&mut self.moved, moved) == moved {
                return Poll::Ready(());
            }
        }
    }
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        // Answers first: an error of the compute must not wait behind a client that goes on sending.
        let observe = |bytes: &[u8]| self.scanner.advance(bytes);
        match self.to_client.poll(cx, self.compute, self.client, observe) {
            Poll::Ready(Err(FlowError::Sink(error))) => return Poll::Ready(RelayEnd::ClientLost(error)),
            // A compute that was killed resets its sockets: the same as closing them.
            Poll::Ready(Ok(()) | Err(FlowError::Source(_))) => return Poll::Ready(self.compute_closed()),
            Poll::Pending => {}
        }
        if !self.compute_deaf
            && let Poll::Ready(end) = self.poll_to_compute(cx)
        {
            return Poll::Ready(end);
        }
        let moved = self.to_client.moved + self.to_compute.moved;
        self.poll_quiet(cx, moved);
        if self.client_closed {
            let abandoned = self.abandoned.get_or_insert_with(|| Quiet::new(ABANDON_GRACE, moved));
            return abandoned.poll(cx, moved).map(|()| RelayEnd::Abandoned);
        }
        Poll::Pending
    }

    /// Pending also when this direction is done: the other one decides about the end.
    fn poll_to_compute(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let observe = |bytes: &[u8]| self.terminated = bytes.ends_with(TERMINATE);
        match ready!(self.to_compute.poll(cx, self.client, self.compute, observe)) {
            Err(FlowError::Source(error)) => return Poll::Ready(RelayEnd::ClientLost(error)),
            Err(FlowError::Sink(_)) => self.compute_deaf = true,
            Ok(()) => {
                // Passed on as it came: the compute finishes what it was asked, answers, and then sees the end.
                self.client_closed = true;
                self.compute_deaf = true;
                let _ = ready!(Pin::new(&mut *self.compute).poll_shutdown(cx));
            }
        }
        Poll::Pending
    }

    fn compute_closed(&self) -> RelayEnd {
        if self.client_closed {
            return RelayEnd::ClientClosed;
        }
        let explained = self.terminated || self.scanner.ended_in_error();
        RelayEnd::ComputeClosed { unexplained: !explained }
    }

    /// Gives grown buffers back after a while without traffic.
    fn poll_quiet(&mut self, cx: &mut Context<'_>, moved: u64) {
        if self.quiet.is_none() && (self.to_client.is_grown() || self.to_compute.is_grown()) {
            self.quiet = Some(Quiet::new(QUIET_PERIOD, moved));
        }
        let Some(quiet) = &mut self.quiet else { return };
        while quiet.poll(cx, moved).is_ready() {
            if self.to_client.shrink() && self.to_compute.shrink() {
                self.quiet = None;
                return;
            }
        }
    }
}

/// Which end of a direction failed.
enum FlowError {
    Source(io::Error),
    Sink(io::Error),
}

/// One direction.
struct Flow {
    buffer: Vec<u8>,
    /// `buffer[start..end]` was read and is not yet written.
    start: usize,
    end: usize,
    /// The last read filled the buffer.
    filled: bool,
    source_ended: bool,
    /// The sink has bytes that it may be holding back (TLS does).
    unflushed: bool,
    /// Bytes written so far.
    moved: u64,
}

impl Flow {
    fn new(early: Vec<u8>) -> Flow {
        let mut buffer = early;
        let end = buffer.len();
        buffer.resize(end.max(BUFFER_START), 0);
        Flow { buffer, start: 0, end, filled: false, source_ended: false, unflushed: false, moved: 0 }
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn is_grown(&self) -> bool {
        self.buffer.len() > BUFFER_START
    }

    /// Back to the smallest buffer; says whether it could.
    fn shrink(&mut self) -> bool {
        if !self.pending().is_empty() {
            return false;
        }
        if self.is_grown() {
            self.buffer = vec![0; BUFFER_START];
            self.filled = false;
        }
        true
    }

    /// Moves what can be moved. `observe` sees each piece as it is read. Ready at the end of the source, once
    /// everything is written and flushed.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        mut observe: impl FnMut(&[u8]),
    ) -> Poll<Result<(), FlowError>> {
        loop {
            ready!(self.poll_drain(cx, sink)).map_err(FlowError::Sink)?;
            if self.source_ended {
                return self.poll_flush(cx, sink).map_err(FlowError::Sink);
            }
            match self.poll_fill(cx, source) {
                Poll::Pending => {
                    ready!(self.poll_flush(cx, sink)).map_err(FlowError::Sink)?;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => observe(self.pending()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(FlowError::Source(error))),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while self.start < self.end {
            let written = ready!(Pin::new(&mut *sink).poll_write(cx, &self.buffer[self.start..self.end]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += written;
            self.moved += written as u64;
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, sink: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, source: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<()>> {
        if self.filled && self.buffer.len() < BUFFER_MAX {
            self.buffer.resize((self.buffer.len() * BUFFER_GROWTH).min(BUFFER_MAX), 0);
        }
        let mut read = ReadBuf::new(&mut self.buffer);
        match ready!(Pin::new(source).poll_read(cx, &mut read)) {
            Ok(()) => {}
            // A client that closes TCP without closing TLS has ended all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
        let length = read.filled().len();
        (self.start, self.end) = (0, length);
        self.filled = length == self.buffer.len();
        self.source_ended = length == 0;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn buffers_grow_with_the_load_and_come_back() {
        let data: Vec<u8> = (0..1_000_000).map(|at| (at % 251) as u8).collect();
        let (mut source, mut sink) = (data.as_slice(), Vec::new());
        let mut flow = Flow::new(Vec::new());
        let mut pieces = Vec::new();
        let moved = poll_fn(|cx| flow.poll(cx, &mut source, &mut sink, |bytes| pieces.push(bytes.len()))).await;
        assert!(moved.is_ok() && sink == data);
        assert_eq!(pieces[..4], [4 << 10, 16 << 10, 64 << 10, 64 << 10]);
        assert!(flow.is_grown() && flow.shrink());
        assert_eq!(flow.buffer.len(), BUFFER_START);
    }
}
