//! What lies in models/ works: every spec builds, every artifact loads, scores its golden rows to the same
//! bits, and reads the data set that its page names as its training data.

use millstream::artifact;
use millstream::commands::evaluate::progressive;
use millstream::pipeline::{Manifest, Pipeline};
use std::path::{Path, PathBuf};

fn models(extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let entries = std::fs::read_dir(folder).expect("models/").map(|e| e.expect("an entry").path());
    let mut found: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

#[test]
fn every_spec_builds() {
    let specs = models("toml");
    assert!(specs.len() >= 9, "{specs:?}");
    for path in specs {
        let text = std::fs::read_to_string(&path).expect("text");
        Pipeline::from_spec_text(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
    }
}

#[test]
fn every_artifact_loads_with_its_golden_rows_and_beats_the_majority() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR"));
    let artifacts = models("safetensors");
    assert!(artifacts.len() >= 3, "{artifacts:?}");
    for path in artifacts {
        let bytes = std::fs::read(&path).expect("bytes");
        let (manifest, _) = artifact::decode(&bytes).expect("sound");
        let manifest: Manifest = serde_json::from_value(manifest).expect("a manifest");
        assert!(!manifest.golden.is_empty(), "{}: no golden rows", path.display());
        let mut pipeline = Pipeline::from_bytes(&bytes).unwrap_or_else(|f| panic!("{}: {f}", path.display()));
        let input = data.join(manifest.provenance["inputs"][0].as_str().expect("what it was trained on"));
        let done = progressive(&mut pipeline, &[input]).expect("the data set");
        let (name, better) = match done.quality.metrics.get("mae") {
            Some(mae) => ("mae", *mae < done.quality.baselines["majority"]["mae"]),
            None => ("accuracy", done.quality.metrics["accuracy"] > done.quality.baselines["majority"]["accuracy"]),
        };
        assert!(better, "{}: {name} {:?}", path.display(), done.quality.metrics);
    }
}
