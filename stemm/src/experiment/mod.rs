//! Experiments as values: which models, aligned and merged how, and what is measured of them. One has a content hash, is run once,
//! and leaves one row; tournaments and plans are lists of them.

mod bench;
mod plan;
mod published;
mod rows;
mod status;
mod store;
mod tournament;
mod verdicts;

pub use bench::Bench;
pub use plan::{Architecture, Plan, Slurm};
pub use published::{DataSet, Published};
pub use rows::{Measured, Row};
pub use status::Status;
pub use store::{Outcome, Store};
pub use tournament::Tournament;
pub use verdicts::Verdicts;

use serde::{Deserialize, Serialize};

use crate::align::{Aligner, Method};
use crate::analysis::Hutchinson;
use crate::file;
use crate::merge::Merging;
use crate::network::Network;
use crate::train::Trainer;

/// One cell of a study: models of some seeds, one method, one merge, and what is measured.
///
/// ```
/// use stemm::experiment::{Bench, Data, DataSet, Experiment, Published};
/// use stemm::prelude::*;
/// let experiment = Experiment {
///     data: Data::Published(DataSet::Blobs(0).into()),
///     network: Network::mlp(&[16, 12, 4])?,
///     trainer: Trainer { epochs: 2, batch_size: 64, ..Trainer::default() },
///     models: vec![0, 1, 2],
///     method: WeightMatching::default().into(),
///     seed: 0,
///     merge: Merging::Mean,
///     barrier_points: 5,
///     trace: None,
/// };
/// let measured = Bench::new(&blobs(0, Device::Cpu)?).measure(&experiment)?;
/// println!("{}: {:?}", experiment.hash(), measured);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// On which data.
    pub data: Data,
    /// What is trained.
    pub network: Network,
    /// How.
    pub trainer: Trainer,
    /// A model for each of these seeds.
    pub models: Vec<u64>,
    /// How they are aligned.
    pub method: Method,
    /// With which seed of the method.
    pub seed: u64,
    /// How the aligned models are merged.
    pub merge: Merging,
    /// Places on the line between each pair of aligned models.
    pub barrier_points: usize,
    /// Which trace of the Hessian of the merge is estimated, if any, on the test data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Hutchinson>,
}

/// Which data an experiment is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Data {
    /// Published ones, which it can load itself.
    Published(Published),
    /// Others, by the SHA-256 of all their samples, labels and preparation.
    Given(String),
}

/// Grows by a letter when the same settings come to give other results, so that those of before are not taken for them.
const RESULTS: &str = "";

/// An experiment with what tables say of it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The experiment.
    pub experiment: Experiment,
    /// What tables call the data.
    pub data: String,
    /// What tables call the network.
    pub network: String,
    /// Which of the groups of models that share none it belongs to.
    pub group: usize,
}

impl Experiment {
    /// SHA-256 of all that decides its figures, in hexadecimal.
    pub fn hash(&self) -> String {
        file::sha256(format!("{}{RESULTS}", file::to_json(self)).as_bytes())
    }

    /// The same for its models, but for their seeds.
    pub(crate) fn training(&self) -> String {
        file::sha256(file::to_json(&(&self.data, &self.network, &self.trainer)).as_bytes())
    }

    /// The same for its alignment.
    pub(crate) fn alignment(&self) -> String {
        let decides = (self.training(), &self.models, &self.method, self.seed);
        file::sha256(format!("{}{RESULTS}", file::to_json(&decides)).as_bytes())
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Experiment { method, merge, models, .. } = &self.experiment;
        let (network, group) = (&self.network, self.group);
        write!(f, "{network}, {}, {merge}, {} models, group {group}", method.name(), models.len())
    }
}

/// Numbers in the parameters and buffers of a network.
fn size_of(network: &Network) -> u64 {
    network.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<i64>() as u64).sum()
}

impl Entry {
    /// Whether both are of one group of models.
    pub fn shares_models_with(&self, other: &Entry) -> bool {
        let (own, others) = (&self.experiment, &other.experiment);
        self.group == other.group && own.data == others.data && own.network == others.network
    }

    /// A row of it without figures yet.
    fn row(&self, measured: std::result::Result<Measured, String>) -> Row {
        let experiment = &self.experiment;
        Row {
            data: self.data.clone(),
            network: self.network.clone(),
            parameters: size_of(&experiment.network),
            method: experiment.method.name().to_owned(),
            merge: experiment.merge.to_string(),
            n_models: experiment.models.len(),
            group: self.group,
            seed: experiment.seed,
            measured,
            experiment: experiment.hash(),
        }
    }
}
