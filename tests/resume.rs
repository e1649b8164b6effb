//! Long work besides training: what was stopped goes on to the bits of what ran through.

#[path = "shared/folder.rs"]
mod shared;

use stemm::Error;
use stemm::analysis::Barriers;
use stemm::prelude::*;

use shared::folder;

/// A network with batch norm and dropout, whose masks depend on the step.
fn network() -> Network {
    let layers: [(&str, Layer); 6] = [
        ("fc", Linear::new(16, 24).into()),
        ("norm", BatchNorm::new(24).into()),
        ("relu", Relu.into()),
        ("dropout", Dropout::new(0.1).into()),
        ("middle", Linear::new(24, 12).into()),
        ("head", Linear::new(12, 4).into()),
    ];
    Network::new([16], layers).unwrap()
}

fn models(seeds: &[u64]) -> (Splits, Vec<Model>) {
    let data = blobs(0, Device::Cpu).unwrap();
    let trainer = Trainer { epochs: 3, batch_size: 64, ..Trainer::default() };
    let models = trainer.train(&network(), &data, seeds).unwrap().models;
    (data, models)
}

/// All of an alignment but its times.
fn timeless(alignment: &Alignment) -> String {
    let mut alignment = alignment.clone();
    for record in &mut alignment.history {
        (record.seconds, record.assignment_seconds) = (0.0, 0.0);
    }
    format!("{:?} {:?} {}", alignment.permutations, alignment.history, alignment.converged)
}

#[test]
fn ste_mm_goes_on_where_it_was() {
    let (data, models) = models(&[0, 1, 2]);
    let mut earlier_is_better = 0;
    for (choice, seed) in
        [(Choice::BestEpoch, 0), (Choice::BestEpoch, 1), (Choice::BestEpoch, 2), (Choice::LastStep, 0)]
    {
        let folder = folder("resume-ste-mm");
        let plain = |epochs| SteMm { epochs, batch_size: 64, learning_rate: 0.05, choice, seed, ..SteMm::default() };
        let kept = |epochs| SteMm { checkpoints: Some(folder.clone()), ..plain(epochs) };
        let straight = plain(6).align(&models, &data).unwrap();
        let losses: Vec<f64> = straight.history.iter().filter_map(|record| record.merged_loss).collect();
        earlier_is_better +=
            usize::from(choice == Choice::BestEpoch && losses[..5].iter().any(|loss| loss < &losses[5]));
        // Stopped after each of its epochs once.
        for epochs in 1..6 {
            kept(epochs).align(&models, &data).unwrap();
        }
        let resumed = kept(6).align(&models, &data).unwrap();
        assert_eq!(timeless(&resumed), timeless(&straight), "{choice:?}");
        assert!(resumed.seconds > 0.0 && resumed.history.len() == 6);
        // What is done is not done again; what is further is refused.
        assert_eq!(timeless(&kept(6).align(&models, &data).unwrap()), timeless(&straight));
        let error = kept(5).align(&models, &data).unwrap_err();
        assert!(matches!(error, Error::CheckpointAhead { done: 6, setting: "epochs", most: 5, .. }), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
    assert!(earlier_is_better > 0, "the last epoch is always the best: that a lower loss is remembered is not tested");
}

#[test]
fn sinkhorn_goes_on_where_it_was() {
    let (data, models) = models(&[0, 1, 2]);
    for loss in [SinkhornLoss::Distance, SinkhornLoss::Random] {
        let folder = folder("resume-sinkhorn");
        let plain = |steps| Sinkhorn { steps, loss, batch_size: 64, ..Sinkhorn::default() };
        let kept = |steps| Sinkhorn { checkpoints: Some(folder.clone()), ..plain(steps) };
        let straight = plain(60).align(&models, &data).unwrap();
        kept(25).align(&models, &data).unwrap(); // goes on from step 20
        kept(40).align(&models, &data).unwrap();
        assert_eq!(timeless(&kept(60).align(&models, &data).unwrap()), timeless(&straight), "{loss:?}");
        let error = kept(59).align(&models, &data).unwrap_err();
        assert!(matches!(error, Error::CheckpointAhead { done: 60, setting: "steps", most: 59, .. }), "{error}");
        let other = Sinkhorn { temperature: 2.0, ..kept(60) }.align(&models, &data).unwrap_err();
        assert!(matches!(&other, Error::CheckpointMismatch { field, .. } if field == "`temperature`"), "{other}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_curve_goes_on_where_it_was() {
    let (data, models) = models(&[0, 1]);
    let folder = folder("resume-curve");
    let plain = |epochs| Bezier { epochs, batch_size: 64, points: 5, repair: Repair::Off, ..Bezier::default() };
    let kept = |epochs| Bezier { checkpoints: Some(folder.clone()), ..plain(epochs) };
    let points = |barriers: &Barriers| format!("{:?}", barriers.curves);
    let straight = plain(4).fit("curve", &models, &data).unwrap();
    (1..4).for_each(|epochs| drop(kept(epochs).fit("curve", &models, &data).unwrap()));
    assert_eq!(points(&kept(4).fit("curve", &models, &data).unwrap()), points(&straight));
    let error = kept(3).fit("curve", &models, &data).unwrap_err();
    assert!(matches!(error, Error::CheckpointAhead { done: 4, setting: "epochs", most: 3, .. }), "{error}");
    let swapped = kept(4).fit("curve", &[models[1].clone(), models[0].clone()], &data).unwrap_err();
    assert!(matches!(&swapped, Error::CheckpointMismatch { field, .. } if field == "set of models"), "{swapped}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn checkpoints_of_other_models_data_and_settings_are_named_and_kept() {
    let (data, models) = models(&[0, 1, 2, 3]);
    let folder = folder("resume-other");
    let kept = |seed| SteMm { epochs: 1, batch_size: 64, seed, checkpoints: Some(folder.clone()), ..SteMm::default() };
    kept(0).align(&models[..2], &data).unwrap();
    let file = folder.join("ste-mm.safetensors");
    let before = std::fs::read(&file).unwrap();
    let other_data = blobs(1, Device::Cpu).unwrap();
    for (found, field) in [
        (kept(1).align(&models[..2], &data), "`seed`"),
        (kept(0).align(&models[2..], &data), "set of models"),
        (kept(0).align(&models[..3], &data), "set of models"),
        (kept(0).align(&models[..2], &other_data), "data"),
    ] {
        let error = found.unwrap_err();
        let named = matches!(&error, Error::CheckpointMismatch { field: own, .. } if own.contains(field));
        assert!(named && error.to_string().contains("`checkpoints`"), "{field}: {error}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), before);
    // What was cut off or is something else is named, too.
    for bytes in [&before[..before.len() / 2], b"{}"] {
        std::fs::write(&file, bytes).unwrap();
        assert!(matches!(kept(0).align(&models[..2], &data), Err(Error::Corrupt { .. })));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
