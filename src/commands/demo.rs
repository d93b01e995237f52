//! `millstream demo`.
use crate::cli::DemoArgs;
use crate::error::Result;
/// The demo.
///
/// # Errors
/// None yet.
pub fn demo(_args: &DemoArgs) -> Result<()> {
    Ok(())
}
