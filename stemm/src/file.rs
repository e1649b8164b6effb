//! Safetensors files with JSON metadata, written atomically: a reader sees the old file or the new one, whole.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};

const WRITE_HINT: &str = "check the folder's permissions and the free disk space";

/// Begins the names of tensors that a checkpoint holds besides those of a model; no layer's name begins so.
pub(crate) const RESERVED: &str = "stemm:";

/// What to do about a checkpoint that cannot be read.
pub(crate) const CHECKPOINT_HINT: &str = "give `checkpoints` another folder to start anew; the file stays as it is";

pub(crate) type Metadata = HashMap<String, String>;

/// JSON of a plain value.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    // Only types of this crate come here: no maps with non-string keys, no failing `Serialize`.
    serde_json::to_string(value).unwrap_or_default()
}

/// Floats in JSON, which has no NaN and no infinities: these are written as text.
pub(crate) mod any_float {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.collect_str(value) }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Float {
            Number(f64),
            Text(String),
        }
        match Float::deserialize(deserializer)? {
            Float::Number(value) => Ok(value),
            Float::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// Reads a value back from a file's metadata.
pub(crate) fn from_metadata<T: DeserializeOwned>(path: &Path, metadata: &Metadata, key: &str) -> Result<T> {
    let hint = "give the path of a file that this version of stemm wrote; the file stays as it is";
    let corrupt = |reason: String| Error::Corrupt { path: path.into(), format: "stemm safetensors", reason, hint };
    let json = metadata.get(key).ok_or_else(|| corrupt(format!("its metadata has no `{key}`")))?;
    serde_json::from_str(json).map_err(|error| corrupt(format!("its metadata `{key}` cannot be read: {error}")))
}

/// The bytes of a file; the hint says what to do if it cannot be read.
pub(crate) fn read(path: &Path, hint: &'static str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.into(), source, hint })
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file under a temporary name beside its place, then moves it there; makes the folder if need be.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| Error::File { action: "write", path: path.into(), source, hint: WRITE_HINT };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let write = || {
        let mut file = std::fs::File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&partial); // the first error is the one to report
        failed(source)
    })
}

/// Writes tensors: integers as i64, all others as f32.
pub(crate) fn write_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: Metadata,
) -> Result<()> {
    let mut buffers = Vec::new();
    for (name, tensor) in tensors {
        let integers = tensor.f_kind()? == Kind::Int64;
        let (kind, dtype, size) = if integers { (Kind::Int64, Dtype::I64, 8) } else { (Kind::Float, Dtype::F32, 4) };
        let numel = tensor.numel();
        let mut bytes = vec![0; size * numel];
        tensor.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?.f_copy_data_u8(&mut bytes, numel)?;
        let shape: Vec<usize> = tensor.size().iter().map(|&size| size as usize).collect();
        buffers.push((name, dtype, shape, bytes));
    }
    let failed = |error: safetensors::SafeTensorError| Error::File {
        action: "encode",
        path: path.into(),
        source: std::io::Error::other(error),
        hint: WRITE_HINT,
    };
    let views: Vec<_> = buffers
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(failed)?)))
        .collect::<Result<_>>()?;
    write_atomically(path, &safetensors::serialize(views, Some(metadata)).map_err(failed)?)
}

/// Reads tensors by name, as f32 (integers as i64), and the metadata.
pub(crate) fn read_tensors(path: &Path, device: Device) -> Result<(HashMap<String, Tensor>, Metadata)> {
    let bytes = read(path, "check the path")?;
    let corrupt = |reason: String| Error::Corrupt {
        path: path.into(),
        format: "safetensors",
        reason,
        hint: "give the path of a whole safetensors file",
    };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| corrupt(error.to_string()))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.iter() {
        let (stored, kept) = match view.dtype() {
            Dtype::F32 => (Kind::Float, Kind::Float),
            Dtype::F64 => (Kind::Double, Kind::Float),
            Dtype::F16 => (Kind::Half, Kind::Float),
            Dtype::BF16 => (Kind::BFloat16, Kind::Float),
            Dtype::I64 => (Kind::Int64, Kind::Int64),
            other => return Err(corrupt(format!("tensor `{name}` is {other:?}, expected floats or I64"))),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, stored)?.f_to_kind(kept)?.f_to_device(device)?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
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
}
