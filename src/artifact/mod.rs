//! The file format of artifacts and checkpoints: safetensors, with the manifest as JSON in its metadata.
//!
//! Metadata keys: `format` (`millstream/1`), `manifest` (JSON text) and `checksum`: XXH3-64 (16 hex
//! digits) of the whole file with those digits read as zeros. A reader checks, in this order: size
//! against a limit, header length, checksum, format, tensors against their bytes, finiteness of every
//! weight. Any tool that reads safetensors can open the file; nothing in it can execute.

use crate::error::{Fault, Result};
use crate::state::{Data, State, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, View};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::HashMap;

/// The format that this version writes and reads.
pub const FORMAT: &str = "millstream/1";
/// Largest header that is read: 64 MiB.
pub const HEADER_BYTES_MAX: u64 = 64 << 20;
/// Largest file that is read unless a caller says otherwise: 4 GiB.
pub const FILE_BYTES_MAX: u64 = 4 << 30;

const CHECKSUM_KEY: &[u8] = b"\"checksum\":\"";
const CHECKSUM_BLANK: &str = "0000000000000000";

/// The content hash of an artifact (or a spec) as loaded: SHA-256, 64 hex digits. Its first 8 digits
/// are the version.
pub fn content_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// True where the bytes look like an artifact rather than a spec's text.
pub fn is_artifact(bytes: &[u8]) -> bool {
    bytes.len() >= 9 && bytes[8] == b'{' && u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) < 1 << 40
}

/// Writes a manifest and its tensors as the bytes of a file.
pub fn encode(manifest: &serde_json::Value, state: &State) -> Vec<u8> {
    Encoded::new(manifest, state).parts().concat()
}

/// The bytes of a file in parts: those of the tensors are where the state has them.
pub struct Encoded<'a> {
    head: Vec<u8>,
    tensors: Vec<Cow<'a, [u8]>>,
}

impl Encoded<'_> {
    /// The bytes of a manifest and its tensors.
    pub fn new<'a>(manifest: &serde_json::Value, state: &'a State) -> Encoded<'a> {
        let mut tensors: Vec<_> = state.tensors.iter().map(|(name, tensor)| (name, Outline(tensor))).collect();
        // The library's order, in which it gives the tensors their places.
        tensors.sort_by(|(a, x), (b, y)| y.dtype().cmp(&x.dtype()).then(a.cmp(b)));
        let metadata = HashMap::from([("millstream".to_string(), String::new())]);
        let views = tensors.iter().map(|(name, outline)| (name.as_str(), *outline));
        let plain = safetensors::serialize(views, Some(metadata)).expect("names and sizes are valid");
        // The library keeps metadata in a hash map; ours is put in place of it in a fixed order, so that
        // equal states are equal bytes.
        let header = std::str::from_utf8(&plain[8..]).expect("the header is JSON").trim_end();
        let ours = serde_json::json!({
            "format": FORMAT, "checksum": CHECKSUM_BLANK, "manifest": manifest.to_string(),
        });
        let mut header = header.replacen("{\"millstream\":\"\"}", &ours.to_string(), 1);
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut head = Vec::with_capacity(8 + header.len());
        head.extend_from_slice(&(header.len() as u64).to_le_bytes());
        head.extend_from_slice(header.as_bytes());
        let tensors = tensors.into_iter().map(|(_, outline)| outline.0.data.bytes()).collect();
        let mut encoded = Encoded { head, tensors };
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        encoded.parts().iter().for_each(|part| hasher.update(part));
        let place = checksum_place(&encoded.head, encoded.head.len()).expect("just written");
        encoded.head[place..place + 16].copy_from_slice(format!("{:016x}", hasher.digest()).as_bytes());
        encoded
    }

    /// The parts, in their order.
    pub fn parts(&self) -> Vec<&[u8]> {
        std::iter::once(&self.head[..]).chain(self.tensors.iter().map(|bytes| &bytes[..])).collect()
    }
}

