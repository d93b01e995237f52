//! The story: a user trains a model on yesterday's events with linfa or candle and serves it here.
//!
//! Training is theirs, scoring is ours: flat kernels instead of the libraries' own predictions. So each
//! kind is trained on real rows (those of tests/data/river), loaded into our model, and every row must
//! get the library's own prediction: equal classes, numbers to 1e-9 (to 1e-5 in candle's single
//! precision). What was loaded must then go on learning, from a saved state bit for bit.

use linfa::Dataset;
use linfa::prelude::{Fit, Predict, Transformer};
use linfa_bayes::{GaussianNb, NaiveBayes};
use linfa_clustering::KMeans;
use linfa_elasticnet::ElasticNet;
use linfa_linear::LinearRegression;
use linfa_logistic::{LogisticRegression, MultiLogisticRegression};
use linfa_trees::DecisionTree;
use millstream::error::{Class, Fault};
use millstream::model::{Features, LabelKind, Learned, Model, Scratch, Shape, Task, build};
use millstream::state::State;
use millstream::train::{KINDS, Table, fit, flatten_tree};
use ndarray::{Array1, Array2};
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::SeedableRng;
use serde_json::{Map, Value, json};

fn table(name: &str) -> Table {
    let path = format!("{}/tests/data/river/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("data")).expect("JSON");
    let numbers = |v: &Value| v.as_array().expect("list").iter().map(|v| v.as_f64().expect("number")).collect();
    let names: Vec<String> =
        file["features"].as_array().expect("list").iter().map(|n| n.as_str().expect("name").into()).collect();
    let rows: Vec<Vec<f64>> = file["rows"].as_array().expect("list").iter().map(numbers).collect();
    let target: Vec<f64> = numbers(&file["targets"]);
    let label = match file["task"].as_str() {
        Some("binary") => LabelKind::Bool,
        Some("regression") => LabelKind::Number,
        _ => LabelKind::Category { classes_max: 8 },
    };
    Table {
        x: Array2::from_shape_vec((rows.len(), names.len()), rows.concat()).expect("rectangular"),
        weight: vec![1.0; target.len()],
        classes: (0..8).map(|c| format!("class {c}")).collect(),
        names,
        target,
        label,
    }
}

fn shape(table: &Table) -> Shape {
    Shape { dense: table.names.clone(), slots: 0, label: Some(table.label) }
}

fn map(spec: &Value) -> &Map<String, Value> {
    spec.as_object().expect("object")
}

fn row<'a>(table: &'a Table, row: usize) -> Features<'a> {
    let stride = table.x.ncols();
    let dense = &table.x.as_slice().expect("row-major")[row * stride..(row + 1) * stride];
    Features { dense, indices: &[], values: &[] }
}

fn train(spec: &Value, table: &Table) -> Result<State, Fault> {
    let mut last = -1.0;
    let state = fit(map(spec), &shape(table), table, "model.", &mut |done, _| {
        assert!((0.0..=1.0).contains(&done) && done >= last, "progress only grows");
        last = done;
    })?;
    assert_eq!(last, 1.0);
    Ok(state)
}

fn loaded(spec: &Value, table: &Table, state: &State) -> Box<dyn Model> {
    let mut model = build(map(spec), &shape(table)).expect("model");
    model.load(state, "model.").expect("load");
    model
}

fn scores(model: &dyn Model, table: &Table) -> Vec<Vec<f64>> {
    let width = match model.task() {
        Task::Multiclass => 1 + table.target.iter().fold(0.0f64, |a, t| a.max(*t)) as usize,
        Task::Clusters => 2,
        _ => 1,
    };
    let mut scratch = Scratch::default();
    let score = |r| {
        let mut out = vec![f64::NAN; width];
        model.score(row(table, r), &mut scratch, &mut out);
        out
    };
    (0..table.x.nrows()).map(score).collect()
}

fn trained_scores(spec: &Value, table: &Table) -> Vec<Vec<f64>> {
    scores(&*loaded(spec, table, &train(spec, table).expect("fit")), table)
}

fn best(scores: &[f64]) -> usize {
    (0..scores.len()).fold(0, |best, c| if scores[c] > scores[best] { c } else { best })
}

fn near(ours: f64, theirs: f64, tolerance: f64, what: &str) {
    assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1.0), "{what}: {ours}; the library has {theirs}");
}

fn classes(table: &Table) -> Array1<usize> {
    table.target.iter().map(|t| *t as usize).collect()
}

