//! Alignments as files: permutations by model and group, as JSON to read or as safetensors to compute with.
//!
//! JSON: `{"method": ..., "models": [{"conv1": [3, 0, ...], ...}, ...]}`. Safetensors: tensors `0.conv1: [units]` of I64,
//! the number being that of the model, and the method in the metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Tensor};

use super::{Alignment, Permutation, Permutations};
use crate::error::{Error, Result};
use crate::file;
use crate::network::Network;

/// What a JSON file holds.
#[derive(Deserialize)]
struct Saved {
    method: String,
    models: Vec<BTreeMap<String, Vec<i64>>>,
}

impl Alignment {
    /// Writes method and permutations of an alignment of `network`, as JSON or safetensors by the ending of the path.
    ///
    /// # Errors
    /// Another ending, permutations of another network, a file that cannot be written.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let network = Network::mlp(&[16, 8, 4])?;
    /// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
    /// let alignment = WeightMatching::default().align(&[model(0)?, model(1)?], &blobs(0, Device::Cpu)?)?;
    /// let path = std::env::temp_dir().join("stemm-doc-permutations.json");
    /// alignment.save(&path, &network)?;
    /// assert_eq!(Alignment::load(&path, &network)?.permutations, alignment.permutations);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>, network: &Network) -> Result<()> {
        let path = path.as_ref();
        let spec = network.permutation_spec();
        for own in &self.permutations {
            own.check(&spec)?;
        }
        let named = |own: &'_ Permutations| -> Vec<(String, Vec<i64>)> {
            let names = spec.groups().iter().map(|group| group.name.clone());
            names.zip(own.0.iter().map(|permutation| permutation.as_slice().to_vec())).collect()
        };
        match ending(path)? {
            Ending::Json => {
                let models = self.permutations.iter().map(|own| {
                    let lists = named(own).into_iter();
                    let lines =
                        lists.map(|(name, list)| format!("    {}: {}", file::to_json(&name), file::to_json(&list)));
                    format!("  {{\n{}\n  }}", lines.collect::<Vec<_>>().join(",\n"))
                });
                let models = models.collect::<Vec<_>>().join(",\n");
                let json =
                    format!("{{\n\"method\": {},\n\"models\": [\n{models}\n]\n}}\n", file::to_json(&self.method));
                file::write_atomically(path, json.as_bytes())
            }
            Ending::Safetensors => {
                let mut tensors = Vec::new();
                for (model, own) in self.permutations.iter().enumerate() {
                    for (name, list) in named(own) {
                        tensors.push((format!("{model}.{name}"), Tensor::f_from_slice(&list)?));
                    }
                }
                let metadata = HashMap::from([
                    ("method".to_owned(), file::to_json(&self.method)),
                    ("models".to_owned(), file::to_json(&self.permutations.len())),
                ]);
                file::write_tensors(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), metadata)
            }
        }
    }

    /// Reads what [`Alignment::save`] wrote; history and times are not in the file.
    ///
    /// # Errors
    /// Another ending, a truncated or foreign file, lists that are no permutations or not those of `network`.
    pub fn load(path: impl AsRef<Path>, network: &Network) -> Result<Alignment> {
        let path = path.as_ref();
        let saved = match ending(path)? {
            Ending::Json => read_json(path)?,
            Ending::Safetensors => read_safetensors(path)?,
        };
        let spec = network.permutation_spec();
        let mut permutations = Vec::new();
        for mut lists in saved.models {
            let own = spec.groups().iter().map(|group| {
                let reason = || Error::Permutation { reason: format!("the file has none for group {group}") };
                Permutation::new(lists.remove(&group.name).ok_or_else(reason)?)
            });
            let own = Permutations(own.collect::<Result<_>>()?);
            own.check(&spec)?;
            permutations.push(own);
        }
        Ok(Alignment { method: saved.method, permutations, history: Vec::new(), seconds: 0.0, converged: true })
    }
}

enum Ending {
    Json,
    Safetensors,
}

fn ending(path: &Path) -> Result<Ending> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Ok(Ending::Json),
        Some("safetensors") => Ok(Ending::Safetensors),
        _ => {
            let requirement = "a path that ends in .json or .safetensors";
            Err(Error::Setting { setting: "path", value: path.display().to_string(), requirement })
        }
    }
}

fn read_json(path: &Path) -> Result<Saved> {
    let bytes = file::read(path, "check the path")?;
    let corrupt = |error: serde_json::Error| Error::Corrupt {
        path: path.into(),
        format: "permutations",
        reason: error.to_string(),
        hint: "give the path of a file written by `Alignment::save`",
    };
    serde_json::from_slice(&bytes).map_err(corrupt)
}

fn read_safetensors(path: &Path) -> Result<Saved> {
    let (tensors, metadata) = file::read_tensors(path, Device::Cpu)?;
    let count: usize = file::from_metadata(path, &metadata, "models")?;
    let mut models = vec![BTreeMap::new(); count.min(tensors.len())];
    for (name, tensor) in tensors {
        let place = name.split_once('.').and_then(|(model, group)| Some((model.parse::<usize>().ok()?, group)));
        if let Some((model, group)) = place
            && let Some(lists) = models.get_mut(model)
        {
            lists.insert(group.to_owned(), Vec::<i64>::try_from(&tensor)?);
        }
    }
    Ok(Saved { method: file::from_metadata(path, &metadata, "method")?, models })
}
