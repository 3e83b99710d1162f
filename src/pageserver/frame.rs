//! Frames: the unit in which pages are compressed, checked and fetched.
//!
//! A frame holds up to [`FRAME_SIZE`] bytes, compressed with zstd level 1 or, where that does not help, as they are. It carries no header: its
//! place, length and sum stand in the index that points to it ([`FrameRef`]). The sum is CRC32C over the frame's
//! [`Identity`] followed by the stored bytes, so that a frame that was swapped for another, intact one fails like a flipped bit.

use super::PageError;
use crate::model::{FileId, PAGE_SIZE};
use bytes::Bytes;

/// Bytes of a frame of a base: 8 pages.
pub const FRAME_SIZE: usize = 64 << 10;
/// Pages in a whole frame.
pub const PAGES_PER_FRAME: usize = FRAME_SIZE / PAGE_SIZE;
/// 2.1 GB/s to decompress, 5 × smaller on a typical database (FACTS.md).
const LEVEL: i32 = 1;

/// Set in [`FrameRef::length`] when the bytes are stored uncompressed.
const RAW: u32 = 1 << 31;

/// Where a frame's bytes are and what they sum to. As stored: four little-endian `u32`: object, offset, length, crc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Number of the pack, or of the layer in its set.
    pub object: u32,
    /// Byte offset in the object; objects stay below 4 GiB.
    pub offset: u32,
    /// Stored bytes; the highest bit tells that they are not compressed. 0 is a frame of zeros that is stored nowhere.
    length: u32,
    crc: u32,
}

/// Whose frame it is: part of its sum.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Base id or layer key.
    pub owner: &'a str,
    pub file: FileId,
    /// Frame within the file for a base, within the layer for a layer.
    pub number: u32,
}

impl FrameRef {
    /// A frame of zeros.
    pub const ZERO: FrameRef = FrameRef { object: 0, offset: 0, length: 0, crc: 0 };
    /// Bytes of its stored form.
    pub const ENCODED: usize = 16;

    /// Whether the frame is all zeros.
    pub fn is_zero(&self) -> bool {
        self.length == 0
    }

    /// Stored bytes.
    pub fn stored(&self) -> usize {
        (self.length & !RAW) as usize
    }

    /// The byte range within the object.
    pub fn range(&self) -> std::ops::Range<u64> {
        let start = u64::from(self.offset);
        start..start + self.stored() as u64
    }

    /// The same frame, where its object is counted as `object`.
    pub fn in_object(self, object: u32) -> FrameRef {
        FrameRef { object, ..self }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        for word in [self.object, self.offset, self.length, self.crc] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    pub fn decode(bytes: &[u8; Self::ENCODED]) -> FrameRef {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        FrameRef { object: word(0), offset: word(4), length: word(8), crc: word(12) }
    }

    /// Whether `stored` is what was stored of this frame.
    pub fn check(&self, identity: Identity<'_>, stored: &[u8]) -> Result<(), PageError> {
        match stored.len() == self.stored() && sum(identity, stored) == self.crc {
            true => Ok(()),
            false => Err(self.damaged(identity, "its checksum does not match")),
        }
    }

    fn damaged(&self, identity: Identity<'_>, what: &str) -> PageError {
        PageError::Damaged {
            object: format!("{} pack or layer {}", identity.owner, self.object),
            what: format!("frame {} of {:?} at byte {}: {what}", identity.number, identity.file, self.offset),
        }
    }

    /// As if it had been made of `stored`.
    #[cfg(any(test, fuzzing))]
    pub(super) fn standing_for(self, identity: Identity<'_>, stored: &[u8]) -> FrameRef {
        FrameRef { length: stored.len() as u32 | self.length & RAW, crc: sum(identity, stored), ..self }
    }

    /// The frame's content, `content_length` bytes, after checking its sum.
    pub fn open(&self, identity: Identity<'_>, stored: &[u8], content_length: usize) -> Result<Bytes, PageError> {
        self.check(identity, stored)?;
        let damaged = |what: &str| self.damaged(identity, what);
        let content = if self.length & RAW != 0 {
            Bytes::copy_from_slice(stored)
        } else {
            Bytes::from(zstd::bulk::decompress(stored, content_length).map_err(|e| damaged(&e.to_string()))?)
        };
        if content.len() != content_length {
            return Err(damaged("it has not the length its index says"));
        }
        Ok(content)
    }
}

/// Compresses frames, reusing one context: making a zstd context costs more than a small frame.
pub struct FrameEncoder {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl FrameEncoder {
    pub fn new() -> Self {
        let compressor = zstd::bulk::Compressor::new(LEVEL).expect("level 1 exists");
        Self { compressor, buffer: Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME_SIZE)) }
    }

    /// Appends the stored form of `content` to `object`'s bytes in `out`; `out` holds the object from its byte 0.
    pub fn append(&mut self, identity: Identity<'_>, object: u32, content: &[u8], out: &mut Vec<u8>) -> FrameRef {
        if content.iter().all(|byte| *byte == 0) {
            return FrameRef::ZERO;
        }
        self.buffer.clear();
        let compressed = self.compressor.compress_to_buffer(content, &mut self.buffer);
        let (stored, raw) = match compressed {
            Ok(length) if length < content.len() => (&self.buffer[..], 0),
            _ => (content, RAW),
        };
        let offset = out.len() as u32;
        out.extend_from_slice(stored);
        FrameRef { object, offset, length: stored.len() as u32 | raw, crc: sum(identity, stored) }
    }
}

fn sum(identity: Identity<'_>, stored: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(identity.owner.as_bytes());
    crc = crc32c::crc32c_append(crc, &identity.file.0.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &identity.number.to_le_bytes());
    crc32c::crc32c_append(crc, stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity<'static> = Identity { owner: "b1", file: FileId(17), number: 3 };

    fn one(content: &[u8]) -> (FrameRef, Vec<u8>) {
        let mut out = vec![9; 5];
        let frame = FrameEncoder::new().append(IDENTITY, 2, content, &mut out);
        let stored = out[frame.range().start as usize..frame.range().end as usize].to_vec();
        (frame, stored)
    }

    fn noise() -> Vec<u8> {
        (0..FRAME_SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn content_comes_back_compressed_or_not() {
        for content in [vec![7; FRAME_SIZE], noise(), b"short".to_vec()] {
            let (frame, stored) = one(&content);
            let mut encoded = Vec::new();
            frame.encode(&mut encoded);
            let frame = FrameRef::decode(encoded.as_slice().try_into().expect("16 bytes"));
            assert_eq!(frame.open(IDENTITY, &stored, content.len()).expect("opens"), content);
        }
        assert!(one(&[0; 8192]).0.is_zero());
    }

    #[test]
    fn a_flipped_bit_or_a_foreign_place_is_noticed() {
        let (frame, mut stored) = one(&noise());
        for other in [
            Identity { owner: "b2", ..IDENTITY },
            Identity { file: FileId(18), ..IDENTITY },
            Identity { number: 4, ..IDENTITY },
        ] {
            assert!(frame.open(other, &stored, FRAME_SIZE).is_err());
        }
        stored[100] ^= 1;
        assert!(frame.open(IDENTITY, &stored, FRAME_SIZE).is_err());
    }
}
