//! Artifacts and checkpoints: a file's bytes, and the tensors behind them.

use super::input::Input;
use super::memory;
use super::settings::PIPELINE_BYTES_MAX;
use millstream::artifact;
use millstream::error::{Class, Fault};
use millstream::pipeline::{Manifest, Pipeline};
use millstream::state::{Data, State, Tensor};
use std::sync::OnceLock;

/// A file. Input: one byte (odd: length of the header and checksum are mended, so that what lies behind them is
/// reached), the file.
pub fn artifact(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mend = input.byte() % 2 == 1;
    let mut file = input.rest().to_vec();
    if mend {
        mended(&mut file);
    }
    // The header is parsed twice, its manifest once more; the tensors stand beside the file.
    let bytes_max = 200_000 + 150 * file.len();
    match memory::within(bytes_max, "decoding a file", || artifact::decode(&file)) {
        Ok((manifest, state)) => {
            assert!(state.tensors.values().all(|t| t.shape.iter().product::<usize>() == t.data.len()));
            let again = artifact::decode(&artifact::encode(&manifest, &state)).expect("what was written");
            assert_eq!(again, (manifest, state));
        }
        Err(fault) => refused(&fault),
    }
    let bytes_max = PIPELINE_BYTES_MAX + 100_000 * file.len();
    match memory::within(bytes_max, "loading a file", || Pipeline::from_bytes(&file)) {
        Ok(mut pipeline) => comes_back(&mut pipeline),
        Err(fault) => refused(&fault),
    }
}

fn refused(fault: &Fault) {
    assert!(matches!(fault.class, Class::Misuse | Class::Corruption) && !fault.message.is_empty(), "{fault}");
}

/// The length of the header, where it ends with `}` and blanks, and the checksum, as they should be.
fn mended(file: &mut [u8]) {
    if file.len() < 8 {
        return;
    }
    // Where the announced header doesn't end as one does: at the last brace in front of a byte that JSON has not.
    let text = file[8..].iter().position(|b| *b == 0 || *b > 0x7E).unwrap_or(file.len() - 8);
    let announced = u64::from_le_bytes(file[..8].try_into().expect("8 bytes"));
    let good = usize::try_from(announced).ok().and_then(|n| file.get(8..)?.get(..n));
    if !good.is_some_and(|header| header.trim_ascii_end().ends_with(b"}"))
        && let Some(end) = file[8..8 + text].iter().rposition(|b| *b == b'}')
    {
        let blanks = file[8 + end + 1..8 + text].iter().take_while(|b| **b == b' ').count();
        file[..8].copy_from_slice(&((end + 1 + blanks) as u64).to_le_bytes());
    }
    let key = b"\"checksum\":\"";
    let Some(at) = file.windows(key.len()).position(|w| w == key).map(|at| at + key.len()) else { return };
    if at + 16 > file.len() {
        return;
    }
    file[at..at + 16].copy_from_slice(b"0000000000000000");
    let sum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(file));
    file[at..at + 16].copy_from_slice(sum.as_bytes());
}

/// A pipeline that was loaded: what it saves is loaded again, and saves the same.
fn comes_back(pipeline: &mut Pipeline) {
    let saved = pipeline.to_artifact(serde_json::Value::Null);
    let mut again = match Pipeline::from_bytes(&saved) {
        Ok(again) => again,
        Err(fault) => panic!("what it saved itself: {fault}"),
    };
    assert_eq!(again.to_artifact(serde_json::Value::Null), saved);
}

/// Tensors that somebody changed. Input: which of some trained pipelines, its changes (which tensor, what, how),
/// then rows. Loading refuses them, or the pipeline scores and learns, and saves what loads again.
pub fn state(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let trained = trained();
    let (manifest, good) = &trained[input.below(trained.len())];
    let (mut manifest, mut state) = (manifest.clone(), good.clone());
    for _ in 0..1 + input.below(4) {
        change(&mut state, &mut input);
    }
    if !input.byte().is_multiple_of(4) {
        manifest.golden.clear();
    }
    let size: usize = state.tensors.values().map(|t| t.data.len() * 8).sum();
    let loaded = memory::within(4_000_000 + 60 * size, "loading a state", || {
        // As a file would be: a tensor that is not finite never gets so far.
        let (_, state) = artifact::decode(&artifact::encode(&serde_json::json!({}), &state))?;
        Pipeline::restore(&manifest, &state)
    });
    match loaded {
        Ok(mut pipeline) => {
            super::learning::learn_rows(&mut pipeline, input.rest());
            comes_back(&mut pipeline);
        }
        Err(fault) => refused(&fault),
    }
}

/// Trained pipelines of every kind of step and model.
fn trained() -> &'static [(Manifest, State)] {
    static TRAINED: OnceLock<Vec<(Manifest, State)>> = OnceLock::new();
    TRAINED.get_or_init(|| {
        (super::learning::SPECS.iter())
            .map(|spec| {
                let mut pipeline = Pipeline::from_spec_text(spec).expect("a spec");
                let rows: Vec<u8> = (0..6_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
                super::learning::learn_rows(&mut pipeline, &rows);
                pipeline.snapshot("checkpoint", serde_json::Value::Null, serde_json::Value::Null)
            })
            .collect()
    })
}

/// One change of one tensor.
fn change(state: &mut State, input: &mut Input<'_>) {
    let at = input.byte() as usize % state.tensors.len().max(1);
    let Some(name) = state.tensors.keys().nth(at).cloned() else { return };
    let what = input.byte();
    let (place, word) = (input.byte() as usize, input.word());
    let Some(tensor) = state.tensors.get_mut(&name) else { return };
    let length = tensor.data.len();
    match what % 6 {
        0 => drop(state.tensors.remove(&name)),
        1 | 2 if length > 0 => poke(&mut tensor.data, place % length, word),
        3 => resize(tensor, word as usize % 300),
        4 => retype(tensor, word),
        5 => {
            let other = state.tensors.values().nth(word as usize % state.tensors.len()).cloned();
            state.tensors.extend(other.map(|other| (name, other)));
        }
        _ => {}
    }
}

fn poke(data: &mut Data, at: usize, word: u64) {
    match data {
        Data::F64(v) => v[at] = f64::from_bits(word),
        Data::F32(v) => v[at] = f32::from_bits(word as u32),
        Data::I64(v) => v[at] = word as i64,
        Data::U64(v) => v[at] = word,
        Data::U32(v) => v[at] = word as u32,
        Data::U8(v) => v[at] = word as u8,
    }
}

fn resize(tensor: &mut Tensor, length: usize) {
    match &mut tensor.data {
        Data::F64(v) => v.resize(length, 1.0),
        Data::F32(v) => v.resize(length, 1.0),
        Data::I64(v) => v.resize(length, 1),
        Data::U64(v) => v.resize(length, 1),
        Data::U32(v) => v.resize(length, 1),
        Data::U8(v) => v.resize(length, 1),
    }
    tensor.shape = vec![length];
}

fn retype(tensor: &mut Tensor, word: u64) {
    let n = tensor.data.len();
    tensor.data = match word % 6 {
        0 => Data::F64(vec![0.5; n]),
        1 => Data::F32(vec![0.5; n]),
        2 => Data::I64(vec![-1; n]),
        3 => Data::U64(vec![3; n]),
        4 => Data::U32(vec![3; n]),
        _ => Data::U8(vec![3; n]),
    };
}
