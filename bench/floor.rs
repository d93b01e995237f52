//! The floor: what receiving, parsing, learning and answering cost at least, each measured alone on this
//! machine with code that does nothing else (and validates nothing).

use crate::events::FEATURES;
use crate::machine::{self, Cores};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// CPU nanoseconds a row, term by term.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// A bare reader of the same bytes from loopback TCP.
    pub receive: f64,
    /// Twenty decimals out of a line whose keys are known beforehand.
    pub parse: f64,
    /// Logistic regression on 20 floats: predict and update.
    pub learn: f64,
    /// One small JSON prediction into a buffer.
    pub answer: f64,
}

impl Floor {
    /// All terms together.
    pub fn total(&self) -> f64 {
        self.receive + self.parse + self.learn + self.answer
    }
}

/// Measures each term on `json` (whole lines, `rows` of them) for about `seconds` each.
pub fn measure(json: &[u8], rows: usize, seconds: f64, cores: &Cores) -> Result<Floor, String> {
    cores.as_daemon();
    let receive = receive(json, rows, seconds, cores);
    cores.as_daemon();
    let mut numbers = vec![0_f64; rows * FEATURES];
    let mut labels = vec![0_f64; rows];
    let parse = turns(seconds, rows, || parse(json, &mut numbers, &mut labels));
    let mut model = ([0_f64; FEATURES], 0_f64);
    let mut scores = vec![0_f64; rows];
    let learn = turns(seconds, rows, || learn(&numbers, &labels, &mut model, &mut scores));
    let mut out = Vec::with_capacity(rows * 128);
    let answer = turns(seconds, rows, || answer(&scores, &mut out));
    cores.anywhere();
    Ok(Floor { receive: receive?, parse, learn, answer })
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
fn parse(json: &[u8], numbers: &mut [f64], labels: &mut [f64]) {
    let mut at = 0;
    for (row, label) in numbers.chunks_exact_mut(FEATURES).zip(labels) {
        // `{"f0":` and ten keys of one digit, ten of two.
        let (short, long) = row.split_at_mut(10);
        for (cells, key) in [(short, 6), (long, 7)] {
            for cell in cells {
                at += key;
                let Some(word) = json[at..].first_chunk::<8>() else { return };
                let negative = usize::from(word[0] == b'-');
                let digits = u64::from_le_bytes(*word) >> (8 * negative);
                let thousands = (digits & 0xF) * 1000 + ((digits >> 16) & 0xF) * 100;
                let milli = thousands + ((digits >> 24) & 0xF) * 10 + ((digits >> 32) & 0xF);
                let value = milli as f64 / 1000.0;
                *cell = f64::from_bits(value.to_bits() | (negative as u64) << 63);
                at += 5 + negative;
            }
        }
        at += 9;
        let is_true = json[at] == b't';
        *label = f64::from(u8::from(is_true));
        at += if is_true { 6 } else { 7 };
    }
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
        let json = rows.json();
        let (mut numbers, mut labels) = (vec![0.0; 64 * FEATURES], vec![0.0; 64]);
        parse(&json, &mut numbers, &mut labels);
        let pipeline = millstream::pipeline::Pipeline::from_spec_text(PIPELINE).expect("the spec");
        let mut decoder = events::decoder(pipeline.schema(), millstream::decode::Format::Json).expect("a decoder");
        let mut batch = pipeline.batch();
        let mut all: Vec<f64> = Vec::new();
        events::for_each_batch(&mut decoder, &events::block(json), &mut batch, 64, |b| all.extend(&b.numbers));
        for (row, cells) in all.chunks_exact(FEATURES + 1).enumerate() {
            assert_eq!(cells[..FEATURES], numbers[row * FEATURES..(row + 1) * FEATURES], "row {row}");
            assert_eq!(cells[FEATURES], labels[row], "row {row}");
        }
    }
}
