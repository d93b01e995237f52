//! Models and steps: whatever rows come, the state stays finite; a row that is turned away leaves no trace; where
//! batches are cut, and where the state is saved and loaded, makes no difference to the bit.

use super::input::Input;
use millstream::batch::{Batch, RowOrigin, RowStatus, Scores, Span, Token, TokenKind};
use millstream::pipeline::{Counts, Pipeline};
use millstream::state::{Data, State};
use serde_json::Value;

/// Every kind of step and of model that learns, with fields that refuse, and weights.
pub const SPECS: &[&str] = &[
    "name='sgd'\n[schema]\nlabel='y'\nweight='w'\n[schema.fields]\na='float'\nb={type='float',missing='zero'}\n\
     r={type='float',missing='reject'}\nw='float'\ny='bool'\n[[steps]]\nkind='standard-scale'\n[[steps]]\n\
     kind='clip'\nsigmas=3\n[model]\nkind='logistic-regression'\noptimizer={kind='sgd',learning_rate=0.1}\nl2=0.01",
    "name='adam'\n[schema]\nlabel='y'\n[schema.fields]\na='float'\nb='int'\nc='bool'\ny='float'\n[[steps]]\n\
     kind='min-max-scale'\n[[steps]]\nkind='polynomial'\n[model]\nkind='linear-regression'\noptimizer='adam'\nl2=0.1",
    "name='l1'\n[schema]\nlabel='y'\n[schema.fields]\na='float'\nb='float'\ny='float'\n[[steps]]\n\
     kind='max-abs-scale'\n[model]\nkind='linear-regression'\noptimizer='adagrad'\nl1=0.01\nloss={kind='huber'}",
    "name='ftrl'\n[schema]\nlabel='y'\n[schema.fields]\na='float'\nc='category'\nd='category'\nt='text'\ny='bool'\n\
     [[steps]]\nkind='interact'\npairs=[['c','d'],['a','c']]\nbits=5\n[[steps]]\nkind='hash'\nbits=5\n[model]\n\
     kind='logistic-regression'\noptimizer={kind='ftrl',alpha=0.5,l1=0.01}",
    "name='vw'\n[schema]\nlabel='y'\nweight='w'\n[schema.fields]\na='float'\nc='category'\nw='float'\ny='float'\n\
     [[steps]]\nkind='hash'\nbits=4\n[model]\nkind='linear-regression'\noptimizer='vw'",
    "name='softmax'\n[schema]\nlabel='y'\nclasses_max=3\n[schema.fields]\na='float'\nc='category'\ny='category'\n\
     [[steps]]\nkind='one-hot'\ncategories_max=3\n[[steps]]\nkind='standard-scale'\n[model]\n\
     kind='softmax-regression'\noptimizer='adagrad'",
    "name='perceptron'\n[schema]\nlabel='y'\n[schema.fields]\na='float'\nb='float'\ny='bool'\n[[steps]]\n\
     kind='clip'\nlower_quantile=0.1\nupper_quantile=0.9\nobservations_min=5\n[model]\nkind='perceptron'",
    "name='pa'\n[schema]\nlabel='y'\n[schema.fields]\na='float'\nb='float'\ny='float'\n[[steps]]\nkind='impute'\n\
     strategy='last'\n[model]\nkind='passive-aggressive'\nmode=2",
    "name='bayes'\n[schema]\nlabel='y'\nweight='w'\n[schema.fields]\na='float'\nb='float'\nw='float'\ny='category'\n\
     [model]\nkind='gaussian-naive-bayes'",
    "name='k-means'\n[schema]\n[schema.fields]\na='float'\nb='float'\n[[steps]]\nkind='standard-scale'\n[model]\n\
     kind='k-means'\nn_clusters=3\nseed=1",
    "name='mlp'\n[schema]\nlabel='y'\n[schema.fields]\na='float'\nb='float'\ny='category'\n[model]\n\
     kind='multilayer-perceptron'\nlayers=[4]\nunit_events=3\noptimizer='adam'",
    "name='time'\n[schema]\nlabel='y'\n[schema.fields]\nt='timestamp'\na='float'\nb='float'\ny='bool'\n[[steps]]\n\
     kind='timestamp-parts'\ncyclic=true\n[[steps]]\nkind='drop'\nfields=['b']\n[model]\nkind='logistic-regression'\n\
     optimizer={kind='adam',learning_rate={kind='inverse-scaling',learning_rate=0.1,power=0.5}}",
];

