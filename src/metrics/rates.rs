//! Events a second over the last seconds, from counters that a reader samples.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Samples of counters, a few seconds deep. The reader calls [`Rates::sample`] about once a second.
#[derive(Debug)]
pub struct Rates {
    span: Duration,
    samples: VecDeque<(Instant, Vec<u64>)>,
}

impl Rates {
    /// Rates over about the last `span`.
    pub fn new(span: Duration) -> Rates {
        Rates { span, samples: VecDeque::new() }
    }
    /// Takes the counters as they stand at `now`. Samples older than the span are dropped, but one.
    pub fn sample(&mut self, now: Instant, counters: Vec<u64>) {
        self.samples.push_back((now, counters));
        while self.samples.len() > 2 && now.duration_since(self.samples[1].0) >= self.span {
            self.samples.pop_front();
        }
    }
    /// The rate of counter `index` (1/s) between the oldest sample and `current` at `now`; 0 before the
    /// first sample.
    pub fn per_second(&self, index: usize, now: Instant, current: u64) -> f64 {
        let Some((then, counters)) = self.samples.front() else { return 0.0 };
        let seconds = now.duration_since(*then).as_secs_f64();
        let before = counters.get(index).copied().unwrap_or(0);
        if seconds > 0.0 { current.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_span() {
        let start = Instant::now();
        let mut rates = Rates::new(Duration::from_secs(3));
        assert_eq!(rates.per_second(0, start, 5), 0.0);
        for second in 0..10u64 {
            // Ten events a second at first, a thousand a second from the fifth second on.
            let events = if second <= 5 { second * 10 } else { 50 + (second - 5) * 1_000 };
            rates.sample(start + Duration::from_secs(second), vec![events]);
        }
        let rate = rates.per_second(0, start + Duration::from_secs(9), 4_050);
        assert_eq!(rate, 1_000.0);
    }
}
