//! `stemm`: a laboratory for linear mode connectivity (LMC) in Rust notebooks.
//!
//! Train several networks from different seeds, move them into one basin by permuting their units, and see what happened
//! as polars frames and plotters charts. The data flow one way, and so do the modules:
//! [`data`] → [`network`] → [`train`] → [`align`] → [`mod@merge`] → [`analysis`] → frames and [`chart`]s; an [`experiment`] goes
//! all that way.
//!
//! ```
//! use stemm::prelude::*;
//! let data = blobs(0, Device::Cpu)?;
//! let network = Network::mlp(&[16, 32, 4])?;
//! let trainer = Trainer { epochs: 10, batch_size: 64, ..Trainer::default() };
//! let training = trainer.train(&network, &data, &[0, 1, 2])?;
//! let naive = Alignment::naive(&training.models)?;
//! let aligned = SteMm { epochs: 5, ..SteMm::default() }.align(&training.models, &data)?;
//! println!("{}", compare(&training, &[&naive, &aligned], &data)?.frame());
//! # Ok::<(), stemm::Error>(())
//! ```
//!
//! Sources: Ito, Yamada, Kumagai, "Linear Mode Connectivity between Multiple Models modulo Permutation Symmetries"
//! (ICML 2025); Ainsworth, Hayase, Srinivasa, "Git Re-Basin" (ICLR 2023).

#![warn(missing_docs)]

pub mod align;
pub mod analysis;
pub mod chart;
mod covariance;
pub mod data;
mod device;
mod error;
mod evaluate;
pub mod experiment;
mod file;
pub mod frame;
mod memory;
pub mod merge;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod mkl;
mod moments;
pub mod network;
mod notebook;
mod progress;
mod recipe;
mod rng;
mod slice;
pub mod train;
mod workers;

pub use device::{DeviceChoice, cuda_devices, device, fast_convolutions};
pub use error::{Error, Result};
pub use evaluate::Evaluation;
pub use memory::available as free_memory;
pub use notebook::{LazyDisplay, NotebookDisplay, Shown, clear_output, interrupted, show};
pub use progress::Progress;
pub use recipe::Recipe;

// One dependency is enough in a notebook: these are the versions whose types the crate's functions take and give.
pub use plotters;
pub use polars;
pub use tch;

/// What a notebook needs: `use stemm::prelude::*;`.
pub mod prelude {
    pub use crate::align::{
        ActivationMatching, Aligner, Alignment, FrankWolfe, MatchTo, Method, Mixing, Naive, Permutation, Permutations,
        Similarity, Sinkhorn, SinkhornLoss, Solver, Start, SteMm, WeightMatching,
    };
    pub use crate::analysis::{
        Bezier, Estimator, Hutchinson, Instability, Interpolation, Lanczos, LayerwiseInterpolation, MergeGrowth,
        Moving, Plane, Simplex, SpectralDensity, Weighting, agreement, compare, compare_merges, cycle_consistency,
        cycles, ensemble, feature_connectivity, geometry, paired_test, summary, unit_correlation, variance_collapse,
    };
    pub use crate::chart::{Bars, Chart, Contours, Heatmap, Lines};
    pub use crate::data::{
        Augmentation, Dataset, Part, Splits, blobs, cifar10, cifar100, fashion_mnist, image_folder, image_folder_of,
        mnist,
    };
    pub use crate::experiment::{Plan, Tournament};
    pub use crate::frame::{describe, load_parquet, save_csv, save_parquet};
    pub use crate::merge::{Fisher, Merging, RegMean, Repair, greedy_soup, merge, merge_weighted};
    pub use crate::network::architecture::{CifarResNet, ImageNetResNet, Norm, Vgg};
    pub use crate::network::{
        AdaptiveAvgPool2d, Add, AvgPool2d, BatchNorm, Concat, Conv2d, Dropout, Flatten, Gelu, GroupNorm, Layer,
        LayerNorm, Linear, MaxPool2d, Mode, Model, Network, Params, Relu, Sequence, Tanh,
    };
    pub use crate::train::{Choice, Optimiser, Precision, Schedule, Trainer, Training, TrainingRun};
    pub use crate::{
        Evaluation, LazyDisplay, NotebookDisplay, Progress, Recipe, Shown, clear_output, cuda_devices, device,
        fast_convolutions, interrupted, show,
    };
    pub use polars::prelude::{DataFrame, IntoLazy, col, lit};
    pub use tch::{Device, Kind, Tensor};
}
