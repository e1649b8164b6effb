//! The other methods beside their floors, for the MLP of the paper.

use stemm::prelude::*;
use stemm::tch;

use super::measure::{Row, median, milliseconds, peak_mb, side_by_side};
use super::mlp::{mlp, sweep_products};
use super::{Outcome, images, trained};

/// Three models by their outputs; the floor: each model's forward pass over the same samples, without and with the bare products
/// of the covariances, one a layer for each of two pairs.
pub fn activation_matching() -> Outcome {
    let samples = 10_000;
    let data = images(samples, 256)?;
    let models = trained(&mlp(512)?, 3)?;
    let outputs = Tensor::randn([1_000, 512], (Kind::Float, Device::Cpu));
    let floor = |products: usize| {
        let _guard = tch::no_grad_guard();
        for batch in data.train.images().split(1_000, 0) {
            for model in &models {
                let logits = model.network.forward(&model.params, &batch, Mode::Eval);
                _ = std::hint::black_box(logits);
            }
            for _ in 0..products {
                _ = std::hint::black_box(outputs.tr().matmul(&outputs));
            }
        }
    };
    for (products, precision) in [(0, Precision::F32), (2 * 3, Precision::F32), (0, Precision::Bf16)] {
        let matching =
            ActivationMatching { samples, precision, progress: Progress::Silent, ..ActivationMatching::default() };
        let ours = || _ = std::hint::black_box(matching.align(&models, &data));
        let floor_is = if products > 0 { "passes and products" } else { "passes" };
        let params = format!("3x512 n=3 {precision:?}; floor: {floor_is}");
        side_by_side("activation_matching", params, 7, ours, || floor(products)).report();
    }
    Ok(())
}

/// A step of Frank-Wolfe, all models once; the floor: its bare products, and its assignments as they were measured.
pub fn frank_wolfe_step() -> Outcome {
    let data = images(256, 256)?;
    let models = trained(&mlp(512)?, 3)?;
    let method = FrankWolfe { max_steps: 20, progress: Progress::Silent, ..FrankWolfe::default() };
    let normal = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (map, first, hidden) = (normal([512, 512]), normal([512, 784]), normal([512, 512]));
    let mut sweep = sweep_products(512, Device::Cpu);
    // Gradients: a sweep, with both hidden weights mapped on one axis and on the other. The way: all weights mapped.
    let mut products = || {
        let _guard = tch::no_grad_guard();
        for _ in &models {
            sweep();
            for _ in 0..4 + 4 {
                _ = std::hint::black_box(map.matmul(&hidden));
            }
            _ = std::hint::black_box(map.matmul(&first));
        }
    };
    let mut bare: Vec<f64> = (0..5).map(|_| milliseconds(&mut products)).collect();
    let mut history = Vec::new();
    let peak_mb = peak_mb(|| history = method.align(&models, &data).map(|found| found.history).unwrap_or_default());
    bare.extend((0..5).map(|_| milliseconds(&mut products)));
    let of = |value: fn(&stemm::align::Record) -> f64| median(history[1..].iter().map(value).collect()) * 1e3;
    let floor_ms = median(bare) + of(|record| record.assignment_seconds);
    let ours_ms = of(|record| record.seconds);
    Row { bench: "frank_wolfe_step", params: "3x512 n=3".into(), ours_ms, floor_ms: Some(floor_ms), peak_mb }.report();
    Ok(())
}

/// A step of Sinkhorn Re-Basin for one model, by the distance; there is no floor to it but the rounds themselves.
pub fn sinkhorn_step() -> Outcome {
    let data = images(256, 256)?;
    let models = trained(&mlp(512)?, 2)?;
    let method = Sinkhorn { steps: 20, progress: Progress::Silent, ..Sinkhorn::default() };
    let history = method.align(&models, &data)?.history;
    let ours_ms = median(history[1..].iter().map(|record| record.seconds).collect()) * 1e3;
    Row { bench: "sinkhorn_step", params: "3x512 n=2".into(), ours_ms, floor_ms: None, peak_mb: None }.report();
    Ok(())
}
