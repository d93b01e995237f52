//! The hot loops over f64 slices. Sums run in eight fixed lanes and a fixed tree, so that the bits
//! depend on nothing but the numbers, and so that the compiler can use vector instructions.
//!
//! No fused multiply-add, and no function of the platform's math library.

use std::array::from_fn;

/// Lanes of a sum, in two halves of a vector register each.
pub(super) const LANES: usize = 2 * HALF;
const HALF: usize = 4;

/// The sum of eight lanes, as a tree: ((0+4)+(2+6)) + ((1+5)+(3+7)).
#[inline(always)]
pub(super) fn tree([low, high]: [[f64; HALF]; 2]) -> f64 {
    let [a, b, c, d] = from_fn(|i| low[i] + high[i]);
    (a + c) + (b + d)
}

/// Adds the products of four neighbours to four lanes.
#[inline(always)]
fn add_products(lanes: &mut [f64; HALF], a: [f64; HALF], b: [f64; HALF]) {
    *lanes = from_fn(|i| lanes[i] + a[i] * b[i]);
}

/// Σ a·b of two slices of one length. Element i of a whole run of eight goes to lane i mod 8; of what
/// is left, a run of four goes to the first four lanes, and up to three elements are added at the end.
#[inline]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    dot_from(0.0, a, b)
}

/// start + Σ a·b; the elements that are added at the end are added to `start` first.
#[inline(always)]
pub fn dot_from(start: f64, a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [[0.0; HALF]; 2];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (x, y) in a.iter().zip(b) {
        let ([a, b], [p, q]) = (halves(x), halves(y));
        add_products(&mut lanes[0], a, p);
        add_products(&mut lanes[1], b, q);
    }
    let ((a, a_tail), (b, b_tail)) = (a_tail.as_chunks::<HALF>(), b_tail.as_chunks::<HALF>());
    for (x, y) in a.iter().zip(b) {
        add_products(&mut lanes[0], *x, *y);
    }
    let rest: f64 = a_tail.iter().zip(b_tail).fold(start, |sum, (x, y)| sum + x * y);
    tree(lanes) + rest
}

/// Σ a².
pub fn squared_norm(a: &[f64]) -> f64 {
    dot(a, a)
}

/// Σ weight of `cells[index]`·value over hashed features, added up as in [`dot`]. A cell's first number is its weight.
#[inline(always)]
pub fn sparse_dot<const N: usize>(cells: &[[f64; N]], indices: &[u32], values: &[f64]) -> f64 {
    let mut lanes = [[0.0; HALF]; 2];
    let fetch = |i: &[u32; HALF]| i.map(|i| cells[i as usize][0]);
    let ((i, i_tail), (v, v_tail)) = (indices.as_chunks::<LANES>(), values.as_chunks::<LANES>());
    for (i, v) in i.iter().zip(v) {
        let ([i, j], [v, w]) = (halves(i), halves(v));
        add_products(&mut lanes[0], fetch(&i), v);
        add_products(&mut lanes[1], fetch(&j), w);
    }
    let ((i, i_tail), (v, v_tail)) = (i_tail.as_chunks::<HALF>(), v_tail.as_chunks::<HALF>());
    for (i, v) in i.iter().zip(v) {
        add_products(&mut lanes[0], fetch(i), *v);
    }
    let rest: f64 = i_tail.iter().zip(v_tail).fold(0.0, |sum, (&i, v)| sum + cells[i as usize][0] * v);
    tree(lanes) + rest
}

#[inline(always)]
fn halves<T: Copy>([a, b, c, d, e, f, g, h]: &[T; LANES]) -> [[T; HALF]; 2] {
    [[*a, *b, *c, *d], [*e, *f, *g, *h]]
}

