//! The one walk through samples in batches.

use rand::seq::SliceRandom;
use tch::Tensor;

use super::Dataset;
use crate::error::{Error, Result};
use crate::rng::{Purpose, rng};

/// The order in which batches visit the samples; only shuffled ones, which are for training, are augmented.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Sequential,
    /// A new permutation for each seed and epoch.
    Shuffled {
        seed: u64,
        epoch: usize,
    },
}

/// First sample and length of each batch; a last one of a single sample joins the one before it, since batch norm knows
/// no variance of one.
fn bounds(samples: usize, batch_size: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = batch_count(samples, batch_size);
    (0..count).map(move |batch| {
        let start = batch * batch_size;
        (start, if batch + 1 == count { samples - start } else { batch_size })
    })
}

fn batch_count(samples: usize, batch_size: usize) -> usize {
    let single = batch_size > 1 && samples > batch_size && samples % batch_size == 1;
    samples.div_ceil(batch_size) - usize::from(single)
}

impl Dataset {
    /// Number of batches in one pass.
    pub(crate) fn batch_count(&self, batch_size: usize) -> usize {
        batch_count(self.len(), batch_size)
    }

    /// The only loop over samples in the crate: batches `(images, labels)`, the last one possibly smaller, or larger by
    /// one. Everything but the tests of this module comes here by `Network::batches`, which checks the data first.
    pub(crate) fn batches(
        &self,
        batch_size: usize,
        order: Order,
    ) -> Result<impl Iterator<Item = Result<(Tensor, Tensor)>> + '_> {
        if batch_size == 0 {
            return Err(Error::Setting { setting: "batch_size", value: "0".into(), requirement: "at least 1" });
        }
        let n = self.len();
        let (index, views) = match order {
            Order::Sequential => (None, None),
            Order::Shuffled { seed, epoch } => {
                let mut order: Vec<i64> = (0..n as i64).collect();
                order.shuffle(&mut rng(seed, Purpose::Shuffle(epoch)));
                let views = self.augmentation.draw(n, &mut rng(seed, Purpose::Augmentation(epoch)), self.device())?;
                (Some(Tensor::from_slice(&order).f_to_device(self.device())?), views)
            }
        };
        Ok(bounds(n, batch_size).map(move |(start, len)| {
            let (from, count) = (start as i64, len as i64);
            let (mut images, labels) = match &index {
                None => (self.images.f_narrow(0, from, count)?, self.labels.f_narrow(0, from, count)?),
                Some(index) => {
                    let index = index.f_narrow(0, from, count)?;
                    (self.images.f_index_select(0, &index)?, self.labels.f_index_select(0, &index)?)
                }
            };
            if let Some(views) = &views {
                images = self.augmentation.apply(&images, &views.f_narrow(0, from, count)?)?;
            }
            if let Some(normalisation) = &self.normalisation {
                images = normalisation.apply(&images)?;
            }
            Ok((images, labels))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn shuffled_batches_visit_every_sample_once_and_differ_between_epochs() -> Result<()> {
        let images = Tensor::arange(10, (Kind::Float, Device::Cpu)).view([10, 1]);
        let data = Dataset::new("count", images, Tensor::zeros([10], (Kind::Int64, Device::Cpu)), 1)?;
        let visit = |epoch| -> Result<Vec<i64>> {
            let mut seen = Vec::new();
            for batch in data.batches(4, Order::Shuffled { seed: 3, epoch })? {
                seen.extend(Vec::<f32>::try_from(batch?.0.view([-1]))?.into_iter().map(|x| x as i64));
            }
            Ok(seen)
        };
        let (first, second) = (visit(0)?, visit(1)?);
        assert_ne!(first, second);
        assert_eq!(first, visit(0)?);
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        Ok(())
    }

    #[test]
    fn a_last_batch_of_one_joins_the_one_before_it() {
        let lengths = |samples, size| bounds(samples, size).map(|(_, len)| len).collect::<Vec<_>>();
        assert_eq!(lengths(9, 4), [4, 5]);
        assert_eq!(lengths(10, 4), [4, 4, 2]);
        assert_eq!(lengths(8, 4), [4, 4]);
        assert_eq!(lengths(1, 4), [1]);
        assert_eq!(lengths(3, 1), [1, 1, 1]);
        for (samples, size) in [(9, 4), (10, 4), (8, 4), (1, 4), (3, 1), (1_001, 1_000)] {
            assert_eq!(lengths(samples, size).len(), batch_count(samples, size));
            assert_eq!(lengths(samples, size).iter().sum::<usize>(), samples);
        }
    }
}
