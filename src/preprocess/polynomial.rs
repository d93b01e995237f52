//! `polynomial`: products of numbers, appended as columns. Equals River's PolynomialExtender.
//!
//! All products of 2 … `degree` (2, the default, or 3) of the fields, with repetition unless
//! `interaction_only`; in the order of the fields, shorter products first; named by the sorted names
//! of their factors, as in `a*b`. Option beside: `fields` (default: all numbers but timestamps).

use super::columns::tame;
use super::spec::Spec;
use super::{Built, COLUMNS_MAX, DenseKind, Layout, Row, Step};
use crate::error::Fault;
use serde_json::{Map, Value};

struct Polynomial {
    /// Factors of each new column: an earlier column (a field, or a shorter product) and a field.
    factors: Vec<(u32, u32)>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["fields", "degree", "interaction_only"])?;
    let degree = spec.whole("degree", 2..=3)?.unwrap_or(2) as usize;
    let interaction_only = spec.flag("interaction_only", false)?;
    let fields = spec.dense(|kind| kind != DenseKind::Timestamp)?;
    let mut after = layout.clone();
    let mut factors = Vec::new();
    // The products of one length, as (column, place of its last factor, names of its factors).
    let name = |i: usize| layout.dense[i].0.as_str();
    let mut shorter: Vec<(usize, usize, Vec<&str>)> =
        fields.iter().enumerate().map(|(place, i)| (*i, place, vec![name(*i)])).collect();
    for _ in 2..=degree {
        let mut longer = Vec::new();
        for (column, last, names) in &shorter {
            let from = if interaction_only { last + 1 } else { *last };
            for (place, &field) in fields.iter().enumerate().skip(from) {
                if after.dense.len() >= COLUMNS_MAX {
                    return Err(Fault::misuse(format!("polynomial: more than {COLUMNS_MAX} columns"))
                        .hint("name fewer fields, or lower the degree"));
                }
                let mut names = names.clone();
                names.push(name(field));
                longer.push((after.dense.len(), place, names.clone()));
                factors.push((*column as u32, field as u32));
                names.sort_unstable();
                after.dense.push((names.join("*"), DenseKind::Number));
            }
        }
        shorter = longer;
    }
    if factors.is_empty() {
        return Err(Fault::misuse("fields: one field has no product with another")
            .hint("name two fields or more, or leave interaction_only out"));
    }
    Ok((Box::new(Polynomial { factors }), after))
}

impl Step for Polynomial {
    fn learns(&self) -> bool {
        false
    }
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        row.dense.reserve(self.factors.len());
        for (a, b) in &self.factors {
            row.dense.push(tame(row.dense[*a as usize] * row.dense[*b as usize]));
        }
    }
}
