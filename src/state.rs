//! Learned state as named tensors: what steps and models save and load, and the artifact format stores.
//!
//! Everything that changes a later score is in here, bit for bit: weights, statistics, optimizer
//! moments, counters, dictionaries, rows waiting for a learning unit. Names are paths like
//! `model.weights` or `steps.0.mean`; a component writes under the prefix that it was given.

use crate::error::{Fault, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The highest count that a state may hold: no stream has as many events, and every f64 up to here is exact.
pub const COUNT_MAX: u64 = 1 << 53;

/// The data of a tensor. Little-endian in files.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Signed 64-bit integers.
    I64(Vec<i64>),
    /// Unsigned 64-bit integers.
    U64(Vec<u64>),
    /// Unsigned 32-bit integers.
    U32(Vec<u32>),
    /// Bytes.
    U8(Vec<u8>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F64(v) => v.len(),
            Data::F32(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::U64(v) => v.len(),
            Data::U32(v) => v.len(),
            Data::U8(v) => v.len(),
        }
    }
    /// True where there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Its bytes as they are in files: little-endian.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        if cfg!(target_endian = "little") {
            return Cow::Borrowed(match self {
                Data::F64(v) => memory_of(v),
                Data::F32(v) => memory_of(v),
                Data::I64(v) => memory_of(v),
                Data::U64(v) => memory_of(v),
                Data::U32(v) => memory_of(v),
                Data::U8(v) => v,
            });
        }
        match self {
            Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::U64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::U32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::U8(v) => Cow::Borrowed(v),
        }
    }
    /// The name of the element type, as safetensors spells it.
    pub fn dtype(&self) -> &'static str {
        match self {
            Data::F64(_) => "F64",
            Data::F32(_) => "F32",
            Data::I64(_) => "I64",
            Data::U64(_) => "U64",
            Data::U32(_) => "U32",
            Data::U8(_) => "U8",
        }
    }
}

/// The bytes of numbers as they lie in memory.
fn memory_of<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: a `Number` has no bytes that aren't set, any address is fit for bytes, and they live as long.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// A primitive number: all of its bytes are set.
trait Number {}
impl Number for f64 {}
impl Number for f32 {}
impl Number for i64 {}
impl Number for u64 {}
impl Number for u32 {}

/// A tensor: a shape and its data, row-major. An empty shape is a scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Length of each dimension; the product is the number of elements.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data,
}

/// Named tensors, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Name → tensor.
    pub tensors: BTreeMap<String, Tensor>,
    spare: Spare,
}

/// Memory of an earlier state, by the names of its tensors; the numbers in it mean nothing.
#[derive(Clone, Default)]
struct Spare(BTreeMap<String, Vec<f64>>);

impl PartialEq for Spare {
    fn eq(&self, _: &Spare) -> bool {
        true
    }
}

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} spare", self.0.len())
    }
}

