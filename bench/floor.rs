//! The floor: what receiving (or reading), parsing, learning and answering (and writing) cost at least, each measured
//! alone on this machine with code that does nothing else (and validates nothing).

use crate::events::FEATURES;
use crate::machine::{self, Cores};
use crate::report::{Figure, Report};
use crate::stats::Samples;
use millstream::decode::Format;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Instant;

/// CPU nanoseconds a row, term by term.
#[derive(Debug, Clone)]
pub struct Floor(pub Vec<(&'static str, f64)>);

impl Floor {
    /// All terms together.
    pub fn total(&self) -> f64 {
        self.0.iter().map(|term| term.1).sum()
    }
}

/// The floor of a socket of JSON lines (`rows` of them), each term for about `seconds`: a bare reader of the same
/// bytes from loopback TCP; twenty decimals out of a line whose keys are known beforehand; logistic regression,
/// predict and update; one small JSON prediction into a buffer.
pub fn socket(json: &[u8], rows: usize, seconds: f64, cores: &Cores) -> Result<Floor, String> {
    cores.as_daemon();
    let receive = receive(json, rows, seconds, cores);
    cores.as_daemon();
    let [parse, learn, answer] = work(json, Format::Json, rows, seconds, &mut Vec::new());
    cores.anywhere();
    Ok(Floor(vec![("receive", receive?), ("parse", parse), ("learn", learn), ("answer", answer)]))
}

/// The floor of a file of JSON or CSV lines (without a header): a bare reader of the file, which the kernel has in
/// memory; then as for a socket; and a bare writer of the answers to a file.
pub fn file(bytes: &[u8], format: Format, rows: usize, seconds: f64, dir: &Path) -> Result<Floor, String> {
    let (from, to) = (dir.join("floor.in"), dir.join("floor.out"));
    let text = |e: std::io::Error| format!("the floor's file: {e}");
    std::fs::write(&from, bytes).map_err(text)?;
    let mut answers = Vec::new();
    let [parse, learn, answer] = work(bytes, format, rows, seconds, &mut answers);
    let mut buffer = vec![0_u8; 256 << 10];
    let mut outcome = Ok(());
    let read = turns(seconds, rows, || {
        let mut read = || -> std::io::Result<()> {
            let mut file = std::fs::File::open(&from)?;
            while black_box(file.read(&mut buffer)?) > 0 {}
            Ok(())
        };
        outcome = std::mem::replace(&mut outcome, Ok(())).and_then(|()| read());
    });
    let write = turns(seconds, rows, || {
        let write = || {
            answers.chunks(256 << 10).try_fold(std::fs::File::create(&to)?, |mut file, chunk| {
                file.write_all(chunk)?;
                Ok::<_, std::io::Error>(file)
            })
        };
        outcome = std::mem::replace(&mut outcome, Ok(())).and_then(|()| write().map(drop));
    });
    outcome.map_err(text)?;
    Ok(Floor(vec![("read", read), ("parse", parse), ("learn", learn), ("answer", answer), ("write", write)]))
}

/// Parsing, learning and answering; the answers are left in `out`.
fn work(bytes: &[u8], format: Format, rows: usize, seconds: f64, out: &mut Vec<u8>) -> [f64; 3] {
    let mut numbers = vec![0_f64; rows * FEATURES];
    let mut labels = vec![0_f64; rows];
    let parse = turns(seconds, rows, || match format {
        Format::Csv => parse_csv(bytes, &mut numbers, &mut labels),
        _ => parse_json(bytes, &mut numbers, &mut labels),
    });
    let mut model = ([0_f64; FEATURES], 0_f64);
    let mut scores = vec![0_f64; rows];
    let learn = turns(seconds, rows, || learn(&numbers, &labels, &mut model, &mut scores));
    let answer = turns(seconds, rows, || answer(&scores, out));
    [parse, learn, answer]
}

/// Puts the floors of interleaved runs into the report, term by term, and how near to them a cost (CPU nanoseconds a
/// row, one for each floor) came. Names begin with `prefix`.
pub fn show(report: &mut Report, prefix: &str, unit: &str, floors: &[Floor], reached: &Samples, hash: Option<u64>) {
    let samples = floors.len() as u64;
    let mut put = |name: &str, unit, value, worst| {
        let name = format!("{prefix}{name}");
        report.figure(&Figure { name: &name, unit, value, worst, beside: None, samples, hash });
    };
    for (i, (name, _)) in floors.first().map_or(&[][..], |f| &f.0).iter().enumerate() {
        let of_all = Samples(floors.iter().map(|floor| floor.0[i].1).collect());
        put(&format!("floor-{name}"), unit, of_all.median(), None);
    }
    put("floor", unit, Samples(floors.iter().map(Floor::total).collect()).median(), None);
    let fraction = Samples(floors.iter().zip(&reached.0).map(|(floor, ns)| floor.total() / ns).collect());
    put("fraction-of-limit", "floor/daemon-cpu", fraction.median(), Some(fraction.least()));
}

/// The median over turns of `rows` rows.
fn turns(seconds: f64, rows: usize, work: impl FnMut()) -> f64 {
    crate::stats::time_rows(seconds, rows, work).median()
}

fn receive(json: &[u8], rows: usize, seconds: f64, cores: &Cores) -> Result<f64, String> {
    let text = |e: std::io::Error| format!("the floor's reader: {e}");
    let listener = TcpListener::bind("127.0.0.1:0").map_err(text)?;
    let address = listener.local_addr().map_err(text)?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || -> std::io::Result<u64> {
            cores.as_generator();
            let mut stream = TcpStream::connect(address)?;
            let (began, mut sent) = (Instant::now(), 0);
            while sent == 0 || began.elapsed().as_secs_f64() < seconds {
                for chunk in json.chunks(256 << 10) {
                    stream.write_all(chunk)?;
                }
                sent += rows as u64;
            }
            Ok(sent)
        });
        let (mut stream, _) = listener.accept().map_err(text)?;
        let mut buffer = vec![0_u8; 256 << 10];
        let before = machine::thread_cpu_ns();
        while black_box(stream.read(&mut buffer).map_err(text)?) > 0 {}
        let cpu = machine::thread_cpu_ns() - before;
        let sent = sender.join().map_err(|_| "the floor's sender panicked")?.map_err(text)?;
        Ok(cpu as f64 / sent as f64)
    })
}

