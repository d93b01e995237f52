//! What the admin API may ask of the engine: one closed enum, and what comes back.

use serde::{Deserialize, Serialize};

/// A request to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Where every lane stands.
    Status,
    /// The versions in force, and the one a rollback would bring back.
    Versions,
    /// Swap in an artifact, given as its bytes.
    Swap {
        /// The file's bytes (a `.safetensors` artifact, or a spec's TOML text).
        bytes: Vec<u8>,
        /// Where they came from, for messages.
        origin: String,
    },
    /// Bring back the version before.
    Rollback,
    /// Write a checkpoint now.
    Checkpoint,
    /// Stop taking events.
    Pause,
    /// Go on.
    Resume,
    /// Stop the intake, finish what was read, commit, checkpoint, exit.
    Drain,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// HTTP status: 400, 409 (not now), 422 (a candidate that isn't fit), 503, 507 (disk).
    #[serde(skip)]
    pub status: u16,
    /// What was wrong, and where.
    pub error: String,
    /// What to do.
    pub hint: String,
}

/// A command with the way back for its answer.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Takes the JSON answer. The sender is dropped unanswered only if the engine has ended.
    pub reply: flume::Sender<std::result::Result<serde_json::Value, Refusal>>,
}
