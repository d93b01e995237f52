//! What a stream must have come to: the oracle's bytes, each event once, the oracle's model.

use super::daemon::Scene;
use super::library;
use super::stream::{ByPartition, Made, Stream};
use serde_json::Value;

/// Whether the output is the oracle's, and says where it isn't.
#[track_caller]
pub fn assert_same(found: &ByPartition, expected: &ByPartition) {
    for (partition, expected) in expected {
        let found = found.get(partition).map_or(&[][..], Vec::as_slice);
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let text = |m: &(Option<Vec<u8>>, Vec<u8>)| String::from_utf8_lossy(&m.1).into_owned();
            assert!(found == expected, "partition {partition}, message {at}: {} — {}", text(found), text(expected));
        }
        assert_eq!(found.len(), expected.len(), "messages of partition {partition}");
    }
    assert!(found.keys().all(|partition| expected.contains_key(partition)), "{:?}", found.keys());
}

/// Each event's number was used once, and each input offset once, in order.
pub fn assert_each_once(predictions: &ByPartition, dead: &ByPartition, sent: u64) {
    let mut seqs = Vec::new();
    for messages in predictions.values() {
        let of = |m: &(Option<Vec<u8>>, Vec<u8>)| serde_json::from_slice::<Value>(&m.1).expect("JSON");
        let rows: Vec<Value> = messages.iter().map(of).collect();
        assert!(rows.windows(2).all(|w| w[0]["offset"].as_u64() < w[1]["offset"].as_u64()), "offsets in order, once");
        seqs.extend(rows.iter().map(|row| row["seq"].as_u64().expect("seq")));
    }
    let letters: usize = dead.values().map(Vec::len).sum();
    assert_eq!((seqs.len() + letters) as u64, sent, "each event has a prediction or a dead letter");
    seqs.sort_unstable();
    assert!(seqs.windows(2).all(|w| w[0] < w[1]) && seqs.last().is_some_and(|s| *s < sent), "seq 0..n-1, once");
}

/// The final checkpoint's model is the oracle's, its digest the journal's.
pub fn assert_same_model(stream: &Stream, scene: &Scene, lane: u32, made: &mut Made) {
    let tail = stream.journal(lane as i32).pop().expect("a record");
    assert_eq!(scene.digest(lane), (tail.digest.clone(), made.seq));
    assert_eq!(tail.learned, made.learned, "learned once each");
    assert!(scene.newest_checkpoint(lane).1 == library::learned(&mut made.pipeline), "the model is the oracle's");
}
