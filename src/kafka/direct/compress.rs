//! Compression of a batch's records: gzip, snappy (framed as the Java clients do it, or bare), lz4 and zstd.
//!
//! ```
//! use millstream::kafka::direct::compress::{Compression, pack, unpack};
//!
//! let (mut packed, mut plain) = (Vec::new(), Vec::new());
//! pack(Compression::Lz4, b"aaaaaaaaaaaaaaaaaaaaaaaa", &mut packed).unwrap();
//! unpack(Compression::Lz4, &packed, &mut plain).unwrap();
//! assert_eq!(plain, b"aaaaaaaaaaaaaaaaaaaaaaaa");
//! ```

use super::error::{Error, Result};
use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

/// A batch that unpacks to more bytes than this is refused.
pub const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// What the Java library's framing begins with: its name, then two versions.
const FRAME_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const FRAME_BLOCK_BYTES: usize = 32 << 10;

/// Snappy's best: a copy of 64 bytes takes 3.
const SNAPPY_RATIO_MAX: usize = 32;

/// How records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// gzip.
    Gzip = 1,
    /// snappy.
    Snappy = 2,
    /// lz4 frames.
    Lz4 = 3,
    /// zstd.
    Zstd = 4,
}

impl Compression {
    /// The compression of a batch's attributes.
    ///
    /// # Errors
    /// `Damaged`, where the number means none.
    pub fn of(attributes: i16) -> Result<Compression> {
        Ok(match attributes & 7 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            other => return Err(Error::Damaged(format!("a batch says compression {other}"))),
        })
    }
}

impl FromStr for Compression {
    type Err = Error;
    fn from_str(text: &str) -> Result<Compression> {
        Ok(match text {
            "none" => Compression::None,
            "gzip" => Compression::Gzip,
            "snappy" => Compression::Snappy,
            "lz4" => Compression::Lz4,
            "zstd" => Compression::Zstd,
            other => {
                return Err(Error::Config(format!("\"{other}\" is no compression: none, gzip, snappy, lz4, zstd")));
            }
        })
    }
}

fn damaged(why: impl fmt::Display) -> Error {
    Error::Damaged(format!("a batch can't be unpacked: {why}"))
}

fn too_much() -> Error {
    damaged(format!("it holds more than {} MiB", UNPACKED_BYTES_MAX >> 20))
}

/// Appends the packed form of `plain`.
///
/// # Errors
/// `Config`, where the packer fails.
pub fn pack(compression: Compression, plain: &[u8], to: &mut Vec<u8>) -> Result<()> {
    let failed = |error: &dyn fmt::Display| Error::Config(format!("records could not be compressed: {error}"));
    match compression {
        Compression::None => to.extend_from_slice(plain),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
            encoder.write_all(plain).and_then(|()| encoder.finish().map(|_| ())).map_err(|e| failed(&e))?;
        }
        Compression::Snappy => pack_snappy(plain, to).map_err(|e| failed(&e))?,
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(to);
            encoder.write_all(plain).map_err(|e| failed(&e))?;
            encoder.finish().map_err(|e| failed(&e))?;
        }
        Compression::Zstd => zstd::stream::copy_encode(plain, to, 1).map_err(|e| failed(&e))?,
    }
    Ok(())
}

fn pack_snappy(plain: &[u8], to: &mut Vec<u8>) -> Result<(), snap::Error> {
    to.extend_from_slice(FRAME_MAGIC);
    to.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    let mut encoder = snap::raw::Encoder::new();
    for block in plain.chunks(FRAME_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block)?;
        to.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        to.extend_from_slice(&packed);
    }
    Ok(())
}

