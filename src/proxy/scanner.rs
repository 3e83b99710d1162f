//! Follows the message boundaries of a compute's stream, whatever pieces it comes in, without looking into a body.
//!
//! It tells three things: whether the stream is between two messages (only there may the proxy put in one of its
//! own), the transaction status of the last `ReadyForQuery`, and whether the last message was an error. Allocates
//! nothing.

/// Bytes of a header: type, and a length that counts itself.
const HEADER_BYTES: usize = 5;

/// Transaction status as `ReadyForQuery` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
    /// A command is running.
    Busy,
}

/// Where in the stream of messages we are.
#[derive(Debug)]
pub(super) struct MessageScanner {
    header: [u8; HEADER_BYTES],
    header_read: usize,
    /// Body bytes of the current message that are still to come.
    body_left: usize,
    status: TransactionStatus,
    /// Type of the last message whose header is complete.
    last_kind: u8,
    /// A length was impossible: boundaries are unknown from there on.
    lost: bool,
}

impl MessageScanner {
    pub(super) fn new() -> MessageScanner {
        MessageScanner {
            header: [0; HEADER_BYTES],
            header_read: 0,
            body_left: 0,
            status: TransactionStatus::Busy,
            last_kind: 0,
            lost: false,
        }
    }

    /// Takes note of the next `bytes` of the stream.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.body_left > 0 {
                bytes = self.skip_body(bytes);
            } else if self.header_read == 0 && bytes.len() >= HEADER_BYTES {
                self.header.copy_from_slice(&bytes[..HEADER_BYTES]);
                bytes = &bytes[HEADER_BYTES..];
                self.begin_body();
            } else {
                bytes = self.gather_header(bytes);
            }
        }
    }

    fn skip_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.last_kind == b'Z' {
            self.status = match bytes[0] {
                b'I' => TransactionStatus::Idle,
                b'T' => TransactionStatus::InTransaction,
                _ => TransactionStatus::Failed,
            };
        }
        let skipped = self.body_left.min(bytes.len());
        self.body_left -= skipped;
        &bytes[skipped..]
    }

    fn gather_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let taken = (HEADER_BYTES - self.header_read).min(bytes.len());
        self.header[self.header_read..self.header_read + taken].copy_from_slice(&bytes[..taken]);
        self.header_read += taken;
        if self.header_read == HEADER_BYTES {
            self.begin_body();
        }
        &bytes[taken..]
    }

    fn begin_body(&mut self) {
        let [kind, length @ ..] = self.header;
        self.header_read = 0;
        self.last_kind = kind;
        // Notices and parameter changes may come at any time, and end no command.
        if !matches!(kind, b'Z' | b'N' | b'S' | b'A') {
            self.status = TransactionStatus::Busy;
        }
        match (u32::from_be_bytes(length) as usize).checked_sub(4) {
            Some(body) => self.body_left = body,
            None => self.lost = true,
        }
    }

    /// Whether the last byte ended a message.
    pub(super) fn at_boundary(&self) -> bool {
        !self.lost && self.header_read == 0 && self.body_left == 0
    }

    /// Transaction status after the last byte.
    pub(super) fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether the stream's last message was an `ErrorResponse`: at its end, the one that said why.
    pub(super) fn ended_in_error(&self) -> bool {
        self.at_boundary() && self.last_kind == b'E'
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Entropy;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
    }

    fn number(entropy: &Entropy, below: usize) -> usize {
        (entropy.bits() % below as u128) as usize
    }

    /// A random stream, with the offset after each message and the status it leaves behind.
    fn stream(entropy: &Entropy) -> (Vec<u8>, Vec<(usize, TransactionStatus)>) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        let mut status = TransactionStatus::Busy;
        for _ in 0..40 {
            let size = [0, 1, 4, 5, 6, 3000][number(entropy, 6)];
            // Bodies full of what looks like `ReadyForQuery`.
            let body: Vec<u8> = message(b'Z', b"I").into_iter().cycle().take(size).collect();
            match number(entropy, 4) {
                0 => {
                    bytes.extend(message(b'Z', b"T"));
                    status = TransactionStatus::InTransaction;
                }
                1 => {
                    bytes.extend(message(b'Z', b"I"));
                    status = TransactionStatus::Idle;
                }
                2 => bytes.extend(message(b'N', &body)),
                _ => {
                    bytes.extend(message(b'D', &body));
                    status = TransactionStatus::Busy;
                }
            }
            ends.push((bytes.len(), status));
        }
        (bytes, ends)
    }

    #[test]
    fn boundaries_and_status_do_not_depend_on_the_pieces() {
        for seed in 0..200 {
            let entropy = Entropy::seeded(seed);
            let (bytes, ends) = stream(&entropy);
            let mut scanner = MessageScanner::new();
            let mut at = 0;
            while at < bytes.len() {
                let piece = (1 + number(&entropy, [1, 7, 5000][seed as usize % 3])).min(bytes.len() - at);
                scanner.advance(&bytes[at..at + piece]);
                at += piece;
                let ended = ends.iter().find(|(end, _)| *end == at);
                assert_eq!(scanner.at_boundary(), ended.is_some(), "seed {seed}, offset {at}");
                if let Some((_, status)) = ended {
                    assert_eq!(scanner.status(), *status, "seed {seed}, offset {at}");
                }
            }
        }
    }

    #[test]
    fn an_impossible_length_leaves_no_boundary() {
        let mut scanner = MessageScanner::new();
        scanner.advance(&[b'D', 0, 0, 0, 3]);
        scanner.advance(&message(b'Z', b"I"));
        assert!(!scanner.at_boundary());
    }

    #[test]
    fn the_last_error_is_seen() {
        let mut scanner = MessageScanner::new();
        scanner.advance(&message(b'E', b"SFATAL\0\0"));
        assert!(scanner.ended_in_error());
        scanner.advance(&message(b'Z', b"I"));
        assert!(!scanner.ended_in_error());
    }
}
