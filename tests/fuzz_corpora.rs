//! The story: what the fuzzers once found, and what they began with, stays right.
//!
//! The bodies of the fuzz targets (tests/support/fuzzed) run over the committed corpora (fuzz/corpus), and
//! over seeded mutations of them for a second or two each: bits flipped, bytes inserted, removed and repeated,
//! two inputs spliced, words of the target's dictionary (fuzz/dictionaries) put in. A failing input is written
//! to the folder of temporary files, and named. `make fuzz TARGET=…` looks further, guided by coverage.
//!
//! `FUZZ_SEED` (default 1) and `FUZZ_SECONDS` (a target; default 1.5) choose other and more mutations.

#[path = "support/fuzzed/mod.rs"]
mod fuzzed;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: fuzzed::memory::Counting = fuzzed::memory::Counting;

/// Longest mutation (bytes).
const LENGTH_MAX: usize = 4_096;
/// Largest corpus of all targets together (bytes).
const CORPORA_BYTES_MAX: u64 = 200_000;

fn fuzz(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder)
}

/// The committed inputs of a target, in the order of their names.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(fuzz("corpus").join(target)).expect("a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("an input"))).collect()
}

/// The words of a target's dictionary, in libFuzzer's notation: `"word"` or `name="word"`, with `\\`, `\"`, `\xNN`.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(fuzz("dictionaries").join(format!("{target}.dict"))).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|line| word(line).unwrap_or_else(|| panic!("{target}.dict: {line}"))).collect()
}

fn word(line: &str) -> Option<Vec<u8>> {
    let quoted = line.trim().split_once('"')?.1.strip_suffix('"')?.as_bytes();
    let (mut word, mut at) = (Vec::new(), 0);
    while at < quoted.len() {
        let (byte, length) = match &quoted[at..] {
            [b'\\', b'x', ..] => {
                (u8::from_str_radix(std::str::from_utf8(quoted.get(at + 2..at + 4)?).ok()?, 16).ok()?, 4)
            }
            [b'\\', byte @ (b'\\' | b'"'), ..] => (*byte, 2),
            [b'\\', ..] => return None,
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        word.push(byte);
        at += length;
    }
    Some(word)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// One mutation of an input.
fn mutate(bytes: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)], words: &[Vec<u8>], random: &mut Random) {
    let (at, length) = (random.below(bytes.len() + 1), 1 + random.below(8));
    match random.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 => drop(bytes.splice(at..at, random.next().to_le_bytes().into_iter().take(length))),
        3 => drop(bytes.drain(at..(at + length * length).min(bytes.len()))),
        4 => {
            let piece = bytes[at..(at + length * length).min(bytes.len())].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, piece);
        }
        5 => {
            let other = &corpus[random.below(corpus.len())].1;
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ if words.is_empty() => bytes.truncate(at),
        6 => drop(bytes.splice(at..at, words[random.below(words.len())].iter().copied())),
        _ => {
            let word = &words[random.below(words.len())];
            bytes.splice(at..(at + word.len()).min(bytes.len()), word.iter().copied());
        }
    }
    bytes.truncate(LENGTH_MAX);
}

/// Runs the body; where it panics, keeps the input and says where.
fn run(name: &str, body: fn(&[u8]), bytes: &[u8], from: &str) {
    let outcome = std::panic::catch_unwind(|| body(bytes));
    if outcome.is_err() {
        let path = std::env::temp_dir().join(format!("millstream-fuzz-{name}"));
        std::fs::write(&path, bytes).expect("a place for the input");
        panic!("{name}: {from} fails; the input is {}", path.display());
    }
}

fn number<T: std::str::FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?} is no number")))
}

