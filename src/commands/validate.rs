//! `millstream validate`: is everything right that a run would read? Prints the resolved config.

use crate::cli::ConfigArgs;
use crate::config::Config;
use crate::error::{Fault, Result};

/// Checks the config, then what it names by `check`, and prints the resolved config as TOML.
///
/// # Errors
/// Every fault that was found.
pub fn validate(args: &ConfigArgs, check: fn(&Config) -> Result<(), Vec<Fault>>) -> Result<(), Vec<Fault>> {
    let config = super::load(args)?;
    check(&config)?;
    super::print(&config.to_toml()).map_err(|fault| vec![fault])
}
