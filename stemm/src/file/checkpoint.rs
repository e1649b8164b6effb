//! Checkpoints of long work: a state from which it goes on to the same bits, and the recipe that says what it belongs to.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tch::{Device, Tensor};

use super::{
    CHECKPOINT_HINT, Metadata, RESERVED, from_metadata, make_folder, read_tensors, spared_by, to_json, write_tensors,
};
use crate::error::{Error, Result};
use crate::network::Params;

/// The file of a checkpoint, and what the work in it must be.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    /// By the names of the settings that decide the result.
    recipe: Map<String, Value>,
}

/// What a checkpoint holds.
pub(crate) struct Resumed {
    path: PathBuf,
    pub tensors: HashMap<String, Tensor>,
    metadata: Metadata,
}

impl Checkpoint {
    /// A checkpoint called so in a folder. The recipe is a structure; fields that are named first are compared first.
    pub fn new(folder: &Path, name: &str, recipe: &impl Serialize) -> Checkpoint {
        let recipe = match serde_json::to_value(recipe) {
            Ok(Value::Object(recipe)) => recipe,
            other => Map::from_iter([("settings".to_owned(), other.unwrap_or_default())]),
        };
        Checkpoint { path: folder.join(format!("{name}.safetensors")), recipe }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error for a checkpoint that was written with something else.
    pub fn mismatch(&self, field: &str) -> Error {
        Error::CheckpointMismatch { path: self.path.clone(), field: field.to_owned() }
    }

    /// What somebody reads from what is there to go on from, or `None`; makes the folder now, not after the first save.
    ///
    /// # Errors
    /// A folder that cannot be made, a file that is no checkpoint, one of other work. Each names the file.
    pub fn load<T>(&self, device: Device, read: impl FnOnce(Resumed) -> Result<T>) -> Result<Option<T>> {
        let Some(resumed) = self.resumed(device)? else { return Ok(None) };
        read(resumed).map(Some).map_err(|error| match error {
            Error::Corrupt { .. } | Error::CheckpointMismatch { .. } | Error::CheckpointAhead { .. } => error,
            error if spared_by(&error) => error,
            other => {
                let (path, reason) = (self.path.clone(), other.to_string());
                Error::Corrupt { path, format: "checkpoint", reason, hint: CHECKPOINT_HINT }
            }
        })
    }

    fn resumed(&self, device: Device) -> Result<Option<Resumed>> {
        if let Some(folder) = self.path.parent() {
            make_folder(folder, "give `checkpoints` a folder that can be written to")?;
        }
        if !self.path.exists() {
            return Ok(None);
        }
        let (tensors, metadata) = read_tensors(&self.path, device).map_err(|error| match error {
            Error::Corrupt { path, reason, .. } => {
                Error::Corrupt { path, format: "checkpoint", reason, hint: CHECKPOINT_HINT }
            }
            other => other,
        })?;
        let resumed = Resumed { path: self.path.clone(), tensors, metadata };
        let stored: Map<String, Value> = resumed.value("recipe")?;
        match self.first_difference(&stored) {
            Some(field) => Err(self.mismatch(&field)),
            None => Ok(Some(resumed)),
        }
    }

    /// Writes a state; the old one stays until the new one is whole.
    pub fn save(&self, tensors: &[(String, &Tensor)], mut metadata: Metadata) -> Result<()> {
        metadata.insert("recipe".to_owned(), to_json(&self.recipe));
        write_tensors(&self.path, tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor)), metadata)
    }

    /// Refuses a checkpoint that is further than the work is to go.
    pub fn not_ahead(&self, done: usize, setting: &'static str, most: usize) -> Result<()> {
        match done > most {
            true => Err(Error::CheckpointAhead { path: self.path.clone(), done, setting, most }),
            false => Ok(()),
        }
    }

    /// The first setting in which a stored recipe differs.
    fn first_difference(&self, stored: &Map<String, Value>) -> Option<String> {
        let own = &self.recipe;
        // With a schedule the number of epochs matters too, without one it does not: the schedule comes first.
        let schedule = own.keys().filter(|name| *name == "schedule");
        let names = schedule.chain(own.keys()).chain(stored.keys().filter(|name| !own.contains_key(*name)));
        let differs = |name: &&String| own.get(*name) != stored.get(*name);
        let field = names.into_iter().find(differs)?;
        Some(match field.as_str() {
            "data" => "set of training or held-out data".to_owned(),
            "models" => "set of models".to_owned(),
            _ => format!("`{field}`"),
        })
    }
}

