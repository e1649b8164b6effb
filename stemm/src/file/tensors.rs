//! Named tensors with JSON metadata as safetensors.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::{Metadata, WRITE_HINT, not_a, read, sha256, write_atomically};
use crate::error::{Error, Result};

/// Begins the names of tensors that a checkpoint holds besides those of a model; no layer's name begins so.
pub(crate) const RESERVED: &str = "stemm:";

/// Names, in the metadata, SHA-256 of the whole file with zeros in its place: what was changed since is seen.
const SEAL: &str = "stemm:sha256";
const OPEN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// More axes than this no tensor has that somebody computes with; libtorch refuses them in most operations.
const MOST_AXES: usize = 64;

/// A tensor of a file: whatever its format is, it does no harm where nobody needs it.
pub(crate) struct Stored {
    /// The format's name in the file.
    format: String,
    shape: Vec<i64>,
    /// The values as they are in the file, if libtorch knows the format.
    values: Option<Tensor>,
    device: Device,
}

impl From<Tensor> for Stored {
    fn from(tensor: Tensor) -> Stored {
        let (format, shape, device) = (format!("{:?}", tensor.kind()), tensor.size(), tensor.device());
        Stored { format, shape, values: Some(tensor), device }
    }
}

impl Stored {
    pub(crate) fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The name of the format, in words of the file.
    pub(crate) fn format(&self) -> &str {
        &self.format
    }

    /// Floats as f32, or as f64 if they are stored so; nothing if they are no floats.
    pub(crate) fn floats(&self) -> Result<Option<Tensor>> {
        let Some(values) = &self.values else { return Ok(None) };
        let kind = match values.f_kind()? {
            Kind::Double => Kind::Double,
            Kind::Float | Kind::Half | Kind::BFloat16 => Kind::Float,
            _ => return Ok(None),
        };
        Ok(Some(values.f_to_kind(kind)?.f_to_device(self.device)?))
    }

    /// Integers of any size, of one axis; nothing if they are none.
    pub(crate) fn integers(&self) -> Result<Option<Vec<i64>>> {
        match &self.values {
            Some(values) if self.shape.len() == 1 && is_integer(values.f_kind()?) => {
                Ok(Some(Vec::<i64>::try_from(&values.f_to_kind(Kind::Int64)?)?))
            }
            _ => Ok(None),
        }
    }
}

fn is_integer(kind: Kind) -> bool {
    matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64)
}

/// What was saved in a file, by its metadata and the names of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Model,
    Checkpoint,
    Alignment,
    StateDict,
}

impl Contents {
    pub(crate) fn of(tensors: &HashMap<String, Stored>, metadata: &Metadata) -> Contents {
        if tensors.keys().any(|name| name.starts_with(RESERVED)) {
            Contents::Checkpoint
        } else if metadata.contains_key("network") {
            Contents::Model
        } else if metadata.contains_key("models") {
            Contents::Alignment
        } else {
            Contents::StateDict
        }
    }

    /// The error of a function that reads other files.
    pub(crate) fn instead_of(self, format: &'static str, path: &Path) -> Error {
        let reason = match self {
            Contents::Model => "it holds a model",
            Contents::Checkpoint => "it holds a checkpoint of a training",
            Contents::Alignment => "it holds permutations",
            Contents::StateDict => "it is a state dict that does not say its network",
        };
        Error::Corrupt { path: path.into(), format, reason: reason.to_owned(), hint: self.reader() }
    }

    /// Which function reads such a file.
    pub(crate) fn reader(self) -> &'static str {
        match self {
            Contents::Model => "read it by `Model::load`, which takes the network from the file",
            Contents::Checkpoint => "read its model by `Model::load`, or go on with the training that wrote it",
            Contents::Alignment => "read it by `Alignment::load`, with the network of the models",
            Contents::StateDict => "read it by `Model::load_state_dict`, with the network it belongs to",
        }
    }
}