/// What a number of an event may be, among others.
const NUMBERS: [f64; 24] = [
    f64::NAN,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    3.25,
    1e-3,
    100.0,
    -7.5,
    1e9,
    9_007_199_254_740_992.0,
    1e15,
    -1e15,
    1e150,
    -1e150,
    1e154,
    1e300,
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    5e-324,
    -1e-300,
];
const WORDS: [&str; 8] = ["", "a", "b", "c", "d", "red fish", "Ünder a-b", "\u{0}"];

/// Input: which spec, where the batch is cut, then the rows.
pub fn learning(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let which = input.below(SPECS.len());
    let (cut, saved_at) = (1 + input.below(7), input.below(32));
    let new = || Pipeline::from_spec_text(SPECS[which]).expect("a spec");
    let mut whole = new();
    let rows = rows(&whole, input.rest());
    let (all, _) = run(&mut whole, &rows, rows.len().max(1));
    let state = all_finite(&mut whole, &all);

    let mut cut_up = new();
    assert_eq!(bits(&all), bits(&run(&mut cut_up, &rows, cut).0), "cut to {cut}");
    assert_eq!(state, bits_of(&snapshot(&mut cut_up)), "cut to {cut}");

    let mut resumed = new();
    let at = saved_at.min(rows.len());
    run(&mut resumed, &rows[..at], cut);
    let saved = resumed.to_artifact(Value::Null);
    let mut resumed = Pipeline::from_bytes(&saved).expect("what it saved itself");
    run(&mut resumed, &rows[at..], cut);
    assert_eq!(state, bits_of(&snapshot(&mut resumed)), "saved and loaded before row {at}");

    without_a_trace(new(), new(), &rows, &state);
}

/// One row after another: what is turned away, or refused by the model, changes nothing of it.
fn without_a_trace(mut pipeline: Pipeline, mut spared: Pipeline, rows: &[Row], state: &[(String, Vec<u64>)]) {
    let units = pipeline.spec().model["kind"] == "multilayer-perceptron";
    for row in rows {
        let before = snapshot(&mut pipeline);
        let (scores, counts) = run(&mut pipeline, std::slice::from_ref(row), 1);
        if scores.values.is_empty() && counts == Counts::default() {
            assert_eq!(bits_of(&before), bits_of(&snapshot(&mut pipeline)), "a row turned away left something");
            continue;
        }
        if counts.refused > 0 && !units {
            let model = |state: &State| -> Vec<_> {
                bits_of(state).into_iter().filter(|(name, _)| name.starts_with("model.")).collect()
            };
            assert_eq!(model(&before), model(&snapshot(&mut pipeline)), "a refused update left something");
        }
        run(&mut spared, std::slice::from_ref(row), 1);
    }
    assert_eq!(state, bits_of(&snapshot(&mut pipeline)));
    assert_eq!(state, bits_of(&snapshot(&mut spared)), "it never saw what was turned away");
}

/// Rows of any schema from bytes, through a pipeline that learns; then all of its state is finite.
pub fn learn_rows(pipeline: &mut Pipeline, bytes: &[u8]) {
    let rows = rows(pipeline, bytes);
    let (scores, _) = run(pipeline, &rows, 7);
    all_finite(pipeline, &scores);
}

/// The bits of the state, all of which are finite, as scores are (or null).
pub fn all_finite(pipeline: &mut Pipeline, scores: &Scores) -> Vec<(String, Vec<u64>)> {
    assert_eq!(scores.ends.last().map_or(0, |end| *end as usize), scores.values.len());
    let state = snapshot(pipeline);
    for (name, tensor) in &state.tensors {
        let finite = match &tensor.data {
            Data::F64(v) => v.iter().all(|x| x.is_finite()),
            Data::F32(v) => v.iter().all(|x| x.is_finite()),
            _ => true,
        };
        assert!(finite, "{name} of {:?} is not finite: {tensor:?}", pipeline.spec().name);
    }
    bits_of(&state)
}

