//! The schema of an event: fields, their types, roles and what to do where one is missing.
//!
//! A validated schema gives each field a slot in the batch: a number (float, int, bool, timestamp) or
//! a token (category, text; and key and id whatever their type). Number features come first, in the
//! schema's order, so a row's features are one contiguous slice.

use crate::error::{Fault, Result};
use serde::{Deserialize, Serialize};

/// The type of a field's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// A finite f64.
    Float,
    /// A whole number; beyond ±2^53 it overflows, which is missing.
    Int,
    /// true/false, 1/0, yes/no (any case in CSV). Held as 1 and 0.
    Bool,
    /// One of a set of strings (or literals, taken as they are written).
    Category,
    /// Free text, UTF-8.
    Text,
    /// RFC 3339 text, or a number of milliseconds since 1970-01-01 UTC. Held as milliseconds.
    Timestamp,
}

impl FieldType {
    /// The name used in specs and messages.
    pub fn name(self) -> &'static str {
        match self {
            FieldType::Float => "float",
            FieldType::Int => "int",
            FieldType::Bool => "bool",
            FieldType::Category => "category",
            FieldType::Text => "text",
            FieldType::Timestamp => "timestamp",
        }
    }
    /// True for types that are held as numbers.
    pub fn is_number(self) -> bool {
        !matches!(self, FieldType::Category | FieldType::Text)
    }
}

/// What happens where a feature is missing (absent, null, empty, NaN, infinite or overflowing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// The running mean; for a category, a class of its own.
    #[default]
    Impute,
    /// Zero.
    Zero,
    /// The event becomes a dead letter.
    Reject,
    /// NaN goes on to a model that routes it; refused with others.
    Keep,
}

/// What a field is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Part of what is learned from.
    Feature,
    /// What is predicted.
    Label,
    /// Echoed in the prediction.
    Key,
    /// Echoed in the prediction.
    Id,
    /// The event's time.
    Time,
    /// How much the event counts (default 1).
    Weight,
}

/// Where a field stands in a row of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Index into the row's numbers.
    Number(usize),
    /// Index into the row's tokens.
    Token(usize),
}

/// One field of a schema as it is written in a spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FieldSpec {
    /// `name = "float"`
    Short(FieldType),
    /// `name = { type = "float", missing = "zero" }`
    Long(LongField),
}

/// The long form of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongField {
    /// The type.
    #[serde(rename = "type")]
    pub ty: FieldType,
    /// What happens where it is missing.
    #[serde(default)]
    pub missing: Missing,
}

/// A schema as it is written in a spec: fields in their order, and the names of those with a role.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaSpec {
    /// The field that is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The field echoed as `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The field that holds the event's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The field that holds the event's weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// The field echoed as `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Most classes of a category label that are told apart (default 64); an event of a further class
    /// is scored, and nothing is learned from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_max: Option<usize>,
    /// Fields that are known but not used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Name → type.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// A field with its place in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in events.
    pub name: String,
    /// Its type.
    pub ty: FieldType,
    /// What happens where it is missing.
    pub missing: Missing,
    /// What it is for.
    pub role: Role,
    /// Where it stands in a row.
    pub slot: Slot,
}

/// A validated schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The fields in the spec's order (ignored ones left out).
    pub fields: Vec<Field>,
    /// Names of fields that are known but not used.
    pub ignore: Vec<String>,
    /// How many of a row's numbers are features: they are the first ones.
    pub feature_numbers: usize,
    /// How many of a row's tokens are features: they are the first ones.
    pub feature_tokens: usize,
    /// Numbers a row.
    pub number_stride: usize,
    /// Tokens a row.
    pub token_stride: usize,
}

/// Most fields that a schema may have.
pub const FIELDS_MAX: usize = 65_535;

impl Schema {
    /// Checks a spec and gives each field its slot.
    ///
    /// # Errors
    /// Misuse, naming the field: no field, an unknown type, a role for a field that isn't there, a
    /// field with two roles, a label or weight of a type that cannot serve.
    pub fn from_spec(spec: &SchemaSpec) -> Result<Schema> {
        let mut fields = Vec::new();
        if spec.fields.is_empty() {
            return Err(Fault::misuse("schema.fields is empty").hint("name at least one field and its type"));
        }
        if spec.fields.len() > FIELDS_MAX {
            return Err(Fault::misuse(format!("schema.fields: {} fields; at most {FIELDS_MAX}", spec.fields.len())));
        }
        let roles = [
            (&spec.label, Role::Label, "label"),
            (&spec.key, Role::Key, "key"),
            (&spec.time, Role::Time, "time"),
            (&spec.weight, Role::Weight, "weight"),
            (&spec.id, Role::Id, "id"),
        ];
        for (name, _, role) in &roles {
            if let Some(name) = name
                && !spec.fields.contains_key(name.as_str())
            {
                return Err(Fault::misuse(format!("schema.{role} = {name:?}: no such field in schema.fields")));
            }
        }
        for name in &spec.ignore {
            if !spec.fields.contains_key(name.as_str()) {
                return Err(Fault::misuse(format!("schema.ignore names {name:?}: no such field in schema.fields")));
            }
        }
        for (name, value) in &spec.fields {
            let field = parse_field(name, value)?;
            let mut role = Role::Feature;
            for (_, r, r_name) in roles.iter().filter(|(n, ..)| n.as_deref() == Some(name.as_str())) {
                if role != Role::Feature {
                    return Err(Fault::misuse(format!(
                        "schema.{r_name} = {name:?}: the field has another role already"
                    )));
                }
                role = *r;
            }
            if spec.ignore.contains(name) {
                if role != Role::Feature {
                    return Err(Fault::misuse(format!("schema.ignore names {name:?}, which has a role")));
                }
                continue;
            }
            check_role(name, field.ty, role)?;
            fields.push(Field {
                name: name.clone(),
                ty: field.ty,
                missing: field.missing,
                role,
                slot: Slot::Number(0),
            });
        }
        Ok(Schema::place(fields, spec.ignore.clone()))
    }

