//! From a key to what it means: an open-addressed table over the names of the schema.

use super::row::Target;
use crate::schema::Schema;

/// The names of a schema's fields and their targets. Names come from the schema alone, so the table
/// cannot be grown or crowded by events.
#[derive(Debug)]
pub(super) struct Keys {
    /// Power-of-two many; index + 1 into `names`, 0 where empty. At most a quarter is taken.
    table: Vec<u32>,
    names: Vec<(Box<[u8]>, Target)>,
}

/// First and last eight bytes and the length, mixed.
fn hash(name: &[u8]) -> u64 {
    let load = |at: usize| -> u64 {
        let part = &name[at..name.len().min(at + 8)];
        match part.first_chunk::<8>() {
            Some(whole) => u64::from_le_bytes(*whole),
            None => part.iter().rev().fold(0, |word, &b| word << 8 | u64::from(b)),
        }
    };
    let (first, last) = (load(0), load(name.len().saturating_sub(8)));
    let mixed = (first ^ last.rotate_left(29) ^ name.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ mixed >> 32
}

impl Keys {
    pub(super) fn new(schema: &Schema) -> Keys {
        let names: Vec<(Box<[u8]>, Target)> = schema
            .fields
            .iter()
            .zip(Target::all(schema))
            .map(|(field, target)| (field.name.as_bytes().into(), target))
            .collect();
        let mut table = vec![0; (names.len() * 4).next_power_of_two()];
        for (i, (name, _)) in names.iter().enumerate() {
            let mut at = hash(name) as usize & (table.len() - 1);
            while table[at] != 0 {
                at = (at + 1) & (table.len() - 1);
            }
            table[at] = i as u32 + 1;
        }
        Keys { table, names }
    }

    /// The target of a key; [`Target::SKIP`] where the schema has no such field.
    pub(super) fn find(&self, key: &[u8]) -> Target {
        let mut at = hash(key) as usize & (self.table.len() - 1);
        while let Some(index) = self.table[at].checked_sub(1) {
            let (name, target) = &self.names[index as usize];
            if **name == *key {
                return *target;
            }
            at = (at + 1) & (self.table.len() - 1);
        }
        Target::SKIP
    }
}