#[test]
fn logistic_regression() {
    let mut table = table("phishing");
    // Either class may be the more frequent one: linfa turns the signs around with it.
    for _ in 0..2 {
        let spec = json!({"kind": "logistic-regression", "train": {"l2": 0.5, "max_iterations": 60}});
        let ours = trained_scores(&spec, &table);
        let data = Dataset::new(table.x.clone(), table.target.iter().map(|t| *t == 1.0).collect::<Array1<bool>>());
        let theirs = LogisticRegression::default().alpha(0.5).max_iterations(60).fit(&data).expect("fit");
        let (p, class) = (theirs.predict_probabilities(&table.x), theirs.predict(&table.x));
        for (n, ours) in ours.iter().enumerate() {
            let true_is_positive = theirs.labels().pos.class;
            near(ours[0], if true_is_positive { p[n] } else { 1.0 - p[n] }, 1e-9, "logistic regression");
            assert_eq!(ours[0] > 0.5, class[n]);
        }
        let right = ours.iter().zip(&table.target).filter(|(s, t)| (s[0] > 0.5) == (**t == 1.0)).count();
        assert!(right * 100 > ours.len() * 85, "{right} of {} right", ours.len());
        table.target.iter_mut().for_each(|t| *t = 1.0 - *t);
    }
}

#[test]
fn softmax_regression() {
    let table = table("image_segments");
    let spec = json!({"kind": "softmax-regression", "optimizer": {"kind": "adam"}, "train": {"l2": 0.1}});
    let ours = trained_scores(&spec, &table);
    let data = Dataset::new(table.x.clone(), classes(&table));
    let theirs = MultiLogisticRegression::default().alpha(0.1).with_intercept(false).fit(&data).expect("fit");
    let (p, class) = (theirs.predict_probabilities(&table.x), theirs.predict(&table.x));
    for (n, ours) in ours.iter().enumerate() {
        for (column, c) in theirs.classes().iter().enumerate() {
            near(ours[*c], p[(n, column)], 1e-9, "softmax regression");
        }
        assert_eq!(best(ours), class[n]);
    }
}

#[test]
fn linear_regression() {
    let table = table("trump_approval");
    let data = Dataset::new(table.x.clone(), Array1::from(table.target.clone()));
    let ours = trained_scores(&json!({"kind": "linear-regression"}), &table);
    let theirs = LinearRegression::new().fit(&data).expect("fit").predict(&table.x);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        near(ours[0], *theirs, 1e-9, "least squares");
    }
    let spec = json!({"kind": "linear-regression", "l2": 0.3, "train": {"l1": 0.1, "tolerance": 1e-8}});
    let ours = trained_scores(&spec, &table);
    let net = ElasticNet::params().penalty(0.4).l1_ratio(0.25).tolerance(1e-8);
    let theirs = net.fit(&data).expect("fit").predict(&table.x);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        near(ours[0], *theirs, 1e-9, "elastic net");
    }
}

/// A feature twice, a constant and a sum of others get the weight 0, and the rest what linfa gives it.
#[test]
fn least_squares_leaves_out_what_depends() {
    let full = table("trump_approval");
    let (rows, columns) = full.x.dim();
    let mut more = full.clone();
    more.names.extend(["twice".into(), "constant".into(), "sum".into()]);
    let extra = Array2::from_shape_fn((rows, 3), |(n, which)| match which {
        0 => full.x[(n, 0)],
        1 => 7.0,
        _ => full.x[(n, 1)] - 3.0 * full.x[(n, 2)] + 1.0,
    });
    more.x = ndarray::concatenate(ndarray::Axis(1), &[full.x.view(), extra.view()]).expect("as many rows");
    more.x = more.x.as_standard_layout().into_owned();
    let spec = json!({"kind": "linear-regression"});
    let mut said = Vec::new();
    let state = fit(map(&spec), &shape(&more), &more, "model.", &mut |_, what| said.push(what.to_string()));
    let state = state.expect("fit");
    let plain = train(&spec, &full).expect("fit");
    let weights = state.get_f64("model.weights", Some(columns + 3)).expect("weights");
    assert_eq!(weights[..columns], *plain.get_f64("model.weights", None).expect("weights"));
    assert_eq!(weights[columns..], [0.0; 3]);
    for name in ["twice", "constant", "sum"] {
        assert!(said.iter().any(|s| s.contains(name)), "{name} in {said:?}");
    }
}