/// Appends the plain form of `packed`.
///
/// # Errors
/// `Damaged`, also where it is longer than [`UNPACKED_BYTES_MAX`].
pub fn unpack(compression: Compression, packed: &[u8], to: &mut Vec<u8>) -> Result<()> {
    match compression {
        Compression::None => {
            to.extend_from_slice(packed);
            Ok(())
        }
        Compression::Gzip => stream(flate2::read::MultiGzDecoder::new(packed), to),
        Compression::Snappy => unpack_snappy(packed, to),
        Compression::Lz4 => stream(lz4_flex::frame::FrameDecoder::new(packed), to),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(damaged)?;
            // What a frame may ask for as its window, before a byte is unpacked.
            decoder.window_log_max(27).map_err(damaged)?;
            stream(decoder, to)
        }
    }
}

/// Unpacks as bytes come: what a frame says of its length isn't asked.
fn stream(decoder: impl Read, to: &mut Vec<u8>) -> Result<()> {
    let read = decoder.take(UNPACKED_BYTES_MAX as u64 + 1).read_to_end(to).map_err(damaged)?;
    if read > UNPACKED_BYTES_MAX { Err(too_much()) } else { Ok(()) }
}

fn unpack_snappy(packed: &[u8], to: &mut Vec<u8>) -> Result<()> {
    let begin = to.len();
    let Some(framed) = packed.strip_prefix(FRAME_MAGIC) else { return unpack_block(packed, to, begin) };
    let mut rest = framed.get(8..).ok_or_else(|| damaged("its frame is cut off"))?;
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(|| damaged("its frame is cut off"))?;
        let len = u32::from_be_bytes(*len) as usize;
        let (block, after) = after.split_at_checked(len).ok_or_else(|| damaged("its frame is cut off"))?;
        unpack_block(block, to, begin)?;
        rest = after;
    }
    Ok(())
}

fn unpack_block(block: &[u8], to: &mut Vec<u8>, begin: usize) -> Result<()> {
    let len = snap::raw::decompress_len(block).map_err(damaged)?;
    if len > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(damaged("it says a length that can't be"));
    }
    let at = to.len();
    if at - begin + len > UNPACKED_BYTES_MAX {
        return Err(too_much());
    }
    to.resize(at + len, 0);
    let got = snap::raw::Decoder::new().decompress(block, &mut to[at..]).map_err(damaged)?;
    to.truncate(at + got);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn plain() -> Vec<u8> {
        (0..100_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same() {
        for compression in ALL {
            let (mut packed, mut back) = (Vec::new(), b"before".to_vec());
            pack(compression, &plain(), &mut packed).unwrap();
            assert!(compression == Compression::None || packed.len() < plain().len() / 2, "{compression:?}");
            unpack(compression, &packed, &mut back).unwrap();
            assert!(back.strip_prefix(b"before").unwrap() == plain(), "{compression:?}");
            assert_eq!(Compression::of(compression as i16 | 0x10).unwrap(), compression);
        }
        assert!(Compression::of(5).is_err());
    }

    #[test]
    fn bare_snappy_is_read() {
        let packed = snap::raw::Encoder::new().compress_vec(&plain()).unwrap();
        let mut back = Vec::new();
        unpack(Compression::Snappy, &packed, &mut back).unwrap();
        assert!(back == plain());
    }

    #[test]
    fn cuts_and_flips_neither_panic_nor_grow_without_bound() {
        let mut seed = 7u64;
        for compression in ALL {
            let mut packed = Vec::new();
            pack(compression, &plain()[..4_000], &mut packed).unwrap();
            for cut in 0..packed.len() {
                let _ = unpack(compression, &packed[..cut], &mut Vec::new());
            }
            for _ in 0..2_000 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let mut changed = packed.clone();
                let at = (seed >> 33) as usize % changed.len();
                changed[at] ^= 1 << ((seed >> 20) & 7);
                let mut back = Vec::new();
                let _ = unpack(compression, &changed, &mut back);
                assert!(back.len() < 1 << 20, "{compression:?}");
            }
        }
    }

    #[test]
    fn a_length_that_somebody_made_up_allocates_nothing() {
        let mut block = Vec::new();
        super::super::wire::push_varint(&mut block, 200 << 20);
        let mut back = Vec::new();
        assert!(unpack(Compression::Snappy, &block, &mut back).is_err());
        assert_eq!(back.capacity(), 0);
    }
}
