//! Decompresses what TOAST compresses, in a stream: pglz (`common/pg_lzcompress.c`) and LZ4 blocks (`lz4_Block_format.md`).
//!
//! Both are runs of literal bytes and of copies of what came out before, at a distance that ends the memory needed:
//!
//! ```text
//! pglz  control byte, then 8 items, lowest bit first: 0 a literal byte
//!       1 a copy: high nibble + next byte  distance (1 to 4095), low nibble + 3  length; 18: + a third byte
//! LZ4   token: high nibble literals, low nibble + 4 length of the copy; each, if 15, + bytes until one is not 255
//!       literals, then two bytes distance, little-endian, then the rest of the length
//! ```
//!
//! The caller may stop after any byte of input and any byte of output; the state says what comes next. Whatever the input, no more than the room given
//! is written, and no more than the raw size altogether.

/// Farthest that a copy reaches back, in bytes: LZ4's.
pub(super) const REACH: usize = 1 << 16;

/// How a value is compressed (`ToastCompressionId`, `toast_compression.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Pglz,
    Lz4,
}

impl Method {
    /// The most that one byte of input gives: 3 bytes 273 with pglz, 1 byte 255 with LZ4.
    fn largest_ratio(self) -> u64 {
        match self {
            Method::Pglz => 91,
            Method::Lz4 => 255,
        }
    }
}

/// What Postgres puts before compressed bytes, `va_tcinfo` (`varatt.h`): the size of the value in the low 30 bits, the method in the high two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompressionInfo {
    pub method: Method,
    /// Bytes of the value without its header.
    pub raw: u32,
}

impl CompressionInfo {
    pub(super) fn decode(word: u32) -> Option<CompressionInfo> {
        let method = match word >> 30 {
            0 => Method::Pglz,
            1 => Method::Lz4,
            _ => return None,
        };
        Some(CompressionInfo { method, raw: word & 0x3fff_ffff })
    }

    /// Whether so many bytes may be all of the compressed value: Postgres keeps none that saved nothing.
    pub(super) fn is_plausible(self, stored: u64) -> bool {
        u64::from(self.raw) > stored && u64::from(self.raw) <= stored * self.method.largest_ratio()
    }
}

/// The input is no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotCompressed;

/// Why decompression paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    NeedsInput,
    NeedsRoom,
    /// The raw size is reached.
    Done,
}

pub(super) struct Inflater {
    next: Next,
    /// Bytes that came out.
    produced: u64,
    raw: u64,
}

/// What the next byte of input, or of output, is.
#[derive(Clone, Copy)]
enum Next {
    Control,
    /// The next of `left` items, the lowest bit of `control` tells which.
    Item(Group),
    Distance(Group, u8),
    ExtraLength(Group, usize),
    Token,
    LiteralLength {
        token: u8,
        length: usize,
    },
    Literals {
        token: u8,
        left: usize,
    },
    DistanceLow {
        token: u8,
    },
    DistanceHigh {
        token: u8,
        low: u8,
    },
    CopyLength {
        distance: usize,
        length: usize,
    },
    /// Then the rest of pglz's group, or a token.
    Copy {
        distance: usize,
        left: usize,
        group: Option<Group>,
    },
}

/// Items of a pglz control byte that are to come.
#[derive(Clone, Copy)]
struct Group {
    control: u8,
    left: u8,
}

impl Group {
    fn rest(self) -> Group {
        Group { control: self.control >> 1, left: self.left - 1 }
    }
}

impl Inflater {
    pub(super) fn new(info: CompressionInfo) -> Inflater {
        let next = match info.method {
            Method::Pglz => Next::Control,
            Method::Lz4 => Next::Token,
        };
        Inflater { next, produced: 0, raw: info.raw.into() }
    }

