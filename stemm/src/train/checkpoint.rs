//! Checkpoints of a training: weights, optimiser state and history after an epoch, from which it goes on to the same
//! bits as if it had never stopped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use tch::{Device, Tensor};

use super::optimiser::OptimiserState;
use super::{Choice, Epoch, Optimiser, Precision, Schedule, Trainer};
use crate::error::{Error, Result};
use crate::file::{self, Metadata};
use crate::network::{Network, Params};

/// State of one model's training after some steps, in checkpoints after whole epochs.
#[derive(Debug)]
pub(super) struct State {
    pub params: Params,
    pub optimiser: OptimiserState,
    /// Parameters with the lowest held-out loss so far; kept where they are the result.
    pub best: Option<Params>,
}

impl State {
    /// A copy on a device.
    pub fn on(&self, device: Device) -> Result<State> {
        let copy = |params: &Params| params.to_device(device)?.copied();
        Ok(State {
            params: copy(&self.params)?.into_leaves()?,
            optimiser: self.optimiser.on(device)?,
            best: self.best.as_ref().map(copy).transpose()?,
        })
    }
}

/// What must be the same for a checkpoint to be continued.
#[derive(Debug, Serialize)]
struct Recipe {
    optimiser: Optimiser,
    learning_rate: f64,
    schedule: Schedule,
    /// Where the schedule depends on it.
    epochs: Option<usize>,
    label_smoothing: f64,
    precision: Precision,
    batch_size: usize,
    choice: Choice,
    patience: Option<usize>,
    seed: u64,
    /// Where it does not begin with the initial values of the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    /// SHA-256 of the training and held-out data and their preparation.
    data: String,
}

/// Where the checkpoint of a seed is, and what it must agree with.
#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    network: Network,
    recipe: Recipe,
    /// Epochs that the training is to have.
    epochs: usize,
}

impl Recipe {
    /// The first field in which a stored recipe differs.
    fn first_difference(&self, stored: &Map<String, Value>) -> Option<String> {
        let Value::Object(own) = serde_json::to_value(self).ok()? else { return None };
        // With a schedule the number of epochs matters too, without one it does not: the schedule comes first.
        let schedule = own.keys().filter(|name| *name == "schedule");
        let names = schedule.chain(own.keys()).chain(stored.keys().filter(|name| !own.contains_key(*name)));
        let differs = |name: &&String| own.get(*name) != stored.get(*name);
        let field = names.into_iter().find(differs)?;
        Some(if field == "data" { "set of training or held-out data".to_owned() } else { format!("`{field}`") })
    }
}

/// Prefixes of tensor names, which no layer's can have. The parameters that the training would return have none, so that
/// `Model::load` reads them from a checkpoint too; those of the last step stand beside them where they are others.
const MOMENTS: [&str; 2] = ["stemm:first_moment.", "stemm:second_moment."];
const LAST: &str = "stemm:last.";

impl Checkpoint {
    pub fn new(
        folder: &Path,
        trainer: &Trainer,
        network: &Network,
        data: String,
        seed: u64,
        origin: Option<&str>,
    ) -> Self {
        let recipe = Recipe {
            optimiser: trainer.optimiser,
            learning_rate: trainer.learning_rate,
            schedule: trainer.schedule,
            epochs: (trainer.schedule != Schedule::Constant).then_some(trainer.epochs),
            label_smoothing: trainer.label_smoothing,
            precision: trainer.precision,
            batch_size: trainer.batch_size,
            choice: trainer.choice,
            patience: trainer.patience,
            seed,
            origin: origin.map(str::to_owned),
            data,
        };
        let name = match origin {
            Some(origin) => format!("seed{seed} from {origin}.safetensors").replace(' ', "-"),
            None => format!("seed{seed}.safetensors"),
        };
        Checkpoint { path: folder.join(name), network: network.clone(), recipe, epochs: trainer.epochs }
    }

