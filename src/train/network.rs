//! Networks by candle: minibatches of rows in an order that the seed draws, AdamW or SGD.
//!
//! First weights are the untrained model's, so candle draws nothing. Its matrix products differ in the
//! last bits between instruction sets; for one machine, the same spec and table give the same bits.

use super::{Job, Progress};
use crate::error::{Fault, Result};
use crate::model::layers::Activation;
use crate::model::options::{Options, Range};
use crate::model::random::Random;
use crate::model::{LabelKind, Task};
use crate::state::{Data, State};
use candle_core::{D, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, SGD};
use serde_json::Value;

/// `[model.train]` of a network.
struct Settings {
    epochs: u64,
    batch_rows: usize,
    adamw: bool,
    learning_rate: f64,
    weight_decay: f64,
}

enum Trainer {
    AdamW(AdamW),
    Sgd(SGD),
}

impl Trainer {
    fn new(settings: &Settings, vars: Vec<Var>) -> candle_core::Result<Trainer> {
        if !settings.adamw {
            return Ok(Trainer::Sgd(SGD::new(vars, settings.learning_rate)?));
        }
        let Settings { learning_rate: lr, weight_decay, .. } = *settings;
        Ok(Trainer::AdamW(AdamW::new(vars, ParamsAdamW { lr, weight_decay, ..ParamsAdamW::default() })?))
    }
    fn step(&mut self, loss: &Tensor) -> candle_core::Result<()> {
        match self {
            Trainer::AdamW(adamw) => adamw.backward_step(loss),
            Trainer::Sgd(sgd) => sgd.backward_step(loss),
        }
    }
}

/// `multilayer-perceptron`.
pub(super) fn fit(job: Job<'_>, mut settings: Options<'_>, progress: Progress<'_>) -> Result<State> {
    let chosen = Settings {
        epochs: settings.whole("epochs", 20, 1, 1_000_000)?,
        batch_rows: settings.whole("batch_rows", 64, 1, 1 << 20)? as usize,
        adamw: settings.word("optimizer", "adamw", &["adamw", "sgd"])? == "adamw",
        learning_rate: settings.number("learning_rate", 1e-3, Range::Positive)?,
        weight_decay: settings.number("weight_decay", 0.01, Range::NotNegative)?,
    };
    settings.finish()?;
    let mut state = job.untrained();
    let mut names = Vec::new();
    while state.tensors.contains_key(&job.name(&format!("layers.{}.weights", names.len() / 2))) {
        let layer = names.len() / 2;
        names.push(job.name(&format!("layers.{layer}.weights")));
        names.push(job.name(&format!("layers.{layer}.bias")));
    }
    let trained = train(&job, &chosen, &state, &names, progress)
        .map_err(|e| Fault::internal(format!("candle could not train the network: {e}")))?;
    for (name, values) in names.into_iter().zip(trained) {
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Fault::misuse("the network diverged: its weights are no longer finite")
                .hint("lower model.train.learning_rate, and scale the features (standard-scale)"));
        }
        let shape = state.get(&name)?.shape.clone();
        state.put(name, &shape, Data::F32(values));
    }
    Ok(state)
}

fn train(
    job: &Job<'_>,
    settings: &Settings,
    state: &State,
    names: &[String],
    progress: Progress<'_>,
) -> candle_core::Result<Vec<Vec<f32>>> {
    let var = |name: &String| {
        let tensor = state.get(name).map_err(candle_core::Error::wrap)?;
        let values = state.get_f32(name, None).map_err(candle_core::Error::wrap)?;
        Var::from_tensor(&Tensor::from_slice(values, &tensor.shape[..], &Device::Cpu)?)
    };
    let vars: Vec<Var> = names.iter().map(var).collect::<candle_core::Result<_>>()?;
    let mut trainer = Trainer::new(settings, vars.clone())?;
    let activation = job.model.get("activation").and_then(Value::as_str).unwrap_or("relu");
    let activation = Activation::named(activation);
    let seed = job.model.get("seed").and_then(Value::as_u64).unwrap_or(0);
    let mut random = Random::new(seed ^ 0x006d_696e_6962_6174);
    let mut order: Vec<usize> = (0..job.table.x.nrows()).collect();
    for epoch in 0..settings.epochs {
        for i in (1..order.len()).rev() {
            // Uniform in 0..=i; a table's rows are few against the 53 random bits.
            order.swap(i, (random.uniform() * (i + 1) as f64) as usize);
        }
        let mut loss = 0.0;
        for rows in order.chunks(settings.batch_rows) {
            let batch = loss_of(job, &vars, activation, rows)?;
            trainer.step(&batch)?;
            loss += f64::from(batch.to_scalar::<f32>()?) * rows.len() as f64 / order.len() as f64;
        }
        let done = (epoch + 1) as f64 / settings.epochs as f64;
        progress(done, &format!("epoch {} of {}, loss {loss:.6}", epoch + 1, settings.epochs));
    }
    vars.iter().map(|v| v.flatten_all()?.to_vec1::<f32>()).collect()
}

/// The network's sums before their link, rows × outputs.
fn forward(vars: &[Var], activation: Activation, x: Tensor) -> candle_core::Result<Tensor> {
    let mut x = x;
    for (layer, pair) in vars.chunks_exact(2).enumerate() {
        x = x.matmul(&pair[0])?.broadcast_add(&pair[1])?;
        if (layer + 1) * 2 < vars.len() {
            x = match activation {
                Activation::Relu => x.relu()?,
                Activation::Tanh => x.tanh()?,
                Activation::Sigmoid => candle_nn::ops::sigmoid(&x)?,
                Activation::Identity => x,
            };
        }
    }
    Ok(x)
}

/// The weighted mean loss of some rows: cross-entropy, or half the squared error.
fn loss_of(job: &Job<'_>, vars: &[Var], activation: Activation, rows: &[usize]) -> candle_core::Result<Tensor> {
    let table = job.table;
    let single = |v: f64| v.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
    let x: Vec<f32> = rows.iter().flat_map(|r| table.x.row(*r).to_vec()).map(single).collect();
    let x = Tensor::from_vec(x, (rows.len(), table.x.ncols()), &Device::Cpu)?;
    let column = |of: &[f64]| {
        let values: Vec<f32> = rows.iter().map(|r| single(of[*r])).collect();
        Tensor::from_vec(values, rows.len(), &Device::Cpu)
    };
    let (y, weight) = (column(&table.target)?, column(&table.weight)?);
    let sums = forward(vars, activation, x)?;
    let losses = match (job.built.task(), table.label) {
        (Task::Multiclass, LabelKind::Category { .. }) => {
            let classes: Vec<u32> = rows.iter().map(|r| table.target[*r] as u32).collect();
            let classes = Tensor::from_vec(classes, (rows.len(), 1), &Device::Cpu)?;
            candle_nn::ops::log_softmax(&sums, D::Minus1)?.gather(&classes, 1)?.squeeze(1)?.neg()?
        }
        (Task::Binary, _) => {
            // max(z, 0) - z·y + log(1 + e^-|z|): the cross-entropy without overflow.
            let z = sums.squeeze(1)?;
            ((z.relu()? - (&z * y)?)? + ((z.abs()?.neg()?.exp()? + 1.0)?.log()?))?
        }
        _ => (0.5 * (sums.squeeze(1)? - y)?.sqr()?)?,
    };
    (losses * &weight)?.sum_all()? / weight.sum_all()?
}
