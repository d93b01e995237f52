//! An event as the schema describes it: its label, the columns of its first row, and that row.

use super::fill::copy_numbers;
use super::{CLASSES_MAX, CLASSES_MAX_DEFAULT};
use crate::batch::{Batch, Token};
use crate::error::{Fault, Result};
use crate::model::{Features, LabelKind};
use crate::preprocess::{DenseKind, Layout, Row, TokenColumn, refill};
use crate::schema::{FieldType, Schema, SchemaSpec, Slot};

/// A row's features as they were decoded.
#[inline]
pub(super) fn feature_cells<'a>(schema: &Schema, batch: &'a Batch, row: usize) -> (&'a [f64], &'a [Token]) {
    (&batch.row_numbers(row)[..schema.feature_numbers], &batch.row_tokens(row)[..schema.feature_tokens])
}

/// Makes `to` the row as it was decoded. True where a number is missing.
#[inline(always)]
pub(super) fn load(to: &mut Row, schema: &Schema, batch: &Batch, row: usize) -> bool {
    let (numbers, tokens) = feature_cells(schema, batch, row);
    if to.dense.len() != numbers.len() {
        to.dense.resize(numbers.len(), 0.0);
    }
    let gaps = copy_numbers(numbers, &mut to.dense);
    refill(&mut to.tokens, tokens);
    to.indices.clear();
    to.values.clear();
    gaps
}

pub(super) fn features(row: &Row) -> Features<'_> {
    Features { dense: &row.dense, indices: &row.indices, values: &row.values }
}

pub(super) fn label_of(spec: &SchemaSpec, schema: &Schema) -> Result<Option<(LabelKind, Slot)>> {
    let classes_max = spec.classes_max.unwrap_or(CLASSES_MAX_DEFAULT);
    if !(2..=CLASSES_MAX).contains(&classes_max) {
        return Err(Fault::misuse(format!("schema.classes_max = {classes_max}: 2 to {CLASSES_MAX} are allowed")));
    }
    Ok(schema.label().map(|field| {
        let kind = match field.ty {
            FieldType::Bool => LabelKind::Bool,
            FieldType::Category | FieldType::Text => LabelKind::Category { classes_max },
            FieldType::Float | FieldType::Int | FieldType::Timestamp => LabelKind::Number,
        };
        (kind, field.slot)
    }))
}

pub(super) fn first_layout(schema: &Schema) -> Layout {
    let mut layout = Layout::default();
    for field in schema.features() {
        let name = field.name.clone();
        match field.ty {
            FieldType::Float | FieldType::Int => layout.dense.push((name, DenseKind::Number)),
            FieldType::Bool => layout.dense.push((name, DenseKind::Bool)),
            FieldType::Timestamp => layout.dense.push((name, DenseKind::Timestamp)),
            FieldType::Category => layout.tokens.push((name, TokenColumn::Category)),
            FieldType::Text => layout.tokens.push((name, TokenColumn::Text)),
        }
    }
    layout
}
