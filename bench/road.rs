//! The road in this process: decode → score → learn → encode over a block, as a lane's worker calls it, without
//! threads, sockets or disks.

use crate::events::{BATCH_EVENTS, decoder};
use millstream::batch::{Block, Cursor, Outbox};
use millstream::decode::Format;
use millstream::encode::{EncodeOptions, Encoder};
use millstream::engine::lane::{LaneCore, LaneParts};
use millstream::engine::ledger::Ledger;
use millstream::metrics::LaneMetrics;
use millstream::pipeline::Pipeline;
use std::sync::Arc;

/// A lane's core with the outbox that it fills.
pub struct Road {
    core: LaneCore,
    outbox: Outbox,
}

impl Road {
    /// The road of an answering socket, with one input.
    pub fn new(spec: &str, format: Format) -> Result<Road, String> {
        let pipeline = Pipeline::from_spec_text(spec).map_err(|f| f.to_string())?;
        let fields = pipeline.schema().fields.iter().map(|f| f.name.clone()).collect();
        let options = EncodeOptions { lane: None, answer_rejects: true, newline: true };
        let parts = LaneParts {
            lane: 0,
            decoder: decoder(pipeline.schema(), format)?,
            encoder: Encoder::new(pipeline.schema(), &options),
            metrics: Arc::new(LaneMetrics::new(0, fields, pipeline.version())),
            pipeline,
            batch_events_max: BATCH_EVENTS,
            learn: true,
        };
        let mut core =
            LaneCore::new(parts, Ledger::new(0, "bench", None, false, false), None).map_err(|f| f.to_string())?;
        core.names = Arc::new(vec!["127.0.0.1:7070#0".into()]);
        Ok(Road { core, outbox: Outbox::default() })
    }

    /// Takes a block whole; how many predictions it brought.
    pub fn take(&mut self, block: &Block) -> u64 {
        self.outbox.clear();
        let mut cursor = Cursor::default();
        while self.core.step(block, &mut cursor, u64::MAX, &mut self.outbox) {}
        self.core.ledger.finished(block);
        self.outbox.predictions
    }
}
