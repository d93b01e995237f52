//! Gaussian naive Bayes by linfa.

use super::{Job, failed};
use crate::error::{Fault, Result};
use crate::model::options::{Options, Range};
use crate::state::{Data, State};
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_bayes::GaussianNb;
use ndarray::Array1;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What a fitted `GaussianNb` holds; its fields are private, and this is how it serializes.
#[derive(Deserialize)]
struct Fitted {
    class_info: BTreeMap<usize, Class>,
}

#[derive(Deserialize)]
struct Class {
    class_count: usize,
    theta: Array1<f64>,
    sigma: Array1<f64>,
}

/// `gaussian-naive-bayes`. The variances include linfa's smoothing; learning goes on from them.
pub(super) fn fit(job: Job<'_>, mut settings: Options<'_>) -> Result<State> {
    let smoothing = settings.number("var_smoothing", 1e-9, Range::NotNegative)?;
    settings.finish()?;
    job.unweighted()?;
    let target: Array1<usize> = job.table.target.iter().map(|t| *t as usize).collect();
    let data = Dataset::new(job.table.x.clone(), target);
    let fitted: GaussianNb<f64, usize> =
        GaussianNb::params().var_smoothing(smoothing).fit(&data).map_err(|e| failed("naive Bayes", e))?;
    let unreadable = |e: serde_json::Error| Fault::internal(format!("a fitted naive Bayes can't be read: {e}"));
    let text = serde_json::to_string(&fitted).map_err(unreadable)?;
    let fitted: Fitted = serde_json::from_str(&text).map_err(unreadable)?;
    let classes = 1 + fitted.class_info.keys().max().copied().unwrap_or(0);
    let width = job.shape.dense.len();
    let mut counts = vec![0.0; classes];
    let (mut means, mut m2) = (vec![0.0; classes * width], vec![0.0; classes * width]);
    for (class, info) in &fitted.class_info {
        let count = info.class_count as f64;
        counts[*class] = count;
        for (i, (mean, variance)) in info.theta.iter().zip(&info.sigma).enumerate() {
            means[class * width + i] = *mean;
            m2[class * width + i] = variance * count;
        }
    }
    let mut state = State::new();
    state.put_f64(job.name("counts"), &counts);
    state.put(job.name("means"), &[classes, width], Data::F64(means));
    state.put(job.name("m2"), &[classes, width], Data::F64(m2));
    Ok(state)
}
