//! What every method of alignment must do: find a permutation that was planted, in one frame, the same each time.

use stemm::Error;
use stemm::data::Dataset;
use stemm::prelude::*;

/// All methods, with settings for small networks.
fn methods() -> Vec<Box<dyn Aligner>> {
    let quiet = Progress::Silent;
    let sinkhorn = |loss| Sinkhorn { loss, steps: 400, batch_size: 512, progress: quiet, ..Sinkhorn::default() };
    vec![
        Box::new(WeightMatching { progress: quiet, ..WeightMatching::default() }),
        Box::new(ActivationMatching { progress: quiet, ..ActivationMatching::default() }),
        Box::new(ActivationMatching {
            similarity: Similarity::Covariance,
            progress: quiet,
            ..ActivationMatching::default()
        }),
        Box::new(ActivationMatching { to: MatchTo::Mean, progress: quiet, ..ActivationMatching::default() }),
        Box::new(ActivationMatching { precision: Precision::Bf16, progress: quiet, ..ActivationMatching::default() }),
        Box::new(FrankWolfe { progress: quiet, ..FrankWolfe::default() }),
        Box::new(sinkhorn(SinkhornLoss::Distance)),
        Box::new(SteMm { epochs: 2, batch_size: 64, progress: quiet, ..SteMm::default() }),
    ]
}

/// Flat data for an MLP, or the same as images of one channel.
fn data(images: bool) -> stemm::data::Splits {
    let data = blobs(0, Device::Cpu).unwrap();
    if !images {
        return data;
    }
    let part = |own: &Dataset| {
        Dataset::new(own.name(), own.images().view([-1, 1, 4, 4]), own.labels().shallow_clone(), 4).unwrap()
    };
    stemm::data::Splits { train: part(&data.train), held_out: part(&data.held_out), test: part(&data.test) }
}

/// A trained model, and its units in random places.
fn planted(network: &Network, data: &stemm::data::Splits, seed: u64) -> ([Model; 2], Permutations) {
    let trainer = Trainer { epochs: 4, batch_size: 64, progress: Progress::Silent, ..Trainer::default() };
    let model = trainer.train(network, data, &[seed]).unwrap().models.remove(0);
    let spec = network.permutation_spec();
    tch::manual_seed(seed as i64);
    let random =
        |n: usize| Permutation::new(Vec::try_from(Tensor::randperm(n as i64, (Kind::Int64, Device::Cpu))).unwrap());
    let hidden = Permutations(spec.groups().iter().map(|group| random(group.size).unwrap()).collect());
    let moved = Model::new(network.clone(), hidden.apply(&spec, &model.params).unwrap()).unwrap();
    ([model, moved], hidden)
}

/// Several models that know their data.
fn trained(data: &stemm::data::Splits, count: u64) -> (Network, Vec<Model>) {
    let network = Network::mlp(&[16, 24, 16, 4]).unwrap();
    let trainer =
        Trainer { epochs: 20, batch_size: 64, learning_rate: 0.01, progress: Progress::Silent, ..Trainer::default() };
    let seeds: Vec<u64> = (0..count).collect();
    let models = trainer.train(&network, data, &seeds).unwrap().models;
    (network, models)
}

fn undoes(found: &Permutations, hidden: &Permutations) -> bool {
    found.0.iter().zip(&hidden.0).all(|(found, hidden)| *found == hidden.inverse())
}

#[test]
fn every_method_undoes_a_planted_permutation_exactly() {
    for (network, images) in
        [(Network::mlp(&[16, 20, 12, 4]).unwrap(), false), (Network::convnet([1, 4, 4], 0.5, 4).unwrap(), true)]
    {
        let data = data(images);
        let (models, hidden) = planted(&network, &data, 3);
        for method in methods() {
            let found = method.align(&models, &data).unwrap();
            assert!(found.converged && undoes(&found.permutations[1], &hidden), "{}, images: {images}", found.method);
            assert_eq!(found.permutations[0], Permutations::identity(&network.permutation_spec()));
        }
    }
}