/// All that is saved: the tensors, and as one more the number of examples learned.
fn snapshot(pipeline: &mut Pipeline) -> State {
    let (manifest, mut state) = pipeline.snapshot("checkpoint", Value::Null, Value::Null);
    state.put_u64("learned", &[manifest.learned]);
    state
}

fn bits_of(state: &State) -> Vec<(String, Vec<u64>)> {
    let bits = |data: &Data| match data {
        Data::F64(v) => v.iter().map(|x| x.to_bits()).collect(),
        Data::F32(v) => v.iter().map(|x| u64::from(x.to_bits())).collect(),
        Data::I64(v) => v.iter().map(|x| *x as u64).collect(),
        Data::U64(v) => v.clone(),
        Data::U32(v) => v.iter().map(|x| u64::from(*x)).collect(),
        Data::U8(v) => v.iter().map(|x| u64::from(*x)).collect(),
    };
    state.tensors.iter().map(|(name, tensor)| (name.clone(), bits(&tensor.data))).collect()
}

fn bits(scores: &Scores) -> Vec<u64> {
    scores.values.iter().map(|x| x.to_bits()).collect()
}

/// A row: its numbers, and its tokens.
type Row = (Vec<f64>, Vec<Vec<u8>>);

fn rows(pipeline: &Pipeline, bytes: &[u8]) -> Vec<Row> {
    let (mut input, mut rows) = (Input::new(bytes), Vec::new());
    let (numbers, tokens) = (pipeline.schema().number_stride, pipeline.schema().token_stride);
    while !input.is_empty() && rows.len() < 400 {
        let numbers = (0..numbers).map(|_| number(&mut input)).collect();
        rows.push((numbers, (0..tokens).map(|_| token(&mut input)).collect()));
    }
    rows
}

fn number(input: &mut Input<'_>) -> f64 {
    match input.byte() {
        at @ 0..24 => NUMBERS[usize::from(at)],
        // What a decoder lets through: no infinity.
        24..40 => Some(f64::from_bits(input.word())).filter(|x| x.is_finite()).unwrap_or(f64::NAN),
        byte => (f64::from(byte) - 140.0) / 16.0,
    }
}

fn token(input: &mut Input<'_>) -> Vec<u8> {
    let byte = input.byte();
    match byte {
        0..200 => WORDS[usize::from(byte % 8)].as_bytes().to_vec(),
        _ => String::from_utf8_lossy(input.take(usize::from(byte - 190))).into_owned().into_bytes(),
    }
}

/// Runs rows in batches; the scores of all, and the counts.
fn run(pipeline: &mut Pipeline, rows: &[Row], cut: usize) -> (Scores, Counts) {
    let (mut all, mut counts) = (pipeline.scores(0), Counts::default());
    for rows in rows.chunks(cut) {
        let (mut batch, mut scores) = (batch(pipeline, rows), pipeline.scores(0));
        let more = pipeline.run(&mut batch, &mut scores, true, &mut ());
        for at in 0..batch.len() {
            assert_eq!(batch.status[at] != RowStatus::Ok, scores.row(at).is_empty() && turned_away(&batch, at));
            all.values.extend_from_slice(scores.row(at));
            all.ends.push(all.values.len() as u32);
        }
        counts.scored += more.scored;
        counts.learned += more.learned;
        counts.refused += more.refused;
    }
    (all, counts)
}

fn turned_away(batch: &Batch, row: usize) -> bool {
    matches!(batch.status[row], RowStatus::Rejected(_))
}

fn batch(pipeline: &Pipeline, rows: &[Row]) -> Batch {
    let mut batch = pipeline.batch();
    let (numbers, tokens) = (batch.number_stride, batch.token_stride);
    for (row, (row_numbers, row_tokens)) in rows.iter().enumerate() {
        batch.push_row(RowOrigin {
            raw: Span::default(),
            record: 0,
            input: 0,
            offset: row as u64,
            row: None,
            sequence: 0,
        });
        batch.numbers[row * numbers..].copy_from_slice(row_numbers);
        for (slot, text) in row_tokens.iter().enumerate() {
            let start = batch.text.len();
            batch.text.extend_from_slice(text);
            let kind = if text.is_empty() { TokenKind::Missing } else { TokenKind::Text };
            batch.tokens[row * tokens + slot] = Token { span: Span::new(start, batch.text.len()), kind };
        }
    }
    batch
}