    pub fn save(&self, state: &State, epochs: &[Epoch]) -> Result<()> {
        let mut sets = match &state.best {
            Some(best) => vec![("", best), (LAST, &state.params)],
            None => vec![("", &state.params)],
        };
        sets.extend(MOMENTS.into_iter().zip(state.optimiser.moments()));
        let mut tensors: Vec<(String, &Tensor)> = Vec::new();
        for (prefix, params) in sets {
            tensors.extend(params.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        let metadata = Metadata::from([
            ("network".to_owned(), file::to_json(&self.network)),
            ("recipe".to_owned(), file::to_json(&self.recipe)),
            ("best".to_owned(), file::to_json(&state.best.is_some())),
            ("steps".to_owned(), file::to_json(&state.optimiser.steps)),
            ("epochs".to_owned(), file::to_json(&epochs)),
        ]);
        file::write_tensors(&self.path, tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor)), metadata)
    }

    /// The state to go on from and the epochs before it, or `None` if there is no checkpoint yet.
    pub fn load(&self, device: Device) -> Result<Option<(State, Vec<Epoch>)>> {
        if let Some(folder) = self.path.parent() {
            let hint = "give `checkpoints` a folder that can be written to";
            let failed = |source| Error::File { action: "make", path: folder.into(), source, hint };
            std::fs::create_dir_all(folder).map_err(failed)?; // now, not after the first epoch
        }
        if !self.path.exists() {
            return Ok(None);
        }
        let (mut tensors, metadata) = file::read_tensors(&self.path, device)?;
        let mismatch = |field: &str| Error::CheckpointMismatch { path: self.path.clone(), field: field.to_owned() };
        let network: Network = file::from_metadata(&self.path, &metadata, "network")?;
        if network != self.network {
            return Err(mismatch("network"));
        }
        let recipe: Map<String, Value> = file::from_metadata(&self.path, &metadata, "recipe")?;
        if let Some(field) = self.recipe.first_difference(&recipe) {
            return Err(mismatch(&field));
        }
        let mut set = |prefix: &str| -> Result<Params> {
            let mut own = HashMap::new();
            for (name, _) in network.tensor_shapes() {
                let stored = format!("{prefix}{name}");
                own.extend(tensors.remove(&stored).map(|tensor| (name, tensor)));
            }
            network.collect(&self.path, own, &[])
        };
        let result = set("")?;
        let best: bool = file::from_metadata(&self.path, &metadata, "best")?;
        let (params, best) = if best { (set(LAST)?, Some(result)) } else { (result, None) };
        let params = params.leaves()?;
        network.check_params(&params)?;
        let optimiser = OptimiserState::new(self.recipe.optimiser, &params)?;
        let moments = optimiser.moments().zip(MOMENTS).map(|(moments, prefix)| {
            let mut names: Vec<String> = moments.iter().map(|(name, _)| format!("{prefix}{name}")).rev().collect();
            moments.map(|zeros| {
                let name = names.pop().unwrap_or_default();
                let stored = tensors.remove(&name).filter(|stored| stored.size() == zeros.size());
                let reason = || format!("its tensor `{name}` is missing or has a wrong shape");
                let path = self.path.clone();
                stored.ok_or(Error::Corrupt {
                    path,
                    format: "checkpoint",
                    reason: reason(),
                    hint: file::CHECKPOINT_HINT,
                })
            })
        });
        let moments = moments.collect::<Result<Vec<_>>>()?;
        let optimiser = optimiser.resumed(file::from_metadata(&self.path, &metadata, "steps")?, &moments)?;
        let epochs: Vec<Epoch> = file::from_metadata(&self.path, &metadata, "epochs")?;
        if epochs.len() > self.epochs {
            return Err(Error::CheckpointAhead { path: self.path.clone(), done: epochs.len(), epochs: self.epochs });
        }
        Ok(Some((State { params, optimiser, best }, epochs)))
    }
}
