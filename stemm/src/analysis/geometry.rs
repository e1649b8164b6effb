//! Where models lie: distances and cosines before and after alignment.

use polars::prelude::DataFrame;
use tch::Tensor;

use super::pairs;
use super::statistics::mean_and_error;
use crate::align::Alignment;
use crate::chart::{Bars, Chart};
use crate::error::Result;
use crate::frame::{column, frame};
use crate::network::{Model, check_models, dot, squared_distance};
use crate::notebook::{Bundle, Show};

/// l2 distance and cosine of one tensor of a pair of models.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorGeometry {
    /// Position of the first model.
    pub from: usize,
    /// Position of the second.
    pub to: usize,
    /// Name of the tensor; `all` for all of them as one vector.
    pub tensor: String,
    /// `|a - b|` before and after alignment.
    pub distance: [f64; 2],
    /// `<a, b> / (|a| |b|)` before and after alignment; NaN where a tensor is zero.
    pub cosine: [f64; 2],
}

/// Distances and cosines of all pairs of models, tensor by tensor.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// The method of the alignment.
    pub method: String,
    /// Pairs by tensors, then the whole.
    pub rows: Vec<TensorGeometry>,
}

/// Distances and cosines between all pairs of models before and after an alignment; buffers do not count.
///
/// # Errors
/// An alignment of other models.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let models = [model(0)?, model(1)?];
/// let matched = WeightMatching::default().align(&models, &data)?;
/// let whole = geometry(&models, &matched)?.rows.pop().unwrap();
/// assert!(whole.distance[1] < whole.distance[0]);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn geometry(models: &[Model], alignment: &Alignment) -> Result<Geometry> {
    check_models("geometry", models, 2)?;
    let aligned = alignment.apply(models)?;
    let names: Vec<String> = models[0].params.iter().map(|(name, _)| name.to_owned()).collect();
    let mut rows = Vec::new();
    for (from, to) in pairs(models.len()) {
        let [before, after] = [models, &aligned].map(|set| {
            let tensors = set[from].params.tensors().iter().zip(set[to].params.tensors());
            tensors.map(|(a, b)| Sums::of(a, b)).collect::<Result<Vec<_>>>()
        });
        let (before, after) = (before?, after?);
        let whole = [Sums::total(&before), Sums::total(&after)];
        let each = before.into_iter().zip(after).map(|(before, after)| [before, after]);
        let named = names[..models[0].params.tensors().len()].iter().map(String::as_str).chain(["all"]);
        for (tensor, sums) in named.zip(each.chain([whole])) {
            let (distance, cosine) = (sums.map(|own| own.distance.sqrt()), sums.map(|own| own.cosine()));
            rows.push(TensorGeometry { from, to, tensor: tensor.to_owned(), distance, cosine });
        }
    }
    Ok(Geometry { method: alignment.method.clone(), rows })
}

/// Sums over the values of two tensors: `<a, a>`, `<a, b>`, `<b, b>` and `|a - b|²`.
#[derive(Clone, Copy, Default)]
struct Sums {
    products: [f64; 3],
    distance: f64,
}

impl Sums {
    fn of(a: &Tensor, b: &Tensor) -> Result<Sums> {
        Ok(Sums { products: [dot(a, a)?, dot(a, b)?, dot(b, b)?], distance: squared_distance(a, b)? })
    }

    fn total(all: &[Sums]) -> Sums {
        all.iter().fold(Sums::default(), |sum, own| Sums {
            products: [0, 1, 2].map(|i: usize| sum.products[i] + own.products[i]),
            distance: sum.distance + own.distance,
        })
    }

    /// Rounding must not take it beyond 1; of a vector of length 0 there is none.
    fn cosine(&self) -> f64 {
        let [aa, ab, bb] = self.products;
        (ab / (aa.sqrt() * bb.sqrt())).clamp(-1.0, 1.0)
    }
}

