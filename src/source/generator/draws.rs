//! Random draws as a function of (seed, event number): any event can be made without those before it.

/// The increment of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
/// OOPSLA 2014).
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finaliser: a bijection that spreads every bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The draws of one event (or of one concept's parameters).
#[derive(Debug, Clone, Copy)]
pub(super) struct Draws(u64);

impl Draws {
    /// The draws of an event.
    pub fn of_event(seed: u64, event: u64) -> Draws {
        Draws(mix(mix(seed.wrapping_add(GAMMA)).wrapping_add(event.wrapping_mul(GAMMA))))
    }

    /// The draws of a concept's parameters; apart from those of all events.
    pub fn of_concept(seed: u64, concept: u64) -> Draws {
        Draws::of_event(!mix(seed), concept)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// A whole number in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// A whole number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number in [-1, 1).
    pub fn signed_unit(&mut self) -> f64 {
        2.0 * self.unit() - 1.0
    }

    /// A standard normal number (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * libm::log(u)).sqrt() * libm::cos(2.0 * std::f64::consts::PI * v)
    }
}

/// Goes up and down between 0 and 1 at slope 1: a movement that turns at the borders.
pub(super) fn reflected(x: f64) -> f64 {
    let x = x - 2.0 * (x / 2.0).floor();
    if x > 1.0 { 2.0 - x } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even() {
        let mut counts = [0; 10];
        let (mut sum, mut squares) = (0.0, 0.0);
        for event in 0..20_000 {
            let mut draws = Draws::of_event(3, event);
            counts[draws.below(10) as usize] += 1;
            let z = draws.normal();
            sum += z;
            squares += z * z;
        }
        assert!(counts.iter().all(|c| (1_800..2_200).contains(c)), "{counts:?}");
        assert!((sum / 20_000.0f64).abs() < 0.03 && (squares / 20_000.0 - 1.0f64).abs() < 0.04);
        assert_eq!([0.25, 1.25, 2.25, -0.25].map(reflected), [0.25, 0.75, 0.25, 0.25]);
    }
}
