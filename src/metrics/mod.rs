//! Metrics: named counters, histograms, live model quality, health, and their export.
//!
//! A lane's thread updates its [`LaneMetrics`] with plain atomics, a few times a batch and never a row
//! (quality excepted, which the lane owns). Readers (the admin thread) see them without stopping it.

pub mod health;
pub mod histogram;
pub mod lane;
pub mod quality;
mod quality_binary;
mod quality_multiclass;
mod quality_number;
pub mod rates;
pub mod registry;

pub use health::Health;
pub use histogram::{Histogram, Quantiles};
pub use lane::{LaneMetrics, LatencyStage, ModelCounters, SwapResult};
pub use quality::{Progressive, QualityReport};
pub use rates::Rates;
pub use registry::render;
