//! k-means, online: each row draws its nearest centre towards itself.
//!
//! The update is River's `cluster.KMeans`: the nearest centre moves `halflife` of the way to the row
//! (sequential k-means, see Sculley, 2010). First centres are drawn from a normal distribution of mean
//! `mu` and standard deviation `sigma` by our own seeded generator, so they differ from Python's for
//! the same seed; from equal centres on, the two agree. Labels are not used. A weight scales the step,
//! up to all the way.
//!
//! A row's score is the number of its nearest centre (the lowest, where several are as near) and the
//! distance to it: Euclidean for `p = 2`, Manhattan for `p = 1`.
//!
//! Tensor: `centers` f64 \[n_clusters, features\].

use super::options::{Options, Range};
use super::random::Random;
use super::{Features, Learned, Model, Scratch, Shape, Task, dense_only};
use crate::error::{Fault, Result};
use crate::state::{Data, State};

/// Most centres a model may have.
const CLUSTERS_MAX: u64 = 65_536;
/// Most numbers that all centres hold together: 512 MiB.
const PARAMETERS_MAX: usize = 1 << 26;

struct KMeans {
    features: usize,
    halflife: f64,
    /// True: Manhattan distance; else Euclidean.
    manhattan: bool,
    /// n_clusters × features.
    centers: Vec<f64>,
}

/// Builds `k-means`.
///
/// # Errors
/// Misuse: an unknown key, a hyperparameter out of its range, or hashed features.
pub fn build_k_means(mut options: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    let clusters = options.whole("n_clusters", 5, 1, CLUSTERS_MAX)? as usize;
    let halflife = options.number("halflife", 0.5, Range::Unit)?;
    let mu = options.number("mu", 0.0, Range::Any)?;
    let sigma = options.number("sigma", 1.0, Range::NotNegative)?;
    let manhattan = options.whole("p", 2, 1, 2)? == 1;
    let mut random = Random::new(options.seed()?);
    options.finish()?;
    dense_only(shape, "k-means")?;
    let features = shape.dense.len();
    let parameters = clusters * features;
    if parameters > PARAMETERS_MAX {
        let message =
            format!("model.n_clusters = {clusters}: with {features} features over {PARAMETERS_MAX} parameters");
        return Err(Fault::misuse(message).hint("use fewer clusters, or fewer columns"));
    }
    let centers: Vec<f64> = (0..parameters).map(|_| mu + sigma * random.normal()).collect();
    if !centers.iter().all(|c| c.is_finite()) {
        let message = format!("model.mu = {mu}, model.sigma = {sigma}: a first centre would be no finite number");
        return Err(Fault::misuse(message).hint("the defaults are 0 and 1"));
    }
    Ok(Box::new(KMeans { features, halflife, manhattan, centers }))
}

/// Σ f(x - c), in four fixed lanes.
#[inline(always)]
fn distance(x: &[f64], center: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; 4];
    let (xs, cs) = (x.chunks_exact(4), center.chunks_exact(4));
    let tail: f64 = xs.remainder().iter().zip(cs.remainder()).map(|(x, c)| f(x - c)).sum();
    for (x, c) in xs.zip(cs) {
        for lane in 0..4 {
            lanes[lane] += f(x[lane] - c[lane]);
        }
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]) + tail
}

impl KMeans {
    /// The nearest centre, and the distance to it before any root.
    fn nearest(&self, x: &[f64]) -> (usize, f64) {
        let mut best = (0, f64::INFINITY);
        for (number, center) in self.centers.chunks_exact(self.features).enumerate() {
            let d = if self.manhattan { distance(x, center, f64::abs) } else { distance(x, center, |d| d * d) };
            if d < best.1 {
                best = (number, d);
            }
        }
        best
    }
}

impl Model for KMeans {
    fn task(&self) -> Task {
        Task::Clusters
    }

    fn score(&self, x: Features<'_>, _: &mut Scratch, out: &mut [f64]) {
        let (number, d) = self.nearest(x.dense);
        out[0] = number as f64;
        // Beyond the range of the squares, the largest number stands for the distance.
        out[1] = if self.manhattan { d.min(f64::MAX) } else { d.min(f64::MAX).sqrt() };
    }

    fn learn(&mut self, x: Features<'_>, _: f64, weight: f64) -> Learned {
        if weight == 0.0 {
            return Learned::Applied;
        }
        let (number, _) = self.nearest(x.dense);
        let step = (self.halflife * weight).min(1.0);
        let center = &mut self.centers[number * self.features..(number + 1) * self.features];
        if !x.dense.iter().zip(&*center).all(|(x, c)| (c + step * (x - c)).is_finite()) {
            return Learned::Refused;
        }
        for (x, c) in x.dense.iter().zip(center) {
            *c += step * (x - *c);
        }
        Learned::Applied
    }

    fn learns_unlabelled(&self) -> bool {
        true
    }