/// Lines of `{"f0":D.DDD,…,"f19":-D.DDD,"label":true}` to numbers: keys are skipped by their length, and a
/// decimal is one word, read without looking for its end.
fn parse_json(json: &[u8], numbers: &mut [f64], labels: &mut [f64]) {
    let mut at = 0;
    for (row, label) in numbers.chunks_exact_mut(FEATURES).zip(labels) {
        // `{"f0":` and ten keys of one digit, ten of two.
        let (short, long) = row.split_at_mut(10);
        for (cells, key) in [(short, 6), (long, 7)] {
            for cell in cells {
                at += key;
                if !decimal(json, &mut at, cell) {
                    return;
                }
            }
        }
        at += 9;
        at += truth(json[at], label) + 2;
    }
}

/// Lines of `D.DDD,…,-D.DDD,true` to numbers.
fn parse_csv(csv: &[u8], numbers: &mut [f64], labels: &mut [f64]) {
    let mut at = 0;
    for (row, label) in numbers.chunks_exact_mut(FEATURES).zip(labels) {
        for cell in row {
            if !decimal(csv, &mut at, cell) {
                return;
            }
            at += 1;
        }
        at += truth(csv[at], label) + 1;
    }
}

/// `D.DDD` with or without a minus, as one word; false at the end of the bytes.
#[inline(always)]
fn decimal(bytes: &[u8], at: &mut usize, cell: &mut f64) -> bool {
    let Some(word) = bytes[*at..].first_chunk::<8>() else { return false };
    let negative = usize::from(word[0] == b'-');
    let digits = u64::from_le_bytes(*word) >> (8 * negative);
    let thousands = (digits & 0xF) * 1000 + ((digits >> 16) & 0xF) * 100;
    let milli = thousands + ((digits >> 24) & 0xF) * 10 + ((digits >> 32) & 0xF);
    let value = milli as f64 / 1000.0;
    *cell = f64::from_bits(value.to_bits() | (negative as u64) << 63);
    *at += 5 + negative;
    true
}

