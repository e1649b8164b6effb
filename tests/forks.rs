//! Trainings that begin elsewhere than at their seed's initial values.

mod shared;

use stemm::prelude::*;

use shared::{equal_bits, folder, network, trainer};

fn data() -> Splits {
    blobs(0, Device::Cpu).unwrap()
}

#[test]
fn a_fork_follows_its_seed_to_the_step_and_its_own_from_there_on() {
    let data = data();
    let steps = data.train.len().div_ceil(64);
    let train = |epochs, seeds: &[u64]| trainer(epochs).train(&network(), &data, seeds).unwrap();
    // Its own seed goes on as if nothing had happened: in the middle of an epoch, between two, at the end.
    for step in [0, 1, steps + 3, 2 * steps, 4 * steps] {
        let fork = trainer(4).fork(&network(), &data, 7, step, &[7, 8]).unwrap().train().unwrap();
        assert!(equal_bits(&fork.models[0], &train(4, &[7]).models[0]), "step {step}");
        assert_eq!(equal_bits(&fork.models[0], &fork.models[1]), step == 4 * steps, "step {step}");
        assert_eq!(fork.history.epochs.len(), 8, "step {step}");
        assert!(fork.history.epochs.iter().all(|row| row.seed == 7 + row.model as u64), "step {step}");
    }
    // Before the step the other seed has no say, from it on the first one has none.
    let fork = |seed, step| trainer(2).fork(&network(), &data, seed, step, &[8]).unwrap().train().unwrap();
    let late = fork(7, steps);
    let alone = train(2, &[7]);
    let held_out =
        |training: &Training| training.history.epochs.iter().map(|row| row.held_out_loss).collect::<Vec<_>>();
    assert_eq!(held_out(&late)[0], held_out(&alone)[0]);
    assert_ne!(held_out(&late)[1], held_out(&alone)[1]);
    let beyond = trainer(2).fork(&network(), &data, 7, 2 * steps + 1, &[8]);
    assert!(beyond.unwrap_err().to_string().contains("`epochs`"));
}

#[test]
fn a_training_starts_from_given_parameters_without_changing_them() {
    let data = data();
    let start = trainer(2).train(&network(), &data, &[0]).unwrap().models.remove(0);
    let before = start.params.to_kind(Kind::Double).unwrap();
    let slow = Trainer { learning_rate: 1e-12, ..trainer(1) };
    let kept = slow.start_from(&start, &data, &[1, 2]).unwrap().train().unwrap();
    let distance = |a: &Params, b: &Params| {
        let both = a.tensors().iter().zip(b.tensors());
        both.map(|(a, b)| (a - b).abs().max().double_value(&[])).fold(0.0, f64::max)
    };
    assert!(kept.models.iter().all(|model| distance(&model.params, &start.params) < 1e-6));
    let tuned = trainer(1).start_from(&start, &data, &[1, 2]).unwrap().train().unwrap();
    assert!(distance(&tuned.models[0].params, &tuned.models[1].params) > 1e-4);
    assert_eq!(distance(&before, &start.params.to_kind(Kind::Double).unwrap()), 0.0);
    // From initial values it is the plain training.
    let initial = Model::new(network(), network().init(5, Device::Cpu).unwrap()).unwrap();
    let plain = trainer(2).train(&network(), &data, &[5]).unwrap();
    assert!(equal_bits(
        &trainer(2).start_from(&initial, &data, &[5]).unwrap().train().unwrap().models[0],
        &plain.models[0]
    ));
}

#[test]
fn checkpoints_of_forks_and_of_given_parameters_are_their_own() {
    let (data, folder) = (data(), folder("forks"));
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), ..trainer(epochs) };
    let steps = data.train.len().div_ceil(64);
    let start = trainer(1).train(&network(), &data, &[3]).unwrap().models.remove(0);
    let forked = |trainer: &Trainer| trainer.fork(&network(), &data, 0, steps + 1, &[1]).unwrap().train().unwrap();
    let tuned = |trainer: &Trainer| trainer.start_from(&start, &data, &[1]).unwrap().train().unwrap();
    kept(2).train(&network(), &data, &[1]).unwrap();
    forked(&kept(2));
    tuned(&kept(2));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
    assert!(equal_bits(&forked(&kept(4)).models[0], &forked(&trainer(4)).models[0]));
    assert!(equal_bits(&tuned(&kept(4)).models[0], &tuned(&trainer(4)).models[0]));
    // Those of another start are not gone on with.
    let other = trainer(1).train(&network(), &data, &[4]).unwrap().models.remove(0);
    let anew = kept(4).start_from(&other, &data, &[1]).unwrap().train().unwrap();
    assert!(equal_bits(
        &anew.models[0],
        &trainer(4).start_from(&other, &data, &[1]).unwrap().train().unwrap().models[0]
    ));
    std::fs::remove_dir_all(&folder).unwrap();
}
