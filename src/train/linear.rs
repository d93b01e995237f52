//! Linear, logistic and softmax regression by linfa: least squares by QR, elastic net by coordinate
//! descent, the two classifiers by L-BFGS. The model's optimizer starts afresh from the fitted weights.

use super::{Job, Progress, failed};
use crate::error::{Fault, Result};
use crate::model::options::{Options, Range};
use crate::state::{Data, State};
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_elasticnet::ElasticNet;
use linfa_linear::LinearRegression;
use linfa_logistic::{LogisticRegression, MultiLogisticRegression};
use ndarray::{Array1, Array2, Axis, concatenate};

/// `linear-regression`.
pub(super) fn fit_linear(job: Job<'_>, mut settings: Options<'_>, progress: Progress<'_>) -> Result<State> {
    let (l1, l2) = (job.of_model("l1", 0.0), job.of_model("l2", 0.0));
    let l1 = settings.number("l1", l1, Range::NotNegative)?;
    let l2 = settings.number("l2", l2, Range::NotNegative)?;
    let max_iterations = settings.whole("max_iterations", 1_000, 1, u32::MAX.into())? as u32;
    let tolerance = settings.number("tolerance", 1e-6, Range::Positive)?;
    let intercept = settings.switch("intercept", true)?;
    settings.finish()?;
    online_optimizer(&job)?;
    if l1 == 0.0 && l2 == 0.0 {
        return fit_least_squares(job, intercept, progress);
    }
    job.unweighted()?;
    let data = Dataset::new(job.table.x.clone(), Array1::from(job.table.target.clone()));
    let net = ElasticNet::params().penalty(l1 + l2).l1_ratio(l1 / (l1 + l2)).with_intercept(intercept);
    let net = net.max_iterations(max_iterations).tolerance(tolerance);
    let fitted = net.fit(&data).map_err(|e| failed("the elastic net", e))?;
    store(job, &fitted.hyperplane().to_vec(), fitted.intercept())
}

/// Weighted least squares: rows, the intercept's 1 included, are scaled by the root of their weight.
///
/// A column that is a sum of the columns before it (and of the intercept) has no weight of its own:
/// linfa would answer with huge weights that cancel. It gets 0, and `progress` names it.
fn fit_least_squares(job: Job<'_>, intercept: bool, progress: Progress<'_>) -> Result<State> {
    let roots: Array1<f64> = job.table.weight.iter().map(|w| w.sqrt()).collect();
    let scale = roots.view().insert_axis(Axis(1));
    let x = &job.table.x * &scale;
    let kept = independent(&x, intercept.then_some(&roots));
    for column in (0..x.ncols()).filter(|c| !kept.contains(c)) {
        let name = &job.shape.dense[column];
        progress(0.0, &format!("feature {name:?} adds nothing to those before it: its weight is 0"));
    }
    let mut columns = x.select(Axis(1), &kept);
    if intercept {
        columns = concatenate(Axis(1), &[columns.view(), scale.view()]).map_err(|e| failed("least squares", e))?;
    }
    let mut weights = vec![0.0; x.ncols()];
    if columns.ncols() == 0 {
        return store(job, &weights, 0.0);
    }
    let y = Array1::from(job.table.target.clone()) * &roots;
    let fitted = LinearRegression::new().with_intercept(false).fit(&Dataset::new(columns, y));
    let fitted = fitted.map_err(|e| failed("least squares", e).hint("set l2 in [model.train]"))?;
    for (column, weight) in kept.iter().zip(fitted.params()) {
        weights[*column] = *weight;
    }
    let constant = if intercept { fitted.params()[kept.len()] } else { 0.0 };
    store(job, &weights, constant)
}

/// The columns that are no sum of `first` and the columns before them, by modified Gram-Schmidt.
fn independent(x: &Array2<f64>, first: Option<&Array1<f64>>) -> Vec<usize> {
    /// What is left of a dependent column, as a share of its length.
    const LEFT: f64 = 1e-9;
    let mut directions: Vec<Array1<f64>> = first.map(|f| f / f.dot(f).sqrt()).into_iter().collect();
    let mut kept = Vec::new();
    for (number, column) in x.columns().into_iter().enumerate() {
        let length = column.dot(&column).sqrt();
        let mut left = column.to_owned();
        for direction in &directions {
            left.scaled_add(-direction.dot(&left), direction);
        }
        let remainder = left.dot(&left).sqrt();
        if remainder.is_finite() && remainder > LEFT * length {
            directions.push(left / remainder);
            kept.push(number);
        }
    }
    kept
}