/// y += a·x, over the shorter of the two.
pub fn axpy(a: f64, x: &[f64], y: &mut [f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

const EXPONENT: u64 = 0x7ff0_0000_0000_0000;
const CARRY: u64 = 0x0010_0000_0000_0000;

/// The top bit is set where `v` is NaN or infinite. Or together as many as you like; see [`finite`].
#[inline(always)]
pub fn poison(v: f64) -> u64 {
    (v.to_bits() & EXPONENT).wrapping_add(CARRY)
}

/// True where no number whose [`poison`] went into `bits` was NaN or infinite.
#[inline]
pub fn finite(bits: u64) -> bool {
    bits >> 63 == 0
}

/// True where all numbers are finite.
pub fn all_finite(values: &[f64]) -> bool {
    finite(values.iter().fold(0, |bits, v| bits | poison(*v)))
}

/// e^x without a branch that depends on x (within ±700), to 1 unit in the last place: x = k·ln 2 + r with
/// |r| ≤ ½ ln 2, Taylor's series of e^r up to r¹³ (the rest is below 2⁻⁵⁷), times 2^k. About twice as
/// fast as `libm::exp`, which takes over beyond.
#[inline]
pub fn exp(x: f64) -> f64 {
    if x.is_nan() || x.abs() > EXP_NEAR {
        return libm::exp(x);
    }
    let [power] = exp_near([x]);
    power
}

/// Within that distance of 0, [`exp_near`] is what [`exp`] gives.
pub const EXP_NEAR: f64 = 700.0;

/// [`exp`] of several numbers side by side, none beyond ±[`EXP_NEAR`].
#[inline(always)]
pub fn exp_near<const N: usize>(x: [f64; N]) -> [f64; N] {
    const ROUND: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52: what is added to it is rounded to a whole number
    const LN2_HIGH: f64 = 0.693_147_180_369_123_8; // 32 bits of ln 2, so that k · LN2_HIGH is exact
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let c = TAYLOR;
    // A line for all numbers, then the next: so the compiler sees what goes side by side.
    let shifted: [f64; N] = from_fn(|i| x[i] * std::f64::consts::LOG2_E + ROUND);
    let k = shifted.map(|shifted| shifted - ROUND);
    let r: [f64; N] = from_fn(|i| (x[i] - k[i] * LN2_HIGH) - k[i] * LN2_LOW);
    let r2 = r.map(|r| r * r);
    let r4 = r2.map(|r2| r2 * r2);
    let r8 = r4.map(|r4| r4 * r4);
    let low: [f64; N] = from_fn(|i| (c[0] + c[1] * r[i]) + (c[2] + c[3] * r[i]) * r2[i]);
    let mid: [f64; N] = from_fn(|i| (c[4] + c[5] * r[i]) + (c[6] + c[7] * r[i]) * r2[i]);
    let high: [f64; N] = from_fn(|i| (c[8] + c[9] * r[i]) + (c[10] + c[11] * r[i]) * r2[i]);
    let series: [f64; N] = from_fn(|i| (low[i] + mid[i] * r4[i]) + high[i] * r8[i]);
    let power = shifted.map(|shifted| f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0f64.to_bits())));
    // Products with a power of two are exact: this is (1 + (r + r² · …)) · power, ready sooner.
    from_fn(|i| power[i] + (power[i] * r[i] + (power[i] * r2[i]) * series[i]))
}

/// 1/2!, 1/3!, … 1/13!.
const TAYLOR: [f64; 12] = {
    let (mut c, mut i, mut factorial) = ([0.0; 12], 0, 1.0);
    while i < 12 {
        factorial *= (i + 2) as f64;
        c[i] = 1.0 / factorial;
        i += 1;
    }
    c
};

/// Beyond that, [`sigmoid`] is flat.
pub const SIGMOID_FLAT: f64 = 30.0;

/// 1 / (1 + e^−z), and exactly 0 and 1 beyond ±30, as River has it.
#[inline]
pub fn sigmoid(z: f64) -> f64 {
    if z < -SIGMOID_FLAT {
        0.0
    } else if z > SIGMOID_FLAT {
        1.0
    } else {
        1.0 / (1.0 + exp(-z))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_keep_their_order_whatever_the_length() {
        for n in 0..40usize {
            let a: Vec<f64> = (0..n).map(|i| 0.1 + i as f64).collect();
            let b: Vec<f64> = (0..n).map(|i| 1.0 / (3.0 + i as f64)).collect();
            let sum = |in_lanes: usize| -> f64 {
                let mut lanes = [0.0; 8];
                for i in 0..in_lanes {
                    lanes[i % 8] += a[i] * b[i];
                }
                let [p, q, r, s, t, u, v, w] = lanes;
                let rest = (in_lanes..n).fold(0.0, |sum, i| sum + a[i] * b[i]);
                ((p + t) + (r + v)) + ((q + u) + (s + w)) + rest
            };
            assert_eq!(dot(&a, &b).to_bits(), sum(n / 4 * 4).to_bits(), "{n}");
            let indices: Vec<u32> = (0..n as u32).collect();
            assert_eq!(sparse_dot(a.as_chunks::<1>().0, &indices, &b).to_bits(), sum(n / 4 * 4).to_bits(), "{n}");
        }
    }

    #[test]
    fn poison_is_seen_anywhere() {
        for bad in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for place in 0..11 {
                let mut values = [f64::MAX, -f64::MAX, 0.0, -0.0, 1.0, f64::MIN_POSITIVE, 5e-324, -1.0, 2.0, 3.0, 4.0];
                assert!(all_finite(&values));
                values[place] = bad;
                assert!(!all_finite(&values), "{bad} at {place}");
            }
        }
    }

    #[test]
    fn the_exponential_is_right_to_the_last_place() {
        let mut worst = 0;
        for i in -2_000_000..2_000_000i64 {
            let x = i as f64 * 0.000_354_321;
            let (ours, theirs) = (exp(x), libm::exp(x));
            worst = worst.max((ours.to_bits() as i64 - theirs.to_bits() as i64).abs());
        }
        // libm's own error is below 1.
        assert!(worst <= 2, "{worst} units in the last place");
        assert_eq!([exp(0.0), exp(-0.0), exp(1e-300)], [1.0, 1.0, 1.0]);
        assert_eq!(
            [exp(f64::INFINITY), exp(f64::NEG_INFINITY), exp(710.0), exp(-800.0)],
            [f64::INFINITY, 0.0, f64::INFINITY, 0.0]
        );
        assert!(exp(f64::NAN).is_nan() && exp(-740.0) > 0.0);
    }

    #[test]
    fn the_sigmoid_saturates_beyond_thirty() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!((sigmoid(-30.1), sigmoid(30.1)), (0.0, 1.0));
        assert!(sigmoid(-30.0) > 0.0 && sigmoid(30.0) < 1.0);
        assert!(sigmoid(f64::NAN).is_nan());
    }
}
