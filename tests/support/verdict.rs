//! What a stream must have come to: the oracle's bytes, each event once, the oracle's model.

use super::daemon::Scene;
use super::library;
use super::stream::{ByPartition, Made, Stream};
use serde_json::Value;
use std::collections::BTreeMap;

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

/// The last word on each event, in order, and how many were said more than once. With `alike`, what is said again
/// must be what was said.
pub fn last_words(messages: &ByPartition, alike: bool) -> (ByPartition, usize) {
    let (mut all, mut repeated) = (ByPartition::new(), 0);
    for (partition, messages) in messages {
        let mut last = BTreeMap::new();
        for message in messages {
            let row: Value = serde_json::from_slice(&message.1).expect("JSON");
            if let Some(before) = last.insert(row["offset"].as_u64().expect("offset"), message) {
                assert!(!alike || before == message, "partition {partition}: repeated otherwise: {row}");
                repeated += 1;
            }
        }
        all.insert(*partition, last.into_values().cloned().collect());
    }
    (all, repeated)
}
