//! What the fuzz targets share: the bodies, which are those of `tests/fuzz_corpora.rs`.

#[path = "../../tests/support/fuzzed/mod.rs"]
pub mod fuzzed;

#[global_allocator]
static ALLOCATOR: fuzzed::memory::Counting = fuzzed::memory::Counting;

/// The whole of a fuzz target: `target!(json_rows)` runs the body of that name.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let body = $crate::fuzzed::TARGETS.iter().find(|(name, _)| *name == stringify!($name));
            body.expect("a target of that name").1(bytes)
        });
    };
}