impl Geometry {
    /// One row a pair and tensor.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("method", rows.iter().map(|_| self.method.as_str())),
            column("from", rows.iter().map(|row| row.from as u64)),
            column("to", rows.iter().map(|row| row.to as u64)),
            column("tensor", rows.iter().map(|row| row.tensor.as_str())),
            column("distance_before", rows.iter().map(|row| row.distance[0])),
            column("distance_after", rows.iter().map(|row| row.distance[1])),
            column("cosine_before", rows.iter().map(|row| row.cosine[0])),
            column("cosine_after", rows.iter().map(|row| row.cosine[1])),
        ])
    }

    /// The mean cosine over all pairs before and after, as two bars: of all parameters as one vector.
    pub fn chart(&self) -> Chart {
        let whole: Vec<&TensorGeometry> = self.rows.iter().filter(|row| row.tensor == "all").collect();
        let bar = |name: &str, value: &dyn Fn(&TensorGeometry) -> f64| {
            let values: Vec<f64> = whole.iter().map(|row| value(row)).collect();
            let (mean, error) = mean_and_error(&values);
            (name.to_owned(), mean, if error.is_finite() { error } else { 0.0 })
        };
        let bars = |title: &str, label: &str, value: fn(&TensorGeometry) -> [f64; 2]| -> Chart {
            let both = [bar("before", &|row| value(row)[0]), bar(&self.method, &|row| value(row)[1])];
            Bars::new(title, label, both.into()).into()
        };
        let distance = bars("Distance between models", "mean l2 distance over pairs", |row| row.distance);
        distance.beside(bars("Cosine between models", "mean cosine over pairs", |row| row.cosine))
    }
}

impl Show for Geometry {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::{Aligner, Permutation, Permutations, WeightMatching};
    use crate::analysis::{agreement, cycles, permutations::tests::models_and_data};

    #[test]
    fn a_permuted_copy_is_brought_home_by_weight_matching() -> Result<()> {
        let (models, data) = models_and_data(1)?;
        let spec = models[0].network.permutation_spec();
        let reverse =
            |group: &crate::network::PermutationGroup| Permutation::new((0..group.size as i64).rev().collect());
        let shuffled = Permutations(spec.groups().iter().map(reverse).collect::<Result<_>>()?);
        let copy = Model { params: shuffled.apply(&spec, &models[0].params)?, ..models[0].clone() };
        let pair = [models[0].clone(), copy];
        let alignment = WeightMatching::default().align(&pair, &data)?;
        let whole = geometry(&pair, &alignment)?.rows.pop().unwrap();
        assert!(whole.distance[0] > 1.0 && whole.distance[1] < 1e-3, "{whole:?}");
        assert!(whole.cosine[0] < 0.5 && whole.cosine[1] > 0.999, "{whole:?}");
        let fixed = cycles(&alignment, &models[0].network)?.rows;
        assert_eq!(fixed.iter().map(|row| row.fixed_share).collect::<Vec<_>>(), [1.0, 1.0, 0.0, 0.0]);
        assert!(fixed[2].longest == 2 && fixed[2].cycles == 6, "a reversal swaps pairs: {:?}", fixed[2]);
        let same = agreement(&alignment, &alignment, &models[0].network)?;
        assert!(same.rows.iter().all(|row| row.share == 1.0));
        // Beside no alignment at all, they agree on the units that stay.
        let naive = crate::align::Alignment::naive(&pair)?;
        let shares = agreement(&naive, &alignment, &models[0].network)?.rows;
        assert_eq!(shares.iter().map(|row| row.share).collect::<Vec<_>>(), [1.0, 1.0, 0.0, 0.0]);
        Ok(())
    }

    #[test]
    fn distances_and_cosines_are_those_of_the_parameters() -> Result<()> {
        let (models, _) = models_and_data(3)?;
        let alignment = crate::align::Alignment::naive(&models)?;
        let found = geometry(&models, &alignment)?;
        let flat = |model: usize| -> Vec<f64> {
            let tensors = models[model].params.tensors().iter();
            tensors
                .flat_map(|tensor| Vec::<f64>::try_from(tensor.reshape([-1]).to_kind(tch::Kind::Double)).unwrap())
                .collect()
        };
        let (a, b) = (flat(1), flat(2));
        let sum = |f: fn(f64, f64) -> f64| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).sum::<f64>();
        let whole = found.rows.iter().rfind(|row| (row.from, row.to) == (1, 2)).unwrap();
        assert_eq!(whole.tensor, "all");
        let distance = sum(|a, b| (a - b) * (a - b)).sqrt();
        let cosine = sum(|a, b| a * b) / (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
        for side in 0..2 {
            assert!((whole.distance[side] - distance).abs() < 1e-5 * distance, "{whole:?}, {distance}");
            assert!((whole.cosine[side] - cosine).abs() < 1e-5, "{whole:?}, {cosine}");
        }
        Ok(())
    }
}
