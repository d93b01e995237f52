//! Generated streams, from their papers: every event is a function of the options and its number.
//!
//! Concepts drift in two ways: weights and centres move with `drift.speed`, and with `drift.every`
//! the labelling function changes after so many events, at once or over `drift.width` events, in
//! which the new concept's share grows as a sigmoid (as in MOA's concept-drift streams: an event t is
//! of the new concept with probability 1 / (1 + e^(−4 (t − p) / width)) around the change at p).

mod concepts;
mod draws;
mod rows;

use super::Framing;
use crate::error::{Fault, Result};
use crate::schema::FieldType;
use draws::Draws;
use rows::RowWriter;
use serde::{Deserialize, Serialize};

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Rotating hyperplane; fields `f0`…, label bool.
    Hyperplane,
    /// SEA concepts; fields `x1 x2 x3`, label bool.
    Sea,
    /// Loan applicants; nine fields, label bool.
    Agrawal,
    /// A digit's segments; fields `d0`…`d23`, label category.
    Led,
    /// Random radial basis functions; fields `f0`…, label category.
    Rbf,
    /// STAGGER; fields `size color shape`, label bool.
    Stagger,
}

impl Kind {
    /// All streams.
    pub const ALL: [Kind; 6] = [Kind::Hyperplane, Kind::Sea, Kind::Agrawal, Kind::Led, Kind::Rbf, Kind::Stagger];

    /// The name used in configs.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hyperplane => "hyperplane",
            Kind::Sea => "sea",
            Kind::Agrawal => "agrawal",
            Kind::Led => "led",
            Kind::Rbf => "rbf",
            Kind::Stagger => "stagger",
        }
    }

    /// The stream of a name.
    ///
    /// # Errors
    /// Misuse, naming those that there are.
    pub fn from_name(name: &str) -> Result<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name).ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            Fault::misuse(format!("source.generator = {name:?}: no such generator")).hint(format!("one of {names}"))
        })
    }
}

/// How a stream's concept changes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drift {
    /// Events from one concept to the next; 0: never.
    pub every: u64,
    /// Events over which a change takes place; 0: at once.
    pub width: u64,
    /// Movement an event (hyperplane: of each weight; rbf: of each centre), in [0, 1].
    pub speed: f64,
    /// How many weights move (hyperplane); 0: all.
    pub features: usize,
}

/// A stream's parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorOptions {
    /// Which stream.
    pub kind: Kind,
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// Number of features (hyperplane, rbf), 1 to 10,000; the others have their own.
    pub features: usize,
    /// Number of classes (rbf), 2 to 20.
    pub classes: usize,
    /// Share of wrong labels (led: of wrong segments), in [0, 1].
    pub noise: f64,
    /// The concept to begin with.
    pub concept: u64,
    /// How it changes.
    pub drift: Drift,
}

impl GeneratorOptions {
    /// The parameters that the papers and MOA use by default.
    pub fn new(kind: Kind, seed: u64) -> GeneratorOptions {
        let features = match kind {
            Kind::Hyperplane => 20,
            Kind::Rbf => 10,
            Kind::Sea | Kind::Stagger => 3,
            Kind::Agrawal => 9,
            Kind::Led => 24,
        };
        let noise = match kind {
            Kind::Hyperplane => 0.05,
            Kind::Sea | Kind::Led => 0.1,
            Kind::Agrawal | Kind::Rbf | Kind::Stagger => 0.0,
        };
        GeneratorOptions { kind, seed, features, classes: 2, noise, concept: 0, drift: Drift::default() }
    }

    fn check(&self) -> Result<()> {
        let default = GeneratorOptions::new(self.kind, 0);
        let is_free = matches!(self.kind, Kind::Hyperplane | Kind::Rbf);
        if !is_free && self.features != default.features || !(1..=10_000).contains(&self.features) {
            let allowed = if is_free { "1 to 10000".to_string() } else { default.features.to_string() };
            return Err(Fault::misuse(format!("{} with features = {}", self.kind.name(), self.features))
                .hint(format!("allowed: {allowed}")));
        }
        if !(2..=concepts::CLASSES_MAX).contains(&self.classes) {
            return Err(Fault::misuse(format!("classes = {}", self.classes)).hint("allowed: 2 to 20"));
        }
        for (name, value) in [("noise", self.noise), ("drift.speed", self.drift.speed)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Fault::misuse(format!("{name} = {value}")).hint("allowed: 0 to 1"));
            }
        }
        Ok(())
    }

    /// The fields in their order, the label last, under the name `label`.
    pub fn fields(&self) -> Vec<(String, FieldType)> {
        let named = |names: &[&str], ty| names.iter().map(|n| (n.to_string(), ty)).collect::<Vec<_>>();
        let numbered = |prefix: &str, ty| (0..self.features).map(|i| (format!("{prefix}{i}"), ty)).collect();
        let mut fields: Vec<_> = match self.kind {
            Kind::Hyperplane | Kind::Rbf => numbered("f", FieldType::Float),
            Kind::Sea => named(&["x1", "x2", "x3"], FieldType::Float),
            Kind::Led => numbered("d", FieldType::Int),
            Kind::Stagger => named(&["size", "color", "shape"], FieldType::Category),
            Kind::Agrawal => [
                named(&["salary", "commission", "age", "elevel"], FieldType::Int),
                named(&["car", "zipcode"], FieldType::Category),
                named(&["hvalue", "hyears", "loan"], FieldType::Int),
            ]
            .concat(),
        };
        let label = if matches!(self.kind, Kind::Led | Kind::Rbf) { FieldType::Category } else { FieldType::Bool };
        fields.push(("label".to_string(), label));
        fields
    }
}

