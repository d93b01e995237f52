//! Golden rows: events with their expected scores, which travel in every artifact.

use crate::batch::{Batch, RowOrigin, Span, Token, TokenKind};
use crate::schema::{Schema, Slot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A row whose scores the writer of an artifact recorded; a reader must find the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenRow {
    /// Field → value.
    pub event: Map<String, Value>,
    /// The scores, as the model gives them.
    pub scores: Vec<f64>,
}

/// A row as field → value, by the fields' types.
pub(super) fn event_of(schema: &Schema, batch: &Batch, row: usize) -> Map<String, Value> {
    let mut event = Map::new();
    for field in &schema.fields {
        let value = match field.slot {
            Slot::Number(slot) => json!(batch.row_numbers(row)[slot]),
            Slot::Token(slot) => match batch.row_tokens(row)[slot] {
                Token { kind: TokenKind::Missing, .. } => Value::Null,
                token => Value::String(String::from_utf8_lossy(batch.token_bytes(token)).into_owned()),
            },
        };
        event.insert(field.name.clone(), value);
    }
    event
}

/// One row from field → value.
pub(super) fn batch_of(schema: &Schema, event: &Map<String, Value>) -> Batch {
    let mut batch = Batch::new(schema.number_stride, schema.token_stride);
    batch.push_row(RowOrigin { raw: Default::default(), record: 0, input: 0, offset: 0, row: None, sequence: 0 });
    for field in &schema.fields {
        let value = event.get(&field.name).unwrap_or(&Value::Null);
        match (field.slot, value) {
            (Slot::Number(slot), value) => batch.numbers[slot] = value.as_f64().unwrap_or(f64::NAN),
            (Slot::Token(slot), Value::String(text)) => {
                let start = batch.text.len();
                batch.text.extend_from_slice(text.as_bytes());
                let span = Span::new(start, batch.text.len());
                batch.tokens[slot] = Token { span, kind: TokenKind::Text };
            }
            (Slot::Token(_), _) => {}
        }
    }
    batch
}
