//! Times on the device, in milliseconds, beside what nothing can leave out there.

use std::time::Instant;

use serde_json::{Map, json};
use stemm::data::Dataset;
use stemm::prelude::*;

use super::mlp::{batch_pass, mlp, sweep_products, trained};
use super::{Outcome, Place};

const BATCH: usize = 256;

/// An epoch of many models side by side, against one model (goal: less than 3 times).
pub fn train_many(place: Place) -> Outcome {
    let (width, many, samples) = place.size((512, 20, 55_000), (16, 3, 1_024));
    let (data, network) = (place.images(samples, 1_000)?, mlp(width)?);
    let epoch = |count: usize| {
        let seeds: Vec<u64> = (0..count as u64).collect();
        let trainer = Trainer {
            epochs: 1,
            batch_size: 512,
            at_once: Some(count),
            progress: Progress::Silent,
            ..Trainer::default()
        };
        place.milliseconds(2, || trainer.train(&network, &data, &seeds).map(drop))
    };
    let (one, all) = (epoch(1)?, epoch(many)?);
    let mut values = Map::new();
    values.insert("one model".into(), json!(one));
    values.insert(format!("{many} models"), json!(all));
    values.insert("ratio".into(), json!(all / one));
    Ok(values)
}

/// A step of STE-MM beside its floor: for each aligned model the products of one sweep, and one pass of the batch.
pub fn ste_mm_step(place: Place) -> Outcome {
    let cases: &[(i64, usize)] =
        place.size(&[(512, 3), (512, 8), (1024, 3), (2048, 3), (512, 20), (4096, 3)], &[(16, 2)]);
    let steps = place.size(20, 2);
    let data = place.images(steps * BATCH, BATCH)?;
    let mut values = Map::new();
    for &(width, count) in cases {
        let models = trained(&mlp(width)?, count, &data)?;
        let ste = SteMm { epochs: 3, batch_size: BATCH, progress: Progress::Silent, ..SteMm::default() };
        let history = ste.align(&models, &data)?.history;
        // The first epoch's assignments start from nothing.
        let ours = history[1..].iter().map(|epoch| epoch.seconds * 1e3 / steps as f64).fold(f64::INFINITY, f64::min);
        let (mut sweep, mut batch) = (sweep_products(width, place.device), batch_pass(width, BATCH, place.device));
        let floor = place.milliseconds(5, || {
            (1..count).for_each(|_| sweep());
            batch();
            Ok(())
        })?;
        values.insert(format!("3x{width} n={count}"), json!({ "ours": ours, "floor": floor, "ratio": ours / floor }));
    }
    Ok(values)
}

pub fn weight_matching(place: Place) -> Outcome {
    let width = place.size(512, 16);
    let data = place.images(2_048, 256)?;
    let models = trained(&mlp(width)?, 4, &data)?;
    let matching = WeightMatching { progress: Progress::Silent, ..WeightMatching::default() };
    let mut values = Map::new();
    for count in [2, 3, 4] {
        let time = place.milliseconds(3, || matching.align(&models[..count], &data).map(drop))?;
        values.insert(format!("3x{width} n={count}"), json!(time));
    }
    Ok(values)
}

/// A step of training and of STE-MM for the paper's convolutional networks; the runner times PyTorch on the same.
pub fn training_step(place: Place) -> Outcome {
    let (batch, steps) = place.size((128, 20), (8, 1));
    let data = noise(place, batch * steps, batch)?;
    let cases =
        [("resnet20", Network::resnet20(place.size(16.0, 1.0))?), ("vgg11", Network::vgg11(place.size(4.0, 0.125))?)];
    let mut values = Map::new();
    for (name, network) in cases {
        for fast in [false, true] {
            stemm::fast_convolutions(fast)?;
            let trainer = Trainer { epochs: 1, batch_size: batch, progress: Progress::Silent, ..Trainer::default() };
            let time = place.milliseconds(2, || trainer.train(&network, &data, &[0]).map(drop))?;
            let precision = if fast { "TF32" } else { "f32" };
            values.insert(format!("{name} training step, {precision}"), json!(time / steps as f64));
        }
        stemm::fast_convolutions(false)?;
        let models = [0, 1].map(|seed| Model::new(network.clone(), network.init(seed, place.device)?));
        let models = models.into_iter().collect::<stemm::Result<Vec<Model>>>()?;
        let ste = SteMm { epochs: 2, batch_size: batch, progress: Progress::Silent, ..SteMm::default() };
        let history = ste.align(&models, &data)?.history;
        values.insert(format!("{name} STE-MM step, n=2"), json!(history[1].seconds * 1e3 / steps as f64));
    }
    Ok(values)
}