/// `true` or `false`, by its first letter; how long it is.
#[inline(always)]
fn truth(first: u8, label: &mut f64) -> usize {
    let is_true = first == b't';
    *label = f64::from(u8::from(is_true));
    if is_true { 4 } else { 5 }
}

fn learn(numbers: &[f64], labels: &[f64], model: &mut ([f64; FEATURES], f64), scores: &mut [f64]) {
    let (weights, intercept) = model;
    for ((row, label), score) in numbers.chunks_exact(FEATURES).zip(labels).zip(scores.iter_mut()) {
        let mut lanes = [0_f64; 4];
        for (w, x) in weights.chunks_exact(4).zip(row.chunks_exact(4)) {
            for lane in 0..4 {
                lanes[lane] += w[lane] * x[lane];
            }
        }
        let margin = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + *intercept;
        *score = 1.0 / (1.0 + libm::exp(-margin));
        let step = 0.01 * (*score - label);
        weights.iter_mut().zip(row).for_each(|(w, x)| *w -= step * x);
        *intercept -= step;
    }
    black_box(scores);
}

fn answer(scores: &[f64], out: &mut Vec<u8>) {
    out.clear();
    let mut number = itoa::Buffer::new();
    for (i, score) in scores.iter().enumerate() {
        out.extend_from_slice(b"{\"input\":\"127.0.0.1:7070#0\",\"offset\":");
        out.extend_from_slice(number.format(i).as_bytes());
        out.extend_from_slice(b",\"seq\":");
        out.extend_from_slice(number.format(i).as_bytes());
        out.extend_from_slice(b",\"score\":");
        out.extend_from_slice(zmij::Buffer::new().format_finite(*score).as_bytes());
        out.extend_from_slice(if *score > 0.5 { b",\"class\":true" } else { b",\"class\":false" });
        out.extend_from_slice(b",\"version\":\"3f9c2ab1\",\"swap\":0}\n");
    }
    black_box(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{self, PIPELINE, Rows};

    #[test]
    fn the_floor_parses_what_the_decoder_parses() {
        let rows = Rows::new(64);
        for (format, bytes) in [(Format::Json, rows.json()), (Format::Csv, rows.csv())] {
            let (mut numbers, mut labels) = (vec![0.0; 64 * FEATURES], vec![0.0; 64]);
            match format {
                Format::Csv => parse_csv(&bytes, &mut numbers, &mut labels),
                _ => parse_json(&bytes, &mut numbers, &mut labels),
            }
            let pipeline = millstream::pipeline::Pipeline::from_spec_text(PIPELINE).expect("the spec");
            let mut decoder = events::decoder(pipeline.schema(), format).expect("a decoder");
            let mut batch = pipeline.batch();
            let mut all: Vec<f64> = Vec::new();
            events::for_each_batch(&mut decoder, &events::block(bytes), &mut batch, 64, |b| all.extend(&b.numbers));
            assert_eq!(all.len(), 64 * (FEATURES + 1));
            for (row, cells) in all.chunks_exact(FEATURES + 1).enumerate() {
                assert_eq!(cells[..FEATURES], numbers[row * FEATURES..(row + 1) * FEATURES], "row {row}");
                assert_eq!(cells[FEATURES], labels[row], "row {row}");
            }
        }
    }

    #[test]
    fn a_files_floor_has_every_term() {
        let (rows, dir) = (Rows::new(200), tempfile::tempdir().expect("a folder"));
        let floor = file(&rows.csv(), Format::Csv, 200, 0.01, dir.path()).expect("a floor");
        let names: Vec<&str> = floor.0.iter().map(|term| term.0).collect();
        assert_eq!(names, ["read", "parse", "learn", "answer", "write"]);
        assert!(floor.0.iter().all(|term| term.1 > 0.0), "{floor:?}");
    }
}