/// The corpus of a target, then mutations of it.
fn smoke(target: &str) {
    let (name, body) = *fuzzed::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let (corpus, words) = (corpus(name), dictionary(name));
    assert!(!corpus.is_empty(), "{name} has inputs to begin with");
    for (path, bytes) in &corpus {
        run(name, body, bytes, &path.display().to_string());
    }
    let seed: u64 = number("FUZZ_SEED", 1);
    let limit = Duration::from_secs_f64(number("FUZZ_SECONDS", 1.5));
    let (mut random, started, mut count) = (Random(seed), Instant::now(), 0);
    while started.elapsed() < limit {
        let mut bytes = corpus[random.below(corpus.len())].1.clone();
        for _ in 0..1 + random.below(6) {
            mutate(&mut bytes, &corpus, &words, &mut random);
        }
        run(name, body, &bytes, &format!("mutation {count} of seed {seed}"));
        count += 1;
    }
    println!("{name}: {} inputs, {count} mutations", corpus.len());
}

/// A state of half a megabyte that says it knows 65,536 classes: their weights, tens of gigabytes, are looked for
/// before memory is taken for them.
#[test]
fn counts_without_their_weights_take_no_memory() {
    use millstream::pipeline::{Manifest, Pipeline};
    use millstream::state::{Data, State};
    let spec = |more: &str| {
        let fields: String = (0..60).map(|i| format!("f{i}='float'\n")).collect();
        format!(
            "name='c'\n[schema]\nlabel='y'\nclasses_max=65536\n[schema.fields]\n{fields}c='category'\ny='category'\n{more}"
        )
    };
    let hashed = spec("[[steps]]\nkind='hash'\nbits=18\n[model]\nkind='softmax-regression'");
    let bayes = spec("[[steps]]\nkind='one-hot'\ncategories_max=60000\n[model]\nkind='gaussian-naive-bayes'");
    for (spec, count) in [
        (hashed, ("model.iterations", Data::U64(vec![1; 65_536]))),
        (bayes, ("model.counts", Data::F64(vec![1.0; 65_536]))),
    ] {
        let mut pipeline = Pipeline::from_spec_text(&spec).expect("a spec");
        let (manifest, mut state): (Manifest, State) =
            pipeline.snapshot("artifact", Default::default(), Default::default());
        state.put(count.0, &[65_536], count.1);
        let fault = fuzzed::memory::within(100_000_000, "loading", || Pipeline::restore(&manifest, &state).err());
        let fault = fault.expect("the weights are not there");
        assert!(fault.message.contains("elements"), "{fault}");
    }
}

/// A broker that announces an answer of 200 MB and sends a few bytes of it gets the room of those few.
#[test]
fn a_length_that_a_broker_makes_up_takes_no_memory() {
    use millstream::kafka::direct::Settings;
    use millstream::kafka::direct::connection::Dialer;
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a port").to_string();
    let broker = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let _ = client.read(&mut [0; 1_024]);
        client.write_all(&200_000_000_i32.to_be_bytes()).expect("sent");
        client.write_all(&[0; 100]).expect("sent");
        // Until the client has had enough.
        let _ = client.read(&mut [0; 1_024]);
    });
    let settings = Settings { connect_timeout: Duration::from_millis(300), ..Settings::new(&address) };
    let dialer = Dialer::new(settings).expect("a dialer");
    let refused = fuzzed::memory::within(4 << 20, "an answer", || dialer.dial(&address).err());
    assert!(refused.is_some());
    broker.join().expect("the broker");
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { smoke(stringify!($name)); })*

        #[test]
        fn every_target_is_smoked_built_and_small() {
            let here = [$(stringify!($name)),*];
            let bodies: Vec<&str> = fuzzed::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(bodies, here);
            let manifest = std::fs::read_to_string(fuzz("Cargo.toml")).expect("the fuzzers' manifest");
            let mut bytes = 0;
            for name in here {
                assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not in fuzz/Cargo.toml");
                assert!(fuzz(&format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
                bytes += corpus(name).iter().map(|(_, input)| input.len() as u64).sum::<u64>();
            }
            assert!(bytes <= CORPORA_BYTES_MAX, "the corpora hold {bytes} bytes; at most {CORPORA_BYTES_MAX}");
        }
    };
}

targets! {
    admin_request artifact binary_rows config csv_rows frames journal_record journal_segment json_rows kafka_answer
    kafka_fetch learning message_headers predictions record_batch spec state
}
