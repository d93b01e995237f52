//! `one-hot`: a category becomes 0/1 columns.
//!
//! A field's categories get its columns in order of appearance, from learned events only, up to
//! `categories_max` (default 64). Two more columns stand behind them: one for every *other* category
//! (not learned yet, beyond the limit, or longer than [`CATEGORY_BYTES_MAX`]) and one for a *missing* one.
//! The columns are named `field.0` …, `field.other` and `field.missing`; the field itself is gone.
//! Option beside: `fields` (default: all categories).

use super::columns::Keep;
use super::spec::Spec;
use super::{Built, DenseKind, Layout, Row, Step};
use crate::batch::{Token, TokenKind};
use crate::error::{Fault, Result};
use crate::state::State;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

/// Longest category that is remembered; a longer one is *other*.
pub const CATEGORY_BYTES_MAX: usize = 1_024;

/// The categories of one field, in order of appearance.
#[derive(Debug, Default)]
struct Dictionary {
    categories: Vec<Vec<u8>>,
    /// (hash, number), ascending. Of two categories with one hash the second is never learned.
    by_hash: Vec<(u64, u32)>,
}

impl Dictionary {
    fn find(&self, category: &[u8]) -> Option<usize> {
        let at = self.by_hash.binary_search_by_key(&xxh3_64(category), |e| e.0).ok()?;
        let number = self.by_hash[at].1 as usize;
        (self.categories[number] == category).then_some(number)
    }
    fn learn(&mut self, category: &[u8], categories_max: usize) {
        if self.categories.len() >= categories_max || category.len() > CATEGORY_BYTES_MAX {
            return;
        }
        let hash = xxh3_64(category);
        if let Err(at) = self.by_hash.binary_search_by_key(&hash, |e| e.0) {
            self.by_hash.insert(at, (hash, self.categories.len() as u32));
            self.categories.push(category.to_vec());
        }
    }
}

struct OneHot {
    fields: Vec<usize>,
    keep: Keep,
    categories_max: usize,
    dictionaries: Vec<Dictionary>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["fields", "categories_max"])?;
    let categories_max = spec.whole("categories_max", 1..=65_534)?.unwrap_or(64) as usize;
    let fields = spec.categories()?;
    let keep = Keep::all_but(layout.tokens.len(), &fields);
    let mut after = layout.clone();
    after.tokens = keep.names(&layout.tokens);
    if fields.len() * (categories_max + 2) > super::COLUMNS_MAX {
        let columns = fields.len() * (categories_max + 2);
        return Err(Fault::misuse(format!("categories_max: one-hot would make {columns} columns"))
            .hint(format!("at most {}; hash fields of so many categories", super::COLUMNS_MAX)));
    }
    for field in &fields {
        let name = &layout.tokens[*field].0;
        for number in 0..categories_max {
            after.dense.push((format!("{name}.{number}"), DenseKind::Bool));
        }
        after.dense.push((format!("{name}.other"), DenseKind::Bool));
        after.dense.push((format!("{name}.missing"), DenseKind::Bool));
    }
    let dictionaries = fields.iter().map(|_| Dictionary::default()).collect();
    Ok((Box::new(OneHot { fields, keep, categories_max, dictionaries }), after))
}

impl OneHot {
    /// The column of a token, counted from its field's first.
    fn column(&self, dictionary: &Dictionary, token: Token, text: &[u8]) -> usize {
        match token.kind {
            TokenKind::Missing => self.categories_max + 1,
            _ => dictionary.find(token.span.of(text)).unwrap_or(self.categories_max),
        }
    }
}

impl Step for OneHot {
    fn transform(&self, row: &mut Row, text: &[u8]) {
        for (field, dictionary) in self.fields.iter().zip(&self.dictionaries) {
            let first = row.dense.len();
            row.dense.resize(first + self.categories_max + 2, 0.0);
            row.dense[first + self.column(dictionary, row.tokens[*field], text)] = 1.0;
        }
        self.keep.apply(&mut row.tokens);
    }

    fn learn(&mut self, row: &Row, text: &[u8], _weight: f64) {
        for (field, dictionary) in self.fields.iter().zip(&mut self.dictionaries) {
            let token = row.tokens[*field];
            if token.kind != TokenKind::Missing {
                dictionary.learn(token.span.of(text), self.categories_max);
            }
        }
    }

    fn save(&self, state: &mut State, prefix: &str) {
        let all: Vec<&Vec<u8>> = self.dictionaries.iter().flat_map(|d| &d.categories).collect();
        let sizes: Vec<u64> = self.dictionaries.iter().map(|d| d.categories.len() as u64).collect();
        state.put_strings(&format!("{prefix}categories"), &all);
        state.put_u64(format!("{prefix}categories.sizes"), &sizes);
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let name = format!("{prefix}categories");
        let mut all = state.get_strings(&name)?.into_iter();
        let sizes = state.get_u64(&format!("{name}.sizes"), Some(self.fields.len()))?;
        let damaged = |what: &str| Fault::corruption(format!("tensor {name:?}: {what}"));
        for (dictionary, size) in self.dictionaries.iter_mut().zip(sizes) {
            *dictionary = Dictionary::default();
            let size = usize::try_from(*size).unwrap_or(usize::MAX);
            if size > self.categories_max {
                return Err(damaged("more categories than categories_max"));
            }
            for category in all.by_ref().take(size) {
                dictionary.learn(&category, self.categories_max);
            }
            if dictionary.categories.len() != size {
                return Err(damaged("a category is missing, repeated or too long"));
            }
        }
        if all.next().is_some() {
            return Err(damaged("more categories than its sizes say"));
        }
        Ok(())
    }
}
