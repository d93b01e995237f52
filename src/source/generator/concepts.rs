//! The functions that the generators label by, each from its paper.

use super::draws::{Draws, reflected};
use super::{Cell, GeneratorOptions};

/// Digits as the names of classes.
const DIGITS: [&str; 21] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19", "20",
];

/// The name of a small number (up to 20).
fn digit(n: i64) -> Cell {
    Cell::Word(DIGITS[n as usize])
}

/// Most classes of the `rbf` generator.
pub(super) const CLASSES_MAX: usize = 20;

/// The rotating hyperplane (Hulten, Spencer, Domingos: Mining Time-Changing Data Streams, KDD 2001):
/// points in the unit cube, true above the plane Σ wᵢxᵢ = ½ Σ wᵢ. Weights move by `speed` an event and
/// turn at 0 and 1 (the paper turns them at random), so that they are a function of the event's number.
#[derive(Debug, Clone)]
pub(super) struct Hyperplane {
    weights: Vec<f64>,
    steps: Vec<f64>,
}

impl Hyperplane {
    pub fn new(options: &GeneratorOptions, concept: u64) -> Hyperplane {
        let mut draws = Draws::of_concept(options.seed, concept);
        let weights: Vec<f64> = (0..options.features).map(|_| draws.unit()).collect();
        let moving = if options.drift.features == 0 { options.features } else { options.drift.features };
        let step = |i: usize, draws: &mut Draws| {
            let sign = if draws.below(2) == 0 { 1.0 } else { -1.0 };
            if i < moving { sign * options.drift.speed } else { 0.0 }
        };
        let steps = (0..options.features).map(|i| step(i, &mut draws)).collect();
        Hyperplane { weights, steps }
    }

    pub fn row(&self, event: u64, draws: &mut Draws, cells: &mut [Cell]) -> bool {
        let moves = self.steps.first().is_some_and(|s| *s != 0.0);
        let (mut sum, mut half) = (0.0, 0.0);
        for (i, cell) in cells.iter_mut().enumerate() {
            let micro = ((draws.next() >> 32) * 1_000_000) >> 32;
            *cell = Cell::Micro(micro as i64);
            let mut weight = self.weights[i];
            if moves {
                weight = reflected(weight + self.steps[i] * event as f64);
            }
            sum += weight * (micro as f64 / 1e6);
            half += 0.5 * weight;
        }
        sum >= half
    }
}

/// SEA (Street and Kim: A Streaming Ensemble Algorithm for Large-Scale Classification, KDD 2001): true
/// where x₁ + x₂ ≤ θ, with a θ a concept; x₃ is irrelevant.
pub(super) fn sea(concept: u64, draws: &mut Draws, cells: &mut [Cell]) -> bool {
    const THETA_MICRO: [i64; 4] = [8_000_000, 9_000_000, 7_000_000, 9_500_000];
    let x = [0; 3].map(|_: i32| draws.below(10_000_000) as i64);
    for (cell, x) in cells.iter_mut().zip(x) {
        *cell = Cell::Micro(x);
    }
    x[0] + x[1] <= THETA_MICRO[(concept % 4) as usize]
}

/// The loan applicants of Agrawal, Imielinski and Swami (Database Mining: A Performance Perspective,
/// TKDE 1993; first in VLDB 1992), in their ten functions; true is group A.
pub(super) fn agrawal(concept: u64, draws: &mut Draws, cells: &mut [Cell]) -> bool {
    let salary = draws.between(20_000, 150_000);
    let commission = if salary >= 75_000 { 0 } else { draws.between(10_000, 75_000) };
    let age = draws.between(20, 80);
    let elevel = draws.between(0, 4);
    let car = draws.between(1, 20);
    let zipcode = draws.between(0, 8);
    let worth = (9 - zipcode) * 100_000;
    let hvalue = draws.between(worth / 2, worth * 3 / 2);
    let hyears = draws.between(1, 30);
    let loan = draws.between(0, 500_000);
    cells[..9].copy_from_slice(&[
        Cell::Whole(salary),
        Cell::Whole(commission),
        Cell::Whole(age),
        Cell::Whole(elevel),
        digit(car),
        digit(zipcode),
        Cell::Whole(hvalue),
        Cell::Whole(hyears),
        Cell::Whole(loan),
    ]);
    let by_age = |young: bool, middle: bool, old: bool| match age {
        ..40 => young,
        40..60 => middle,
        _ => old,
    };
    let within = |value: i64, low: i64, high: i64| (low..=high).contains(&value);
    let income = (salary + commission) as f64;
    let equity = if hyears < 20 { 0.0 } else { hvalue as f64 * (hyears - 20) as f64 / 10.0 };
    let (loan, elevel_cost) = (loan as f64, 5_000.0 * elevel as f64);
    match concept % 10 {
        0 => by_age(true, false, true),
        1 => by_age(within(salary, 50_000, 100_000), within(salary, 75_000, 125_000), within(salary, 25_000, 75_000)),
        2 => by_age(elevel <= 1, within(elevel, 1, 3), elevel >= 2),
        3 => by_age(
            if elevel <= 1 { within(salary, 25_000, 75_000) } else { within(salary, 50_000, 100_000) },
            if within(elevel, 1, 3) { within(salary, 50_000, 100_000) } else { within(salary, 75_000, 125_000) },
            if elevel >= 2 { within(salary, 50_000, 100_000) } else { within(salary, 25_000, 75_000) },
        ),
        4 => {
            let loan_in = |low: f64, high: f64| (low..=high).contains(&loan);
            by_age(
                if within(salary, 50_000, 100_000) { loan_in(1e5, 3e5) } else { loan_in(2e5, 4e5) },
                if within(salary, 75_000, 125_000) { loan_in(2e5, 4e5) } else { loan_in(3e5, 5e5) },
                if within(salary, 25_000, 75_000) { loan_in(3e5, 5e5) } else { loan_in(1e5, 3e5) },
            )
        }
        5 => {
            let total = salary + commission;
            by_age(within(total, 50_000, 100_000), within(total, 75_000, 125_000), within(total, 25_000, 75_000))
        }
        6 => 0.67 * income - 0.2 * loan - 20_000.0 > 0.0,
        7 => 0.67 * income - elevel_cost - 20_000.0 > 0.0,
        8 => 0.67 * income - elevel_cost - 0.2 * loan - 10_000.0 > 0.0,
        _ => 0.67 * income - elevel_cost + 0.2 * equity - 10_000.0 > 0.0,
    }
}

