//! Whether data fit a network, asked once for all: shapes, labels and classes are checked before any kernel runs. On a GPU
//! a label without an output would end CUDA for the whole process.

use tch::Tensor;

use super::Network;
use crate::data::{Dataset, Order, Splits};
use crate::error::{Error, Result};
use crate::progress;

/// Samples a batch, at most, wherever no gradient is needed: enough to keep the cores busy, and small enough for the cache.
const LARGEST_BATCH: usize = 1_000;
/// Memory for what flows through a network at a time.
const BATCH_BYTES: f64 = (2u64 << 30) as f64;

/// What a training may take of a device's free memory; the rest is for libtorch's own copies.
const FREE_SHARE: f64 = 0.5;

/// What a pass keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// A few layers at a time.
    Forward,
    /// All layers with their gradients and the gradients of these, as a product of the Hessian does.
    SecondOrder,
}

impl Network {
    /// Checks that a training or an analysis can take every part of the data.
    pub(crate) fn check_splits(&self, data: &Splits) -> Result<()> {
        data.check()?;
        for (part, own) in data.named_parts() {
            self.check_part(own, &format!("the {part} data (`{}`)", own.name()))?;
        }
        Ok(())
    }

    /// Checks samples and labels of one data set.
    pub(crate) fn check_dataset(&self, data: &Dataset) -> Result<()> {
        self.check_part(data, &format!("`{}`", data.name()))
    }

    fn check_part(&self, data: &Dataset, what: &str) -> Result<()> {
        self.check_sample(|| format!("one sample of {what}"), &data.images().size()[1..])?;
        let &[outputs] = self.output_shape().as_slice() else {
            return Err(Error::ShapeMismatch {
                tensor: "one output of the network".into(),
                expected: vec![data.classes()],
                found: self.output_shape(),
                hint: "end the network with `Flatten` and a `Linear` layer, one output for each class",
            });
        };
        if data.classes() > outputs {
            let labels = Vec::<i64>::try_from(data.labels())?;
            if let Some(index) = labels.iter().position(|&label| label >= outputs) {
                return Err(Error::LabelOutOfRange {
                    data: what.to_owned(),
                    index,
                    label: labels[index],
                    classes: outputs,
                });
            }
        }
        Ok(())
    }

    /// A sample has the network's input shape; only where one of the two is flat does their order of values agree.
    pub(super) fn check_sample(&self, tensor: impl FnOnce() -> String, sample: &[i64]) -> Result<()> {
        let expected = self.input_shape();
        let values = |shape: &[i64]| shape.iter().product::<i64>();
        let flat = sample.len() == 1 || expected.len() == 1 && !sample.is_empty();
        if sample == expected || flat && values(sample) == values(expected) {
            return Ok(());
        }
        let hint = if matches!((sample, expected), (&[h, w, c], &[channels, height, width]) if [c, h, w] == [channels, height, width])
        {
            "put the axes in order: `images.permute([0, 3, 1, 2])` brings channels that come last to the front"
        } else {
            "use data that fits the network's input shape; `fit_to` pads images and repeats their channels"
        };
        Err(Error::ShapeMismatch { tensor: tensor(), expected: expected.to_vec(), found: sample.to_vec(), hint })
    }

