//! Alignment end to end: permuted models compute the same function, weight matching climbs and recovers hidden
//! permutations, warm starts change nothing but time, STE-MM beats naive averaging.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use stemm::prelude::*;

fn model(widths: &[i64], seed: u64) -> Model {
    let network = Network::mlp(widths).unwrap();
    let params = network.init(seed, Device::Cpu).unwrap();
    Model::new(network, params).unwrap()
}

fn random_permutations(model: &Model, seed: u64) -> Permutations {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let groups = model.network.permutation_spec();
    let shuffled = groups.groups().iter().map(|group| {
        let mut order: Vec<i64> = (0..group.size as i64).collect();
        order.shuffle(&mut rng);
        Permutation::new(order).unwrap()
    });
    Permutations(shuffled.collect())
}

fn permuted(model: &Model, permutations: &Permutations) -> Model {
    let params = permutations.apply(&model.network.permutation_spec(), &model.params).unwrap();
    Model::new(model.network.clone(), params).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn permuted_model_computes_the_same_function(
        widths in proptest::collection::vec(1i64..9, 2..6), seed in 0u64..1000,
    ) {
        let original = model(&widths, seed);
        let moved = permuted(&original, &random_permutations(&original, seed + 1));
        let x = Tensor::randn([5, widths[0]], (Kind::Float, Device::Cpu));
        let (a, b) = (original.forward(&x).unwrap(), moved.forward(&x).unwrap());
        prop_assert!(largest_difference(&a, &b) <= 1e-4 * (1.0 + a.abs().max().double_value(&[])));
    }

    #[test]
    fn then_and_inverse_are_the_group_laws(n in 1usize..20, seed in 0u64..1000) {
        let of = model(&[1, n as i64, 1], 0);
        let (p, q) = (random_permutations(&of, seed).0.remove(0), random_permutations(&of, seed + 7).0.remove(0));
        prop_assert_eq!(p.then(&p.inverse()).unwrap(), Permutation::identity(n));
        prop_assert_eq!(p.then(&q).unwrap().inverse(), q.inverse().then(&p.inverse()).unwrap());
        let twice = permuted(&permuted(&of, &Permutations(vec![p.clone()])), &Permutations(vec![q.clone()]));
        let once = permuted(&of, &Permutations(vec![p.then(&q).unwrap()]));
        prop_assert!(twice.params.tensors().iter().zip(once.params.tensors()).all(|(a, b)| a == b));
    }
}

#[test]
fn permutation_of_double_precision_parameters_is_exact_to_1e_10() {
    let original = model(&[6, 20, 30, 4], 1);
    let double = |model: &Model| model.params.to_kind(Kind::Double).unwrap();
    let moved = permuted(&original, &random_permutations(&original, 2));
    let x = Tensor::randn([16, 6], (Kind::Double, Device::Cpu));
    let a = original.network.forward(&double(&original), &x, Mode::Eval).unwrap();
    let b = original.network.forward(&double(&moved), &x, Mode::Train { seed: 0 }).unwrap();
    assert!(largest_difference(&a, &b) < 1e-10);
}

#[test]
fn weight_matching_recovers_a_hidden_permutation_exactly() {
    let data = blobs(0, Device::Cpu).unwrap();
    for count in [2, 3, 4] {
        let original = model(&[8, 40, 30, 50, 5], 3);
        let hidden: Vec<Permutations> = (1..count).map(|seed| random_permutations(&original, seed)).collect();
        let mut models = vec![original.clone()];
        models.extend(hidden.iter().map(|own| permuted(&original, own)));
        let alignment = WeightMatching::default().align(&models, &data).unwrap();
        assert!(alignment.converged);
        for (found, hidden) in alignment.permutations[1..].iter().zip(&hidden) {
            let undo: Vec<Permutation> = hidden.0.iter().map(Permutation::inverse).collect();
            assert_eq!(found.0, undo, "{count} models");
        }
    }
}

#[test]
fn weight_matching_never_lowers_its_objective() {
    let data = blobs(0, Device::Cpu).unwrap();
    for count in [2, 3, 5] {
        let models: Vec<Model> = (0..count).map(|seed| model(&[8, 40, 30, 50, 5], seed)).collect();
        let alignment = WeightMatching::default().align(&models, &data).unwrap();
        let objectives: Vec<f64> = alignment.history.iter().filter_map(|record| record.objective).collect();
        assert!(objectives.len() > 1, "{count} models");
        for pair in objectives.windows(2) {
            assert!(pair[1] >= pair[0] - 1e-5 * pair[0].abs(), "{count} models: {objectives:?}");
        }
        // The objective that is reported is the sum of inner products of what is returned.
        let aligned = alignment.apply(&models).unwrap();
        let mut sum = 0.0;
        for (index, a) in aligned.iter().enumerate() {
            for b in &aligned[..index] {
                sum += a.params.dot(&b.params).unwrap();
            }
        }
        let last = objectives[objectives.len() - 1];
        assert!((sum - last).abs() < 1e-4 * last.abs(), "{count} models: {sum} {last}");
    }
}

