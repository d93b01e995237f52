//! Checkpoints, and the other files of a lane: written whole or not at all, read back before an older one goes.
//!
//! This room sees bytes and record numbers, not models. Where the files are is a [`Store`]'s business:
//!
//! ```text
//! local.rs     a directory: temporary file, fsync, rename, fsync of the directory
//! object.rs    a prefix of an S3 bucket
//! ```

mod local;
mod object;

use crate::disk::is_of;
use crate::error::{Fault, Result};
use crate::faults;
use std::path::Path;
use std::sync::Arc;

pub use local::LocalStore;
pub use object::{ObjectStore, SCHEME};

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";

/// A folder of files that are each whole: a lane's checkpoints, or artifacts. Readers and writers may be many,
/// in several processes.
pub trait Store: Send + Sync {
    /// Where a file of that name is, for messages and the status.
    fn place(&self, name: &str) -> String;

    /// Writes a file atomically and durably, over one that is there.
    ///
    /// # Errors
    /// Environment; then a file of that name is as it was before, or as it was to be.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// As `put`, of a file whose bytes lie in parts.
    ///
    /// # Errors
    /// As for `put`.
    fn put_parts(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        self.put(name, &parts.concat())
    }

    /// True where a file of that name is there and holds these parts, one behind another, and nothing else.
    ///
    /// # Errors
    /// Environment, where it can't be read.
    fn holds(&self, name: &str, parts: &[&[u8]]) -> Result<bool> {
        Ok(self.get(name)?.is_some_and(|bytes| is_of(&bytes, parts)))
    }

    /// As `put`, but never over a file that is there: of several who do this at once, one succeeds. False where
    /// there was one already.
    ///
    /// # Errors
    /// Environment; then the file is not there, or whole.
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool>;

    /// The bytes of a file, `None` where there is none of that name.
    ///
    /// # Errors
    /// Environment, where it can't be read.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// The names of the files that are there, in no order. Folders are none.
    ///
    /// # Errors
    /// Environment, where the folder can't be read.
    fn names(&self) -> Result<Vec<String>>;

    /// Removes a file; one that isn't there is no fault.
    ///
    /// # Errors
    /// Environment.
    fn remove(&self, name: &str) -> Result<()>;

    /// A folder in this one, made if missing.
    ///
    /// # Errors
    /// Environment, where it can't be made.
    fn folder(&self, name: &str) -> Result<Arc<dyn Store>>;
}

/// The store at `location`, which other processes may use as well: `s3://bucket/prefix`, or a directory.
///
/// # Errors
/// Misuse, where the location can't be read; Environment, where the directory can't be made.
pub fn open(location: &str) -> Result<Arc<dyn Store>> {
    match location.starts_with(SCHEME) {
        true => Ok(Arc::new(ObjectStore::open(location)?)),
        false => Ok(Arc::new(LocalStore::shared(Path::new(location))?)),
    }
}

impl dyn Store + '_ {
    /// Writes the checkpoint of a journal record (its bytes in parts), reads it back, and then removes all but the
    /// newest `keep`.
    /// Returns the record number of the oldest that is kept.
    ///
    /// # Errors
    /// Environment, or Corruption where what was read back differs; older checkpoints stay.
    pub fn put_checkpoint(&self, number: u64, parts: &[&[u8]], keep: usize) -> Result<u64> {
        let name = checkpoint_name(number);
        self.put_parts(&name, parts)?;
        if !self.holds(&name, parts)? {
            return Err(Fault::corruption(format!("{}: reads back differently", self.place(&name)))
                .hint("what holds the checkpoints is not to be trusted; replace the disk"));
        }
        let numbers = self.checkpoints()?;
        let (old, kept) = numbers.split_at(numbers.len().saturating_sub(keep.max(1)));
        for number in old {
            faults::step("store.remove");
            self.remove(&checkpoint_name(*number))?;
        }
        Ok(kept.first().copied().unwrap_or(number))
    }

    /// Removes the files `PREFIX…SUFFIX` whose number is below `before`.
    ///
    /// # Errors
    /// Environment.
    pub fn remove_before(&self, prefix: &str, before: u64) -> Result<()> {
        for name in self.names()? {
            let number: Option<u64> = name.strip_prefix(prefix).and_then(|n| n.strip_suffix(SUFFIX)?.parse().ok());
            if number.is_some_and(|number| number < before) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Record numbers of the checkpoints that are there, ascending.
    ///
    /// # Errors
    /// Environment, where the folder can't be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = (self.names()?.iter())
            .filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// File name of the checkpoint that belongs to a journal record.
pub fn checkpoint_name(number: u64) -> String {
    format!("{PREFIX}{number:020}{SUFFIX}")
}