/// A tensor as the library sees it while it makes the header: its size, but no bytes.
#[derive(Clone, Copy)]
struct Outline<'a>(&'a Tensor);

impl View for Outline<'_> {
    fn dtype(&self) -> Dtype {
        dtype(&self.0.data)
    }
    fn shape(&self) -> &[usize] {
        &self.0.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }
    fn data_len(&self) -> usize {
        self.0.data.bytes().len()
    }
}

/// Reads and checks the bytes of a file: its manifest and its tensors.
///
/// # Errors
/// Corruption, with what was wrong; Misuse, for a format that this version doesn't know.
pub fn decode(bytes: &[u8]) -> Result<(serde_json::Value, State)> {
    let header_length = header_length(bytes)?;
    verify_checksum(bytes, 8 + header_length)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| Fault::corruption(format!("header: {e}")))?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        other => {
            return Err(Fault::misuse(format!("format {:?}; this version reads {FORMAT:?}", other.unwrap_or("none")))
                .hint("use the version of millstream that wrote the file, or newer"));
        }
    }
    let manifest = metadata.get("manifest").ok_or_else(|| Fault::corruption("the metadata holds no manifest"))?;
    let manifest = serde_json::from_str(manifest).map_err(|e| Fault::corruption(format!("manifest: {e}")))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| Fault::corruption(format!("tensors: {e}")))?;
    let mut state = State::new();
    for (name, view) in tensors.iter() {
        let data = read_data(name, view.dtype(), view.data())?;
        check_finite(name, &data)?;
        state.tensors.insert(name.to_string(), Tensor { shape: view.shape().to_vec(), data });
    }
    Ok((manifest, state))
}

/// Reads a file of at most `bytes_max` bytes, growing as it arrives.
///
/// # Errors
/// Environment, where it can't be read; Misuse, where it isn't there or is larger.
pub fn read_file(path: &std::path::Path, bytes_max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Fault::misuse(format!("{}: there is no such file", path.display())),
        _ => Fault::io(path.display(), &e),
    })?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| Fault::io(path.display(), &e))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Fault::misuse(format!("{}: larger than {bytes_max} bytes", path.display())));
    }
    Ok(bytes)
}

