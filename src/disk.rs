//! What several rooms ask of the file system.

use crate::error::{Fault, Result};
use std::fs::File;
use std::path::Path;

/// Makes the names in a directory durable.
///
/// # Errors
/// Environment.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Fault::io(format!("sync {}", dir.display()), &e))
}
