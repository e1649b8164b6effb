//! Analyses of the MLP of the paper beside plain loops over the same batches that do nothing else.

use stemm::prelude::*;
use stemm::tch;

use super::measure::{Row, milliseconds, side_by_side};
use super::mlp::{logits, mlp};
use super::{Outcome, images, trained};

pub fn interpolation() -> Outcome {
    let data = images(256, 10_000)?;
    let models = trained(&mlp(512)?, 2)?;
    let walk = Interpolation { progress: Progress::Silent, ..Interpolation::default() };
    let floor = || {
        let _guard = tch::no_grad_guard();
        let mut sum = 0.0;
        for point in 0..25 {
            let t = f64::from(point) / 24.0;
            let pairs = models[0].params.tensors().iter().zip(models[1].params.tensors());
            let mixed: Vec<Tensor> = pairs.map(|(a, b)| a.lerp(b, t)).collect();
            for start in (0..10_000).step_by(1_000) {
                let x = data.test.images().narrow(0, start, 1_000);
                let y = data.test.labels().narrow(0, start, 1_000);
                sum += logits(&mixed, &x).cross_entropy_for_logits(&y).double_value(&[]);
            }
        }
        std::hint::black_box(sum);
    };
    let ours = || _ = std::hint::black_box(walk.barriers("", &models, &data));
    side_by_side("interpolation", "3x512 25 points 10000 images", 5, ours, floor).report();
    Ok(())
}

/// A weighted trace to 5 %; the floor is the estimator as it is mostly written, with one vector for all of the data.
pub fn hessian_trace() -> Outcome {
    const GOAL: f64 = 0.05;
    let data = images(256, 2_000)?;
    let models = trained(&mlp(512)?, 1)?;
    let hutchinson =
        Hutchinson { vectors: 1000, relative_error: Some(GOAL), progress: Progress::Silent, ..Hutchinson::default() };
    let floor = || {
        let tensors: Vec<Tensor> =
            models[0].params.tensors().iter().map(|tensor| tensor.copy().detach().set_requires_grad(true)).collect();
        let dot = |a: &[Tensor], b: &[Tensor]| {
            a.iter().zip(b).map(|(a, b)| (a * b).sum(Kind::Float)).reduce(|a, b| a + b).expect("tensors")
        };
        let mut forms: Vec<f64> = Vec::new();
        loop {
            let signs = |tensor: &Tensor| (tensor.detach().bernoulli_p(0.5) * 2.0 - 1.0) * tensor.detach().abs();
            let vectors: Vec<Vec<Tensor>> = (0..10).map(|_| tensors.iter().map(signs).collect()).collect();
            let mut sums = [0.0; 10];
            for start in (0..2_000).step_by(1_000) {
                let x = data.test.images().narrow(0, start, 1_000);
                let y = data.test.labels().narrow(0, start, 1_000);
                let loss = logits(&tensors, &x).cross_entropy_for_logits(&y);
                let gradients = Tensor::run_backward(&[loss], &tensors, true, true);
                for (sum, vector) in sums.iter_mut().zip(&vectors) {
                    let product = Tensor::run_backward(&[dot(&gradients, vector)], &tensors, true, false);
                    *sum += dot(&product, vector).double_value(&[]) / 2.0;
                }
            }
            forms.extend(sums);
            let n = forms.len() as f64;
            let mean = forms.iter().sum::<f64>() / n;
            let variance = forms.iter().map(|form| (form - mean).powi(2)).sum::<f64>() / (n - 1.0);
            if (variance / n).sqrt() <= GOAL * mean {
                break;
            }
        }
    };
    let ours = || _ = std::hint::black_box(hutchinson.traces(&[("", &models[0])], &data.test));
    side_by_side("hessian_trace", "3x512 weighted to 5 % on 2000 images", 2, ours, floor).report();
    Ok(())
}

/// The analyses of the quickstart's models that take longest; no floor, but what a user waits.
pub fn landscape() -> Outcome {
    let data = images(256, 10_000)?;
    let models = trained(&mlp(512)?, 4)?;
    let report = |params: &str, work: &mut dyn FnMut() -> stemm::Result<()>| -> Outcome {
        let mut outcome = Ok(());
        let ours_ms = milliseconds(|| outcome = work());
        outcome?;
        Row { bench: "landscape", params: params.into(), ours_ms, floor_ms: None, peak_mb: None }.report();
        Ok(())
    };
    let progress = Progress::Silent;
    report("barriers of 4 models; 25 points; 10000 images", &mut || {
        Interpolation { progress, ..Interpolation::default() }.barriers("", &models, &data)?;
        Ok(())
    })?;
    for (name, estimator) in
        [("Hutchinson", Estimator::Hutchinson), ("Hutch++", Estimator::HutchPlusPlus { basis: 20 })]
    {
        let test = data.test.take(2_000)?;
        let settings =
            Hutchinson { vectors: 300, relative_error: Some(0.02), estimator, progress, ..Hutchinson::default() };
        let mut reached = String::new();
        let ours_ms = milliseconds(|| {
            reached = match settings.traces(&[("", &models[0])], &test) {
                Ok(traces) => {
                    format!("{:.4} ± {:.4}", traces.estimates[0].mean(), traces.estimates[0].standard_error())
                }
                Err(error) => error.to_string(),
            }
        });
        let params = format!("weighted trace to 2 % by {name} ({reached}); 2000 images");
        Row { bench: "landscape", params, ours_ms, floor_ms: None, peak_mb: None }.report();
    }
    report("plane of 31 x 31 points; 2000 images", &mut || {
        Plane { progress, ..Plane::default() }.through("", &models, &data)?;
        Ok(())
    })
}
