//! Trees one by one and side by side, links, and what a damaged file is told.

use super::*;

fn shape(label: LabelKind) -> Shape {
    Shape { dense: vec!["a".into(), "b".into()], slots: 0, label: Some(label) }
}

fn build(spec: &str, shape: &Shape) -> Result<Box<dyn Model>> {
    crate::model::build(&serde_json::from_str(spec).expect("JSON"), shape)
}

const SPEC: &str = r#"{"kind":"decision-tree","seed":1,"train":{"max_depth":3}}"#;

fn row(dense: &[f64]) -> Features<'_> {
    Features { dense, indices: &[], values: &[] }
}

/// Two stumps: a < 1 (missing goes left) → 1 or -2; b < 0 (missing goes right) → 0.25 or 0.5.
fn stumps() -> Ensemble {
    let mut e = Ensemble::new(1, 1);
    for (feature, threshold, missing_left, values) in [(0, 1.0, true, [1.0, -2.0]), (1, 0.0, false, [0.25, 0.5])] {
        e.start_tree(0);
        let split = e.push_split(feature, threshold, missing_left);
        let (left, right) = (e.push_leaf(&[values[0]]), e.push_leaf(&[values[1]]));
        e.set_children(split, left, right);
    }
    e
}

fn score(model: &dyn Model, dense: &[f64], width: usize) -> Vec<f64> {
    let mut out = vec![9.0; width];
    model.score(row(dense), &mut Scratch::default(), &mut out);
    out
}

#[test]
fn trees_add_up_and_route_missing_values() {
    let mut model = build(SPEC, &shape(LabelKind::Number)).expect("model");
    assert_eq!(score(&*model, &[0.0, 0.0], 1), [0.0], "without trees, the prior");
    let mut ensemble = stumps();
    ensemble.base[0] = 10.0;
    let mut state = State::new();
    ensemble.save(&mut state, "m.");
    model.load(&state, "m.").expect("load");
    assert_eq!(score(&*model, &[0.0, -1.0], 1), [11.25]);
    assert_eq!(score(&*model, &[1.0, 0.0], 1), [8.5], "equal to the threshold goes right");
    assert_eq!(score(&*model, &[f64::NAN, f64::NAN], 1), [11.5]);
    assert_eq!(model.learn(row(&[0.0, 0.0]), 1.0, 1.0), Learned::Frozen);
    let mut again = State::new();
    model.save(&mut again, "m.");
    assert_eq!(state, again);
    ensemble.less_or_equal = true;
    assert_eq!(ensemble.leaf_of(0, &[1.0, 0.0]), 0, "equal goes left");
}

/// Trees of every depth, 21 of them: two groups side by side and five alone.
#[test]
fn trees_side_by_side_are_walked_like_one_after_another() {
    let mut random = crate::model::random::Random::new(2);
    let mut e = Ensemble::new(3, 1);
    for tree in 0..21u32 {
        e.start_tree(tree % 3);
        let mut open = None;
        for depth in 0..tree % 7 {
            let split = e.push_split(depth % 2, random.normal(), depth % 3 == 0);
            if let Some((parent, leaf)) = open {
                e.set_children(parent, split, leaf);
            }
            let leaf = e.push_leaf(&[random.normal()]);
            open = Some((split, leaf));
        }
        let last = e.push_leaf(&[random.normal()]);
        if let Some((parent, leaf)) = open {
            e.set_children(parent, leaf, last);
        }
    }
    let mut state = State::new();
    e.save(&mut state, "");
    assert_eq!(Ensemble::load(&state, "", 2).expect("sound"), e);
    for n in 0..300 {
        let x = [random.normal(), if n % 5 == 0 { f64::NAN } else { random.normal() }];
        let (mut sums, mut expected) = ([0.0; 3], [0.0; 3]);
        e.score(&x, &mut sums);
        (0..21).for_each(|tree| expected[tree % 3] += e.leaf_values[e.leaf_of(tree, &x)]);
        assert_eq!(sums, expected);
    }
}

#[test]
fn links_and_averages() {
    let mut e = stumps();
    e.scale = 0.5;
    e.link = Link::Logistic;
    let mut out = [0.0];
    e.score(&[0.0, -1.0], &mut out);
    assert!((out[0] - 1.0 / (1.0 + (-0.625f64).exp())).abs() < 1e-15);
    let mut values = [1e308, 0.0, -1e308];
    softmax(&mut values);
    assert_eq!(values, [1.0, 0.0, 0.0]);
}

#[test]
fn classes_known_so_far_may_be_fewer_or_more() {
    let mut model = build(SPEC, &shape(LabelKind::Category { classes_max: 4 })).expect("model");
    assert_eq!(score(&*model, &[0.0, 0.0], 4), [0.25; 4]);
    let mut e = Ensemble::new(3, 3);
    e.start_tree(0);
    e.push_leaf(&[0.2, 0.3, 0.5]);
    let mut state = State::new();
    e.save(&mut state, "");
    model.load(&state, "").expect("load");
    assert_eq!(score(&*model, &[0.0, 0.0], 2), [0.2, 0.3]);
    assert_eq!(score(&*model, &[0.0, 0.0], 4), [0.2, 0.3, 0.5, 0.0]);
}

#[test]
fn damage_is_named() {
    let mut good = State::new();
    stumps().save(&mut good, "m.");
    let u32s = |v: &[u32]| Data::U32(v.to_vec());
    let damage: [(&str, Data); 9] = [
        ("m.left", u32s(&[0, 0, 1, 4, 2, 3])),
        ("m.left", u32s(&[1, 0, 9, 4, 2, 3])),
        ("m.left", u32s(&[1, LEAF, 1, 4, 2, 3])),
        ("m.right", u32s(&[6, 0, 0, 5, 0, 0])),
        ("m.feature", u32s(&[2, LEAF, LEAF, 1, LEAF, LEAF])),
        ("m.threshold", Data::F64(vec![f64::NAN, 0.0, 0.0, 0.0, 0.0, 0.0])),
        ("m.roots", u32s(&[0, 6])),
        ("m.outputs", u32s(&[0, 1])),
        ("m.base", Data::F64(vec![f64::INFINITY])),
    ];
    for (name, data) in damage {
        let mut state = good.clone();
        state.put(name, &[data.len()], data);
        let fault = Ensemble::load(&state, "m.", 2).expect_err(name);
        assert_eq!(fault.class, crate::error::Class::Corruption);
        assert!(fault.message.contains(name), "{fault}");
    }
    let mut state = good.clone();
    state.tensors.remove("m.missing");
    assert!(Ensemble::load(&state, "m.", 2).expect_err("missing").message.contains("m.missing"));
    assert!(Ensemble::load(&good, "m.", 2).is_ok());
}

#[test]
fn wrong_use_is_refused() {
    let fault = build(r#"{"kind":"decision-tree","depth":3}"#, &shape(LabelKind::Bool)).err().expect("fault");
    assert!(fault.message.contains("depth"), "{fault}");
    let unlabelled = Shape { label: None, ..shape(LabelKind::Bool) };
    assert!(build(SPEC, &unlabelled).is_err());
    let hashed = Shape { slots: 8, ..shape(LabelKind::Bool) };
    assert!(build(SPEC, &hashed).is_err());
}