#[test]
fn warm_start_and_plain_solver_find_the_same_permutations() {
    let data = blobs(0, Device::Cpu).unwrap();
    let models: Vec<Model> = (0..4).map(|seed| model(&[16, 40, 30, 4], seed)).collect();
    for pair in [&models[..2], &models[..4]] {
        let find = |solver| WeightMatching { solver, ..WeightMatching::default() }.align(pair, &data).unwrap();
        assert_eq!(find(Solver::WarmStarted).permutations, find(Solver::Plain).permutations);
    }
    let find = |solver| {
        let settings = SteMm { epochs: 2, batch_size: 64, solver, ..SteMm::default() };
        settings.align(&models[..3], &data).unwrap().permutations
    };
    assert_eq!(find(Solver::WarmStarted), find(Solver::Plain));
}

#[test]
fn ste_mm_merges_three_networks_into_one_that_works() {
    let data = blobs(0, Device::Cpu).unwrap();
    let network = Network::mlp(&[16, 64, 64, 4]).unwrap();
    let trainer = Trainer { epochs: 30, batch_size: 64, ..Trainer::default() };
    let training = trainer.train(&network, &data, &[0, 1, 2]).unwrap();
    let naive = Alignment::naive(&training.models).unwrap();
    for mixing in [Mixing::Uniforms, Mixing::Midpoint] {
        let settings = SteMm { epochs: 10, batch_size: 64, mixing, ..SteMm::default() };
        let aligned = settings.align(&training.models, &data).unwrap();
        let table = compare(&training, &[&naive, &aligned], &data).unwrap();
        let loss = |method: &str| table.rows.iter().find(|row| row.method == method).unwrap().test_loss;
        let mean = (0..3).map(|index| loss(&format!("model {index}"))).sum::<f64>() / 3.0;
        assert!(loss("ste-mm") < loss("naive"), "{:?}", table.rows);
        assert!(loss("ste-mm") < mean + 0.1, "{:?}", table.rows);
        let walk = Interpolation { points: 5, ..Interpolation::default() };
        let after = walk.barriers("aligned", &aligned.apply(&training.models).unwrap(), &data).unwrap();
        let before = walk.barriers("naive", &training.models, &data).unwrap();
        assert!(after.mean_loss_barrier() < before.mean_loss_barrier());
    }
}

#[test]
fn same_seed_gives_the_same_permutations() {
    let data = blobs(0, Device::Cpu).unwrap();
    let models: Vec<Model> = (0..3).map(|seed| model(&[16, 20, 20, 4], seed)).collect();
    let find = |seed| SteMm { epochs: 1, batch_size: 64, seed, ..SteMm::default() }.align(&models, &data).unwrap();
    assert_eq!(find(5).permutations, find(5).permutations);
}

#[test]
fn the_history_counts_what_each_sweep_did() {
    let models = [model(&[16, 20, 14, 4], 0), model(&[16, 20, 14, 4], 1)];
    let alignment = WeightMatching::default().align(&models, &blobs(0, Device::Cpu).unwrap()).unwrap();
    let history = &alignment.history;
    assert!(history.len() > 1 && alignment.converged);
    for (index, record) in history.iter().enumerate() {
        assert_eq!((record.round, record.sweeps), (index + 1, 1));
        assert!((1..=2).contains(&record.solved_groups) && record.moved_groups <= record.solved_groups, "{record:?}");
        assert!(record.assignment_seconds > 0.0 && record.assignment_seconds < alignment.seconds, "{record:?}");
    }
    assert_eq!((history[0].solved_groups, history[0].moved_groups), (2, 2));
    assert_eq!(history[history.len() - 1].moved_groups, 0, "the sweep that changes nothing is the last");
    let moved = &alignment.apply(&models).unwrap()[1].params;
    let objective: f64 = models[0]
        .params
        .tensors()
        .iter()
        .zip(moved.tensors())
        .map(|(a, b)| (a * b).sum(Kind::Double).double_value(&[]))
        .sum();
    let found = history[history.len() - 1].objective.unwrap();
    assert!((found - objective).abs() < 1e-5 * objective, "{found} instead of {objective}");
    let frame = alignment.frame();
    let column = |name: &str| frame.column(name).unwrap().u64().unwrap().iter().flatten().collect::<Vec<_>>();
    assert_eq!(column("round"), (1..=history.len() as u64).collect::<Vec<_>>());
    assert_eq!(column("moved_groups")[0], 2);
}

#[test]
fn an_alignment_is_applied_to_its_own_models_only() {
    let models = [model(&[16, 20, 4], 0), model(&[16, 20, 4], 1), model(&[16, 20, 4], 2)];
    let data = blobs(0, Device::Cpu).unwrap();
    let alignment = WeightMatching::default().align(&models, &data).unwrap();
    assert_eq!(alignment.apply(&models).unwrap().len(), 3);
    for other in [models[..2].to_vec(), [&models[..], &models[..1]].concat(), vec![model(&[16, 21, 4], 0); 3]] {
        let count = other.len();
        let refused = [alignment.apply(&other).err(), alignment.merge(&other, &data.train).err()];
        assert!(
            refused.iter().all(|error| matches!(error, Some(stemm::Error::Permutation { .. }))),
            "{count}: {refused:?}"
        );
    }
}