impl State {
    /// An empty state.
    pub fn new() -> State {
        State::default()
    }
    /// An empty state that takes the memory of another one, which is no longer needed, for tensors of the same names.
    pub fn in_memory_of(old: State) -> State {
        let spare = old.tensors.into_iter().filter_map(|(name, tensor)| match tensor.data {
            Data::F64(values) => Some((name, values)),
            _ => None,
        });
        State { tensors: BTreeMap::new(), spare: Spare(spare.collect()) }
    }
    /// Stores a tensor. Shape and data must agree.
    pub fn put(&mut self, name: impl Into<String>, shape: &[usize], data: Data) {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "shape and data of a tensor disagree");
        self.tensors.insert(name.into(), Tensor { shape: shape.to_vec(), data });
    }
    /// Stores a vector of f64.
    pub fn put_f64(&mut self, name: impl Into<String>, values: &[f64]) {
        self.fill_f64(name, &[values.len()], |out| out.extend_from_slice(values));
    }
    /// Stores a tensor of f64 that `fill` appends to an empty vector.
    pub fn fill_f64(&mut self, name: impl Into<String>, shape: &[usize], fill: impl FnOnce(&mut Vec<f64>)) {
        let name = name.into();
        let mut values = self.spare.0.remove(&name).unwrap_or_default();
        values.clear();
        values.reserve_exact(shape.iter().product());
        fill(&mut values);
        self.put(name, shape, Data::F64(values));
    }
    /// Stores a vector of u64.
    pub fn put_u64(&mut self, name: impl Into<String>, values: &[u64]) {
        self.put(name, &[values.len()], Data::U64(values.to_vec()));
    }
    /// Stores strings (any bytes) as one byte tensor `name` and their ends `name.ends`.
    pub fn put_strings<S: AsRef<[u8]>>(&mut self, name: &str, strings: &[S]) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for s in strings {
            bytes.extend_from_slice(s.as_ref());
            ends.push(bytes.len() as u64);
        }
        self.put(name, &[bytes.len()], Data::U8(bytes));
        self.put_u64(format!("{name}.ends"), &ends);
    }
    /// A tensor by name.
    ///
    /// # Errors
    /// Corruption, naming the tensor, if it isn't there.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Fault::corruption(format!("tensor {name:?} is missing")))
    }
    /// A vector of f64, of the given length (`None`: any).
    pub fn get_f64(&self, name: &str, len: Option<usize>) -> Result<&[f64]> {
        match &self.get(name)?.data {
            Data::F64(v) => checked(name, v, len),
            other => Err(wrong_type(name, "F64", other)),
        }
    }
    /// A vector of f32, of the given length (`None`: any).
    pub fn get_f32(&self, name: &str, len: Option<usize>) -> Result<&[f32]> {
        match &self.get(name)?.data {
            Data::F32(v) => checked(name, v, len),
            other => Err(wrong_type(name, "F32", other)),
        }
    }
    /// A vector of u64, of the given length (`None`: any).
    pub fn get_u64(&self, name: &str, len: Option<usize>) -> Result<&[u64]> {
        match &self.get(name)?.data {
            Data::U64(v) => checked(name, v, len),
            other => Err(wrong_type(name, "U64", other)),
        }
    }
    /// A vector of u32, of the given length (`None`: any).
    pub fn get_u32(&self, name: &str, len: Option<usize>) -> Result<&[u32]> {
        match &self.get(name)?.data {
            Data::U32(v) => checked(name, v, len),
            other => Err(wrong_type(name, "U32", other)),
        }
    }
    /// A vector of i64, of the given length (`None`: any).
    pub fn get_i64(&self, name: &str, len: Option<usize>) -> Result<&[i64]> {
        match &self.get(name)?.data {
            Data::I64(v) => checked(name, v, len),
            other => Err(wrong_type(name, "I64", other)),
        }
    }
    /// A vector of bytes, of the given length (`None`: any).
    pub fn get_u8(&self, name: &str, len: Option<usize>) -> Result<&[u8]> {
        match &self.get(name)?.data {
            Data::U8(v) => checked(name, v, len),
            other => Err(wrong_type(name, "U8", other)),
        }
    }
    /// Copies a vector of f64 over `target`, whose length it must have.
    pub fn read_f64(&self, name: &str, target: &mut [f64]) -> Result<()> {
        target.copy_from_slice(self.get_f64(name, Some(target.len()))?);
        Ok(())
    }
    /// A vector of counts, of the given length (`None`: any).
    ///
    /// # Errors
    /// As the others, and Corruption for a number above [`COUNT_MAX`].
    pub fn get_counts(&self, name: &str, len: Option<usize>) -> Result<&[u64]> {
        let counts = self.get_u64(name, len)?;
        match counts.iter().find(|count| **count > COUNT_MAX) {
            Some(bad) => Err(Fault::corruption(format!("tensor {name:?}: {bad} is no count"))),
            None => Ok(counts),
        }
    }
    /// A single count that was stored as a vector of one.
    pub fn get_one_count(&self, name: &str) -> Result<u64> {
        Ok(self.get_counts(name, Some(1))?[0])
    }
    /// A single f64 that was stored as a vector of one.
    pub fn get_one_f64(&self, name: &str) -> Result<f64> {
        Ok(self.get_f64(name, Some(1))?[0])
    }
    /// Strings stored by [`State::put_strings`].
    ///
    /// # Errors
    /// Corruption, if a tensor is missing or the ends don't fit the bytes.
    pub fn get_strings(&self, name: &str) -> Result<Vec<Vec<u8>>> {
        let bytes = self.get_u8(name, None)?;
        let ends = self.get_u64(&format!("{name}.ends"), None)?;
        let mut start = 0usize;
        let mut strings = Vec::with_capacity(ends.len());
        for &end in ends {
            let end = end as usize;
            let string = bytes.get(start..end);
            let string =
                string.ok_or_else(|| Fault::corruption(format!("tensor {name:?}: string ends are out of order")))?;
            strings.push(string.to_vec());
            start = end;
        }
        if start != bytes.len() {
            return Err(Fault::corruption(format!("tensor {name:?}: bytes behind the last string")));
        }
        Ok(strings)
    }
}

