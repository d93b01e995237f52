//! From a key to what it means: an open-addressed table over the names of the schema.

use super::row::Target;
use crate::schema::Schema;

/// The names of a schema's fields and their targets. Names come from the schema alone, so the table
/// cannot be grown or crowded by events.
#[derive(Debug)]
pub(super) struct Keys {
    /// Power-of-two many; index + 1 into `names`, 0 where empty. At most a quarter is taken.
    table: Vec<u32>,
    names: Vec<Name>,
}

#[derive(Debug)]
struct Name {
    /// First and last eight bytes (the same where it is shorter), zeros behind a shorter one.
    ends: (u64, u64),
    bytes: Box<[u8]>,
    target: Target,
}

const WORD: usize = 8;

/// First and last eight bytes of `row[start..end]`.
#[inline(always)]
fn ends(row: &[u8], start: usize, end: usize) -> (u64, u64) {
    let word = |at: usize| row.get(at..).and_then(|r| r.first_chunk()).map(|chunk| u64::from_le_bytes(*chunk));
    let length = end - start;
    if length > WORD {
        return (word(start).unwrap_or(0), word(end - WORD).unwrap_or(0));
    }
    let first = match word(start) {
        Some(word) if length == WORD => word,
        Some(word) => word & ((1 << (8 * length)) - 1),
        None => row[start..end].iter().rev().fold(0, |word, &b| word << 8 | u64::from(b)),
    };
    (first, first)
}

fn hash(ends: (u64, u64), length: usize) -> usize {
    let mixed = (ends.0 ^ ends.1.rotate_left(29) ^ length as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 32) as usize
}

impl Keys {
    pub(super) fn new(schema: &Schema) -> Keys {
        let names: Vec<Name> = schema
            .fields
            .iter()
            .zip(Target::all(schema))
            .map(|(field, target)| {
                let bytes: Box<[u8]> = field.name.as_bytes().into();
                Name { ends: ends(&bytes, 0, bytes.len()), bytes, target }
            })
            .collect();
        let mut table = vec![0; (names.len() * 4).next_power_of_two()];
        for (i, name) in names.iter().enumerate() {
            let mut at = hash(name.ends, name.bytes.len()) & (table.len() - 1);
            while table[at] != 0 {
                at = (at + 1) & (table.len() - 1);
            }
            table[at] = i as u32 + 1;
        }
        Keys { table, names }
    }

    /// The target of the key `row[start..end]`; [`Target::SKIP`] where the schema has no such field.
    #[inline(always)]
    pub(super) fn find(&self, row: &[u8], start: usize, end: usize) -> Target {
        let (ends, length) = (ends(row, start, end), end - start);
        let mut at = hash(ends, length) & (self.table.len() - 1);
        while let Some(index) = self.table[at].checked_sub(1) {
            let name = &self.names[index as usize];
            if name.ends == ends && name.bytes.len() == length && (length <= 2 * WORD || *name.bytes == row[start..end])
            {
                return name.target;
            }
            at = (at + 1) & (self.table.len() - 1);
        }
        Target::SKIP
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Field, FieldType, Missing, Role, Slot};

    #[test]
    fn names_of_every_length_are_found_and_their_neighbours_are_not() {
        let names: Vec<String> = (0..60).flat_map(|n| ["a", "b"].map(|c| c.repeat(n))).skip(1).collect();
        let field = |(i, name): (usize, &String)| Field {
            name: name.clone(),
            ty: FieldType::Float,
            missing: Missing::Impute,
            role: Role::Feature,
            slot: Slot::Number(i),
        };
        let fields: Vec<Field> = names.iter().enumerate().map(field).collect();
        let count = fields.len();
        let schema = Schema {
            fields,
            ignore: Vec::new(),
            feature_numbers: count,
            feature_tokens: 0,
            number_stride: count,
            token_stride: 0,
        };
        let keys = Keys::new(&schema);
        for (i, name) in names.iter().enumerate() {
            for around in ["", "x", "behind the key there is more"] {
                let row = format!("{around}{name}{around}");
                let found = keys.find(row.as_bytes(), around.len(), around.len() + name.len());
                assert_eq!((found.field as usize, found.slot as usize), (i, i), "{name}");
            }
            let mut other = name.clone().into_bytes();
            for at in 0..other.len() {
                other[at] ^= 8;
                assert_eq!(keys.find(&other, 0, other.len()), Target::SKIP, "{name} {at}");
                other[at] ^= 8;
            }
            assert_eq!(keys.find(format!("{name}\0").as_bytes(), 0, name.len() + 1), Target::SKIP);
        }
    }
}