impl Resumed {
    /// A value of the metadata.
    pub fn value<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        from_metadata(&self.path, &self.metadata, key)
    }

    /// Sets random numbers to where [`place_of`] found them.
    pub fn resume(&self, key: &str, rng: &mut ChaCha8Rng) -> Result<()> {
        let place: String = self.value(key)?;
        let corrupt = || Error::Corrupt {
            path: self.path.clone(),
            format: "checkpoint",
            reason: format!("its `{key}` is `{place}`, no place in a stream"),
            hint: CHECKPOINT_HINT,
        };
        rng.set_word_pos(place.parse::<u128>().map_err(|_| corrupt())?);
        Ok(())
    }

    /// Parameters that were saved under a prefix, of the names and shapes of others.
    pub fn params(&mut self, prefix: &str, like: &Params) -> Result<Params> {
        let mut names: Vec<String> = like.iter().map(|(name, _)| format!("{prefix}{name}")).rev().collect();
        like.map(|shape| {
            let name = names.pop().unwrap_or_default();
            let stored = self.tensors.remove(&name).filter(|stored| stored.size() == shape.size());
            let reason = format!("its tensor `{name}` is missing or has a wrong shape");
            let (path, hint) = (self.path.clone(), CHECKPOINT_HINT);
            stored.ok_or(Error::Corrupt { path, format: "checkpoint", reason, hint })
        })
    }
}

/// Where random numbers are in their stream, for the metadata.
pub(crate) fn place_of(rng: &ChaCha8Rng) -> String {
    to_json(&rng.get_word_pos().to_string())
}

/// Parameters under a prefix that no layer's name has, as [`Resumed::params`] reads them.
pub(crate) fn prefixed<'a>(prefix: &str, params: &'a Params) -> Vec<(String, &'a Tensor)> {
    params.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

/// A prefix that no layer's name has.
pub(crate) fn reserved(name: &str) -> String {
    format!("{RESERVED}{name}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_that_differs_is_named_also_one_that_is_no_more_or_is_new() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("stemm-checkpoint-{}", std::process::id()));
        let checkpoint = |recipe: &Value| Checkpoint::new(&folder, "state", recipe);
        let stored = serde_json::json!({ "rate": 1, "schedule": "up", "origin": "step 3" });
        assert!(checkpoint(&stored).resumed(Device::Cpu)?.is_none());
        checkpoint(&stored).save(&[], Metadata::new())?;
        assert!(checkpoint(&stored).resumed(Device::Cpu)?.is_some());
        let other = || Error::Experiment { reason: "none of a file".into() };
        let found = checkpoint(&stored).load(Device::Cpu, |_| Err::<(), _>(other()));
        assert!(matches!(&found, Err(Error::Corrupt { path, .. }) if path.starts_with(&folder)), "{found:?}");
        let full = checkpoint(&stored).load(Device::Cpu, |_| Err::<(), _>(Error::OutOfMemory("full".into())));
        assert!(matches!(full, Err(Error::OutOfMemory(_))), "a good checkpoint is no damaged one: {full:?}");
        for (other, named) in [
            (serde_json::json!({ "rate": 1, "schedule": "up" }), "`origin`"),
            (serde_json::json!({ "rate": 1, "schedule": "up", "origin": "step 3", "seed": 0 }), "`seed`"),
            (serde_json::json!({ "rate": 2, "schedule": "down", "origin": "step 3" }), "`schedule`"),
        ] {
            let found = checkpoint(&other).resumed(Device::Cpu).err();
            assert!(
                matches!(&found, Some(Error::CheckpointMismatch { field, .. }) if field == named),
                "{named}: {found:?}"
            );
        }
        std::fs::remove_dir_all(&folder).map_err(|source| Error::File {
            action: "remove",
            path: folder,
            source,
            hint: "",
        })
    }
}
