//! `select` keeps the named fields and `drop` removes them; both leave hashed features alone.
//!
//! Option of both: `fields` (required). The fields that stay keep the order they came in.

use super::columns::Keep;
use super::spec::{Chosen, Spec};
use super::{Built, Layout, Row, Step};
use crate::error::{Fault, Result};
use serde_json::{Map, Value};

struct Select {
    dense: Keep,
    tokens: Keep,
}

/// Builds `select` from its spec.
pub(super) fn build_select(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let chosen = chosen(spec, layout)?;
    Ok(finish(Select { dense: Keep::only(chosen.dense), tokens: Keep::only(chosen.tokens) }, layout))
}

/// Builds `drop` from its spec.
pub(super) fn build_drop(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let chosen = chosen(spec, layout)?;
    let all = chosen.dense.len() == layout.dense.len() && chosen.tokens.len() == layout.tokens.len();
    if all && layout.slots == 0 {
        return Err(Fault::misuse("fields: nothing is left for the model").hint("drop fewer fields"));
    }
    let dense = Keep::all_but(layout.dense.len(), &chosen.dense);
    Ok(finish(Select { dense, tokens: Keep::all_but(layout.tokens.len(), &chosen.tokens) }, layout))
}

fn chosen(spec: &Map<String, Value>, layout: &Layout) -> Result<Chosen> {
    let spec = Spec::new(spec, layout, &["fields"])?;
    spec.fields()?.ok_or_else(|| Fault::misuse("fields: missing").hint("a list of field names"))
}

fn finish(step: Select, layout: &Layout) -> (Box<dyn Step>, Layout) {
    let after = Layout {
        dense: step.dense.names(&layout.dense),
        tokens: step.tokens.names(&layout.tokens),
        slots: layout.slots,
    };
    (Box::new(step), after)
}

impl Step for Select {
    fn learns(&self) -> bool {
        false
    }
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        self.dense.apply(&mut row.dense);
        self.tokens.apply(&mut row.tokens);
    }
}
