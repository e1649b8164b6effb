//! Checkpoints of a training: weights, optimiser state and history after an epoch, from which it goes on to the same
//! bits as if it had never stopped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::optimiser::OptimiserState;
use super::{Choice, Epoch, Optimiser, Precision, Schedule, Trainer};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::file::{self, Metadata};
use crate::network::{Network, Params};

/// State of one model's training after a whole number of epochs.
pub(super) struct State {
    pub params: Params,
    pub optimiser: OptimiserState,
    pub epochs: Vec<Epoch>,
    /// Parameters with the lowest held-out loss so far; kept where they are the result.
    pub best: Option<Params>,
}

/// What must be the same for a checkpoint to be continued.
#[derive(Serialize, Deserialize, PartialEq)]
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
    /// Name of the data and how they are prepared.
    data: String,
    samples: usize,
}

/// Where the checkpoint of a seed is, and what it must agree with.
pub(super) struct Checkpoint<'a> {
    path: PathBuf,
    network: &'a Network,
    recipe: Recipe,
}

/// Prefixes of tensor names; the parameters themselves have none, so that `Model::load` reads checkpoints too.
const MOMENTS: [&str; 2] = ["optimiser.first_moment.", "optimiser.second_moment."];
const BEST: &str = "best.";

impl<'a> Checkpoint<'a> {
    pub fn new(folder: &Path, trainer: &Trainer, network: &'a Network, data: &Dataset, seed: u64) -> Self {
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
            data: data.description(),
            samples: data.len(),
        };
        Checkpoint { path: folder.join(format!("seed{seed}.safetensors")), network, recipe }
    }

    pub fn save(&self, state: &State) -> Result<()> {
        let mut sets = vec![("", &state.params)];
        sets.extend(MOMENTS.into_iter().zip(&state.optimiser.moments));
        sets.extend(state.best.iter().map(|best| (BEST, best)));
        let mut tensors: Vec<(String, &Tensor)> = Vec::new();
        for (prefix, params) in sets {
            tensors.extend(params.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        let metadata = Metadata::from([
            ("network".to_owned(), file::to_json(self.network)),
            ("recipe".to_owned(), file::to_json(&self.recipe)),
            ("steps".to_owned(), file::to_json(&state.optimiser.steps)),
            ("epochs".to_owned(), file::to_json(&state.epochs)),
        ]);
        file::write_tensors(&self.path, tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor)), metadata)
    }

    /// The state to go on from, or `None` if there is no checkpoint yet.
    pub fn load(&self, device: Device) -> Result<Option<State>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let (mut tensors, metadata) = file::read_tensors(&self.path, device)?;
        let mismatch = |field| Error::CheckpointMismatch { path: self.path.clone(), field };
        let network: Network = file::from_metadata(&self.path, &metadata, "network")?;
        if network != *self.network {
            return Err(mismatch("network"));
        }
        let recipe: Recipe = file::from_metadata(&self.path, &metadata, "recipe")?;
        if recipe != self.recipe {
            return Err(mismatch("training data or setting"));
        }
        let mut set = |prefix: &str| -> Result<Params> {
            let mut own = HashMap::new();
            for (name, _) in network.tensor_shapes() {
                let stored = format!("{prefix}{name}");
                own.extend(tensors.remove(&stored).map(|tensor| (name, tensor)));
            }
            network.collect(&self.path, own, &[])
        };
        let params = set("")?.leaves()?;
        network.check_params(&params)?;
        let mut optimiser = OptimiserState::new(self.recipe.optimiser, &params)?;
        optimiser.steps = file::from_metadata(&self.path, &metadata, "steps")?;
        let best = if self.recipe.choice == Choice::BestEpoch { Some(set(BEST)?) } else { None };
        for (moments, prefix) in optimiser.moments.iter_mut().zip(MOMENTS) {
            let mut names: Vec<String> = moments.iter().map(|(name, _)| format!("{prefix}{name}")).rev().collect();
            *moments = moments.map(|zeros| {
                let name = names.pop().unwrap_or_default();
                let stored = tensors.remove(&name).filter(|stored| stored.size() == zeros.size());
                let reason = format!("its tensor `{name}` is missing or has a wrong shape");
                stored.ok_or_else(|| Error::Corrupt { path: self.path.clone(), format: "checkpoint", reason })
            })?;
        }
        let epochs = file::from_metadata(&self.path, &metadata, "epochs")?;
        Ok(Some(State { params, optimiser, epochs, best }))
    }
}
