//! Checkpoints of a training: weights, optimiser state and history after an epoch, from which it goes on to the same
//! bits as if it had never stopped.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use tch::Device;

use super::optimiser::OptimiserState;
use super::{Choice, Epoch, Optimiser, Precision, Schedule, Trainer};
use crate::error::Result;
use crate::file::{self, Metadata, Resumed, prefixed};
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

/// The checkpoint of a seed.
#[derive(Debug)]
pub(super) struct Checkpoint {
    file: file::Checkpoint,
    network: Network,
    optimiser: Optimiser,
    /// Epochs that the training is to have.
    epochs: usize,
}

/// The parameters that the training would return have their plain names, so that `Model::load` reads them from a checkpoint too; those
/// of the last step stand beside them, with a prefix that no layer's name has, where they are others.
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
            Some(origin) => format!("seed{seed} from {origin}").replace(' ', "-"),
            None => format!("seed{seed}"),
        };
        let file = file::Checkpoint::new(folder, &name, &recipe);
        Checkpoint { file, network: network.clone(), optimiser: trainer.optimiser, epochs: trainer.epochs }
    }

    pub fn save(&self, state: &State, epochs: &[Epoch]) -> Result<()> {
        let mut tensors = prefixed("", state.best.as_ref().unwrap_or(&state.params));
        if state.best.is_some() {
            tensors.extend(prefixed(LAST, &state.params));
        }
        tensors.extend(state.optimiser.saved(""));
        let metadata = Metadata::from([
            ("network".to_owned(), file::to_json(&self.network)),
            ("best".to_owned(), file::to_json(&state.best.is_some())),
            ("steps".to_owned(), file::to_json(&state.optimiser.steps)),
            ("epochs".to_owned(), file::to_json(&epochs)),
        ]);
        self.file.save(&tensors, metadata)
    }

    /// The state to go on from and the epochs before it, or `None` if there is no checkpoint yet.
    pub fn load(&self, device: Device) -> Result<Option<(State, Vec<Epoch>)>> {
        self.file.load(device, |resumed| self.read(resumed))
    }

    fn read(&self, mut resumed: Resumed) -> Result<(State, Vec<Epoch>)> {
        let network: Network = resumed.value("network")?;
        if network != self.network {
            return Err(self.file.mismatch("network"));
        }
        let mut set = |prefix: &str| -> Result<Params> {
            let mut own = HashMap::new();
            for (name, _) in network.tensor_shapes() {
                let stored = format!("{prefix}{name}");
                own.extend(resumed.tensors.remove(&stored).map(|tensor| (name, tensor)));
            }
            network.collect(self.file.path(), own, &[])
        };
        let result = set("")?;
        let last = set(LAST);
        let best: bool = resumed.value("best")?;
        let (params, best) = if best { (last?, Some(result)) } else { (result, None) };
        let params = params.leaves()?;
        network.check_params(&params)?;
        let steps = resumed.value("steps")?;
        let optimiser = OptimiserState::new(self.optimiser, &params)?.resumed("", steps, &mut resumed)?;
        let epochs: Vec<Epoch> = resumed.value("epochs")?;
        self.file.not_ahead(epochs.len(), "epochs", self.epochs)?;
        Ok((State { params, optimiser, best }, epochs))
    }
}
