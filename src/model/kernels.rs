//! The hot loops over f64 slices. Sums run in eight fixed lanes and a fixed tree, so that the bits
//! depend on nothing but the numbers, and so that the compiler can use vector instructions.
//!
//! No fused multiply-add, no platform libm: exponentials come from the `libm` crate.

use super::Features;

/// Lanes of a sum.
const LANES: usize = 8;

/// The sum of eight lanes, as a tree: ((0+4)+(2+6)) + ((1+5)+(3+7)).
fn tree(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Σ a·b over the shorter of the two. Element i goes to lane i mod 8.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_tail, b_tail) = (a_chunks.remainder(), b_chunks.remainder());
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *lane += x * y;
    }
    tree(lanes)
}

/// Σ a².
pub fn squared_norm(a: &[f64]) -> f64 {
    dot(a, a)
}

/// Σ weights[offset + index]·value over hashed features; feature i goes to lane i mod 8.
pub fn sparse_dot(weights: &[f64], indices: &[u32], values: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    for (indices, values) in indices.chunks(LANES).zip(values.chunks(LANES)) {
        for (lane, (&index, value)) in lanes.iter_mut().zip(indices.iter().zip(values)) {
            *lane += weights[index as usize] * value;
        }
    }
    tree(lanes)
}

/// Σ weights·features: `weights` holds the dense ones first, then the hashed table.
pub fn margin(weights: &[f64], x: Features<'_>) -> f64 {
    let (dense, slots) = weights.split_at(x.dense.len());
    let sum = dot(dense, x.dense);
    if x.indices.is_empty() { sum } else { sum + sparse_dot(slots, x.indices, x.values) }
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
#[inline]
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

/// 1 / (1 + e^−z), and exactly 0 and 1 beyond ±30, as River has it.
pub fn sigmoid(z: f64) -> f64 {
    if z < -30.0 {
        0.0
    } else if z > 30.0 {
        1.0
    } else {
        1.0 / (1.0 + libm::exp(-z))
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
            let mut lanes = [0.0; 8];
            for i in 0..n {
                lanes[i % 8] += a[i] * b[i];
            }
            let [p, q, r, s, t, u, v, w] = lanes;
            let expected: f64 = ((p + t) + (r + v)) + ((q + u) + (s + w));
            assert_eq!(dot(&a, &b).to_bits(), expected.to_bits(), "{n}");
            let indices: Vec<u32> = (0..n as u32).collect();
            assert_eq!(sparse_dot(&a, &indices, &b).to_bits(), expected.to_bits(), "{n}");
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
    fn the_sigmoid_saturates_beyond_thirty() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!((sigmoid(-30.1), sigmoid(30.1)), (0.0, 1.0));
        assert!(sigmoid(-30.0) > 0.0 && sigmoid(30.0) < 1.0);
        assert!(sigmoid(f64::NAN).is_nan());
    }
}
