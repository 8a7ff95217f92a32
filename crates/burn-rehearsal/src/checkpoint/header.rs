//! The header of a safetensors file: a JSON object with the type, the shape and the place of every tensor.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key of what is no tensor.
const METADATA: &str = "__metadata__";
/// In there, the key of the text that belongs to a file.
const ABOUT: &str = "burn-rehearsal";

/// An element type, by its name in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Dtype {
    Bool,
    U8,
    I8,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

impl Dtype {
    fn bytes(self) -> usize {
        match self {
            Dtype::Bool | Dtype::U8 | Dtype::I8 => 1,
            Dtype::U16 | Dtype::I16 | Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::U32 | Dtype::I32 | Dtype::F32 => 4,
            Dtype::U64 | Dtype::I64 | Dtype::F64 => 8,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Which tensors a file has, one after the other.
#[derive(Debug)]
pub(crate) struct Header {
    about: String,
    tensors: Vec<(String, Entry)>,
}

impl Header {
    /// The header of these tensors in this order, and of a text that belongs to them.
    pub(crate) fn new(about: &str, tensors: Vec<(String, Dtype, Vec<usize>)>) -> Self {
        let mut end = 0;
        let place = |(name, dtype, shape): (String, Dtype, Vec<usize>)| {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bytes();
            (name, Entry { dtype, shape, data_offsets: (start, end) })
        };
        Self { tensors: tensors.into_iter().map(place).collect(), about: about.to_owned() }
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        let mut all = serde_json::Map::new();
        all.insert(METADATA.into(), serde_json::json!({ ABOUT: self.about }));
        for (name, tensor) in &self.tensors {
            all.insert(name.clone(), serde_json::to_value(tensor).map_err(wrong)?);
        }
        serde_json::to_vec(&all).map_err(wrong)
    }

    /// Reads a header and makes sure that its tensors lie one after the other without a gap, each of the size of its shape.
    pub(crate) fn of_json(json: &[u8]) -> Result<Self, String> {
        let mut all: BTreeMap<String, serde_json::Value> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let metadata = all.remove(METADATA);
        let about = metadata.as_ref().and_then(|texts| texts.get(ABOUT)).and_then(|text| text.as_str());
        let about = about.ok_or("no text of this program")?.to_owned();
        let tensor = |(name, value)| Ok((name, serde_json::from_value::<Entry>(value).map_err(|error| error.to_string())?));
        let mut tensors = all.into_iter().map(tensor).collect::<Result<Vec<_>, String>>()?;
        // Empty tensors share their place with the next one.
        tensors.sort_by(|(first, a), (second, b)| a.data_offsets.cmp(&b.data_offsets).then_with(|| first.cmp(second)));
        let mut end = 0;
        for (name, Entry { dtype, shape, data_offsets }) in &tensors {
            let size = shape.iter().try_fold(dtype.bytes(), |size, &length| size.checked_mul(length));
            let next = size.and_then(|size| size.checked_add(end));
            if data_offsets.0 != end || Some(data_offsets.1) != next {
                return Err(format!("tensor {name:?} is not where it should be"));
            }
            end = data_offsets.1;
        }
        Ok(Self { about, tensors })
    }

    pub(crate) fn about(&self) -> &str {
        &self.about
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.tensors.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Where each tensor begins and ends, from the first byte after the header.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.tensors.iter().map(|(_, tensor)| tensor.data_offsets)
    }

    pub(crate) fn offsets_of(&self, name: &str) -> Option<(usize, usize)> {
        self.tensors.iter().find(|(own, _)| own == name).map(|(_, tensor)| tensor.data_offsets)
    }

    /// The bytes of all tensors.
    pub(crate) fn data_len(&self) -> usize {
        self.tensors.last().map_or(0, |(_, tensor)| tensor.data_offsets.1)
    }
}