/// A row of weight 3 is three rows, a row of weight 0 none.
#[test]
fn least_squares_takes_weights() {
    let mut weighted = table("trump_approval");
    let mut repeated = weighted.clone();
    let mut rows = Vec::new();
    for n in 0..weighted.target.len() {
        weighted.weight[n] = (n % 4) as f64;
        rows.extend(std::iter::repeat_n(n, n % 4));
    }
    repeated.x = weighted.x.select(ndarray::Axis(0), &rows);
    repeated.target = rows.iter().map(|n| weighted.target[*n]).collect();
    repeated.weight = vec![1.0; rows.len()];
    let spec = json!({"kind": "linear-regression"});
    let by_weight = train(&spec, &weighted).expect("fit");
    let by_repetition = loaded(&spec, &repeated, &train(&spec, &repeated).expect("fit"));
    let ours = scores(&*loaded(&spec, &weighted, &by_weight), &weighted);
    for (ours, theirs) in ours.iter().zip(scores(&*by_repetition, &weighted)) {
        near(ours[0], theirs[0], 1e-9, "weighted least squares");
    }
}

/// One linfa tree, walked by linfa and by us. (Two fits may differ: linfa breaks ties by a random order.)
#[test]
fn decision_tree() {
    for name in ["phishing", "image_segments"] {
        let table = table(name);
        let data = Dataset::new(table.x.clone(), classes(&table));
        let theirs = DecisionTree::params().max_depth(Some(8)).fit(&data).expect("fit");
        let mut state = State::new();
        flatten_tree(theirs.root_node(), &table).save(&mut state, "model.");
        let spec = json!({"kind": "decision-tree", "train": {"max_depth": 8}});
        let ours = scores(&*loaded(&spec, &table, &state), &table);
        let predicted = theirs.predict(&table.x);
        for (ours, theirs) in ours.iter().zip(&predicted) {
            let share = match &ours[..] {
                [p] => [1.0 - p, *p][*theirs],
                shares => shares[*theirs],
            };
            let most = if ours.len() == 1 { ours[0].max(1.0 - ours[0]) } else { ours[best(ours)] };
            assert_eq!(share, most, "{name}: linfa's class has the largest share of its leaf");
        }
        let fitted = trained_scores(&spec, &table);
        let class = |s: &[f64]| if s.len() == 1 { usize::from(s[0] > 0.5) } else { best(s) };
        let right = fitted.iter().zip(&table.target).filter(|(s, t)| class(s) == **t as usize).count();
        assert!(right * 100 > fitted.len() * 90, "{name}: {right} of {} right", fitted.len());
    }
}

#[test]
fn gaussian_naive_bayes() {
    for name in ["phishing", "image_segments"] {
        let table = table(name);
        let spec = json!({"kind": "gaussian-naive-bayes", "pdf_floor": 0, "train": {"var_smoothing": 1e-3}});
        let ours = trained_scores(&spec, &table);
        let data = Dataset::new(table.x.clone(), classes(&table));
        let theirs: GaussianNb<f64, usize> = GaussianNb::params().var_smoothing(1e-3).fit(&data).expect("fit");
        let predicted: Array1<usize> = theirs.predict(&table.x);
        let (p, columns) = theirs.predict_proba(table.x.view());
        let mut compared = 0;
        for (n, ours) in ours.iter().enumerate() {
            assert_eq!(if ours.len() == 1 { usize::from(ours[0] > 0.5) } else { best(ours) }, predicted[n]);
            for (column, class) in columns.iter().enumerate() {
                // linfa's sum of likelihoods underflows far from every class.
                if p[(n, column)].is_finite() && (ours.len() > 1 || **class == 1) {
                    near(ours[if ours.len() > 1 { **class } else { 0 }], p[(n, column)], 1e-9, name);
                    compared += 1;
                }
            }
        }
        assert!(compared * 10 > ours.len() * 9, "{name}: {compared} probabilities compared");
    }
}

#[test]
fn k_means() {
    let table = table("image_segments");
    let spec = json!({"kind": "k-means", "n_clusters": 6, "seed": 3, "train": {"runs": 4}});
    let ours = trained_scores(&spec, &table);
    let params = KMeans::params_with_rng(6, Xoshiro256Plus::seed_from_u64(3)).n_runs(4);
    let theirs = params.tolerance(1e-4).max_n_iterations(300).fit(&linfa::DatasetBase::from(table.x.clone()));
    let theirs = theirs.expect("fit");
    let (class, squared) = (theirs.predict(&table.x), theirs.transform(&table.x));
    for (n, ours) in ours.iter().enumerate() {
        assert_eq!(ours[0], class[n] as f64);
        near(ours[1], squared[n].sqrt(), 1e-9, "distance");
    }
}

#[cfg(feature = "candle")]
mod networks {
    use super::*;
    use candle_core::{Device, Tensor};

