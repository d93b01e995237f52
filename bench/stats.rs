//! Medians of interleaved runs, and digests of outputs.

/// Samples of one figure.
#[derive(Debug, Default, Clone)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// One more.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }
    /// The middle one (of an even count: the mean of the middle two); NaN where there is none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }
    /// The smallest: the worst of rates.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }
    /// The largest: the worst of costs.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// A digest of scores: every bit and the order matter.
pub fn hash_scores(scores: impl Iterator<Item = f64>) -> u64 {
    let bytes: Vec<u8> = scores.flat_map(|s| s.to_bits().to_le_bytes()).collect();
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// Runs `work`, which handles `rows` rows, again and again for about `seconds`; nanoseconds of CPU a row,
/// as the fastest and the median turn had it.
pub fn time_rows(seconds: f64, rows: usize, mut work: impl FnMut()) -> Samples {
    work();
    let began = std::time::Instant::now();
    let mut samples = Samples::default();
    while samples.0.len() < 3 || began.elapsed().as_secs_f64() < seconds {
        let before = crate::machine::thread_cpu_ns();
        work();
        samples.push((crate::machine::thread_cpu_ns() - before) as f64 / rows as f64);
    }
    samples
}
