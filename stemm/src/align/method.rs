//! The methods as one value: to be listed, written to a file and read back.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{ActivationMatching, Aligner, Alignment, FrankWolfe, Naive, Sinkhorn, SteMm, WeightMatching};
use crate::data::Splits;
use crate::error::Result;
use crate::network::Model;
use crate::progress::Progress;

/// Any method, with its settings.
///
/// ```
/// use stemm::prelude::*;
/// let longer = Method::named("ste-mm, 20 epochs", SteMm { epochs: 20, ..SteMm::default() });
/// let methods: Vec<Method> = vec![Naive.into(), WeightMatching::default().into(), longer];
/// assert_eq!(methods[2].name(), "ste-mm, 20 epochs");
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Method {
    /// No alignment.
    Naive,
    /// Weight matching.
    WeightMatching(WeightMatching),
    /// Activation matching.
    ActivationMatching(ActivationMatching),
    /// Frank-Wolfe on the matrices between permutations.
    FrankWolfe(FrankWolfe),
    /// Gradient descent on soft permutations.
    Sinkhorn(Sinkhorn),
    /// The straight-through estimator for multiple models.
    SteMm(SteMm),
    /// A method under another name: two settings of one, side by side.
    Named {
        /// What tables call it.
        name: String,
        /// The method.
        method: Box<Method>,
    },
    /// A method from outside this crate, by [`Method::own`]; it is written as it prints, and cannot be read back.
    #[serde(skip_deserializing)]
    Own(#[serde(serialize_with = "printed")] Arc<dyn Aligner>),
}

fn printed<S: Serializer>(method: &Arc<dyn Aligner>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    // Neither its seed, which an experiment gives it, nor where it shows progress.
    serializer.collect_str(&format_args!("{:?}", method.with(0, Progress::Silent).inner()))
}

impl Method {
    /// A method of your own.
    pub fn own(method: impl Aligner + 'static) -> Method {
        Method::Own(Arc::new(method))
    }

    /// A method under another name.
    pub fn named(name: impl Into<String>, method: impl Into<Method>) -> Method {
        Method::Named { name: name.into(), method: Box::new(method.into()) }
    }

    /// The same, keeping its state in a folder if it is one that takes long.
    pub(crate) fn kept_in(self, folder: &Path) -> Method {
        let checkpoints = Some(folder.to_owned());
        match self {
            Method::Sinkhorn(own) => Method::Sinkhorn(Sinkhorn { checkpoints, ..own }),
            Method::SteMm(own) => Method::SteMm(SteMm { checkpoints, ..own }),
            Method::Named { name, method } => Method::Named { name, method: Box::new(method.kept_in(folder)) },
            other => other,
        }
    }

    /// The folder in which it keeps its state, if it has one.
    pub(crate) fn checkpoints(&self) -> Option<&Path> {
        match self {
            Method::Sinkhorn(own) => own.checkpoints.as_deref(),
            Method::SteMm(own) => own.checkpoints.as_deref(),
            Method::Named { method, .. } => method.checkpoints(),
            _ => None,
        }
    }

    /// Its own seed, where this crate knows of one.
    pub(crate) fn seed(&self) -> Option<u64> {
        match self {
            Method::Naive | Method::Own(_) => None,
            Method::WeightMatching(own) => Some(own.seed),
            Method::ActivationMatching(own) => Some(own.seed),
            Method::FrankWolfe(own) => Some(own.seed),
            Method::Sinkhorn(own) => Some(own.seed),
            Method::SteMm(own) => Some(own.seed),
            Method::Named { method, .. } => method.seed(),
        }
    }

    fn inner(&self) -> &dyn Aligner {
        match self {
            Method::Naive => &Naive,
            Method::WeightMatching(own) => own,
            Method::ActivationMatching(own) => own,
            Method::FrankWolfe(own) => own,
            Method::Sinkhorn(own) => own,
            Method::SteMm(own) => own,
            Method::Named { method, .. } => method.inner(),
            Method::Own(own) => own.as_ref(),
        }
    }
}

impl Aligner for Method {
    fn name(&self) -> &str {
        match self {
            Method::Named { name, .. } => name,
            other => other.inner().name(),
        }
    }

    fn check(&self) -> Result<()> {
        self.inner().check()
    }

    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment> {
        Ok(Alignment { method: self.name().to_owned(), ..self.inner().align(models, data)? })
    }

    fn with(&self, seed: u64, progress: Progress) -> Method {
        match self {
            Method::Named { name, method } => {
                Method::Named { name: name.clone(), method: Box::new(method.with(seed, progress)) }
            }
            other => other.inner().with(seed, progress),
        }
    }
}

impl From<Naive> for Method {
    fn from(_: Naive) -> Method {
        Method::Naive
    }
}

/// The variant that is called as its settings are.
macro_rules! from_settings {
    ($($method:ident),*) => {
        $(impl From<$method> for Method {
            fn from(own: $method) -> Method {
                Method::$method(own)
            }
        })*
    };
}

from_settings!(WeightMatching, ActivationMatching, FrankWolfe, Sinkhorn, SteMm);
