//! What people write: the config of a daemon, and the spec of a pipeline.

use super::input::Input;
use super::memory;
use millstream::config::{Config, Environment};
use millstream::error::{Class, Fault};
use millstream::pipeline::{Pipeline, PipelineSpec};

/// What an untrained pipeline may hold (bytes): a network of the most parameters that a spec may ask for, with
/// its gradient and Adam's moments, takes 1 GiB.
pub const PIPELINE_BYTES_MAX: usize = 1_100 << 20;

/// Longest fault that is not the TOML reader's own (characters); those show the line.
const FAULT_CHARS_MAX: usize = 2_000;

fn parse(text: &str, sets: &[String]) -> Result<Config, Vec<Fault>> {
    let environment = Environment::of("mill-1", &[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1")]);
    Config::parse("m.toml", text, sets, &environment)
}

/// A config. Input: the file; behind a zero byte, lines that stand for `--set`.
///
/// What is refused says where: file and line, or the argument. What is taken and printed reads back the same.
pub fn config(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Ok(text) = std::str::from_utf8(input.until(0)) else { return };
    let sets = String::from_utf8_lossy(input.rest());
    let sets: Vec<String> = sets.lines().take(4).map(str::to_owned).collect();
    let bytes_max = 1_000_000 + 2_000 * bytes.len();
    match memory::within(bytes_max, "a config", || parse(text, &sets)) {
        Ok(config) => {
            let printed = config.to_toml();
            let again = parse(&printed, &[]).unwrap_or_else(|faults| panic!("{faults:#?}\n{printed}"));
            assert_eq!(again, config, "{printed}");
            assert_eq!(again.to_toml(), printed);
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a word");
            for fault in &faults {
                assert_eq!(fault.class, Class::Misuse, "{fault}");
                let place = ["m.toml", "--set", "$"].iter().any(|place| fault.message.starts_with(place));
                assert!(place, "it doesn't say where: {fault}");
            }
        }
    }
}

/// A spec of a pipeline: refused with a place, or built within bounds; then it is its own text's pipeline.
pub fn spec(bytes: &[u8]) {
    let bytes_max = PIPELINE_BYTES_MAX + 100_000 * bytes.len();
    match memory::within(bytes_max, "a spec", || Pipeline::from_bytes(bytes)) {
        Ok(mut pipeline) => {
            let text = toml::to_string(pipeline.spec()).expect("a spec is TOML");
            assert_eq!(&PipelineSpec::parse(&text).expect("what was written"), pipeline.spec());
            rows(&mut pipeline);
        }
        Err(fault) => {
            assert!(matches!(fault.class, Class::Misuse | Class::Corruption), "{fault}");
            assert!(!fault.message.is_empty() && fault.message.len() < FAULT_CHARS_MAX + 4 * bytes.len(), "{fault}");
        }
    }
}

/// Two rows go through: one without anything, one of ones; then all scores and all of the state are finite.
fn rows(pipeline: &mut Pipeline) {
    use millstream::batch::RowOrigin;
    let (mut batch, mut scores) = (pipeline.batch(), pipeline.scores(0));
    for _ in 0..2 {
        let raw = Default::default();
        batch.push_row(RowOrigin { raw, record: 0, input: 0, offset: 0, row: None, sequence: 0 });
    }
    let stride = batch.number_stride;
    batch.numbers[stride..].fill(1.0);
    pipeline.run(&mut batch, &mut scores, true, &mut ());
    super::learning::all_finite(pipeline, &scores);
}