pub fn hessian(place: Place) -> Outcome {
    let (width, samples, products) = place.size((512, 2_000, 100), (16, 200, 10));
    let data = place.images(samples, samples)?;
    let model = &trained(&mlp(width)?, 1, &data)?[0];
    let mut values = Map::new();
    let traces =
        Hutchinson { vectors: products, relative_error: None, progress: Progress::Silent, ..Hutchinson::default() };
    let time = place.milliseconds(1, || traces.traces(&[("model", model)], &data.train).map(drop))?;
    values.insert(format!("trace, {products} vectors a batch, {samples} images"), json!(time));
    let lanczos = Lanczos { count: 2, progress: Progress::Silent, ..Lanczos::default() };
    let time = place.milliseconds(1, || lanczos.eigenvalues(&[("model", model)], &data.train).map(drop))?;
    values.insert("two largest eigenvalues".into(), json!(time));
    Ok(values)
}

pub fn evaluation(place: Place) -> Outcome {
    let (width, samples) = place.size((512, 10_000), (16, 500));
    let data = place.images(1_024, samples)?;
    let models = trained(&mlp(width)?, 2, &data)?;
    let line = Interpolation { progress: Progress::Silent, ..Interpolation::default() };
    let time = place.milliseconds(2, || line.barriers("line", &models, &data).map(drop))?;
    let mut values = Map::new();
    values.insert(format!("barrier on 25 points, {samples} images"), json!(time));
    Ok(values)
}

/// The quickstart's work: three models, weight matching and STE-MM, merges and barriers.
pub fn quickstart(place: Place) -> Outcome {
    let (width, epochs, samples) = place.size((512, 10, 55_000), (16, 1, 512));
    let (data, network) = (place.images(samples, 10_000)?, mlp(width)?);
    let mut values = Map::new();
    let start = Instant::now();
    let trainer = Trainer { epochs, progress: Progress::Silent, ..Trainer::default() };
    let models = trainer.train(&network, &data, &[0, 1, 2])?.models;
    let matched = WeightMatching { progress: Progress::Silent, ..WeightMatching::default() }.align(&models, &data)?;
    let ste = SteMm { epochs, progress: Progress::Silent, ..SteMm::default() }.align(&models, &data)?;
    for (name, alignment) in [("weight matching", &matched), ("STE-MM", &ste)] {
        let loss = alignment.merge(&models, &data.train)?.evaluate(&data.test)?.loss;
        values.insert(format!("merged loss, {name}"), json!(loss));
    }
    let line = Interpolation { progress: Progress::Silent, ..Interpolation::default() };
    line.barriers("STE-MM", &ste.apply(&models)?, &data)?;
    values.insert("seconds".into(), json!(start.elapsed().as_secs_f64()));
    Ok(values)
}

/// Pictures of noise with labels of chance, of the size of CIFAR-10's.
fn noise(place: Place, train: usize, rest: usize) -> stemm::Result<stemm::data::Splits> {
    let part = |name: &str, count: usize| {
        let images = Tensor::f_rand([count as i64, 3, 32, 32], (Kind::Float, place.device))?;
        let labels = Tensor::f_randint(10, [count as i64], (Kind::Int64, place.device))?;
        Dataset::new(name, images, labels, 10)
    };
    stemm::data::Splits::new(&part("noise", train + rest)?, rest, 0, part("noise", rest)?)
}
