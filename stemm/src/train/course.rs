//! One model on its way from its beginning to the result.

use tch::Device;

use super::checkpoint::{Checkpoint, State};
use super::{Choice, Epoch, OptimiserState, Trainer};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::network::{Model, Network};

/// One model on its way.
#[derive(Debug)]
pub(super) struct Course {
    pub model: usize,
    pub seed: u64,
    /// Where it begins, unless with the initial values of its seed.
    origin: Option<Snapshot>,
    /// From the first epoch on until the result is there.
    pub state: Option<State>,
    pub checkpoint: Option<Checkpoint>,
    /// Kept apart from the state, which ends with the training.
    pub epochs: Vec<Epoch>,
    pub result: Option<Model>,
}

/// A training at one of its steps.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// What it is, for checkpoints.
    pub label: String,
    pub state: State,
    pub epochs: Vec<Epoch>,
}

impl Snapshot {
    /// A copy of its own.
    pub fn copied(&self) -> Result<Snapshot> {
        let state = self.state.on(self.state.params.device())?;
        Ok(Snapshot { label: self.label.clone(), state, epochs: self.epochs.clone() })
    }
}

impl Course {
    pub fn new(model: usize, seed: u64, origin: Option<Snapshot>) -> Course {
        Course { model, seed, origin, state: None, checkpoint: None, epochs: Vec::new(), result: None }
    }

    /// Steps that are done.
    pub fn steps(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.optimiser.steps)
    }

    /// Where it is, as a copy.
    pub fn snapshot(&self, label: String, device: Device) -> Result<Option<Snapshot>> {
        let state = self.state.as_ref().map(|state| state.on(device)).transpose()?;
        Ok(state.map(|state| Snapshot { label, state, epochs: self.epochs.clone() }))
    }

    /// The model with its initial values, or where its checkpoint left it.
    pub fn start(&mut self, trainer: &Trainer, network: &Network, data: &Splits, digest: &str) -> Result<()> {
        if self.state.is_some() {
            return Ok(());
        }
        let device = data.train.device();
        let folder = trainer.checkpoints.as_ref();
        let origin = self.origin.as_ref().map(|snapshot| snapshot.label.as_str());
        self.checkpoint =
            folder.map(|folder| Checkpoint::new(folder, trainer, network, digest.to_owned(), self.seed, origin));
        let resumed = match &self.checkpoint {
            Some(checkpoint) => checkpoint.load(device)?,
            None => None,
        };
        let (state, epochs) = match (resumed, &self.origin) {
            (Some(resumed), _) => resumed,
            (None, Some(snapshot)) => (snapshot.state.on(device)?, snapshot.epochs.clone()),
            (None, None) => {
                let params = network.init(self.seed, device)?.leaves()?;
                let optimiser = OptimiserState::new(trainer.optimiser, &params)?;
                (State { params, optimiser, best: None }, Vec::new())
            }
        };
        self.state = Some(state);
        let own = |epoch| Epoch { model: self.model, seed: self.seed, ..epoch };
        self.epochs = epochs.into_iter().map(own).collect();
        Ok(())
    }

    /// The result; what was needed to go on is dropped.
    pub fn finish(&mut self, trainer: &Trainer, network: &Network) -> Result<()> {
        let Some(state) = &self.state else { return Ok(()) };
        if trainer.choice == Choice::BestEpoch && state.best.is_none() {
            let tensor = format!("the held-out loss of the model with seed {}, in every epoch,", self.seed);
            return Err(Error::NonFinite { tensor, hint: crate::error::RETRAIN });
        }
        let params = state.best.as_ref().unwrap_or(&state.params).copied()?;
        self.result = Some(Model::new(network.clone(), params)?);
        self.state = None;
        Ok(())
    }
}
