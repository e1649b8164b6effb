//! Greedy soup (Wortsman et al. 2022): the mean of those models that do not lower its accuracy.

use super::merge;
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::network::{Model, check_models};

/// Sorts the models by their accuracy on held-out data and takes them into the mean one by one, each only if the mean's held-out
/// accuracy does not fall.
///
/// # Errors
/// As [`merge`](super::merge); no model whose held-out loss is a number.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let merged = greedy_soup(&[model(0)?, model(1)?, model(2)?], &data)?;
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn greedy_soup(models: &[Model], data: &Splits) -> Result<Model> {
    check_models("a soup", models, 1)?;
    models[0].network.check_splits(data)?;
    let accuracy = |model: &Model| -> Result<f64> { Ok(model.evaluate(&data.held_out)?.accuracy) };
    let mut order = models.iter().map(|model| Ok((accuracy(model)?, model))).collect::<Result<Vec<_>>>()?;
    // What answers NaN comes last.
    order.sort_by(|(a, _), (b, _)| a.is_nan().cmp(&b.is_nan()).then(b.total_cmp(a)));
    if order[0].0.is_nan() {
        let hint = crate::error::RETRAIN;
        return Err(Error::NonFinite { tensor: "the held-out loss of every model".to_owned(), hint });
    }
    let mut taken = vec![order[0].1.clone()];
    let mut soup = merge(&taken, &data.train)?;
    let mut best = accuracy(&soup)?;
    for (_, next) in &order[1..] {
        taken.push((*next).clone());
        let candidate = merge(&taken, &data.train)?;
        let reached = accuracy(&candidate)?;
        if reached >= best {
            (soup, best) = (candidate, reached);
        } else {
            taken.pop();
        }
    }
    Ok(soup)
}