/// The `[schema]` text of a pipeline spec that fits a stream.
pub fn schema_toml(options: &GeneratorOptions) -> String {
    let mut text = "[schema]\nlabel = \"label\"\n\n[schema.fields]\n".to_string();
    for (name, ty) in options.fields() {
        text += &format!("{name} = \"{}\"\n", ty.name());
    }
    text
}

/// The header line of a stream's CSV, with its line's end.
pub fn csv_header(options: &GeneratorOptions) -> String {
    let names: Vec<String> = options.fields().into_iter().map(|f| f.0).collect();
    names.join(",") + "\n"
}

/// Appends events `from..from + count` of a stream, in a format. CSV rows come without a header.
///
/// # Errors
/// Misuse, where an option is out of range.
pub fn write_rows(
    options: &GeneratorOptions,
    framing: Framing,
    from: u64,
    count: u64,
    out: &mut Vec<u8>,
) -> Result<()> {
    let mut generator = Generator::new(options, framing)?;
    for event in from..from + count {
        generator.write(event, out);
    }
    Ok(())
}

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cell {
    /// Millionths.
    Micro(i64),
    Whole(i64),
    Flag(bool),
    Word(&'static str),
}

/// The parameters of a concept, for the streams that draw them.
#[derive(Debug, Clone)]
enum Concept {
    Hyperplane(concepts::Hyperplane),
    Rbf(concepts::Rbf),
    Fixed,
}

/// Makes the events of a stream, each by its number.
#[derive(Debug, Clone)]
pub struct Generator {
    options: GeneratorOptions,
    writer: RowWriter,
    cells: Vec<Cell>,
    /// The concepts in use, with their numbers: at most the two that a change stands between.
    concepts: [(u64, Concept); 2],
}

impl Generator {
    /// A generator of rows in a format.
    ///
    /// # Errors
    /// Misuse, where an option is out of range.
    pub fn new(options: &GeneratorOptions, framing: Framing) -> Result<Generator> {
        options.check()?;
        let names: Vec<String> = options.fields().into_iter().map(|f| f.0).collect();
        let concept = |number| (number, concept_of(options, number));
        let concepts = [concept(options.concept), concept(options.concept.wrapping_add(1))];
        let cells = vec![Cell::Whole(0); names.len()];
        Ok(Generator { options: options.clone(), writer: RowWriter::new(framing, &names), cells, concepts })
    }

    /// Appends one event.
    pub fn write(&mut self, event: u64, out: &mut Vec<u8>) {
        let mut draws = Draws::of_event(self.options.seed, event);
        let number = self.concept_at(event, &mut draws);
        let slot = self.slot_of(number);
        let label = self.options.features;
        let (cells, rest) = self.cells.split_at_mut(label);
        let options = &self.options;
        let truth = match (&self.concepts[slot].1, options.kind) {
            (Concept::Hyperplane(plane), _) => Cell::Flag(plane.row(event, &mut draws, cells)),
            (Concept::Rbf(rbf), _) => rbf.row(event, &mut draws, cells),
            (_, Kind::Sea) => Cell::Flag(concepts::sea(number, &mut draws, cells)),
            (_, Kind::Agrawal) => Cell::Flag(concepts::agrawal(number, &mut draws, cells)),
            (_, Kind::Led) => concepts::led(number, options.noise, &mut draws, cells),
            _ => Cell::Flag(concepts::stagger(number, &mut draws, cells)),
        };
        rest[0] = match truth {
            Cell::Flag(flag) => Cell::Flag(flag ^ (options.noise > 0.0 && draws.unit() < options.noise)),
            other => other,
        };
        self.writer.row(event, &self.cells, out);
    }

    /// The concept of an event.
    fn concept_at(&self, event: u64, draws: &mut Draws) -> u64 {
        let Drift { every, width, .. } = self.options.drift;
        if every == 0 {
            return self.options.concept;
        }
        let mut number = event / every;
        if width > 0 {
            let change = event.saturating_add(every / 2) / every;
            if change > 0 {
                let distance = event as f64 - (change as f64 * every as f64);
                let share = 1.0 / (1.0 + libm::exp(-4.0 * distance / width as f64));
                number = if draws.unit() < share { change } else { change - 1 };
            }
        }
        self.options.concept.wrapping_add(number)
    }

    /// Where the parameters of a concept are kept; they are drawn anew if they aren't.
    fn slot_of(&mut self, number: u64) -> usize {
        let slot = (number % 2) as usize;
        if let Some(slot) = self.concepts.iter().position(|c| c.0 == number) {
            return slot;
        }
        self.concepts[slot] = (number, concept_of(&self.options, number));
        slot
    }
}

fn concept_of(options: &GeneratorOptions, number: u64) -> Concept {
    match options.kind {
        Kind::Hyperplane => Concept::Hyperplane(concepts::Hyperplane::new(options, number)),
        Kind::Rbf => Concept::Rbf(concepts::Rbf::new(options, number)),
        _ => Concept::Fixed,
    }
}

#[cfg(test)]
mod tests;