/// The segments of the ten digits, from the top, left to right.
const SEGMENTS: [[u8; 7]; 10] = [
    [1, 1, 1, 0, 1, 1, 1],
    [0, 0, 1, 0, 0, 1, 0],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 1, 1, 0, 1, 1],
    [0, 1, 1, 1, 0, 1, 0],
    [1, 1, 0, 1, 0, 1, 1],
    [1, 1, 0, 1, 1, 1, 1],
    [1, 0, 1, 0, 0, 1, 0],
    [1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 0, 1, 1],
];

/// LED (Breiman, Friedman, Olshen, Stone: Classification and Regression Trees, 1984): which digit do
/// seven segments show, each wrong with probability `noise`? Seventeen more are irrelevant; a concept
/// shifts which are which.
pub(super) fn led(concept: u64, noise: f64, draws: &mut Draws, cells: &mut [Cell]) -> Cell {
    let shown = draws.below(10) as usize;
    let count = cells.len();
    for i in 0..count {
        let bit = match SEGMENTS[shown].get(i) {
            Some(bit) => *bit ^ u8::from(draws.unit() < noise),
            None => draws.below(2) as u8,
        };
        cells[(i + (concept % count as u64) as usize) % count] = Cell::Whole(i64::from(bit));
    }
    digit(shown as i64)
}

/// Random radial basis functions (as in MOA: Bifet et al., JMLR 2010): fifty centres, each of a class
/// and a spread; points fall around them in a random direction. Centres move by `speed` an event and
/// turn at the borders of the unit cube.
#[derive(Debug, Clone)]
pub(super) struct Rbf {
    centres: Vec<Centre>,
    weight: f64,
    speed: f64,
}

#[derive(Debug, Clone)]
struct Centre {
    at: Vec<f64>,
    direction: Vec<f64>,
    class: usize,
    spread: f64,
    /// Sum of the weights up to and with this one.
    up_to: f64,
}

const CENTRES: usize = 50;

impl Rbf {
    pub fn new(options: &GeneratorOptions, concept: u64) -> Rbf {
        let mut draws = Draws::of_concept(options.seed, concept);
        let mut weight = 0.0;
        let centres = (0..CENTRES).map(|_| {
            let at = (0..options.features).map(|_| draws.unit()).collect();
            let direction = unit_vector(options.features, &mut draws);
            let class = draws.below(options.classes as u64) as usize;
            let spread = draws.unit();
            weight += draws.unit();
            Centre { at, direction, class, spread, up_to: weight }
        });
        let centres = centres.collect();
        Rbf { centres, weight, speed: options.drift.speed }
    }

    pub fn row(&self, event: u64, draws: &mut Draws, cells: &mut [Cell]) -> Cell {
        let pick = draws.unit() * self.weight;
        let centre = self.centres.iter().find(|c| pick < c.up_to).unwrap_or(&self.centres[CENTRES - 1]);
        // The same draws twice, once for the norm, instead of a vector a row.
        let mut norm_draws = *draws;
        let norm = (0..cells.len()).map(|_| norm_draws.signed_unit()).map(|v| v * v).sum::<f64>().sqrt();
        let distance = norm_draws.normal() * centre.spread / norm.max(f64::MIN_POSITIVE);
        let travelled = self.speed * event as f64;
        for (i, cell) in cells.iter_mut().enumerate() {
            let middle = reflected(centre.at[i] + centre.direction[i] * travelled);
            *cell = Cell::Micro((1e6 * (middle + draws.signed_unit() * distance)).round() as i64);
        }
        *draws = norm_draws;
        digit(centre.class as i64)
    }
}

fn unit_vector(length: usize, draws: &mut Draws) -> Vec<f64> {
    let vector: Vec<f64> = (0..length).map(|_| draws.signed_unit()).collect();
    let norm = vector.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    vector.iter().map(|v| v / norm).collect()
}

/// STAGGER (Schlimmer and Granger: Incremental Learning from Noisy Data, Machine Learning 1986).
pub(super) fn stagger(concept: u64, draws: &mut Draws, cells: &mut [Cell]) -> bool {
    let (size, color, shape) = (draws.below(3) as usize, draws.below(3) as usize, draws.below(3) as usize);
    cells[0] = Cell::Word(["small", "medium", "large"][size]);
    cells[1] = Cell::Word(["red", "blue", "green"][color]);
    cells[2] = Cell::Word(["circle", "square", "triangle"][shape]);
    match concept % 3 {
        0 => size == 0 && color == 0,
        1 => color == 2 || shape == 0,
        _ => size >= 1,
    }
}
