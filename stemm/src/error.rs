//! The one error type of the crate: each message says what was wrong, where, and what to do next.

use std::path::PathBuf;

use tch::TchError;

/// Everything that can go wrong in `stemm`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Files
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}; {hint}", path.display())]
    File {
        /// What was being done: `read`, `write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
        /// What to do next.
        hint: &'static str,
    },
    /// A file is truncated or is not in the format it should be in.
    #[error("{} is not a valid {format} file: {reason}; {hint}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The format that was expected.
        format: &'static str,
        /// What does not fit.
        reason: String,
        /// What to do next.
        hint: &'static str,
    },
    /// A data file is not the published one.
    #[error(
        "{} has SHA-256 {found}, but the published file has {expected}; move it away and run `{command}`",
        path.display()
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// SHA-256 of the published, decompressed file.
        expected: String,
        /// SHA-256 of the decompressed file found.
        found: String,
        /// What fetches the published file.
        command: &'static str,
    },
    /// A checkpoint belongs to other work than that which wants to go on from it.
    #[error(
        "checkpoint {} was written with another {field}; give `checkpoints` another folder, or what it was written with",
        path.display()
    )]
    CheckpointMismatch {
        /// The checkpoint.
        path: PathBuf,
        /// What differs.
        field: String,
    },
    /// A checkpoint is further than the work that wants to go on from it.
    #[error(
        "checkpoint {} holds {done} {setting}, but `{setting}` is {most}; set `{setting}` to at least {done}, or give `checkpoints` another folder",
        path.display()
    )]
    CheckpointAhead {
        /// The checkpoint.
        path: PathBuf,
        /// Epochs or steps that the checkpoint holds.
        done: usize,
        /// The setting that says how many there are to be.
        setting: &'static str,
        /// Its value.
        most: usize,
    },

    // Data
    /// A label does not name a class.
    #[error(
        "label {label} of sample {index} of {data} is outside 0..{classes}; correct the labels, or the number of classes or outputs"
    )]
    LabelOutOfRange {
        /// Which data.
        data: String,
        /// Position in the data set.
        index: usize,
        /// The label found.
        label: i64,
        /// Number of classes.
        classes: i64,
    },
    /// A label is no whole number.
    #[error(
        "label {label:.4} of sample {index} of {data} is no whole number; labels are the numbers of classes, from 0"
    )]
    FractionalLabel {
        /// Which data.
        data: String,
        /// Position in the data set.
        index: usize,
        /// The label found.
        label: f64,
    },
    /// Two parts of the data have other classes, so that the same label would mean different things.
    #[error(
        "{first} and {second} number their classes differently: {} in the first, {} in the second; give both the same folders, or one list of classes by `image_folder_of`",
        listed(only_first),
        listed(only_second)
    )]
    ClassMismatch {
        /// The one part.
        first: String,
        /// The other part.
        second: String,
        /// Labels that name a class in the first part and not in the second, such as `1 = dog`.
        only_first: Vec<String>,
        /// Labels that name a class in the second part and not in the first.
        only_second: Vec<String>,
    },
    /// A data set or a part of one holds no samples.
    #[error("{what} holds no samples; give it at least one")]
    Empty {
        /// Which data.
        what: String,
    },

    // Tensors and networks
    /// A tensor has another shape than it must have.
    #[error("{tensor} has shape {found:?}, expected {}; {hint}", sizes(expected))]
    ShapeMismatch {
        /// The tensor.
        tensor: String,
        /// The shape it must have; -1 is any size.
        expected: Vec<i64>,
        /// The shape it has.
        found: Vec<i64>,
        /// What to do next.
        hint: &'static str,
    },
    /// A set of parameters has missing or surplus tensors.
    #[error(
        "the parameters do not belong to this network: missing {}, surplus {}; load them with the network they were saved with",
        listed(missing),
        listed(surplus)
    )]
    TensorNames {
        /// Names that the network needs and the parameters lack.
        missing: Vec<String>,
        /// Names that the network does not know.
        surplus: Vec<String>,
    },
    /// A tensor holds NaN or an infinity.
    #[error("{tensor} holds NaN or infinite values; {hint}")]
    NonFinite {
        /// The tensor.
        tensor: String,
        /// What to do next.
        hint: &'static str,
    },
    /// A variance is below zero, so that batch norm would give NaN.
    #[error(
        "{tensor} holds the variance {lowest}, which is below 0; recompute the running statistics where the model comes from"
    )]
    NegativeVariance {
        /// The tensor.
        tensor: String,
        /// The lowest value found.
        lowest: f64,
    },
    /// Tensors that must have one number format have different ones, or one that is not computed with.
    #[error("{tensor} has the number format {found}, expected {expected}; convert it by `to_kind`")]
    NumberFormat {
        /// The tensor.
        tensor: String,
        /// The format it has.
        found: String,
        /// The format it must have.
        expected: String,
    },
    /// A file holds other tensors than the network needs.
    #[error(
        "{} does not fit this network: {}; {hint}",
        path.display(),
        differences([("missing", missing), ("surplus", surplus), ("wrong shape or format", misshapen)])
    )]
    StateDict {
        /// The file.
        path: PathBuf,
        /// Names that the network needs and the file lacks.
        missing: Vec<String>,
        /// Names that the network does not know.
        surplus: Vec<String>,
        /// Names with the shape found and the shape expected, or with the number format found where it is not floats.
        misshapen: Vec<String>,
        /// What to do next.
        hint: &'static str,
    },
    /// A layer gets an input that it cannot take.
    #[error(
        "layer `{layer}` takes inputs of shape {expected}, but is given {given:?}; correct the description of the network"
    )]
    LayerShape {
        /// Name of the layer.
        layer: String,
        /// The shape it takes, in words where several are possible.
        expected: String,
        /// The shape that flows into it.
        given: Vec<i64>,
    },
    /// A layer has settings that cannot work.
    #[error("layer `{layer}` cannot be built: {reason}; correct the description of the network")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// What does not fit.
        reason: String,
    },

    // Alignment
    /// Fewer models than the operation needs.
    #[error("{operation} needs at least {needed} models, got {found}; train or load more")]
    TooFewModels {
        /// What was asked for.
        operation: &'static str,
        /// Models given.
        found: usize,
        /// Models needed.
        needed: usize,
    },
    /// Models of different networks cannot be aligned or merged.
    #[error("model {index} has another network than model 0; use models of one architecture")]
    NetworkMismatch {
        /// Position of the model that differs.
        index: usize,
    },
    /// A file holds permutations of other groups than the network has.
    #[error("{} does not fit this network: {reason}; load it with the network of the models that were aligned", path.display())]
    AlignmentMismatch {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A list of indices is not a permutation, or has the wrong size.
    #[error("not a permutation that fits here: {reason}; each index of 0..n must occur once")]
    Permutation {
        /// What does not fit.
        reason: String,
    },

    // Settings
    /// A setting has a value that cannot be used.
    #[error("setting `{setting}` is {}, but it must be {requirement}", shortened(value))]
    Setting {
        /// The field.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        requirement: &'static str,
    },

    /// The user has asked the notebook to stop.
    #[error("interrupted in {done}; variables of earlier cells are as they were")]
    Interrupted {
        /// How far the work had come.
        done: String,
    },

    /// An experiment cannot be measured, because its models or their alignment failed before.
    #[error("{reason}")]
    Experiment {
        /// The error of those.
        reason: String,
    },
    /// A plan of experiments cannot be used.
    #[error("{} is no plan of experiments: {reason}; `Plan`'s documentation has an example", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What does not fit, and where.
        reason: String,
    },

    // Libraries
    /// The device has no memory left.
    #[error(
        "the device is out of memory: {0}; use smaller batches, fewer models at once, or a smaller network. Checkpoints written so far are intact"
    )]
    OutOfMemory(String),
    /// libtorch reported an error.
    #[error("libtorch reported: {0}; check the shapes and the device of the tensors given")]
    Torch(String),
    /// The system gave no threads.
    #[error("cannot start threads: {reason}; raise the limit on processes, or use fewer threads")]
    Threads {
        /// What the system said.
        reason: String,
    },
    /// A frame lacks a column, or holds other values than were expected.
    #[error("cannot use the frame: {reason}; {hint}")]
    Frame {
        /// What does not fit, with the column and the row.
        reason: String,
        /// What to do next.
        hint: &'static str,
    },
    /// A chart could not be drawn.
    #[error("cannot draw the chart: {0}; look at the result's `.frame()` instead")]
    Chart(String),
}

