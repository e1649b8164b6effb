//! Training: the same seed gives the same bits, and an interrupted training ends where an uninterrupted one does.

mod shared;

use stemm::Error;
use stemm::prelude::*;

use shared::{equal_bits, folder, network, trainer};

#[test]
fn same_seed_same_bits_and_different_seeds_differ() {
    let data = blobs(0, Device::Cpu).unwrap();
    let train = |seeds: &[u64]| trainer(3).train(&network(), &data, seeds).unwrap().models;
    let (first, second) = (train(&[1, 2]), train(&[2, 1]));
    assert!(equal_bits(&first[0], &second[1]) && equal_bits(&first[1], &second[0]));
    assert!(!equal_bits(&first[0], &first[1]));
}

#[test]
fn training_learns() {
    let data = blobs(0, Device::Cpu).unwrap();
    let training = trainer(20).train(&network(), &data, &[0]).unwrap();
    let epochs = &training.history.epochs;
    assert_eq!(epochs.len(), 20);
    assert!(epochs[19].held_out_accuracy > 0.9 && epochs[19].train_loss < epochs[0].train_loss / 2.0, "{epochs:?}");
}

#[test]
fn trained_models_belong_to_no_graph() {
    let data = blobs(0, Device::Cpu).unwrap();
    let training = trainer(1).train(&network(), &data, &[0]).unwrap();
    assert!(training.models[0].params.tensors().iter().all(|tensor| !tensor.requires_grad()));
}

#[test]
fn interrupted_training_goes_on_to_the_same_bits() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("resume");
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), ..trainer(epochs) };
    kept(2).train(&network(), &data, &[3]).unwrap();
    let resumed = kept(5).train(&network(), &data, &[3]).unwrap();
    let straight = trainer(5).train(&network(), &data, &[3]).unwrap();
    assert!(equal_bits(&resumed.models[0], &straight.models[0]));
    assert_eq!(resumed.history.epochs.len(), 5);
    // A checkpoint is a model file as well.
    assert!(equal_bits(&Model::load(folder.join("seed3.safetensors"), Device::Cpu).unwrap(), &straight.models[0]));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Gradient descent on all data at once, written out: the weights after so many steps with these learning rates.
fn descent(data: &Splits, rates: &[f64], smoothing: f64) -> Vec<Tensor> {
    let start = network().init(0, Device::Cpu).unwrap();
    let weights: Vec<Tensor> = start.tensors().iter().map(|tensor| tensor.copy().set_requires_grad(true)).collect();
    for rate in rates {
        let mut x = data.train.images().shallow_clone();
        for (layer, pair) in weights.chunks(2).enumerate() {
            x = x.linear(&pair[0], Some(&pair[1]));
            x = if layer < 2 { x.relu() } else { x };
        }
        let logs = x.log_softmax(-1, Kind::Float);
        let picked = logs.gather(1, &data.train.labels().unsqueeze(1), false).mean(Kind::Float);
        let loss = -(picked * (1.0 - smoothing) + logs.mean(Kind::Float) * smoothing);
        let gradients = Tensor::run_backward(&[loss], &weights, false, false);
        let _guard = stemm::tch::no_grad_guard();
        for (weight, gradient) in weights.iter().zip(gradients) {
            let _ = weight.shallow_clone().subtract_(&(gradient * *rate));
        }
    }
    weights
}