    /// The network of a state by candle's own operations.
    fn candle_forward(state: &State, activation: &str, table: &Table) -> candle_core::Result<Vec<Vec<f32>>> {
        let x: Vec<f32> = table.x.iter().map(|v| *v as f32).collect();
        let mut x = Tensor::from_vec(x, table.x.dim(), &Device::Cpu)?;
        for layer in 0..3 {
            let tensor = |name: &str| {
                let name = format!("model.layers.{layer}.{name}");
                let shape = &state.get(&name).expect("tensor").shape;
                Tensor::from_slice(state.get_f32(&name, None).expect("tensor"), &shape[..], &Device::Cpu)
            };
            x = x.matmul(&tensor("weights")?)?.broadcast_add(&tensor("bias")?)?;
            x = match (layer, activation, table.label) {
                (0 | 1, "relu", _) => x.relu()?,
                (0 | 1, "tanh", _) => x.tanh()?,
                (0 | 1, _, _) => candle_nn::ops::sigmoid(&x)?,
                (_, _, LabelKind::Bool) => candle_nn::ops::sigmoid(&x)?,
                (_, _, LabelKind::Category { .. }) => candle_nn::ops::softmax(&x, 1)?,
                _ => x,
            };
        }
        x.to_vec2()
    }

    fn spec(activation: &str, train: Value) -> Value {
        json!({"kind": "multilayer-perceptron", "layers": [24, 10], "activation": activation, "seed": 5, "train": train})
    }

    #[test]
    fn multilayer_perceptron() {
        let cases = [
            ("phishing", "relu", json!({"epochs": 60, "batch_rows": 16, "learning_rate": 0.01})),
            ("image_segments", "tanh", json!({"epochs": 12, "learning_rate": 0.01})),
            ("trump_approval", "sigmoid", json!({"epochs": 5, "optimizer": "sgd", "learning_rate": 0.02})),
        ];
        for (name, activation, settings) in cases {
            let mut table = table(name);
            if let LabelKind::Category { classes_max } = &mut table.label {
                *classes_max = 1 + table.target.iter().fold(0.0f64, |a, t| a.max(*t)) as usize;
            }
            let spec = spec(activation, settings);
            let state = train(&spec, &table).expect("fit");
            let ours = scores(&*loaded(&spec, &table, &state), &table);
            let theirs = candle_forward(&state, activation, &table).expect("forward");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                for (ours, theirs) in ours.iter().zip(theirs) {
                    near(*ours, f64::from(*theirs), 1e-5, name);
                }
            }
            assert_eq!(train(&spec, &table).expect("fit"), state, "{name}: the same bits again");
            let untrained = scores(&*build(map(&spec), &shape(&table)).expect("model"), &table);
            let (before, after) = (error(&untrained, &table), error(&ours, &table));
            assert!(after < 0.6 * before, "{name}: the error went from {before} to {after}");
        }
    }

    /// Share of wrong classes, or mean squared error.
    fn error(scores: &[Vec<f64>], table: &Table) -> f64 {
        let one = |(s, t): (&Vec<f64>, &f64)| match table.label {
            LabelKind::Bool => f64::from(u8::from((s[0] > 0.5) != (*t == 1.0))),
            LabelKind::Category { .. } => f64::from(u8::from(best(s) != *t as usize)),
            LabelKind::Number => (s[0] - t) * (s[0] - t),
        };
        scores.iter().zip(&table.target).map(one).sum::<f64>() / scores.len() as f64
    }

    const THREADS: &str = "networks::the_thread_count_changes_nothing";

    /// candle reads the thread count from the environment: the test runs itself with two of them.
    #[test]
    fn the_thread_count_changes_nothing() {
        if std::env::var_os("MILLSTREAM_TEST_CHILD").is_some() {
            // Large enough for candle to use its threads.
            let (small, rows) = (table("phishing"), 4_096);
            let (period, columns) = small.x.dim();
            let x = |(r, c): (usize, usize)| small.x[((r + c / columns) % period, c % columns)];
            let large = Table {
                names: (0..128).map(|c| format!("x{c}")).collect(),
                x: Array2::from_shape_fn((rows, 128), x),
                target: (0..rows).map(|r| small.target[r % period]).collect(),
                weight: vec![1.0; rows],
                ..small
            };
            let state = train(&spec("relu", json!({"epochs": 2, "batch_rows": 4_096})), &large).expect("fit");
            let bits = |name: &str| -> u64 {
                let values = state.get_f32(name, None).expect("tensor").iter();
                values.fold(0, |hash: u64, v| hash.rotate_left(5).wrapping_mul(31) ^ u64::from(v.to_bits()))
            };
            println!("bits {:x} {:x}", bits("model.layers.0.weights"), bits("model.layers.2.bias"));
            return;
        }
        let run = |threads: &str| {
            let mut child = std::process::Command::new(std::env::current_exe().expect("own path"));
            child.args(["--exact", THREADS, "--nocapture"]).env("MILLSTREAM_TEST_CHILD", "1");
            let output = child.env("RAYON_NUM_THREADS", threads).output().expect("child");
            let text = String::from_utf8(output.stdout).expect("UTF-8");
            text.lines().find_map(|l| l.find("bits ").map(|at| l[at..].to_string())).expect("the child's line")
        };
        assert_eq!(run("1"), run("4"));
    }

    #[test]
    fn a_diverging_network_is_refused() {
        let settings = json!({"epochs": 3, "optimizer": "sgd", "learning_rate": 1e30});
        let fault = train(&spec("identity", settings), &table("trump_approval")).expect_err("diverged");
        assert!(fault.class == Class::Misuse && fault.hint.contains("learning_rate"), "{fault}");
    }
}

