//! NaN and infinity never look like success: they stay visible in results, or end in an error that says what to do.

use stemm::Error;
use stemm::prelude::*;

const CPU: Device = Device::Cpu;

fn network() -> Network {
    Network::mlp(&[16, 8, 4]).unwrap()
}

fn models(count: u64) -> Vec<Model> {
    (0..count).map(|seed| Model::new(network(), network().init(seed, CPU).unwrap()).unwrap()).collect()
}

/// A model with finite weights whose outputs overflow.
fn overflowing() -> Model {
    let params = network().init(9, CPU).unwrap();
    let huge = Params::new(params.iter().map(|(name, tensor)| (name.to_owned(), tensor.sign() * 1e25)), []);
    Model::new(network(), huge).unwrap()
}

/// Held-out samples whose pixels are finite and overflow in the first layer.
fn overflowing_held_out() -> Splits {
    let data = blobs(0, CPU).unwrap();
    let images = data.held_out.images().sign() * 1e38;
    let held_out = Dataset::new("huge", images, data.held_out.labels().shallow_clone(), 4).unwrap();
    Splits { held_out, ..data }
}

#[test]
fn a_path_through_nan_has_no_barrier_that_looks_good() {
    let data = blobs(0, CPU).unwrap();
    let all = [models(1).remove(0), overflowing(), models(2).remove(1)];
    let walk = Interpolation { points: 5, ..Interpolation::default() };
    let barriers = walk.barriers("overflow", &all, &data).unwrap();
    for curve in &barriers.curves {
        let broken = curve.from == 1 || curve.to == 1;
        for value in [curve.loss_barrier(), curve.loss_barrier_above_mean()] {
            assert_eq!(value.is_nan(), broken, "{} to {}: {value}", curve.from, curve.to);
        }
    }
    assert!(barriers.mean_loss_barrier().is_nan());
    // A network that answers NaN has not answered: no accuracy either.
    assert!(overflowing().evaluate(&data.test).unwrap().accuracy.is_nan());
    assert!(barriers.curves[0].accuracy_barrier().is_nan());
    let nothing = Hutchinson::default().traces(&[("overflow", &overflowing())], &data.test);
    assert!(matches!(nothing, Err(Error::NonFinite { .. })));
    let inner = stemm::analysis::Curve {
        from: 0,
        to: 1,
        points: [1.0, f64::NAN, 1.0]
            .into_iter()
            .zip([0.0, 0.5, 1.0])
            .map(|(loss, t)| stemm::analysis::Point { t, loss, accuracy: 0.5 })
            .collect(),
    };
    assert!(inner.loss_barrier().is_nan() && inner.barrier_position() == 0.5);
    let simplex = Simplex { samples: 4, ..Simplex::default() }.losses("overflow", &all, &data).unwrap();
    assert!(simplex.worst().loss.is_nan());
    let bezier = Bezier { epochs: 1, points: 3, ..Bezier::default() }.fit("overflow", &all[..2], &data);
    assert!(bezier.is_err() || bezier.unwrap().curves[0].loss_barrier().is_nan());
}

#[test]
fn ste_mm_without_a_finite_held_out_loss_is_no_success() {
    let settings = SteMm { epochs: 1, ..SteMm::default() };
    let error = settings.align(&models(2), &overflowing_held_out()).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { tensor, .. } if tensor.contains("held-out loss")), "{error}");
    let last = SteMm { choice: Choice::LastStep, ..settings }.align(&models(2), &overflowing_held_out()).unwrap();
    assert_eq!(last.permutations.len(), 2);
    assert!(!last.history[0].merged_loss.unwrap().is_finite());
}

#[test]
fn a_training_without_a_finite_held_out_loss_has_no_best_epoch() {
    let trainer = Trainer { epochs: 2, choice: Choice::BestEpoch, ..Trainer::default() };
    let error = trainer.train(&network(), &overflowing_held_out(), &[3]).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { tensor, .. } if tensor.contains("seed 3")), "{error}");
}

#[test]
fn a_checkpoint_with_nan_in_its_history_is_read_again() {
    let folder = std::env::temp_dir().join(format!("stemm-nan-history-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let data = overflowing_held_out();
    let trainer = |epochs| Trainer { epochs, checkpoints: Some(folder.clone()), ..Trainer::default() };
    let first = trainer(1).train(&network(), &data, &[0]).unwrap();
    assert!(!first.history.epochs[0].held_out_loss.is_finite());
    let resumed = trainer(3).train(&network(), &data, &[0]).unwrap();
    let straight = Trainer { epochs: 3, ..Trainer::default() }.train(&network(), &data, &[0]).unwrap();
    assert_eq!(resumed.history.epochs.len(), 3);
    let bits = |training: &stemm::train::Training| {
        training.history.epochs.iter().map(|epoch| epoch.held_out_loss.is_nan()).collect::<Vec<_>>()
    };
    assert_eq!(bits(&resumed), bits(&straight));
    for (a, b) in resumed.models[0].params.tensors().iter().zip(straight.models[0].params.tensors()) {
        assert_eq!(a, b);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_ensemble_of_sure_networks_has_a_finite_loss() {
    // Logits of some hundreds: a probability of exp(-294) is 0 in f32.
    let data = blobs(0, CPU).unwrap();
    let sure: Vec<Model> = models(2)
        .into_iter()
        .map(|model| {
            let scaled = model.params.iter().map(|(name, tensor)| (name.to_owned(), tensor * 60.0));
            Model::new(network(), Params::new(scaled.collect::<Vec<_>>(), [])).unwrap()
        })
        .collect();
    let (loss, accuracy) = ensemble(&sure, &data.test).unwrap();
    assert!(loss > 100.0 && loss.is_finite() && (0.0..=1.0).contains(&accuracy), "{loss}");
    // The oracle: the same in f64 with the exponentials written out and the largest taken out first.
    let mut sum = 0.0;
    let labels = Vec::<i64>::try_from(data.test.labels()).unwrap();
    let logs: Vec<Tensor> = sure
        .iter()
        .map(|model| model.forward(data.test.images()).unwrap().to_kind(Kind::Double).log_softmax(-1, Kind::Double))
        .collect();
    for (sample, label) in labels.iter().enumerate() {
        let own: Vec<f64> = logs.iter().map(|log| log.double_value(&[sample as i64, *label])).collect();
        let top = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        sum -= top + (own.iter().map(|log| (log - top).exp()).sum::<f64>() / 2.0).ln();
    }
    assert!((loss - sum / labels.len() as f64).abs() < 1e-6 * loss, "{loss}");
}

#[test]
fn a_relative_error_is_a_number_from_zero_on() {
    let (data, model) = (blobs(0, CPU).unwrap(), models(1).remove(0));
    for bad in [f64::NAN, -0.1, f64::INFINITY, f64::NEG_INFINITY] {
        let lanczos = Lanczos { relative_error: bad, ..Lanczos::default() };
        let trace = Hutchinson { relative_error: Some(bad), ..Hutchinson::default() };
        for error in
            [lanczos.eigenvalues(&[("", &model)], &data.test).err(), trace.traces(&[("", &model)], &data.test).err()]
        {
            assert!(matches!(error, Some(Error::Setting { setting: "relative_error", .. })), "{bad}: {error:?}");
        }
    }
}