/// Writes tensors: f64 and integers as they are (I64), all other floats as f32.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    mut metadata: Metadata,
) -> Result<()> {
    let failed = |reason: String, hint: &'static str| Error::File {
        action: "encode",
        path: path.into(),
        source: std::io::Error::other(reason),
        hint,
    };
    let (mut buffers, mut names) = (Vec::new(), HashSet::new());
    for (name, tensor) in tensors {
        // The format keeps this name for the metadata.
        if name == "__metadata__" || !names.insert(name) {
            return Err(failed(format!("two things are called `{name}`"), "give each module a name of its own"));
        }
        let found = tensor.f_kind()?;
        let (kind, dtype) = match found {
            Kind::Double => (Kind::Double, Dtype::F64),
            Kind::Float | Kind::Half | Kind::BFloat16 => (Kind::Float, Dtype::F32),
            kind if is_integer(kind) => (Kind::Int64, Dtype::I64),
            _ => {
                let (found, expected) = (format!("{found:?}"), "floats or integers".to_owned());
                return Err(Error::NumberFormat { tensor: name.to_owned(), found, expected });
            }
        };
        let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
        buffers.push((name, dtype, shape, bytes_of(&tensor.f_to_kind(kind)?)?));
    }
    let failed = |error: safetensors::SafeTensorError| failed(error.to_string(), WRITE_HINT);
    let views: Vec<_> = buffers
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?)))
        .collect::<Result<_>>()?;
    metadata.insert(SEAL.to_owned(), OPEN.to_owned());
    let mut bytes = safetensors::serialize(views, Some(metadata)).map_err(failed)?;
    if let Some(place) = seal(&bytes) {
        let own = sha256(&bytes);
        bytes[place].copy_from_slice(own.as_bytes());
    }
    write_atomically(path, &bytes)
}

/// Where in the header of a safetensors file the seal's value stands. In a text of the metadata its name could only stand with
/// escaped quotation marks.
fn seal(bytes: &[u8]) -> Option<Range<usize>> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let header = bytes.get(8..usize::try_from(length).ok()?.checked_add(8)?)?;
    let name = format!("\"{SEAL}\":\"");
    let start = 8 + header.windows(name.len()).position(|window| window == name.as_bytes())? + name.len();
    let place = start..start + OPEN.len();
    bytes.get(place.clone()).map(|_| place)
}

/// Whether a file is as it was written; also one that has no seal.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(place) = seal(bytes) else { return true };
    let mut digest = Sha256::new_with_prefix(&bytes[..place.start]);
    digest.update(OPEN);
    digest.update(&bytes[place.end..]);
    super::hexadecimal(digest).as_bytes() == &bytes[place]
}

/// The values of a tensor as bytes, in row-major order.
pub(crate) fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

/// SHA-256 of the values of tensors, in their order.
pub(crate) fn digest_of<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<String> {
    let mut digest = Sha256::new();
    tensors.into_iter().try_for_each(|tensor| bytes_of(tensor).map(|bytes| digest.update(bytes)))?;
    Ok(super::hexadecimal(digest))
}

