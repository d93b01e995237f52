//! What a network learns, its gradients, its units, and what it refuses.

use super::*;
use crate::model::random::Random;

fn build(spec: &str, features: usize, label: LabelKind) -> Result<Box<dyn Model>> {
    let dense = (0..features).map(|i| format!("x{i}")).collect();
    let shape = Shape { dense, slots: 0, label: Some(label) };
    crate::model::build(&serde_json::from_str(spec).expect("JSON"), &shape)
}

fn row(dense: &[f64]) -> Features<'_> {
    Features { dense, indices: &[], values: &[] }
}

fn score(model: &dyn Model, x: &[f64], width: usize) -> Vec<f64> {
    let mut out = vec![9.0; width];
    model.score(row(x), &mut Scratch::default(), &mut out);
    out
}

fn state(model: &dyn Model) -> State {
    let mut state = State::new();
    model.save(&mut state, "m.");
    state
}

/// Rows of a noiseless problem that no linear model solves: is exactly one of two signs negative?
fn xor(random: &mut Random) -> ([f64; 2], f64) {
    let x = [2.0 * random.uniform() - 1.0, 2.0 * random.uniform() - 1.0];
    (x, f64::from(u8::from((x[0] < 0.0) != (x[1] < 0.0))))
}

#[test]
fn learns_what_no_linear_model_can() {
    for optimizer in [r#"{"kind":"adam","learning_rate":0.01}"#, r#"{"kind":"sgd","learning_rate":0.1,"momentum":0.9}"#]
    {
        let spec =
            format!(r#"{{"kind":"multilayer-perceptron","layers":[16,8],"unit_events":16,"optimizer":{optimizer}}}"#);
        let mut model = build(&spec, 2, LabelKind::Bool).expect("model");
        let mut random = Random::new(1);
        let mut right = 0;
        for n in 0..12_000 {
            let (x, y) = xor(&mut random);
            right += u32::from(n >= 10_000 && (score(&*model, &x, 1)[0] > 0.5) == (y == 1.0));
            assert_eq!(model.learn(row(&x), y, 1.0), Learned::Applied);
        }
        assert!(right > 1_900, "{optimizer}: {right} of 2,000 right");
    }
}

/// Each parameter's gradient against the loss's difference quotient, in double precision of the loss.
#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let labels =
        [(LabelKind::Bool, 1.0, 1), (LabelKind::Category { classes_max: 3 }, 2.0, 3), (LabelKind::Number, 0.7, 1)];
    for (activation, (label, target, width)) in ["tanh", "sigmoid", "identity"].into_iter().zip(labels) {
        let spec = format!(r#"{{"kind":"multilayer-perceptron","layers":[9,5],"activation":"{activation}","seed":3}}"#);
        let mut model = build(&spec, 3, label).expect("model");
        let x = [0.4, -0.8, 1.3];
        let start = state(&*model);
        model.learn(row(&x), target, 1.0);
        let gradient = state(&*model).get_f32("m.gradient", None).expect("gradient").to_vec();
        let loss = |model: &dyn Model| {
            let p = score(model, &x, width);
            match label {
                LabelKind::Bool => -p[0].ln(),
                LabelKind::Category { .. } => -p[2].ln(),
                LabelKind::Number => 0.5 * (p[0] - target) * (p[0] - target),
            }
        };
        let mut at = 0;
        for name in (0..3).flat_map(|l| [format!("m.layers.{l}.weights"), format!("m.layers.{l}.bias")]) {
            let tensor = start.get(&name).expect("tensor");
            for i in 0..tensor.data.len() {
                let h = 1e-2f32;
                let mut nudged = |by: f32| {
                    let mut state = start.clone();
                    let Data::F32(mut values) = tensor.data.clone() else { panic!("single precision") };
                    values[i] += by;
                    state.put(name.clone(), &tensor.shape, Data::F32(values));
                    model.load(&state, "m.").expect("load");
                    loss(&*model)
                };
                let slope = (nudged(h) - nudged(-h)) / f64::from(2.0 * h);
                let found = f64::from(gradient[at]);
                assert!((slope - found).abs() < 2e-4, "{activation} {name}[{i}]: {found}; the slope is {slope}");
                at += 1;
            }
        }
        assert_eq!(at, gradient.len());
    }
}

#[test]
fn a_unit_applies_when_it_is_full_and_survives_a_save() {
    let spec = r#"{"kind":"multilayer-perceptron","layers":[12],"unit_events":4}"#;
    let label = LabelKind::Category { classes_max: 5 };
    let mut first = build(spec, 2, label).expect("model");
    let fresh = score(&*first, &[0.3, 0.4], 5);
    let mut random = Random::new(9);
    let mut learn = |models: &mut [&mut Box<dyn Model>]| {
        let (x, y) = xor(&mut random);
        for model in models {
            assert_eq!(model.learn(row(&x), y, 0.5), Learned::Applied);
        }
    };
    for _ in 0..3 {
        learn(&mut [&mut first]);
    }
    assert_eq!(score(&*first, &[0.3, 0.4], 5), fresh, "the unit is still open");
    let mut second = build(spec, 2, label).expect("model");
    second.load(&state(&*first), "m.").expect("load");
    learn(&mut [&mut first, &mut second]);
    assert_ne!(score(&*first, &[0.3, 0.4], 5), fresh);
    for _ in 0..9 {
        learn(&mut [&mut first, &mut second]);
    }
    assert_eq!(state(&*first), state(&*second));
    let known = score(&*first, &[0.3, 0.4], 2);
    assert!((known[0] + known[1] - 1.0).abs() < 1e-12, "the softmax is over the known classes");
    assert_eq!(score(&*first, &[0.3, 0.4], 7)[5..], [0.0, 0.0], "classes beyond the outputs");
}

#[test]
fn poison_is_refused_and_scores_stay_finite() {
    let spec = r#"{"kind":"multilayer-perceptron","layers":[4],"activation":"identity","unit_events":1,
        "optimizer":{"kind":"sgd","learning_rate":1e38}}"#;
    let mut model = build(spec, 2, LabelKind::Number).expect("model");
    let before = state(&*model);
    for (x, y, w) in
        [([1e308, 0.0], 1.0, 1.0), ([0.0, 0.0], 1e300, 1.0), ([1.0, 1.0], f64::NAN, 1.0), ([1.0, 1.0], 1.0, 1e300)]
    {
        assert_eq!(model.learn(row(&x), y, w), Learned::Refused, "{x:?} {y} {w}");
    }
    assert_eq!(model.learn(row(&[9.0, 9.0]), 1e6, 1.0), Learned::Refused, "the step would overflow");
    assert_eq!(model.learn(row(&[9.0, 9.0]), 1e6, 0.0), Learned::Applied, "without weight");
    assert_eq!(state(&*model), before);
    for x in [[1e308, -1e308], [f64::MAX, f64::MAX], [1e39, 5e-324]] {
        assert!(score(&*model, &x, 1)[0].is_finite(), "{x:?}");
    }
}

#[test]
fn damage_and_wrong_use_are_named() {
    let spec = r#"{"kind":"multilayer-perceptron","layers":[4]}"#;
    let mut model = build(spec, 2, LabelKind::Bool).expect("model");
    let good = state(&*model);
    let damage = [
        ("m.layers.0.weights", &[4, 2][..], Data::F32(vec![0.0; 8])),
        ("m.layers.1.bias", &[1], Data::F32(vec![f32::NAN])),
        ("m.moment2", &[17], Data::F32(vec![-1.0; 17])),
        ("m.unit", &[2], Data::U64(vec![32, 0])),
        ("m.unit_weight", &[1], Data::F64(vec![f64::INFINITY])),
    ];
    for (name, shape, data) in damage {
        let mut bad = good.clone();
        bad.put(name, shape, data);
        assert!(model.load(&bad, "m.").expect_err(name).message.contains(name));
    }
    model.load(&good, "m.").expect("load");
    for (bad, key) in [
        (r#"{"kind":"multilayer-perceptron","layers":[0]}"#, "model.layers"),
        (r#"{"kind":"multilayer-perceptron","layers":[65536,65536]}"#, "model.layers"),
        (r#"{"kind":"multilayer-perceptron","unit_events":0}"#, "model.unit_events"),
        (r#"{"kind":"multilayer-perceptron","activation":"gelu"}"#, "model.activation"),
        (r#"{"kind":"multilayer-perceptron","optimizer":{"kind":"adam","momentum":0.5}}"#, "model.optimizer.momentum"),
        (r#"{"kind":"multilayer-perceptron","width":3}"#, "model.width"),
    ] {
        let fault = build(bad, 2, LabelKind::Bool).err().expect(key);
        assert!(fault.message.contains(key), "{fault}");
    }
}