#[cfg(not(feature = "candle"))]
#[test]
fn networks_need_the_feature() {
    let fault = train(&json!({"kind": "multilayer-perceptron"}), &table("phishing")).expect_err("no candle");
    assert!(fault.class == Class::Misuse && fault.message.contains("candle"), "{fault}");
}

/// What was trained in batch goes on learning online; a saved state goes on bit for bit; scoring changes nothing.
#[test]
fn trained_models_go_on_learning() {
    for kind in KINDS {
        if *kind == "multilayer-perceptron" && cfg!(not(feature = "candle")) {
            continue;
        }
        let table = table(match *kind {
            "linear-regression" => "trump_approval",
            "softmax-regression" => "image_segments",
            _ => "phishing",
        });
        let spec = json!({"kind": kind, "train": {}});
        let state = train(&spec, &table).expect(kind);
        let mut first = loaded(&spec, &table, &state);
        let before = scores(&*first, &table);
        let saved = |model: &dyn Model| {
            let mut state = State::new();
            model.save(&mut state, "model.");
            state
        };
        assert_eq!(saved(&*first), state, "{kind}: scoring leaves the state as it was trained");
        let learn = |model: &mut dyn Model, rows: std::ops::Range<usize>| {
            for n in rows {
                let learned = model.learn(row(&table, n), table.target[n], 1.0);
                assert_eq!(learned, if model.learns() { Learned::Applied } else { Learned::Frozen }, "{kind}");
            }
        };
        learn(&mut *first, 0..50);
        let mut second = loaded(&spec, &table, &saved(&*first));
        learn(&mut *first, 50..table.x.nrows());
        learn(&mut *second, 50..table.x.nrows());
        assert_eq!(saved(&*first), saved(&*second), "{kind}");
        assert_eq!(scores(&*first, &table) != before, first.learns(), "{kind}: it learned, unless it is frozen");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_with_a_reason() {
    let good = table("phishing");
    let refused = |spec: Value, table: &Table, part: &str| {
        let fault = train(&spec, table).expect_err(part);
        assert_eq!(fault.class, Class::Misuse, "{fault}");
        assert!(fault.to_string().contains(part), "{fault}");
    };
    refused(json!({"kind": "perceptron"}), &good, "perceptron");
    refused(json!({"kind": "logistic-regression", "train": {"epochs": 3}}), &good, "model.train.epochs");
    refused(json!({"kind": "logistic-regression", "train": 3}), &good, "model.train");
    refused(json!({"kind": "logistic-regression", "optimizer": {"kind": "ftrl"}}), &good, "ftrl");
    refused(json!({"kind": "k-means", "n_clusters": 60_000}), &good, "distinct points");
    refused(json!({"kind": "k-means", "p": 1}), &good, "Euclidean");
    let mut one_class = good.clone();
    one_class.target.fill(1.0);
    refused(json!({"kind": "logistic-regression"}), &one_class, "class");
    let mut missing = good.clone();
    missing.x[(3, 2)] = f64::NAN;
    refused(json!({"kind": "decision-tree"}), &missing, &good.names[2]);
    let mut weighted = good.clone();
    weighted.weight[0] = 2.0;
    refused(json!({"kind": "gaussian-naive-bayes"}), &weighted, "weight");
    let mut weightless = good.clone();
    weightless.weight.fill(0.0);
    refused(json!({"kind": "decision-tree"}), &weightless, "weight 0");
    let mut strange = good.clone();
    strange.target[7] = 2.0;
    refused(json!({"kind": "decision-tree"}), &strange, "row 7");
    let number = table("trump_approval");
    refused(json!({"kind": "decision-tree"}), &number, "bool and category");
}