#[test]
fn each_step_has_the_learning_rate_of_its_schedule_and_the_smoothing_of_its_labels() {
    let data = blobs(0, Device::Cpu).unwrap();
    let plain = Optimiser::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let pi = std::f64::consts::PI;
    for (schedule, factors) in [
        (Schedule::Constant, [1.0, 1.0, 1.0, 1.0]),
        (Schedule::UpDown { peak: 2.0 }, [0.25, 0.75, 0.75, 0.25]),
        (Schedule::Cosine { warmup: 0.0 }, [0.5, 1.5, 2.5, 3.5].map(|t: f64| (1.0 + (pi * t / 4.0).cos()) / 2.0)),
    ] {
        for label_smoothing in [0.0, 0.3] {
            let trainer = Trainer {
                batch_size: 512, // one step an epoch: the order of the samples does not matter
                optimiser: plain,
                learning_rate: 0.8,
                schedule,
                label_smoothing,
                ..trainer(4)
            };
            let training = trainer.train(&network(), &data, &[0]).unwrap();
            let rates = factors.map(|factor| 0.8 * factor);
            let found: Vec<f64> = training.history.epochs.iter().map(|epoch| epoch.learning_rate).collect();
            assert!(found.iter().zip(&rates).all(|(a, b)| (a - b).abs() < 1e-12), "{schedule:?}: {found:?}");
            for (ours, theirs) in
                training.models[0].params.tensors().iter().zip(descent(&data, &rates, label_smoothing))
            {
                let error = (ours - theirs).abs().max().double_value(&[]);
                assert!(error < 1e-5, "{schedule:?}, smoothing {label_smoothing}: {error}");
            }
        }
    }
}