    /// Takes from the front of `input` and appends to `out` until that has `limit` bytes. `out` holds the last [`REACH`] bytes
    /// that came out, or all if they are fewer.
    pub(super) fn inflate(
        &mut self,
        input: &mut &[u8],
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Result<Pause, NotCompressed> {
        loop {
            let room = (limit.saturating_sub(out.len()) as u64).min(self.raw - self.produced) as usize;
            if self.produced == self.raw {
                return Ok(Pause::Done);
            }
            if room == 0 {
                return Ok(Pause::NeedsRoom);
            }
            let before = out.len();
            let went_on = match self.next {
                Next::Copy { distance, left, group } => {
                    self.copy(distance, left, group, room, out)?;
                    true
                }
                Next::Literals { token, left } => self.literals(token, left, room, input, out),
                Next::Item(group) => self.items(group, room, input, out),
                _ => self.step(input)?,
            };
            self.produced += (out.len() - before) as u64;
            if !went_on {
                return Ok(Pause::NeedsInput);
            }
        }
    }

    /// Takes one byte that says what to do. False if there is none.
    fn step(&mut self, input: &mut &[u8]) -> Result<bool, NotCompressed> {
        let Some((byte, rest)) = input.split_first() else { return Ok(false) };
        *input = rest;
        let byte = *byte;
        let more = usize::from(byte);
        self.next = match self.next {
            Next::Control => Next::Item(Group { control: byte, left: 8 }),
            Next::Distance(group, first) => {
                let distance = usize::from(first & 0xf0) << 4 | more;
                match usize::from(first & 0x0f) + 3 {
                    18 => Next::ExtraLength(group, distance),
                    length => Next::Copy { distance, left: length, group: Some(group) },
                }
            }
            Next::ExtraLength(group, distance) => Next::Copy { distance, left: 18 + more, group: Some(group) },
            Next::Token if byte >> 4 == 15 => Next::LiteralLength { token: byte, length: 15 },
            Next::Token => Next::Literals { token: byte, left: (byte >> 4).into() },
            Next::LiteralLength { token, length } if byte == 255 => Next::LiteralLength { token, length: length + 255 },
            Next::LiteralLength { token, length } => Next::Literals { token, left: length + more },
            Next::DistanceLow { token } => Next::DistanceHigh { token, low: byte },
            Next::DistanceHigh { token, low } => {
                let distance = more << 8 | usize::from(low);
                match token & 15 {
                    15 => Next::CopyLength { distance, length: 19 },
                    length => Next::Copy { distance, left: usize::from(length) + 4, group: None },
                }
            }
            Next::CopyLength { distance, length } if byte == 255 => Next::CopyLength { distance, length: length + 255 },
            Next::CopyLength { distance, length } => Next::Copy { distance, left: length + more, group: None },
            Next::Item(_) | Next::Literals { .. } | Next::Copy { .. } => return Err(NotCompressed),
        };
        Ok(true)
    }

    /// Literals of a pglz group, up to its next copy.
    fn items(&mut self, mut group: Group, room: usize, input: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let full = out.len() + room;
        while group.left > 0 && out.len() < full {
            let Some((byte, rest)) = input.split_first() else {
                self.next = Next::Item(group);
                return false;
            };
            *input = rest;
            let is_copy = group.control & 1 == 1;
            group = group.rest();
            if is_copy {
                self.next = Next::Distance(group, *byte);
                return true;
            }
            out.push(*byte);
        }
        self.next = if group.left == 0 { Next::Control } else { Next::Item(group) };
        true
    }

    fn literals(&mut self, token: u8, left: usize, room: usize, input: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let (now, rest) = input.split_at(left.min(room).min(input.len()));
        out.extend_from_slice(now);
        *input = rest;
        self.next = match left - now.len() {
            0 => Next::DistanceLow { token },
            left => Next::Literals { token, left },
        };
        left == 0 || !now.is_empty()
    }

    fn copy(
        &mut self,
        distance: usize,
        left: usize,
        group: Option<Group>,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), NotCompressed> {
        if distance == 0 || distance as u64 > self.produced {
            return Err(NotCompressed);
        }
        let from = out.len() - distance;
        let now = left.min(room);
        let end = out.len() + now;
        // What is copied may be part of the copy: then what there is doubles each time.
        while out.len() < end {
            let piece = (end - out.len()).min(out.len() - from);
            out.extend_from_within(from..from + piece);
        }
        self.next = match (left - now, group) {
            (0, Some(Group { left: 0, .. })) => Next::Control,
            (0, Some(group)) => Next::Item(group),
            (0, None) => Next::Token,
            (left, group) => Next::Copy { distance, left, group },
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(method: Method, raw: usize, mut input: &[u8], piece: usize) -> Result<Vec<u8>, NotCompressed> {
        let mut inflater = Inflater::new(CompressionInfo { method, raw: raw as u32 });
        let (mut all, mut out) = (Vec::new(), Vec::new());
        loop {
            let (mut now, rest) = input.split_at(piece.min(input.len()));
            let given = now.len();
            let limit = out.len() + piece;
            let before = out.len();
            let pause = inflater.inflate(&mut now, &mut out, limit)?;
            all.extend_from_slice(&out[before..]);
            out.drain(..out.len().saturating_sub(REACH));
            input = &input[given - now.len()..];
            match pause {
                Pause::Done => return Ok(all),
                Pause::NeedsInput if rest.is_empty() && input.is_empty() => return Err(NotCompressed),
                _ => {}
            }
        }
    }

    fn text() -> Vec<u8> {
        let mut text = Vec::new();
        for i in 0u32..20_000 {
            text.extend_from_slice(format!("{} and {}; ", i.wrapping_mul(2_654_435_761) >> 20, i / 300).as_bytes());
        }
        text.resize(text.len() + 100_000, b'z');
        text
    }

    #[test]
    fn lz4_blocks_come_out_whatever_the_pieces() {
        let text = text();
        let compressed = lz4_flex::block::compress(&text);
        for piece in [1, 7, 1000, 1 << 20] {
            assert!(whole(Method::Lz4, text.len(), &compressed, piece) == Ok(text.clone()), "in pieces of {piece}");
        }
    }

    #[test]
    fn pglz_by_hand() {
        // Three literals, a copy of 6 at distance 3, a copy of 18 + 2 at distance 1.
        let input = [0b0001_1000, b'a', b'b', b'c', 0x03, 3, 0x0f, 1, 2];
        let wanted = format!("abcabcabc{}", "c".repeat(20));
        for piece in [1, 2, 100] {
            assert_eq!(whole(Method::Pglz, wanted.len(), &input, piece), Ok(wanted.clone().into_bytes()));
        }
        assert_eq!(whole(Method::Pglz, 9, &[0b1, 0x00, 1], 10), Err(NotCompressed), "nothing came out yet");
    }

    #[test]
    fn noise_is_refused_or_ends() {
        let mut state = 1u32;
        for round in 0..3000 {
            let noise: Vec<u8> = (0..200)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            for method in [Method::Pglz, Method::Lz4] {
                if let Ok(out) = whole(method, 500 + round, &noise, 1000) {
                    assert_eq!(out.len(), 500 + round);
                }
            }
        }
    }
}