impl Error {
    /// Values that are not finite, with the setting of whoever computed them from what was finite.
    pub(crate) fn diverged(self, hint: &'static str) -> Error {
        match self {
            Error::NonFinite { tensor, .. } => Error::NonFinite { tensor, hint },
            other => other,
        }
    }
}

/// What to do about values of a network that are not finite.
pub(crate) const RETRAIN: &str = "train the model again, with a smaller learning rate if the loss diverged";

/// A shape, of which some sizes may be any.
fn sizes(shape: &[i64]) -> String {
    let sizes: Vec<String> = shape.iter().map(|&size| if size < 0 { "any".into() } else { size.to_string() }).collect();
    format!("[{}]", sizes.join(", "))
}

/// Names that an error shows of a long list.
const SHOWN_NAMES: usize = 5;
/// Characters that an error shows of a long value.
const SHOWN_CHARACTERS: usize = 200;

/// A list of names, cut with a count if it is long.
pub(crate) fn listed(names: &[String]) -> String {
    let shown =
        names.iter().take(SHOWN_NAMES).map(|name| format!("{:?}", shortened(name))).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN_NAMES) {
        0 if names.is_empty() => "nothing".to_owned(),
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Several lists of names, those alone that hold any.
fn differences<const N: usize>(lists: [(&str, &Vec<String>); N]) -> String {
    let found = lists.iter().filter(|(_, names)| !names.is_empty());
    found.map(|(what, names)| format!("{what} {}", listed(names))).collect::<Vec<_>>().join(", ")
}

/// A value, cut if it is long.
fn shortened(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}... ({} characters)", &value[..end], value.chars().count()),
        None => value.to_owned(),
    }
}

impl Error {
    /// A set of parameters has other names than it must have.
    pub(crate) fn tensor_names(expected: &[impl AsRef<str>], found: &[impl AsRef<str>]) -> Error {
        fn without(names: &[impl AsRef<str>], others: &[impl AsRef<str>]) -> Vec<String> {
            let other = |name: &str| others.iter().any(|other| other.as_ref() == name);
            names.iter().map(AsRef::as_ref).filter(|name| !other(name)).map(str::to_owned).collect()
        }
        Error::TensorNames { missing: without(expected, found), surplus: without(found, expected) }
    }

    /// Names the layer that an error is about, unless a layer inside it has done so.
    pub(crate) fn in_layer(mut self, name: &str) -> Error {
        if let Error::Layer { layer, .. } | Error::LayerShape { layer, .. } = &mut self
            && layer.is_empty()
        {
            *layer = name.to_owned();
        }
        self
    }
}

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        // libtorch appends a C++ stack trace; the first lines say what happened.
        let text: String = error.to_string().lines().take(2).collect::<Vec<_>>().join(" ");
        if text.contains("out of memory") || text.contains("can't allocate memory") {
            Error::OutOfMemory(text)
        } else {
            Error::Torch(text)
        }
    }
}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
