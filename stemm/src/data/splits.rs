//! Training, held-out and test data together.

use tch::Device;

use super::{Augmentation, Dataset};
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::notebook::{Bundle, Show};

/// What a study needs: data to train on, data held back from it to choose by, and data to report on.
#[derive(Clone, Debug)]
pub struct Splits {
    /// For training and for STE-MM's gradients.
    pub train: Dataset,
    /// Held back from the training set: early stopping and the choice of permutations.
    pub held_out: Dataset,
    /// For reporting only.
    pub test: Dataset,
}

/// One of the parts of a [`Splits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// The training data.
    Train,
    /// The data held back from it.
    HeldOut,
    /// The test data.
    #[default]
    Test,
}

impl Splits {
    /// One of the parts.
    pub fn part(&self, part: Part) -> &Dataset {
        match part {
            Part::Train => &self.train,
            Part::HeldOut => &self.held_out,
            Part::Test => &self.test,
        }
    }

    /// Splits off `held_out` samples of the training data, chosen by the seed.
    ///
    /// # Errors
    /// `held_out` is 0 or leaves nothing; training and test data have different classes.
    pub fn new(train: &Dataset, held_out: usize, seed: u64, test: Dataset) -> Result<Splits> {
        let (train, held_out) = train.split(held_out, seed)?;
        let splits = Splits { train, held_out, test };
        splits.check()?;
        Ok(splits)
    }

    /// The parts with what messages call them.
    pub(crate) fn named_parts(&self) -> [(&'static str, &Dataset); 3] {
        [("training", &self.train), ("held-out", &self.held_out), ("test", &self.test)]
    }

    /// The parts belong together: the same names of classes, wherever they have names, since labels are numbers of these,
    /// and the same shape of samples, device and normalisation.
    pub(crate) fn check(&self) -> Result<()> {
        let numbered = |names: &[String], others: &[String]| -> Vec<String> {
            let own = names.iter().enumerate().filter(|&(label, name)| others.get(label) != Some(name));
            own.map(|(label, name)| format!("{label} = {name}")).collect()
        };
        let train = self.train.class_names();
        for (part, data) in &self.named_parts()[1..] {
            let other = data.class_names();
            if !train.is_empty() && !other.is_empty() && train != other {
                return Err(Error::ClassMismatch {
                    first: format!("the training data (`{}`)", self.train.name()),
                    second: format!("the {part} data (`{}`)", data.name()),
                    only_first: numbered(train, other),
                    only_second: numbered(other, train),
                });
            }
            let (own, expected) = (&data.images().size()[1..], &self.train.images().size()[1..]);
            // A network for flat samples would take any layout.
            if own != expected && own.len() > 1 && expected.len() > 1 {
                return Err(Error::ShapeMismatch {
                    tensor: format!("one sample of the {part} data (`{}`)", data.name()),
                    expected: expected.to_vec(),
                    found: own.to_vec(),
                    hint: "prepare all parts alike: it is another shape than the training data's",
                });
            }
            let (own, expected) = (data.device(), self.train.device());
            if own != expected {
                let value = format!("{own:?} for the {part} data, {expected:?} for the training data");
                return Err(Error::Setting { setting: "device", value, requirement: "the same for every part" });
            }
            let (own, expected) = (data.normalised_by(), self.train.normalised_by());
            if own != expected {
                let value = format!("{own:?} for the {part} data, {expected:?} for the training data");
                let requirement = "the same for every part: use `Splits::normalised`, or prepare the parts alike";
                return Err(Error::Setting { setting: "normalisation", value, requirement });
            }
        }
        Ok(())
    }

    fn map(&self, f: impl Fn(&Dataset) -> Result<Dataset>) -> Result<Splits> {
        Ok(Splits { train: f(&self.train)?, held_out: f(&self.held_out)?, test: f(&self.test)? })
    }

    /// All parts on a device; those that are there already are not copied.
    pub fn to_device(&self, device: impl Into<Device>) -> Result<Splits> {
        let device = device.into();
        self.map(|part| part.to_device(device))
    }

    /// All parts fitted to an input shape ([`Dataset::fit_to`]).
    pub fn fit_to(&self, shape: &[i64]) -> Result<Splits> {
        self.map(|part| part.fit_to(shape))
    }

    /// All parts normalised alike ([`Dataset::normalised`]).
    pub fn normalised(&self, mean: &[f64], std: &[f64]) -> Result<Splits> {
        self.map(|part| part.normalised(mean, std))
    }

    /// The training part augmented, the others as they are.
    pub fn augmented(&self, augmentation: Augmentation) -> Result<Splits> {
        Ok(Splits { train: self.train.augmented(augmentation)?, ..self.clone() })
    }

    /// At most `train` training samples, and at most `rest` of each other part: for quick looks.
    pub fn take(&self, train: usize, rest: usize) -> Result<Splits> {
        let (held_out, test) = (self.held_out.take(rest)?, self.test.take(rest)?);
        Ok(Splits { train: self.train.take(train)?, held_out, test })
    }

    /// One row a part: name, samples, classes, shape of a sample.
    pub fn frame(&self) -> polars::prelude::DataFrame {
        table(&[("train", &self.train), ("held_out", &self.held_out), ("test", &self.test)])
    }
}

impl Show for Splits {
    fn look(&self) -> Bundle {
        let (train, test) = (self.train.remark(), self.test.remark());
        let remark = if train == test { train } else { format!("{train}; test data: {test}") };
        Bundle::table(&self.frame(), &remark)
    }
}

/// One row a part.
pub(super) fn table(parts: &[(&str, &Dataset)]) -> polars::prelude::DataFrame {
    frame([
        column("part", parts.iter().map(|(part, _)| *part)),
        column("data_set", parts.iter().map(|(_, data)| data.name())),
        column("samples", parts.iter().map(|(_, data)| data.len() as u64)),
        column("classes", parts.iter().map(|(_, data)| data.classes())),
        column("shape", parts.iter().map(|(_, data)| format!("{:?}", &data.images().size()[1..]))),
    ])
}