/// `logistic-regression`.
pub(super) fn fit_logistic(job: Job<'_>, mut settings: Options<'_>) -> Result<State> {
    let (alpha, max_iterations, tolerance) = solver_settings(&mut settings)?;
    let intercept = settings.switch("intercept", true)?;
    settings.finish()?;
    online_optimizer(&job)?;
    job.unweighted()?;
    let target: Array1<bool> = job.table.target.iter().map(|t| *t == 1.0).collect();
    let data = Dataset::new(job.table.x.clone(), target);
    let params = LogisticRegression::default().alpha(alpha).max_iterations(max_iterations);
    let params = params.gradient_tolerance(tolerance).with_intercept(intercept);
    let fitted = params.fit(&data).map_err(|e| failed("the logistic regression", e))?;
    // linfa calls the class with more rows positive, whichever that is.
    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let weights: Vec<f64> = fitted.params().iter().map(|w| sign * w).collect();
    store(job, &weights, sign * fitted.intercept())
}

/// `softmax-regression`: without an intercept, as the model has none. A class without a row stays unknown.
pub(super) fn fit_softmax(job: Job<'_>, mut settings: Options<'_>) -> Result<State> {
    let (alpha, max_iterations, tolerance) = solver_settings(&mut settings)?;
    settings.finish()?;
    online_optimizer(&job)?;
    job.unweighted()?;
    let target: Array1<usize> = job.table.target.iter().map(|t| *t as usize).collect();
    let classes = 1 + target.iter().copied().max().unwrap_or(0);
    let data = Dataset::new(job.table.x.clone(), target);
    let params = MultiLogisticRegression::default().alpha(alpha).max_iterations(max_iterations);
    let params = params.gradient_tolerance(tolerance).with_intercept(false);
    let fitted = params.fit(&data).map_err(|e| failed("the softmax regression", e))?;
    let width = job.shape.dense.len();
    let mut weights = Array2::<f64>::zeros((classes, width));
    let mut iterations = vec![0; classes];
    for (column, class) in fitted.params().columns().into_iter().zip(fitted.classes()) {
        weights.row_mut(*class).assign(&column);
        iterations[*class] = 1;
    }
    let mut state = job.untrained();
    // The optimizer's own columns are as many rows of zeros.
    for tensor in state.tensors.values_mut().filter(|t| t.shape == [0, width]) {
        tensor.shape[0] = classes;
        tensor.data = Data::F64(vec![0.0; classes * width]);
    }
    state.put(job.name("weights"), &[classes, width], Data::F64(weights.into_iter().collect()));
    state.put_u64(job.name("iterations"), &iterations);
    Ok(state)
}

/// `l2`, `max_iterations` and `tolerance` of L-BFGS.
fn solver_settings(settings: &mut Options<'_>) -> Result<(f64, u64, f64)> {
    let alpha = settings.number("l2", 1.0, Range::NotNegative)?;
    let max_iterations = settings.whole("max_iterations", 100, 1, 1_000_000)?;
    let tolerance = settings.number("tolerance", 1e-4, Range::Positive)?;
    Ok((alpha, max_iterations, tolerance))
}

/// Refuses optimizers whose weights follow from sums of gradients, which a batch fit doesn't have.
fn online_optimizer(job: &Job<'_>) -> Result<()> {
    let optimizer = job.model.get("optimizer");
    let kind = optimizer.and_then(|o| o.as_str().or_else(|| o.get("kind")?.as_str())).unwrap_or("sgd");
    if kind == "ftrl" || kind == "vw" {
        return Err(Fault::misuse(format!(
            "model.optimizer {kind:?} can't go on from weights that were trained in batch"
        ))
        .hint("use sgd, adagrad or adam; or let the model learn from the stream"));
    }
    Ok(())
}

/// Puts weights and intercept in the place of the untrained model's.
fn store(job: Job<'_>, weights: &[f64], intercept: f64) -> Result<State> {
    let mut state = job.untrained();
    for (tensor, values) in [("weights", weights), ("intercept", &[intercept])] {
        let name = job.name(tensor);
        state.get_f64(&name, Some(values.len()))?;
        state.put_f64(name, values);
    }
    Ok(state)
}