fn header_length(bytes: &[u8]) -> Result<usize> {
    let Some(prefix) = bytes.get(..8) else {
        return Err(Fault::corruption(format!("the file is cut short: {} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(prefix.try_into().expect("8 bytes"));
    if length > HEADER_BYTES_MAX || length > bytes.len() as u64 - 8 {
        return Err(Fault::corruption(format!("not a safetensors file, or cut short: a header of {length} bytes")));
    }
    Ok(length as usize)
}

fn checksum_place(bytes: &[u8], header_end: usize) -> Option<usize> {
    let place = memchr::memmem::find(&bytes[..header_end], CHECKSUM_KEY)? + CHECKSUM_KEY.len();
    (place + 16 <= header_end).then_some(place)
}

fn verify_checksum(bytes: &[u8], header_end: usize) -> Result<()> {
    let Some(place) = checksum_place(bytes, header_end) else {
        return Err(Fault::misuse("a safetensors file, but not one of Millstream's: its metadata has no checksum"));
    };
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(&bytes[..place]);
    hasher.update(CHECKSUM_BLANK.as_bytes());
    hasher.update(&bytes[place + 16..]);
    let sum = format!("{:016x}", hasher.digest());
    if sum.as_bytes() == &bytes[place..place + 16] {
        return Ok(());
    }
    let stored = String::from_utf8_lossy(&bytes[place..place + 16]).into_owned();
    Err(Fault::corruption(format!("the checksum is {sum}, the file says {stored:?}")).hint("copy the file again"))
}

fn check_finite(name: &str, data: &Data) -> Result<()> {
    let bad = match data {
        Data::F64(v) => v.iter().position(|x| !x.is_finite()),
        Data::F32(v) => v.iter().position(|x| !x.is_finite()),
        _ => None,
    };
    match bad {
        Some(index) => Err(Fault::corruption(format!("tensor {name:?}: element {index} is not finite"))),
        None => Ok(()),
    }
}

fn dtype(data: &Data) -> Dtype {
    match data {
        Data::F64(_) => Dtype::F64,
        Data::F32(_) => Dtype::F32,
        Data::I64(_) => Dtype::I64,
        Data::U64(_) => Dtype::U64,
        Data::U32(_) => Dtype::U32,
        Data::U8(_) => Dtype::U8,
    }
}

fn read_data(name: &str, dtype: Dtype, bytes: &[u8]) -> Result<Data> {
    fn words<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
        bytes.chunks_exact(N).map(|c| read(c.try_into().expect("a chunk of N"))).collect()
    }
    Ok(match dtype {
        Dtype::F64 => Data::F64(words(bytes, f64::from_le_bytes)),
        Dtype::F32 => Data::F32(words(bytes, f32::from_le_bytes)),
        Dtype::I64 => Data::I64(words(bytes, i64::from_le_bytes)),
        Dtype::U64 => Data::U64(words(bytes, u64::from_le_bytes)),
        Dtype::U32 => Data::U32(words(bytes, u32::from_le_bytes)),
        Dtype::U8 => Data::U8(bytes.to_vec()),
        other => return Err(Fault::corruption(format!("tensor {name:?}: elements of type {other:?} are not used"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (serde_json::Value, State) {
        let mut state = State::new();
        state.put_f64("model.weights", &[0.5, -1.25]);
        state.put_strings("classes", &["a", "bb"]);
        state.put("empty", &[0, 3], Data::F32(vec![]));
        (serde_json::json!({"name": "x", "note": "\"checksum\":\"…"}), state)
    }

    #[test]
    fn what_is_written_is_read_and_equal_states_are_equal_bytes() {
        let (manifest, state) = sample();
        let bytes = encode(&manifest, &state);
        assert_eq!(bytes, encode(&manifest, &state));
        assert!(is_artifact(&bytes));
        let (m, s) = decode(&bytes).expect("decode");
        assert_eq!((m, s), (manifest, state));
    }

    #[test]
    fn the_bytes_are_those_that_the_library_writes() {
        use safetensors::tensor::TensorView;
        let (_, mut state) = sample();
        state.put("ints", &[2], Data::I64(vec![-1, 2]));
        state.put("a.small", &[3], Data::U32(vec![1, 2, 3]));
        state.put("b.single", &[1, 1], Data::F32(vec![0.5]));
        let file = encode(&serde_json::json!({}), &state);
        let views = state.tensors.iter().map(|(name, tensor)| {
            let bytes = Box::leak(tensor.data.bytes().into_owned().into_boxed_slice());
            (name, TensorView::new(dtype(&tensor.data), tensor.shape.clone(), bytes).expect("a view"))
        });
        let theirs = safetensors::serialize(views, None).expect("serialized");
        let behind = |bytes: &[u8]| bytes[8 + header_length(bytes).expect("a header")..].to_vec();
        assert_eq!(behind(&file), behind(&theirs));
        let tensors = |bytes: &[u8]| {
            let (_, metadata) = SafeTensors::read_metadata(bytes).expect("metadata");
            let order = metadata.offset_keys();
            order.into_iter().map(|name| format!("{name} {:?}", metadata.info(&name))).collect::<Vec<_>>()
        };
        assert_eq!(tensors(&file), tensors(&theirs));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (manifest, state) = sample();
        let good = encode(&manifest, &state);
        for place in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[place] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "flip of bit {bit} at {place}");
            }
            assert!(decode(&good[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named() {
        let (manifest, mut state) = sample();
        state.put_f64("model.weights", &[0.5, f64::NAN]);
        let fault = decode(&encode(&manifest, &state)).expect_err("not finite");
        assert!(fault.message.contains("\"model.weights\": element 1"), "{fault}");
    }
}