#[test]
fn permutations_of_many_models_are_in_the_frame_of_the_first_and_found_again() {
    let data = data(false);
    let (network, models) = trained(&data, 4);
    let mean = |models: &[Model]| merge(models, &data.train).unwrap().evaluate(&data.test).unwrap().loss;
    let naive = mean(&models);
    for method in methods() {
        let (found, again) = (method.align(&models, &data).unwrap(), method.align(&models, &data).unwrap());
        let name = &found.method;
        assert_eq!(found.permutations.len(), 4, "{name}");
        assert_eq!(found.permutations[0], Permutations::identity(&network.permutation_spec()), "{name}");
        assert_eq!(found.permutations, again.permutations, "{name}");
        let aligned = found.apply(&models).unwrap();
        for (before, after) in models.iter().zip(&aligned) {
            let (before, after) = (before.evaluate(&data.test).unwrap(), after.evaluate(&data.test).unwrap());
            assert!((before.loss - after.loss).abs() < 1e-5, "{name}: another function");
        }
        assert!(mean(&aligned) < naive, "{name}: {} instead of {naive}", mean(&aligned));
        assert!(!found.history.is_empty() && found.seconds > 0.0, "{name}");
    }
}

#[test]
fn a_search_that_was_cut_short_says_so() {
    let data = data(false);
    let (_, models) = trained(&data, 3);
    let quiet = Progress::Silent;
    let cut: [Box<dyn Aligner>; 4] = [
        Box::new(WeightMatching { max_sweeps: 1, progress: quiet, ..WeightMatching::default() }),
        Box::new(ActivationMatching {
            to: MatchTo::Mean,
            max_sweeps: 1,
            progress: quiet,
            ..ActivationMatching::default()
        }),
        Box::new(FrankWolfe { max_steps: 1, progress: quiet, ..FrankWolfe::default() }),
        Box::new(Sinkhorn { steps: 2, progress: quiet, ..Sinkhorn::default() }),
    ];
    for method in cut {
        let found = method.align(&models, &data).unwrap();
        assert!(!found.converged && !found.history.is_empty(), "{}", found.method);
    }
}

#[test]
fn losses_that_need_data_bring_sinkhorns_mixtures_down() {
    let data = data(false);
    let (_, models) = trained(&data, 3);
    for loss in [SinkhornLoss::Midpoint, SinkhornLoss::Random] {
        let found = Sinkhorn { loss, steps: 300, progress: Progress::Silent, ..Sinkhorn::default() }
            .align(&models, &data)
            .unwrap();
        let mean = |rows: &[stemm::align::Record]| {
            rows.iter().filter_map(|row| row.mixture_loss).sum::<f64>() / rows.len() as f64
        };
        let (first, last) = (mean(&found.history[..30]), mean(&found.history[270..]));
        assert!(last < 0.9 * first, "{loss:?}: {first} {last}");
        assert_eq!(found.permutations.len(), 3);
    }
}

#[test]
fn frank_wolfes_objective_never_falls_and_every_way_round_is_the_identity() {
    let network = Network::convnet([1, 8, 8], 1.0, 4).unwrap();
    let models: Vec<Model> =
        (0..4).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu).unwrap()).unwrap()).collect();
    let data = blobs(0, Device::Cpu).unwrap();
    for start in [Start::Identity, Start::Barycentre, Start::Random] {
        let method = FrankWolfe { start, progress: Progress::Silent, ..FrankWolfe::default() };
        let found = method.align(&models, &data).unwrap();
        let objectives: Vec<f64> = found.history.iter().filter_map(|row| row.objective).collect();
        assert!(objectives.len() > 5 && found.converged, "{start:?}: {objectives:?}");
        // Rounding of f32 sums, relative.
        assert!(objectives.windows(2).all(|pair| pair[1] >= pair[0] * (1.0 - 1e-6)), "{start:?}: {objectives:?}");
        let several = FrankWolfe { starts: 3, ..method }.align(&models, &data).unwrap();
        let total = |alignment: &Alignment| {
            let sets = alignment.apply(&models).unwrap();
            let pairs = (0..4).flat_map(|a| (a + 1..4).map(move |b| (a, b)));
            pairs.map(|(a, b)| sets[a].params.dot(&sets[b].params).unwrap()).sum::<f64>()
        };
        assert!(total(&several) >= total(&found) - 1e-9, "{start:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let data = data(false);
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let models: Vec<Model> =
        (0..2).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu).unwrap()).unwrap()).collect();
    let wrong: Vec<(&str, Box<dyn Aligner>)> = vec![
        ("samples", Box::new(ActivationMatching { samples: 0, ..ActivationMatching::default() })),
        ("max_sweeps", Box::new(ActivationMatching { max_sweeps: 0, ..ActivationMatching::default() })),
        ("starts", Box::new(FrankWolfe { starts: 0, ..FrankWolfe::default() })),
        ("max_steps", Box::new(FrankWolfe { max_steps: 0, ..FrankWolfe::default() })),
        ("steps", Box::new(Sinkhorn { steps: 0, ..Sinkhorn::default() })),
        ("temperature", Box::new(Sinkhorn { temperature: 0.0, ..Sinkhorn::default() })),
        ("temperature", Box::new(Sinkhorn { temperature: f64::NAN, ..Sinkhorn::default() })),
        ("learning_rate", Box::new(Sinkhorn { learning_rate: -1.0, ..Sinkhorn::default() })),
        ("batch_size", Box::new(Sinkhorn { batch_size: 0, ..Sinkhorn::default() })),
    ];
    for (name, method) in wrong {
        let error = method.align(&models, &data).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting, .. } if *setting == name), "{name}: {error}");
    }
    for method in methods() {
        assert!(matches!(method.align(&models[..1], &data), Err(Error::TooFewModels { .. })), "{}", method.name());
    }
}