#[test]
fn a_history_counts_every_fit_of_every_model() {
    // One hidden layer: a fit solves its one group once, and sweeps again only if that moved it.
    let models: Vec<Model> = (0..4).map(|seed| model(&[16, 20, 4], seed)).collect();
    let data = blobs(0, Device::Cpu).unwrap();
    let matched = WeightMatching::default().align(&models, &data).unwrap();
    let settings = SteMm { epochs: 3, batch_size: 128, choice: Choice::LastStep, ..SteMm::default() };
    let learned = settings.align(&models, &data).unwrap();
    for (alignment, solved) in [(&matched, models.len()), (&learned, 3 * data.train.len().div_ceil(128))] {
        assert!(alignment.converged && alignment.history.len() > 1, "{}", alignment.method);
        assert_eq!(alignment.history[0].solved_groups, solved, "{}", alignment.method);
        assert!(alignment.history[0].moved_groups > 0, "{}", alignment.method);
        for (index, record) in alignment.history.iter().enumerate() {
            assert_eq!(record.round, index + 1);
            assert_eq!(record.sweeps, record.solved_groups + record.moved_groups, "{record:?}");
        }
    }
    assert!(learned.history.iter().all(|record| record.solved_groups == 3 * data.train.len().div_ceil(128)));
    let seconds: f64 = learned.history.iter().map(|record| record.seconds).sum();
    assert!(learned.history.iter().all(|record| record.seconds > 0.0) && seconds <= learned.seconds);
}

#[test]
fn a_cap_on_sweeps_is_kept_and_said_to_be_hit() {
    let models: Vec<Model> = (0..3).map(|seed| model(&[16, 20, 4], seed)).collect();
    let data = blobs(0, Device::Cpu).unwrap();
    let matched = WeightMatching { max_sweeps: 1, ..WeightMatching::default() }.align(&models, &data).unwrap();
    assert!(!matched.converged && matched.history.len() == 1 && matched.history[0].sweeps == 3, "{matched:?}");
    let settings = SteMm { epochs: 1, batch_size: 128, max_sweeps: 1, ..SteMm::default() };
    let learned = settings.align(&models, &data).unwrap();
    assert!(!learned.converged && learned.history[0].sweeps == learned.history[0].solved_groups, "{learned:?}");
}

#[test]
fn on_a_tie_every_unit_stays() {
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let zero = network.init(0, Device::Cpu).unwrap();
    let zero = Params::new(zero.iter().map(|(name, tensor)| (name.to_owned(), tensor.zeros_like())), []);
    let zero = Model::new(network.clone(), zero).unwrap();
    let identity = Permutations::identity(&network.permutation_spec());
    for models in [vec![zero.clone(), model(&[16, 6, 4], 0)], vec![zero.clone(), zero.clone(), zero]] {
        let found = WeightMatching::default().align(&models, &blobs(0, Device::Cpu).unwrap()).unwrap();
        assert!(found.converged && found.permutations.iter().all(|own| *own == identity), "{found:?}");
    }
}

#[test]
fn a_hidden_permutation_is_recovered_whatever_the_scale_of_the_weights() {
    let original = model(&[8, 20, 30, 5], 3);
    let hidden = random_permutations(&original, 1);
    let undo: Vec<Permutation> = hidden.0.iter().map(Permutation::inverse).collect();
    for power in [-30, 30] {
        let tensors = original.params.iter().map(|(name, tensor)| (name.to_owned(), tensor * 2f64.powi(power)));
        let scaled = Model::new(original.network.clone(), Params::new(tensors.collect::<Vec<_>>(), [])).unwrap();
        let pair = [scaled.clone(), permuted(&scaled, &hidden)];
        let found = WeightMatching::default().align(&pair, &blobs(0, Device::Cpu).unwrap()).unwrap();
        assert_eq!(found.permutations[1].0, undo, "2^{power}");
    }
}

#[test]
fn a_file_of_an_alignment_may_have_as_many_models_as_the_limit_and_lists_by_group() {
    let path = std::env::temp_dir().join(format!("stemm-many-{}.safetensors", std::process::id()));
    let network = Network::mlp(&[16, 4]).unwrap(); // no groups
    for (count, is_read) in [(100_000, true), (100_001, false)] {
        let alignment = Alignment {
            permutations: vec![Permutations(Vec::new()); count],
            ..Alignment::naive(&[model(&[16, 4], 0)]).unwrap()
        };
        alignment.save(&path, &network).unwrap();
        assert_eq!(Alignment::load(&path, &network).map(|own| own.permutations.len()).ok(), is_read.then_some(count));
    }
    std::fs::remove_file(&path).unwrap();
    let path = path.with_extension("json");
    std::fs::write(&path, r#"{"method": "m", "models": [[1, 0]]}"#).unwrap();
    let error = Alignment::load(&path, &network).unwrap_err().to_string();
    assert!(error.contains("lists of whole numbers by group"), "{error}");
    std::fs::remove_file(&path).unwrap();
}