#[test]
fn a_checkpoint_goes_on_with_its_own_data_only() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("data");
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), ..trainer(epochs) };
    kept(1).train(&network(), &data, &[0]).unwrap();
    let spoil = |part: &Dataset, pixels: bool| {
        let (images, labels) = (part.images().copy(), part.labels().copy());
        if pixels {
            let _ = images.narrow(0, 17, 1).narrow(1, 3, 1).g_add_scalar_(1e-3);
        } else {
            labels.narrow(0, 0, 2).copy_(&labels.narrow(0, 0, 2).flip([0]));
        }
        Dataset::new(part.name(), images, labels, part.classes()).unwrap()
    };
    let swapped = Splits { train: data.train.clone(), held_out: data.test.clone(), test: data.held_out.clone() };
    let whole =
        Dataset::new("blobs train", data.train.images().shallow_clone(), data.train.labels().shallow_clone(), 4);
    let split = |seed| Splits::new(&whole.as_ref().unwrap().clone(), 100, seed, data.test.clone()).unwrap();
    for (what, other) in [
        ("pixels", Splits { train: spoil(&data.train, true), ..data.clone() }),
        ("labels", Splits { train: spoil(&data.train, false), ..data.clone() }),
        ("held-out pixels", Splits { held_out: spoil(&data.held_out, true), ..data.clone() }),
        ("held-out labels", Splits { held_out: spoil(&data.held_out, false), ..data.clone() }),
        ("held-out part", swapped),
        ("size", data.take(511, 1_000).unwrap()),
        ("split", split(0)),
    ] {
        let error = kept(2).train(&network(), &other, &[0]).err().unwrap_or_else(|| panic!("{what} taken up"));
        assert!(matches!(&error, Error::CheckpointMismatch { field, .. } if field.contains("data")), "{what}: {error}");
        assert!(!error.to_string().contains("delete"), "{error}");
    }
    // Test data have no part in a training, and a copy is the same data.
    let other_test =
        Splits { test: spoil(&data.test, true), train: data.train.sample(512, 0).unwrap(), ..data.clone() };
    assert!(kept(2).train(&network(), &other_test, &[0]).is_ok());
    std::fs::remove_dir_all(&folder).unwrap();
    let folder = self::folder("split");
    let kept = Trainer { checkpoints: Some(folder.clone()), ..trainer(1) };
    kept.train(&network(), &split(0), &[0]).unwrap();
    assert!(matches!(kept.train(&network(), &split(1), &[0]), Err(Error::CheckpointMismatch { .. })), "another split");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_checkpoint_names_the_setting_that_differs() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("named");
    let kept = Trainer { checkpoints: Some(folder.clone()), ..trainer(1) };
    kept.train(&network(), &data, &[0]).unwrap();
    for (name, other) in [
        ("learning_rate", Trainer { learning_rate: 2e-3, ..kept.clone() }),
        ("batch_size", Trainer { batch_size: 32, ..kept.clone() }),
        ("label_smoothing", Trainer { label_smoothing: 0.1, ..kept.clone() }),
        ("optimiser", Trainer { optimiser: Optimiser::SGD, ..kept.clone() }),
        ("schedule", Trainer { schedule: Schedule::Cosine { warmup: 0.0 }, ..kept.clone() }),
        ("precision", Trainer { precision: Precision::Bf16, ..kept.clone() }),
        ("choice", Trainer { choice: Choice::BestEpoch, ..kept.clone() }),
        ("patience", Trainer { patience: Some(3), ..kept.clone() }),
    ] {
        let error = other.train(&network(), &data, &[0]).unwrap_err();
        assert!(matches!(&error, Error::CheckpointMismatch { field, .. } if field.contains(name)), "{name}: {error}");
    }
    // A setting that this version does not know, in the header of the file.
    let path = folder.join("seed0.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let mut header = header.replace(r#"\"batch_size\""#, r#"\"added\":1,\"batch_size\""#);
    assert!(header.contains("added"), "{header}");
    // Without its seal, as a file that somebody changed on purpose.
    header = header.replace("stemm:sha256", "other:sha256");
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + length..]].concat())
        .unwrap();
    let error = kept.train(&network(), &data, &[0]).unwrap_err();
    assert!(matches!(&error, Error::CheckpointMismatch { field, .. } if field == "`added`"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn fewer_epochs_than_the_checkpoint_holds_are_refused() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("ahead");
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), ..trainer(epochs) };
    kept(6).train(&network(), &data, &[0]).unwrap();
    let error = kept(2).train(&network(), &data, &[0]).unwrap_err();
    assert!(matches!(error, Error::CheckpointAhead { done: 6, setting: "epochs", most: 2, .. }), "{error}");
    assert_eq!(kept(6).train(&network(), &data, &[0]).unwrap().history.epochs.len(), 6);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_learning_rate_resumes() {
    let data = blobs(0, Device::Cpu).unwrap().take(16, 4).unwrap();
    let network = Network::mlp(&[16, 4]).unwrap();
    let mut rates = vec![0.009_516_548_729_684_085, f64::MIN_POSITIVE, 5e-324, 1.0 / 3.0];
    rates.extend((1..200).map(|n| f64::from(n) * 1.234_567_890_123e-5 / 7.0));
    for rate in rates {
        let folder = folder("rate");
        let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), learning_rate: rate, ..trainer(epochs) };
        kept(1).train(&network, &data, &[0]).unwrap();
        kept(2).train(&network, &data, &[0]).unwrap_or_else(|error| panic!("{rate:e}: {error}"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_checkpoint_is_the_model_that_its_training_would_return() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("best");
    let eager = |epochs| Trainer {
        choice: Choice::BestEpoch,
        learning_rate: 0.05,
        checkpoints: Some(folder.clone()),
        ..trainer(epochs)
    };
    let training = eager(25).train(&network(), &data, &[0]).unwrap();
    let epochs = &training.history.epochs;
    let best = epochs.iter().min_by(|a, b| a.held_out_loss.total_cmp(&b.held_out_loss)).unwrap();
    assert!(best.epoch < 25, "the last epoch is the best: nothing is tested");
    let loaded = Model::load(folder.join("seed0.safetensors"), Device::Cpu).unwrap();
    assert!(equal_bits(&loaded, &training.models[0]));
    assert!((loaded.evaluate(&data.held_out).unwrap().loss - best.held_out_loss).abs() < 1e-6);
    // It still goes on from the last epoch, not from the best.
    let resumed = eager(30).train(&network(), &data, &[0]).unwrap();
    let straight = Trainer { checkpoints: None, ..eager(30) }.train(&network(), &data, &[0]).unwrap();
    assert!(equal_bits(&resumed.models[0], &straight.models[0]));
    let without_times = |training: &Training| {
        training.history.epochs.iter().map(|row| (row.train_loss, row.held_out_loss)).collect::<Vec<_>>()
    };
    assert_eq!(without_times(&resumed), without_times(&straight));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn modules_of_any_name_are_kept_apart_in_a_checkpoint() {
    let data = blobs(0, Device::Cpu).unwrap();
    let names = ["fc", "best.fc", "optimiser.first_moment.fc", "last.fc"];
    let layers = (0i64..).zip(names).map(|(index, name)| {
        let layer: Layer = Linear::new(if index == 0 { 16 } else { 8 }, if index == 3 { 4 } else { 8 }).into();
        (name, layer)
    });
    let network = Network::new([16], layers).unwrap();
    let folder = folder("names");
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), choice: Choice::BestEpoch, ..trainer(epochs) };
    kept(2).train(&network, &data, &[0]).unwrap();
    let resumed = kept(4).train(&network, &data, &[0]).unwrap();
    let straight = Trainer { checkpoints: None, ..kept(4) }.train(&network, &data, &[0]).unwrap();
    assert!(equal_bits(&resumed.models[0], &straight.models[0]));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn checkpoint_of_another_training_is_refused_and_kept() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("mismatch");
    let kept = Trainer { checkpoints: Some(folder.clone()), ..trainer(1) };
    kept.train(&network(), &data, &[0]).unwrap();
    let before = std::fs::read(folder.join("seed0.safetensors")).unwrap();
    let other = Trainer { batch_size: 32, ..kept.clone() }.train(&network(), &data, &[0]).unwrap_err();
    assert!(matches!(other, Error::CheckpointMismatch { .. }), "{other}");
    let other = kept.train(&Network::mlp(&[16, 8, 4]).unwrap(), &data, &[0]).unwrap_err();
    assert!(matches!(&other, Error::CheckpointMismatch { field, .. } if field == "network"), "{other}");
    std::fs::write(folder.join("seed0.safetensors"), &before[..before.len() / 2]).unwrap();
    let truncated = kept.train(&network(), &data, &[0]).unwrap_err();
    assert!(matches!(truncated, Error::Corrupt { .. }), "{truncated}");
    assert!(folder.join("seed0.safetensors").exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn early_stopping_returns_the_best_epoch_also_after_a_resumption() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("patience");
    let eager =
        |epochs| Trainer { patience: Some(2), choice: Choice::BestEpoch, learning_rate: 0.05, ..trainer(epochs) };
    let straight = eager(60).train(&network(), &data, &[0]).unwrap();
    let epochs = &straight.history.epochs;
    assert!(epochs.len() < 60, "never stopped");
    let best = epochs.iter().min_by(|a, b| a.held_out_loss.total_cmp(&b.held_out_loss)).unwrap();
    assert_eq!(epochs.len(), best.epoch + 2);
    let exact = Trainer { patience: None, choice: Choice::LastStep, epochs: best.epoch, ..eager(60) };
    assert!(equal_bits(&straight.models[0], &exact.train(&network(), &data, &[0]).unwrap().models[0]));
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), ..eager(epochs) };
    kept(best.epoch).train(&network(), &data, &[0]).unwrap();
    assert!(equal_bits(&straight.models[0], &kept(60).train(&network(), &data, &[0]).unwrap().models[0]));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn models_trained_side_by_side_are_those_trained_one_by_one() {
    let data = blobs(0, Device::Cpu).unwrap();
    let folder = folder("beside");
    let seeds = [0, 1, 2, 3];
    for optimiser in [Optimiser::Adam, Optimiser::SGD] {
        let learning_rate = if optimiser == Optimiser::Adam { 0.02 } else { 0.1 };
        let alone = Trainer {
            at_once: Some(1),
            optimiser,
            learning_rate,
            label_smoothing: 0.1,
            patience: Some(2),
            choice: Choice::BestEpoch,
            ..trainer(6)
        };
        let beside = Trainer { at_once: Some(3), ..alone.clone() }; // three, and then one
        let compare = |a: &Training, b: &Training| {
            assert_eq!(a.history.epochs.len(), b.history.epochs.len());
            for (a, b) in a.history.epochs.iter().zip(&b.history.epochs) {
                assert_eq!((a.model, a.seed, a.epoch), (b.model, b.seed, b.epoch));
                assert!((a.train_loss - b.train_loss).abs() < 1e-3, "{a:?} and {b:?}");
                assert!((a.held_out_loss - b.held_out_loss).abs() < 1e-3, "{a:?} and {b:?}");
                assert!((a.gradient_norm - b.gradient_norm).abs() < 1e-2 * a.gradient_norm, "{a:?} and {b:?}");
            }
            for (a, b) in a.models.iter().zip(&b.models) {
                for ((name, a), (_, b)) in a.params.iter().zip(b.params.iter()) {
                    assert!((a - b).abs().max().double_value(&[]) < 5e-3, "{name}");
                }
            }
        };
        let expected = alone.train(&network(), &data, &seeds).unwrap();
        compare(&expected, &beside.train(&network(), &data, &seeds).unwrap());
        // Checkpoints that are not equally far: the model that is behind catches up first.
        let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), epochs, ..beside.clone() };
        kept(1).train(&network(), &data, &seeds[1..2]).unwrap();
        kept(2).train(&network(), &data, &seeds[2..3]).unwrap();
        compare(&expected, &kept(6).train(&network(), &data, &seeds).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn saved_model_comes_back_bit_for_bit() {
    let path = folder("model").join("deep").join("model.safetensors");
    let model = Model::new(network(), network().init(4, Device::Cpu).unwrap()).unwrap();
    model.save(&path).unwrap();
    assert!(equal_bits(&model, &Model::load(&path, Device::Cpu).unwrap()));
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "temporary files are left over");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn the_norm_of_an_epoch_is_the_mean_over_its_steps_and_seconds_are_those_of_the_model() {
    // The same sample over and over: every batch has the same gradient, and a step this small changes nothing.
    let data = blobs(0, Device::Cpu).unwrap();
    let same = |part: &Dataset| {
        let (x, y) = (part.images().narrow(0, 0, 1), part.labels().narrow(0, 0, 1));
        Dataset::new(part.name(), x.repeat([256, 1]), y.repeat([256]), 4).unwrap()
    };
    let data = Splits { train: same(&data.train), held_out: same(&data.held_out), test: same(&data.test) };
    let trainer = Trainer { learning_rate: 1e-30, optimiser: Optimiser::SGD, ..trainer(2) };
    let training = trainer.train(&network(), &data, &[0, 1]).unwrap();
    let gradients = |model: &Model| {
        let params = model.params.tensors().iter().map(|tensor| tensor.copy().set_requires_grad(true));
        let params: Vec<Tensor> = params.collect();
        let named = model.params.iter().zip(&params).map(|((name, _), own)| (name.to_owned(), own.shallow_clone()));
        let logits = model.network.forward(&Params::new(named, []), data.train.images(), Mode::Eval).unwrap();
        let loss = logits.cross_entropy_for_logits(data.train.labels());
        let all = Tensor::run_backward(&[loss], &params, false, false);
        all.iter().map(|own| own.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt()
    };
    for row in &training.history.epochs {
        let expected = gradients(&training.models[row.model]);
        assert!((row.gradient_norm / expected - 1.0).abs() < 1e-4, "{} instead of {expected}", row.gradient_norm);
        assert!(row.seconds > 0.0);
    }
    for (model, rows) in training.history.epochs.chunks(2).enumerate() {
        assert_eq!(training.seconds(model), rows[0].seconds + rows[1].seconds);
    }
}