#[test]
fn networks_without_hidden_units_have_nothing_to_align() {
    let data = data(false);
    let network = Network::mlp(&[16, 4]).unwrap();
    let models: Vec<Model> =
        (0..3).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu).unwrap()).unwrap()).collect();
    for method in methods() {
        let found = method.align(&models, &data).unwrap();
        assert!(found.permutations.iter().all(|own| own.0.is_empty()), "{}", found.method);
    }
}

#[test]
fn every_merge_of_equal_models_is_that_model_and_of_aligned_ones_works() {
    let data = data(false);
    let (network, models) = trained(&data, 3);
    let merges = [
        Merging::Mean,
        Merging::Fisher(Fisher { samples: 100, ..Fisher::default() }),
        Merging::RegMean(RegMean::default()),
        Merging::GreedySoup,
    ];
    let aligned =
        WeightMatching { progress: Progress::Silent, ..WeightMatching::default() }.align(&models, &data).unwrap();
    let aligned = aligned.apply(&models).unwrap();
    let mut losses = Vec::new();
    for merging in merges {
        let same = merging.merge(&[models[0].clone(), models[0].clone()], &data).unwrap();
        let pairs = same.params.tensors().iter().zip(models[0].params.tensors());
        for (found, own) in pairs {
            assert!((found - own).abs().max().double_value(&[]) < 2e-5, "{merging}");
        }
        let merged = merging.merge(&aligned, &data).unwrap();
        assert_eq!(merged.network, network, "{merging}");
        losses.push(merged.evaluate(&data.test).unwrap().loss);
        assert!(matches!(merging.merge(&[], &data), Err(Error::TooFewModels { .. })), "{merging}");
    }
    assert!(losses.iter().all(|loss| *loss < 0.6), "{losses:?}");
    assert!((1..3).all(|other| (losses[0] - losses[other]).abs() > 1e-6), "not different: {losses:?}");
}

#[test]
fn a_greedy_soup_is_the_mean_of_the_models_that_help() {
    let data = data(false);
    let (network, models) = trained(&data, 2);
    let bad = Model::new(network.clone(), network.init(9, Device::Cpu).unwrap()).unwrap();
    // Twice the same model, and one that knows nothing in front.
    let soup = greedy_soup(&[bad.clone(), models[0].clone(), models[0].clone()], &data).unwrap();
    let same = soup
        .params
        .tensors()
        .iter()
        .zip(models[0].params.tensors())
        .all(|(a, b)| (a - b).abs().max().double_value(&[]) < 1e-6);
    assert!(same);
    let accuracy = |model: &Model| model.evaluate(&data.held_out).unwrap().accuracy;
    assert!(
        accuracy(&greedy_soup(&[bad, models[0].clone(), models[1].clone()], &data).unwrap())
            >= accuracy(&models[0]).max(accuracy(&models[1]))
    );
}

#[test]
fn settings_of_merges_that_cannot_work_are_refused_by_name() {
    let data = data(false);
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let models = [Model::new(network.clone(), network.init(0, Device::Cpu).unwrap()).unwrap()];
    for (name, merging) in [
        ("samples", Merging::Fisher(Fisher { samples: 0, ..Fisher::default() })),
        ("floor", Merging::Fisher(Fisher { floor: 0.0, ..Fisher::default() })),
        ("floor", Merging::Fisher(Fisher { floor: f64::NAN, ..Fisher::default() })),
        ("samples", Merging::RegMean(RegMean { samples: 0, ..RegMean::default() })),
        ("shrinkage", Merging::RegMean(RegMean { shrinkage: 1.1, ..RegMean::default() })),
    ] {
        let error = merging.merge(&models, &data).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting, .. } if *setting == name), "{name}: {error}");
    }
}
