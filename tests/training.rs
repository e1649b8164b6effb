//! Training: the same seed gives the same bits, and an interrupted training ends where an uninterrupted one does.

use std::path::PathBuf;

use stemm::Error;
use stemm::prelude::*;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stemm-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

fn network() -> Network {
    Network::mlp(&[16, 24, 24, 4]).unwrap()
}

fn trainer(epochs: usize) -> Trainer {
    Trainer { epochs, batch_size: 64, ..Trainer::default() }
}

fn equal_bits(a: &Model, b: &Model) -> bool {
    a.params.iter().zip(b.params.iter()).all(|((name, x), (other, y))| name == other && x == y)
}

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
