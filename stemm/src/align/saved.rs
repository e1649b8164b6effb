//! Alignments as files: permutations by model and group, as JSON to read or as safetensors to compute with.
//!
//! JSON: `{"method": ..., "converged": ..., "models": [{"conv1": [3, 0, ...], ...}, ...]}`. Safetensors: tensors
//! `0.conv1: [units]` of I64, the number being that of the model, and method, convergence and number of models in the
//! metadata. Both are read into the same lists, which one check accepts or refuses.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tch::{Device, Tensor};

use super::{Alignment, Permutation, Permutations};
use crate::error::{Error, Result};
use crate::file::{self, Contents, Metadata};
use crate::network::{Network, PermutationSpec};

const HINT: &str = "give the path of a file written by `Alignment::save`";

/// Models of an alignment, at most: for a network without groups nothing but a number in the file says how many there are.
const MOST_MODELS: usize = 100_000;

/// What a file holds, in either format.
#[derive(Deserialize)]
struct Saved {
    method: String,
    /// Files of older versions do not say.
    #[serde(default = "yes")]
    converged: bool,
    models: Vec<Lists>,
}

fn yes() -> bool {
    true
}

/// The lists of a model by group, in the order of the file; a name that occurs twice is there twice.
#[derive(Default)]
struct Lists(Vec<(String, Vec<i64>)>);

impl Alignment {
    /// Writes method, convergence and permutations of an alignment of `network`, as JSON or safetensors by the ending of
    /// the path.
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
        match ending(path)? {
            Ending::Json => {
                let models = self.permutations.iter().map(|own| {
                    let lists = named(own, &spec).into_iter();
                    let lines =
                        lists.map(|(name, list)| format!("    {}: {}", file::to_json(&name), file::to_json(&list)));
                    format!("  {{\n{}\n  }}", lines.collect::<Vec<_>>().join(",\n"))
                });
                let models = models.collect::<Vec<_>>().join(",\n");
                let (method, converged) = (file::to_json(&self.method), self.converged);
                let json =
                    format!("{{\n\"method\": {method},\n\"converged\": {converged},\n\"models\": [\n{models}\n]\n}}\n");
                file::write_atomically(path, json.as_bytes())
            }
            Ending::Safetensors => self.write_safetensors(path, &spec, Metadata::new()),
        }
    }

    fn write_safetensors(&self, path: &Path, spec: &PermutationSpec, mut metadata: Metadata) -> Result<()> {
        let mut tensors = Vec::new();
        for (model, own) in self.permutations.iter().enumerate() {
            for (name, list) in named(own, spec) {
                tensors.push((format!("{model}.{name}"), Tensor::f_from_slice(&list)?));
            }
        }
        metadata.extend([
            ("method".to_owned(), file::to_json(&self.method)),
            ("converged".to_owned(), file::to_json(&self.converged)),
            ("models".to_owned(), file::to_json(&self.permutations.len())),
        ]);
        file::write_tensors(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), metadata)
    }

    /// Writes it as safetensors, with what was measured of it.
    pub(crate) fn save_with<T: Serialize>(&self, path: &Path, network: &Network, figures: &T) -> Result<()> {
        let metadata = Metadata::from([(FIGURES.to_owned(), file::to_json(figures))]);
        self.write_safetensors(path, &network.permutation_spec(), metadata)
    }

    /// Reads what [`Alignment::save_with`] wrote.
    pub(crate) fn load_with<T: DeserializeOwned>(path: &Path, network: &Network) -> Result<(Alignment, T)> {
        let (_, metadata) = file::read_stored(path, Device::Cpu)?;
        Ok((Alignment::load(path, network)?, file::from_metadata(path, &metadata, FIGURES)?))
    }

    /// Reads what [`Alignment::save`] wrote; history and times are not in the file.
    ///
    /// # Errors
    /// Another ending, a truncated or foreign file, named for what it is, groups that are not those of `network`, lists
    /// that are no permutations.
    pub fn load(path: impl AsRef<Path>, network: &Network) -> Result<Alignment> {
        let path = path.as_ref();
        let saved = match ending(path)? {
            Ending::Json => read_json(path)?,
            Ending::Safetensors => read_safetensors(path)?,
        };
        let spec = network.permutation_spec();
        let permutations = saved.models.into_iter().enumerate().map(|(model, lists)| lists.checked(path, model, &spec));
        let (history, seconds) = (Vec::new(), 0.0);
        let permutations = permutations.collect::<Result<_>>()?;
        Ok(Alignment { method: saved.method, permutations, history, seconds, converged: saved.converged })
    }
}