    fn place(mut fields: Vec<Field>, ignore: Vec<String>) -> Schema {
        let (mut numbers, mut tokens) = (0, 0);
        let (mut feature_numbers, mut feature_tokens) = (0, 0);
        for pass in [true, false] {
            for field in fields.iter_mut().filter(|f| (f.role == Role::Feature) == pass) {
                let as_token = !field.ty.is_number() || matches!(field.role, Role::Key | Role::Id);
                if as_token {
                    field.slot = Slot::Token(tokens);
                    tokens += 1;
                } else {
                    field.slot = Slot::Number(numbers);
                    numbers += 1;
                }
            }
            if pass {
                (feature_numbers, feature_tokens) = (numbers, tokens);
            }
        }
        Schema { fields, ignore, feature_numbers, feature_tokens, number_stride: numbers, token_stride: tokens }
    }

    /// The field of a role, if the schema has one.
    pub fn role(&self, role: Role) -> Option<&Field> {
        self.fields.iter().find(|f| f.role == role)
    }
    /// The label's field, if the schema has one.
    pub fn label(&self) -> Option<&Field> {
        self.role(Role::Label)
    }
    /// The features, in the schema's order.
    pub fn features(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|f| f.role == Role::Feature)
    }
    /// Index of a field by its name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }
    /// True where both have the same fields of the same types and roles: their batches are interchangeable.
    pub fn same_shape(&self, other: &Schema) -> bool {
        self.fields.len() == other.fields.len()
            && self
                .fields
                .iter()
                .zip(&other.fields)
                .all(|(a, b)| a.name == b.name && a.ty == b.ty && a.role == b.role && a.slot == b.slot)
    }
}

fn parse_field(name: &str, value: &serde_json::Value) -> Result<LongField> {
    let types = "float, int, bool, category, text or timestamp";
    let parsed = match value {
        serde_json::Value::String(_) => {
            serde_json::from_value(value.clone()).map(|ty| LongField { ty, missing: Missing::default() })
        }
        _ => serde_json::from_value(value.clone()),
    };
    parsed.map_err(|e| {
        Fault::misuse(format!("schema.fields.{name}: {e}")).hint(format!(
            "a type ({types}), or {{ type = …, missing = \"impute\" | \"zero\" | \"reject\" | \"keep\" }}"
        ))
    })
}

fn check_role(name: &str, ty: FieldType, role: Role) -> Result<()> {
    let fits = match role {
        Role::Feature | Role::Key | Role::Id => true,
        Role::Label => !matches!(ty, FieldType::Text | FieldType::Timestamp),
        Role::Time => matches!(ty, FieldType::Timestamp | FieldType::Int | FieldType::Float),
        Role::Weight => matches!(ty, FieldType::Float | FieldType::Int),
    };
    if fits {
        return Ok(());
    }
    Err(Fault::misuse(format!("schema.fields.{name}: a {} cannot be the {role:?}", ty.name()).to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> SchemaSpec {
        toml::from_str(text).expect("spec")
    }

    #[test]
    fn features_come_first_and_roles_after() {
        let s = Schema::from_spec(&spec(
            "label='y'\nid='i'\n[fields]\ny='bool'\na='float'\nc='category'\ni='int'\nb={type='int',missing='zero'}",
        ))
        .expect("schema");
        assert_eq!((s.feature_numbers, s.feature_tokens, s.number_stride, s.token_stride), (2, 1, 3, 2));
        assert_eq!(s.label().expect("label").slot, Slot::Number(2));
        assert_eq!(s.role(Role::Id).expect("id").slot, Slot::Token(1));
        assert_eq!(s.fields[4].missing, Missing::Zero);
    }

    #[test]
    fn faults_name_the_field() {
        for (text, part) in [
            ("[fields]", "empty"),
            ("label='z'\n[fields]\na='float'", "\"z\""),
            ("[fields]\na='flaot'", "schema.fields.a"),
            ("label='a'\nid='a'\n[fields]\na='int'", "another role"),
            ("label='a'\n[fields]\na='text'", "text"),
        ] {
            let fault = Schema::from_spec(&spec(text)).expect_err(text);
            assert!(fault.message.contains(part), "{fault}");
        }
    }
}
