//! k-means by linfa: Lloyd's algorithm from k-means++ starts, the best of several runs.

use super::{Job, failed};
use crate::error::{Fault, Result};
use crate::model::options::{Options, Range};
use crate::state::{Data, State};
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::KMeans;
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::SeedableRng;
use serde_json::Value;
use std::collections::BTreeSet;

/// `k-means`. Targets are not used.
pub(super) fn fit(job: Job<'_>, mut settings: Options<'_>) -> Result<State> {
    let runs = settings.whole("runs", 10, 1, 10_000)? as usize;
    let max_iterations = settings.whole("max_iterations", 300, 1, 1_000_000)?;
    let tolerance = settings.number("tolerance", 1e-4, Range::Positive)?;
    settings.finish()?;
    job.unweighted()?;
    let mut state = job.untrained();
    let name = job.name("centers");
    let shape = state.get(&name)?.shape.clone();
    let clusters = shape[0];
    let mut distinct = BTreeSet::new();
    for row in job.table.x.outer_iter() {
        distinct.insert(row.iter().map(|v| (v + 0.0).to_bits()).collect::<Vec<_>>());
        if distinct.len() >= clusters {
            break;
        }
    }
    if distinct.len() < clusters {
        let message = format!("model.n_clusters is {clusters}, and the rows hold {} distinct points", distinct.len());
        return Err(Fault::misuse(message).hint("give more rows or ask for fewer clusters"));
    }
    if job.of_model("p", 2.0) != 2.0 {
        return Err(Fault::misuse("batch training of k-means is for p = 2 (Euclidean) only"));
    }
    let seed = job.model.get("seed").and_then(Value::as_u64).unwrap_or(0);
    let params = KMeans::params_with_rng(clusters, Xoshiro256Plus::seed_from_u64(seed));
    let params = params.n_runs(runs).max_n_iterations(max_iterations).tolerance(tolerance);
    let fitted = params.fit(&DatasetBase::from(job.table.x.clone())).map_err(|e| failed("k-means", e))?;
    let centers: Vec<f64> = fitted.centroids().iter().copied().collect();
    state.put(name, &shape, Data::F64(centers));
    Ok(state)
}
