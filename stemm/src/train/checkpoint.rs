//! Checkpoints of a training: weights, optimiser state and history after an epoch, from which it goes on to the same
//! bits as if it had never stopped.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Device;

use super::adam::Adam;
use super::{Epoch, Trainer};
use crate::error::{Error, Result};
use crate::file::{self, Metadata};
use crate::network::{Network, Params};

/// State of one model's training after a whole number of epochs.
pub(super) struct State {
    pub params: Params,
    pub adam: Adam,
    pub epochs: Vec<Epoch>,
    /// Parameters with the lowest held-out loss so far; kept where the training may stop early.
    pub best: Option<Params>,
}

/// What must be the same for a checkpoint to be continued.
#[derive(Serialize, Deserialize, PartialEq)]
struct Recipe {
    learning_rate: f64,
    batch_size: usize,
    patience: Option<usize>,
    seed: u64,
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
const FIRST_MOMENT: &str = "adam.first_moment.";
const SECOND_MOMENT: &str = "adam.second_moment.";
const BEST: &str = "best.";

impl<'a> Checkpoint<'a> {
    pub fn new(folder: &Path, trainer: &Trainer, network: &'a Network, data: (&str, usize), seed: u64) -> Self {
        let recipe = Recipe {
            learning_rate: trainer.learning_rate,
            batch_size: trainer.batch_size,
            patience: trainer.patience,
            seed,
            data: data.0.to_owned(),
            samples: data.1,
        };
        Checkpoint { path: folder.join(format!("seed{seed}.safetensors")), network, recipe }
    }

    pub fn save(&self, state: &State) -> Result<()> {
        let sets = [
            ("", Some(&state.params)),
            (FIRST_MOMENT, Some(&state.adam.first_moments)),
            (SECOND_MOMENT, Some(&state.adam.second_moments)),
            (BEST, state.best.as_ref()),
        ];
        let mut tensors = Vec::new();
        for (prefix, params) in sets {
            tensors
                .extend(params.iter().flat_map(|params| params.iter()).map(|(name, t)| (format!("{prefix}{name}"), t)));
        }
        let metadata = Metadata::from([
            ("network".to_owned(), file::to_json(self.network)),
            ("recipe".to_owned(), file::to_json(&self.recipe)),
            ("steps".to_owned(), file::to_json(&state.adam.steps)),
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
            let names = network.tensor_shapes().into_iter().map(|(name, _)| name);
            let found =
                names.filter_map(|name| tensors.remove(&format!("{prefix}{name}")).map(|tensor| (name, tensor)));
            let params = Params::new(found);
            network.check_params(&params)?;
            Ok(params)
        };
        let params = set("")?.leaves()?;
        let mut adam = Adam::new(&params, self.recipe.learning_rate)?;
        adam.first_moments = set(FIRST_MOMENT)?;
        adam.second_moments = set(SECOND_MOMENT)?;
        adam.steps = file::from_metadata(&self.path, &metadata, "steps")?;
        let best = if self.recipe.patience.is_some() { Some(set(BEST)?) } else { None };
        let epochs = file::from_metadata(&self.path, &metadata, "epochs")?;
        Ok(Some(State { params, adam, epochs, best }))
    }
}
