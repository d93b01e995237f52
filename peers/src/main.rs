//! Readers beside Millstream's: rows of 20 floats and a label, by simd-json, sonic-rs (both into a struct made for
//! exactly these rows) and arrow-csv (into arrays of 1,024 rows).
//!
//!     millstream-peers PEER FILE OUT SECONDS
//!
//! With 0 seconds, writes every row's 21 numbers to OUT (f64, little-endian). Else reads the file's bytes again and
//! again for so long, and prints the median of the turns: CPU nanoseconds a row.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_csv::ReaderBuilder;
use arrow_schema::{DataType, Field, Schema};
use serde::Deserialize;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

const FEATURES: usize = 20;
const BATCH_ROWS: usize = 1_024;

type Fault = Box<dyn std::error::Error>;
type Numbers = [f64; FEATURES + 1];
/// Reads all rows, and hands each one's numbers on.
type Reader = fn(&[u8], &mut dyn FnMut(&Numbers)) -> Result<(), Fault>;

#[derive(Deserialize)]
#[rustfmt::skip]
struct Typed {
    f0: f64, f1: f64, f2: f64, f3: f64, f4: f64, f5: f64, f6: f64, f7: f64, f8: f64, f9: f64,
    f10: f64, f11: f64, f12: f64, f13: f64, f14: f64, f15: f64, f16: f64, f17: f64, f18: f64, f19: f64,
    label: bool,
}

impl Typed {
    #[rustfmt::skip]
    fn numbers(&self) -> Numbers {
        [self.f0, self.f1, self.f2, self.f3, self.f4, self.f5, self.f6, self.f7, self.f8, self.f9,
         self.f10, self.f11, self.f12, self.f13, self.f14, self.f15, self.f16, self.f17, self.f18, self.f19,
         f64::from(u8::from(self.label))]
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty())
}

/// simd-json parses in place, so each line is copied first, into memory that is used again.
fn simd_json(bytes: &[u8], take: &mut dyn FnMut(&Numbers)) -> Result<(), Fault> {
    let (mut line, mut buffers) = (Vec::with_capacity(1_024), simd_json::Buffers::new(1_024));
    for bytes in lines(bytes) {
        line.clear();
        line.extend_from_slice(bytes);
        let row: Typed = simd_json::serde::from_slice_with_buffers(&mut line, &mut buffers)?;
        take(&row.numbers());
    }
    Ok(())
}

fn sonic(bytes: &[u8], take: &mut dyn FnMut(&Numbers)) -> Result<(), Fault> {
    for line in lines(bytes) {
        take(&sonic_rs::from_slice::<Typed>(line)?.numbers());
    }
    Ok(())
}

fn arrow_reader(bytes: &[u8]) -> Result<arrow_csv::reader::BufReader<&[u8]>, Fault> {
    let mut fields: Vec<Field> = (0..FEATURES).map(|i| Field::new(format!("f{i}"), DataType::Float64, false)).collect();
    fields.push(Field::new("label", DataType::Boolean, false));
    Ok(ReaderBuilder::new(Arc::new(Schema::new(fields))).with_batch_size(BATCH_ROWS).build_buffered(bytes)?)
}

/// Columns turned back into rows, to be compared.
fn arrow_csv(bytes: &[u8], take: &mut dyn FnMut(&Numbers)) -> Result<(), Fault> {
    for batch in arrow_reader(bytes)? {
        let batch = batch?;
        let columns: Vec<_> = (0..FEATURES).map(|i| batch.column(i).as_primitive::<Float64Type>().values()).collect();
        let labels = batch.column(FEATURES).as_boolean();
        let mut row = [0.0; FEATURES + 1];
        for i in 0..batch.num_rows() {
            row.iter_mut().zip(&columns).for_each(|(cell, column)| *cell = column[i]);
            row[FEATURES] = f64::from(u8::from(labels.value(i)));
            take(&row);
        }
    }
    Ok(())
}

/// Columns as they come: what its user has, and what is timed.
fn arrow_csv_columns(bytes: &[u8]) -> Result<(), Fault> {
    for batch in arrow_reader(bytes)? {
        black_box(batch?);
    }
    Ok(())
}

fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn median_ns(seconds: f64, rows: usize, mut work: impl FnMut() -> Result<(), Fault>) -> Result<f64, Fault> {
    work()?;
    let (began, mut turns) = (Instant::now(), Vec::new());
    while turns.len() < 3 || began.elapsed().as_secs_f64() < seconds {
        let before = thread_cpu_ns();
        work()?;
        turns.push((thread_cpu_ns() - before) as f64 / rows as f64);
    }
    turns.sort_by(f64::total_cmp);
    Ok(turns[turns.len() / 2])
}

fn run(arguments: &[String]) -> Result<(), Fault> {
    let [peer, file, out, seconds] = arguments else { return Err("PEER FILE OUT SECONDS".into()) };
    let reader: Reader = match peer.as_str() {
        "simd-json" => simd_json,
        "sonic-rs" => sonic,
        "arrow-csv" => arrow_csv,
        _ => return Err(format!("{peer}: one of simd-json, sonic-rs, arrow-csv").into()),
    };
    let (bytes, seconds) = (std::fs::read(file)?, seconds.parse::<f64>()?);
    if seconds == 0.0 {
        let mut numbers = Vec::new();
        reader(&bytes, &mut |row| numbers.extend(row.iter().flat_map(|cell| cell.to_le_bytes())))?;
        std::fs::write(out, numbers)?;
        println!("{{}}");
        return Ok(());
    }
    let rows = lines(&bytes).count();
    let ns = match peer.as_str() {
        "arrow-csv" => median_ns(seconds, rows, || arrow_csv_columns(&bytes))?,
        _ => median_ns(seconds, rows, || {
            reader(&bytes, &mut |row| {
                black_box(row);
            })
        })?,
    };
    println!("{{\"ns\":{ns}}}");
    Ok(())
}

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("millstream-peers: {fault}");
            ExitCode::from(1)
        }
    }
}