    fn save(&self, state: &mut State, prefix: &str) {
        let shape = [self.centers.len() / self.features, self.features];
        state.put(format!("{prefix}centers"), &shape, Data::F64(self.centers.clone()));
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let name = format!("{prefix}centers");
        state.read_f64(&name, &mut self.centers)?;
        match self.centers.iter().find(|c| !c.is_finite()) {
            Some(bad) => Err(Fault::corruption(format!("tensor {name:?} holds {bad}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn build(spec: &str, features: usize) -> Result<Box<dyn Model>> {
        let dense = (0..features).map(|i| format!("x{i}")).collect();
        crate::model::build(&serde_json::from_str(spec).expect("JSON"), &Shape { dense, slots: 0, label: None })
    }

    fn row(dense: &[f64]) -> Features<'_> {
        Features { dense, indices: &[], values: &[] }
    }

    fn score(model: &dyn Model, x: &[f64]) -> [f64; 2] {
        let mut out = [9.0; 2];
        model.score(row(x), &mut Scratch::default(), &mut out);
        out
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().expect("list").iter().map(|v| v.as_f64().expect("number")).collect()
    }

    /// A spec of a few bytes asks for 34 GB, or for centres that nothing can be near to.
    #[test]
    fn what_no_memory_and_no_float_holds_is_refused() {
        let fault = build(r#"{"kind":"k-means","n_clusters":65536}"#, 1_025).err().expect("too many");
        assert!(fault.message.contains("model.n_clusters = 65536"), "{fault}");
        assert!(build(r#"{"kind":"k-means","n_clusters":1024}"#, 1_025).is_ok());
        let fault = build(r#"{"kind":"k-means","n_clusters":50,"sigma":1.7e308}"#, 9).err().expect("no number");
        assert!(fault.message.contains("no finite number"), "{fault}");
    }

    /// From the centres that River 0.26.1 began with, the same clusters and the same centres at the end.
    #[test]
    fn equals_river_from_equal_centers() {
        let text = include_str!("../../tests/data/river/naive_bayes_k_means.json");
        let oracle = &serde_json::from_str::<Value>(text).expect("JSON")["k_means"];
        let centers = |of: &str| oracle[of].as_array().expect("centres").iter().flat_map(numbers).collect::<Vec<_>>();
        let mut model = build(r#"{"kind":"k-means","n_clusters":3,"halflife":0.3}"#, 3).expect("model");
        let mut state = State::new();
        state.put("m.centers", &[3, 3], Data::F64(centers("start")));
        model.load(&state, "m.").expect("load");
        for (n, event) in oracle["rows"].as_array().expect("rows").iter().enumerate() {
            let x = numbers(&event["x"]);
            assert_eq!(score(&*model, &x)[0], event["class"].as_f64().expect("number"), "row {n}");
            assert_eq!(model.learn(row(&x), f64::NAN, 1.0), Learned::Applied);
        }
        model.save(&mut state, "m.");
        let ours = state.get_f64("m.centers", Some(9)).expect("centres");
        for (ours, river) in ours.iter().zip(centers("end")) {
            assert!((ours - river).abs() < 1e-9, "{ours}; River has {river}");
        }
    }

    #[test]
    fn the_seed_decides_and_distances_are_right() {
        let spec = r#"{"kind":"k-means","n_clusters":2,"seed":4}"#;
        let other = r#"{"kind":"k-means","n_clusters":2,"seed":5}"#;
        let x = [0.1, 0.2, 0.3, 0.4, 0.5];
        let first = score(&*build(spec, 5).expect("model"), &x);
        assert_eq!(first, score(&*build(spec, 5).expect("model"), &x));
        assert_ne!(first, score(&*build(other, 5).expect("model"), &x));
        let one = |p: u8| format!(r#"{{"kind":"k-means","n_clusters":1,"sigma":0,"mu":1,"p":{p}}}"#);
        assert_eq!(score(&*build(&one(2), 2).expect("model"), &[4.0, 5.0]), [0.0, 5.0]);
        assert_eq!(score(&*build(&one(1), 2).expect("model"), &[4.0, -3.0]), [0.0, 7.0]);
    }

    #[test]
    fn poison_is_refused_and_scores_stay_finite() {
        let mut model =
            build(r#"{"kind":"k-means","n_clusters":1,"sigma":0,"mu":-1e308,"halflife":1}"#, 1).expect("model");
        assert_eq!(score(&*model, &[1.7e308]), [0.0, f64::MAX.sqrt()]);
        let mut before = State::new();
        model.save(&mut before, "");
        assert_eq!(model.learn(row(&[1.7e308]), 0.0, 1.0), Learned::Refused);
        let mut after = State::new();
        model.save(&mut after, "");
        assert_eq!(before, after);
        after.put("centers", &[1, 1], Data::F64(vec![f64::NAN]));
        assert!(model.load(&after, "").expect_err("NaN").message.contains("centers"));
        assert!(build(r#"{"kind":"k-means","n_clusters":0}"#, 1).is_err());
        assert!(build(r#"{"kind":"k-means","halflife":1.01}"#, 1).is_err());
    }
}
