//! What several rooms ask of the file system.

use crate::error::{Fault, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// Makes the names in a directory durable.
///
/// # Errors
/// Environment.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Fault::io(format!("sync {}", dir.display()), &e))
}

/// Makes a directory and those above it that are missing, each durable in its parent.
///
/// # Errors
/// Environment, naming the directory that can't be made.
pub fn make_dirs(dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Fault::io(dir.display(), &e);
    match std::fs::metadata(dir) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(failed(ErrorKind::NotADirectory.into())),
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
        Err(_) => {}
    }
    let parent = match dir.parent() {
        None => return Err(failed(ErrorKind::NotFound.into())),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    make_dirs(parent)?;
    match std::fs::create_dir(dir) {
        // Another process may have made it meanwhile.
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    sync_dir(parent)
}
