//! The same results as on the CPU, and errors after which the device goes on.

use serde_json::{Map, json};
use stemm::data::Dataset;
use stemm::prelude::*;

use super::mlp::{mlp, trained};
use super::{Outcome, Place};

pub fn device_in_use(_: Place) -> Outcome {
    let choice = device();
    let mut values = Map::new();
    values.insert("device".into(), json!(choice.to_string()));
    values.insert("is_cuda".into(), json!(matches!(choice.device, Device::Cuda(_))));
    Ok(values)
}

/// Models that are trained on the CPU: their losses, what weight matching finds, and STE-MM's merged loss on either device.
pub fn same_results(place: Place) -> Outcome {
    let (width, samples) = place.size((256, 5_000), (16, 512));
    let here = Place { device: Device::Cpu, ..place }.images(samples, samples)?;
    let there = place.images(samples, samples)?;
    let models = trained(&mlp(width)?, 3, &here)?;
    let moved = models.iter().map(|model| model.to_device(place.device)).collect::<stemm::Result<Vec<Model>>>()?;
    let mut values = Map::new();
    let losses = |models: &[Model], data: &stemm::data::Splits| -> stemm::Result<Vec<f64>> {
        models.iter().map(|model| Ok(model.evaluate(&data.test)?.loss)).collect()
    };
    let (ours, theirs) = (losses(&models, &here)?, losses(&moved, &there)?);
    let furthest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
    values.insert("relative difference of losses".into(), json!(furthest));
    let matching = WeightMatching { progress: Progress::Silent, ..WeightMatching::default() };
    for count in [2, 3] {
        let (a, b) = (matching.align(&models[..count], &here)?, matching.align(&moved[..count], &there)?);
        let merged = |alignment: &Alignment, models: &[Model], data: &stemm::data::Splits| {
            alignment.merge(models, &data.train)?.evaluate(&data.test).map(|merge| merge.loss)
        };
        let (ours, theirs) = (merged(&a, &models[..count], &here)?, merged(&b, &moved[..count], &there)?);
        values
            .insert(format!("weight matching of {count}: same permutations"), json!(a.permutations == b.permutations));
        values.insert(format!("weight matching of {count}: difference of merged losses"), json!(theirs - ours));
    }
    let ste = SteMm { epochs: place.size(3, 1), progress: Progress::Silent, ..SteMm::default() };
    let ours = ste.align(&models, &here)?.merge(&models, &here.train)?.evaluate(&here.test)?.loss;
    let theirs = ste.align(&moved, &there)?.merge(&moved, &there.train)?.evaluate(&there.test)?.loss;
    values.insert("STE-MM: merged loss on the CPU".into(), json!(ours));
    values.insert("STE-MM: merged loss on the device".into(), json!(theirs));
    Ok(values)
}

/// Out of memory and a label without an output are errors, and a product comes out right after each.
pub fn errors_leave_the_device_usable(place: Place) -> Outcome {
    let mut values = Map::new();
    let still_right = || -> stemm::Result<bool> {
        let ones = Tensor::f_ones([64, 64], (Kind::Float, place.device))?;
        Ok(ones.f_matmul(&ones)?.f_sum(Kind::Double)?.f_double_value(&[])? == 64f64.powi(3))
    };
    let huge = Network::mlp(&[784, 4_000_000, 4_000_000, 10])?.init(0, place.device).map(drop);
    values.insert("out of memory".into(), json!(huge.map_or_else(|error| error.to_string(), |()| "no error".into())));
    values.insert("usable after it".into(), json!(still_right()?));
    let images = Tensor::f_zeros([8, 784], (Kind::Float, place.device))?;
    let labels = Tensor::f_full([8], 10, (Kind::Int64, place.device))?;
    let data = Dataset::new("eleven classes", images, labels, 11)?;
    let network = mlp(16)?;
    let model = Model::new(network.clone(), network.init(0, place.device)?)?;
    let outside = model.evaluate(&data).map(drop);
    values.insert(
        "label without an output".into(),
        json!(outside.map_or_else(|error| error.to_string(), |()| "no error".into())),
    );
    values.insert("usable after that".into(), json!(still_right()?));
    Ok(values)
}