    /// The batches of data that fit this network: the one door through which samples come to it, and the place where every
    /// long work asks whether to stop.
    pub(crate) fn batches<'a>(
        &self,
        data: &'a Dataset,
        batch_size: usize,
        order: Order,
    ) -> Result<impl Iterator<Item = Result<(Tensor, Tensor)>> + use<'a>> {
        self.check_dataset(data)?;
        let batches = data.batches(batch_size, order)?;
        Ok(batches.map(|batch| progress::check().and(batch)))
    }

    /// Batches in order, all of about one size, which is at most what memory allows and `largest`.
    pub(crate) fn chunks<'a>(
        &self,
        data: &'a Dataset,
        memory: Memory,
        largest: usize,
    ) -> Result<impl Iterator<Item = Result<(Tensor, Tensor)>> + use<'a>> {
        let most = self.most_samples(memory)?.min(LARGEST_BATCH).min(largest);
        let count = data.len().div_ceil(most).max(1);
        self.batches(data, data.len().div_ceil(count).max(1), Order::Sequential)
    }

    /// Models that a device with so many free bytes can train side by side, with Adam, with batches of so many samples.
    pub(crate) fn most_models(&self, batch_size: usize, free_bytes: u64) -> Result<usize> {
        let (plan, _) = self.plan()?;
        // Weights, their gradients, two moments, and what is stacked from them or given back to each model.
        let own = 8.0 * self.tensor_shapes().iter().map(|(_, shape)| values(shape)).sum::<f64>();
        let outputs = plan.layers.iter().map(|layer| values(&layer.output.shape)).sum::<f64>();
        // The inputs side by side; outputs with their gradients.
        let passing = batch_size as f64 * (2.0 * values(self.input_shape()) + 2.0 * outputs);
        Ok((FREE_SHARE * free_bytes as f64 / (4.0 * (own + passing))) as usize)
    }

    /// Samples that a pass can take at a time.
    pub(crate) fn most_samples(&self, memory: Memory) -> Result<usize> {
        let (plan, _) = self.plan()?;
        let input = values(self.input_shape());
        let outputs = || plan.layers.iter().map(|layer| values(&layer.output.shape));
        let (all, largest) = (outputs().sum::<f64>(), outputs().fold(input, f64::max));
        let kept = match memory {
            // Input and output of a layer, the branches around it, and what libtorch copies for its own use.
            Memory::Forward => input + all.min(6.0 * largest),
            // Measured: 76 MB an image for ResNet18 at 224 x 224, 7.1 MB for ResNet20, both within a tenth of this.
            Memory::SecondOrder => input + 3.0 * all,
        };
        Ok(((BATCH_BYTES / 4.0 / kept) as usize).max(1))
    }
}

/// The number of values of a shape.
fn values(shape: &[i64]) -> f64 {
    shape.iter().map(|&side| side as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_models_side_by_side_as_memory_holds() -> Result<()> {
        let (mlp, resnet) = (Network::mlp(&[784, 512, 512, 512, 10])?, Network::resnet20(16.0)?);
        // 932,362 weights eight times, and 512 samples of 784 + 6 * 512 + 10 values twice: 29.8 MB and 15.8 MB a model.
        assert_eq!(mlp.most_models(512, 80_000_000_000)?, 875);
        assert_eq!(mlp.most_models(512, 8_000_000_000)?, 87);
        assert_eq!(mlp.most_models(512, 1_000_000)?, 0);
        assert!((2..20).contains(&resnet.most_models(128, 80_000_000_000)?), "69 million weights each");
        Ok(())
    }

    #[test]
    fn batches_take_the_memory_that_was_measured_or_more() -> Result<()> {
        let bytes =
            |network: Network, memory| Ok::<f64, Error>(BATCH_BYTES / network.most_samples(memory)? as f64 / 1e6);
        for (name, network, second_order, forward) in
            [("ResNet18", Network::resnet18()?, 76.0, 7.4), ("ResNet20", Network::resnet20(1.0)?, 7.1, 0.24)]
        {
            let (product, pass) = (bytes(network.clone(), Memory::SecondOrder)?, bytes(network, Memory::Forward)?);
            assert!((0.9..1.5).contains(&(product / second_order)), "{name}: {product} MB a product");
            assert!((0.9..4.0).contains(&(pass / forward)), "{name}: {pass} MB a pass");
        }
        assert!(Network::mlp(&[784, 512, 512, 512, 10])?.most_samples(Memory::SecondOrder)? > LARGEST_BATCH);
        Ok(())
    }
}