/// Reads tensors of any format by name, and the metadata.
pub(crate) fn read_stored(path: &Path, device: Device) -> Result<(HashMap<String, Stored>, Metadata)> {
    let bytes = read(path, "check the path")?;
    let corrupt =
        |reason: String| not_a("safetensors", path, &bytes, reason, "give the path of a whole safetensors file");
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
    if !is_whole(&bytes) {
        let (format, reason) = ("safetensors", "it was changed after stemm wrote it".to_owned());
        let hint = "take another copy of it; if it was changed on purpose, leave `stemm:sha256` out of its metadata";
        return Err(Error::Corrupt { path: path.into(), format, reason, hint });
    }
    let mut tensors = HashMap::new();
    for (name, view) in file.iter() {
        let sizes = view.shape().iter().map(|&size| i64::try_from(size));
        let shape: Vec<i64> = sizes.collect::<Result<_, _>>().unwrap_or_default();
        if shape.len() != view.shape().len() || shape.len() > MOST_AXES {
            return Err(corrupt(format!("tensor `{name}` has a shape that no tensor has")));
        }
        let kind = match view.dtype() {
            Dtype::F32 => Some(Kind::Float),
            Dtype::F64 => Some(Kind::Double),
            Dtype::F16 => Some(Kind::Half),
            Dtype::BF16 => Some(Kind::BFloat16),
            Dtype::I64 => Some(Kind::Int64),
            Dtype::I32 => Some(Kind::Int),
            Dtype::I16 => Some(Kind::Int16),
            Dtype::I8 => Some(Kind::Int8),
            Dtype::U8 => Some(Kind::Uint8),
            _ => None,
        };
        let values = kind.map(|kind| Tensor::f_from_data_size(view.data(), &shape, kind)).transpose()?;
        tensors.insert(name.to_owned(), Stored { format: format!("{:?}", view.dtype()), shape, values, device });
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

/// Reads tensors that this crate wrote: floats by name, and the metadata.
pub(crate) fn read_tensors(path: &Path, device: Device) -> Result<(HashMap<String, Tensor>, Metadata)> {
    let (stored, metadata) = read_stored(path, device)?;
    let floats = stored.into_iter().map(|(name, stored)| {
        let reason = || format!("tensor `{name}` is {}, not floats", stored.format());
        let hint = "give the path of a file that stemm wrote; the file stays as it is";
        let corrupt = || Error::Corrupt { path: path.into(), format: "stemm safetensors", reason: reason(), hint };
        let tensor = stored.floats()?.ok_or_else(corrupt)?;
        Ok((name, tensor))
    });
    Ok((floats.collect::<Result<_>>()?, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_truncation_of_a_tensor_file_is_a_clear_error() {
        let path = std::env::temp_dir().join(format!("stemm-file-{}.safetensors", std::process::id()));
        let tensor = Tensor::from_slice(&[1f32, 2.0, 3.0]);
        write_tensors(&path, [("a", &tensor)], Metadata::new()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let error = read_tensors(&path, Device::Cpu).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "length {len}: {error}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn every_changed_bit_is_seen_and_a_file_without_a_seal_is_taken_as_it_is() {
        let path = std::env::temp_dir().join(format!("stemm-seal-{}.safetensors", std::process::id()));
        let tensor = Tensor::from_slice(&[1f32, 2.0]);
        let tricky = format!("\"{SEAL}\":\"{OPEN}\"");
        write_tensors(&path, [("a", &tensor)], Metadata::from([("b".into(), tricky.clone())])).unwrap();
        assert_eq!(read_tensors(&path, Device::Cpu).unwrap().1["b"], tricky);
        let whole = std::fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let found = read_tensors(&path, Device::Cpu);
            // A seal of another name is none; all that it names is read as it is.
            let nameless = !changed.windows(SEAL.len() + 3).any(|window| window == format!("\"{SEAL}\":").as_bytes());
            assert!(found.is_err() || nameless, "byte {place}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn no_tensor_and_no_name_makes_writing_panic_and_a_failed_write_leaves_the_old_file() {
        let path = std::env::temp_dir().join(format!("stemm-write-{}.safetensors", std::process::id()));
        let good = Tensor::from_slice(&[1f32, 2.0]);
        write_tensors(&path, [("", &good), ("\u{0}\"é", &good)], Metadata::new()).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert_eq!(read_tensors(&path, Device::Cpu).unwrap().0.len(), 2);
        let (complex, sparse) = (good.to_kind(Kind::ComplexFloat), good.to_sparse_sparse_dim(1));
        let bad = [("a", &complex), ("a", &Tensor::new()), ("__metadata__", &good), ("b", &good)];
        for (name, tensor) in bad {
            assert!(write_tensors(&path, [("b", &good), (name, tensor)], Metadata::new()).is_err(), "{name}");
        }
        let _ = write_tensors(&path, [("sparse", &sparse)], Metadata::from([("k".into(), "v".into())]));
        let after = std::fs::read(&path).unwrap();
        assert!(after == before || read_tensors(&path, Device::Cpu).is_ok());
        std::fs::remove_file(&path).unwrap();
    }
}