/// Names what measurements are in the metadata.
const FIGURES: &str = "figures";

/// The lists of a model, by the names of the groups.
fn named(own: &Permutations, spec: &PermutationSpec) -> Vec<(String, Vec<i64>)> {
    let names = spec.groups().iter().map(|group| group.name.clone());
    names.zip(own.0.iter().map(|permutation| permutation.as_slice().to_vec())).collect()
}

impl Lists {
    /// The permutations of a network's groups: one list for each group, and no other.
    fn checked(mut self, path: &Path, model: usize, spec: &PermutationSpec) -> Result<Permutations> {
        let mismatch = |reason: String| Error::AlignmentMismatch { path: path.into(), reason };
        let own = spec.groups().iter().map(|group| {
            let place = self.0.iter().position(|(name, _)| *name == group.name);
            let missing = || mismatch(format!("model {model} has no list for group {group}"));
            let (_, list) = self.0.swap_remove(place.ok_or_else(missing)?);
            if list.len() != group.size {
                return Err(mismatch(format!(
                    "the list of model {model} for group {group} has {} entries",
                    list.len()
                )));
            }
            Permutation::new(list).map_err(|error| match error {
                Error::Permutation { reason } => {
                    Error::Permutation { reason: format!("model {model}, group {group}: {reason}") }
                }
                other => other,
            })
        });
        let own = Permutations(own.collect::<Result<_>>()?);
        match self.0.first() {
            Some((name, _)) => {
                Err(mismatch(format!("model {model} has a list for `{name}`, which is no group here or has two")))
            }
            None => Ok(own),
        }
    }
}

impl<'de> Deserialize<'de> for Lists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lists, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Lists;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("lists of whole numbers by group")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Lists, M::Error> {
                let mut lists = Lists::default();
                while let Some(pair) = map.next_entry()? {
                    lists.0.push(pair);
                }
                Ok(lists)
            }
        }
        deserializer.deserialize_map(Pairs)
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
    serde_json::from_slice(&bytes).map_err(|error| file::not_a("alignment JSON", path, &bytes, error.to_string(), HINT))
}

fn read_safetensors(path: &Path) -> Result<Saved> {
    let (tensors, metadata) = file::read_stored(path, Device::Cpu)?;
    match Contents::of(&tensors, &metadata) {
        Contents::Alignment => (),
        other => return Err(other.instead_of("alignment", path)),
    }
    let corrupt = |reason: String| Error::Corrupt { path: path.into(), format: "alignment", reason, hint: HINT };
    let count: usize = file::from_metadata(path, &metadata, "models")?;
    let mut lists = Vec::new();
    for (name, tensor) in &tensors {
        let place = name.split_once('.').and_then(|(model, group)| Some((model.parse::<usize>().ok()?, group)));
        let (model, group) =
            place.ok_or_else(|| corrupt(format!("its tensor `{name}` is not called by model and group")))?;
        let list = tensor.integers()?.ok_or_else(|| {
            let (format, shape) = (tensor.format(), tensor.shape());
            corrupt(format!("its tensor `{name}` is {format} {shape:?}, not integers in one row"))
        })?;
        lists.push((model, (group.to_owned(), list)));
    }
    // Without groups there are no tensors to count.
    let found = lists.iter().map(|(model, _)| model.saturating_add(1)).max().unwrap_or(count);
    if found != count || count > MOST_MODELS {
        return Err(corrupt(format!("its metadata says {count} models, its tensors are of {found}")));
    }
    let mut models: Vec<Lists> = std::iter::repeat_with(Lists::default).take(count).collect();
    for (model, list) in lists {
        models[model].0.push(list);
    }
    let converged =
        if metadata.contains_key("converged") { file::from_metadata(path, &metadata, "converged")? } else { true };
    Ok(Saved { method: file::from_metadata(path, &metadata, "method")?, converged, models })
}