fn checked<'a, T>(name: &str, values: &'a [T], len: Option<usize>) -> Result<&'a [T]> {
    match len {
        Some(len) if len != values.len() => {
            Err(Fault::corruption(format!("tensor {name:?} has {} elements; {len} expected", values.len())))
        }
        _ => Ok(values),
    }
}

fn wrong_type(name: &str, expected: &str, found: &Data) -> Fault {
    Fault::corruption(format!("tensor {name:?} is {}; {expected} expected", found.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back() {
        let mut state = State::new();
        state.put_strings("d", &["", "ab", "ü"]);
        assert_eq!(state.get_strings("d").expect("strings"), [b"".to_vec(), b"ab".to_vec(), "ü".into()]);
        state.put_u64("d.ends", &[3, 1, 4]);
        assert!(state.get_strings("d").is_err());
    }

    #[test]
    fn a_count_that_no_stream_reaches_is_damage() {
        let mut state = State::new();
        state.put_u64("n", &[COUNT_MAX, COUNT_MAX]);
        assert_eq!(state.get_counts("n", Some(2)).expect("counts"), [COUNT_MAX; 2]);
        state.put_u64("n", &[COUNT_MAX + 1]);
        assert!(state.get_one_count("n").expect_err("too high").message.contains("no count"));
    }

    #[test]
    fn the_bytes_of_a_tensor_are_little_endian() {
        assert_eq!(*Data::F64(vec![1.5, -0.0]).bytes(), [1.5f64.to_le_bytes(), (-0.0f64).to_le_bytes()].concat());
        assert_eq!(*Data::F32(vec![1.5]).bytes(), 1.5f32.to_le_bytes());
        assert_eq!(*Data::I64(vec![-2]).bytes(), (-2i64).to_le_bytes());
        assert_eq!(*Data::U64(vec![3]).bytes(), 3u64.to_le_bytes());
        assert_eq!(*Data::U32(vec![4, 5]).bytes(), [4, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(*Data::U8(vec![6]).bytes(), [6]);
    }

    #[test]
    fn memory_is_taken_over_and_what_was_in_it_is_not() {
        let mut old = State::new();
        old.put_f64("a", &[1.0; 100]);
        old.put_f64("gone", &[2.0]);
        let place = old.get_f64("a", None).expect("a").as_ptr();
        let mut fresh = State::in_memory_of(old);
        assert_eq!(fresh, State::new());
        fresh.put_f64("a", &[3.0; 60]);
        fresh.put_f64("b", &[4.0]);
        let mut expected = State::new();
        expected.put_f64("a", &[3.0; 60]);
        expected.put_f64("b", &[4.0]);
        assert_eq!(fresh, expected);
        assert_eq!(fresh.get_f64("a", None).expect("a").as_ptr(), place);
    }

    #[test]
    fn faults_name_the_tensor() {
        let mut state = State::new();
        state.put_f64("w", &[1.0]);
        assert!(state.get_f64("w", Some(2)).expect_err("length").message.contains("\"w\""));
        assert!(state.get_u64("w", None).expect_err("type").message.contains("F64"));
        assert!(state.get("v").is_err());
    }
}
