//! Numbers against exact values: repeated eigenvalues, small distances, double precision, groups of models.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use stemm::Error;
use stemm::prelude::*;

const CPU: Device = Device::Cpu;

fn model(network: &Network, seed: u64) -> Model {
    Model::new(network.clone(), network.init(seed, CPU).unwrap()).unwrap()
}

fn zeros(network: &Network) -> Model {
    let params = network.init(0, CPU).unwrap();
    Model::new(network.clone(), Params::new(params.iter().map(|(name, t)| (name.to_owned(), t.zeros_like())), []))
        .unwrap()
}

#[test]
fn an_eigenvalue_is_found_as_often_as_it_occurs() {
    // All outputs alike: the Hessian is (I - 1 1ᵀ / 4) / 4 times the second moments of the inputs, each value three-fold.
    let network = Network::mlp(&[2, 4]).unwrap();
    let x = Tensor::from_slice(&[3f32, 0.0, -3.0, 0.0, 0.0, 1.0, 0.0, -1.0]).view([4, 2]);
    let data = Dataset::new("cross", x, Tensor::from_slice(&[0i64, 1, 2, 3]), 4).unwrap();
    let exact =
        [18.0 / 16.0, 18.0 / 16.0, 18.0 / 16.0, 4.0 / 16.0, 4.0 / 16.0, 4.0 / 16.0, 2.0 / 16.0, 2.0 / 16.0, 2.0 / 16.0];
    for count in 1..=9 {
        for seed in 0..3 {
            let search = Lanczos { count, seed, ..Lanczos::default() };
            let found = search.eigenvalues(&[("zero", &zeros(&network))], &data).unwrap().remove(0);
            assert!(found.converged, "{count}: {:?}", found.values);
            for (rank, (value, exact)) in found.values.iter().zip(exact).enumerate() {
                assert!((value - exact).abs() < 2e-3, "{count}, seed {seed}, rank {rank}: {:?}", found.values);
            }
        }
    }
}

#[test]
fn an_eigenvalue_is_found_as_often_as_it_occurs_in_a_rich_spectrum() {
    // The same Hessian for 16 inputs and a bias: 17 different values, each three-fold, in a space that is not used up.
    let network = Network::mlp(&[16, 4]).unwrap();
    let data = blobs(0, CPU).unwrap().test.take(64).unwrap();
    let x = Tensor::cat(&[data.images().to_kind(Kind::Double), Tensor::ones([64, 1], (Kind::Double, CPU))], 1);
    let moments = x.tr().matmul(&x) / 64.0;
    let mut exact = Vec::<f64>::try_from(moments.linalg_eigvalsh("L") / 4.0).unwrap();
    exact.sort_by(|a, b| b.total_cmp(a));
    for (count, relative_error) in [(1, 1e-3), (3, 1e-3), (3, 1e-5), (5, 1e-3), (8, 1e-3)] {
        for seed in 0..3 {
            let search = Lanczos { count, seed, relative_error, ..Lanczos::default() };
            let found = search.eigenvalues(&[("zero", &zeros(&network))], &data).unwrap().remove(0);
            assert!(found.converged, "{count}, seed {seed}: {:?}", found.values);
            for (rank, value) in found.values.iter().enumerate() {
                let distance = (value - exact[rank / 3]).abs();
                assert!(distance < 2e-3 * exact[0], "{count}, seed {seed}, rank {rank}: {:?}, {exact:?}", found.values);
            }
        }
    }
}

#[test]
fn a_first_vector_without_a_part_in_the_answer_does_not_hide_it() {
    let network = Network::mlp(&[1, 3]).unwrap();
    let data =
        Dataset::new("one", Tensor::ones([3, 1], (Kind::Float, CPU)), Tensor::from_slice(&[0i64, 1, 2]), 3).unwrap();
    for seed in 0..20 {
        let search = Lanczos { count: 1, seed, ..Lanczos::default() };
        let found = search.eigenvalues(&[("zero", &zeros(&network))], &data).unwrap().remove(0);
        assert!(found.converged && (found.values[0] - 2.0 / 3.0).abs() < 1e-3, "seed {seed}: {:?}", found.values);
    }
}

#[test]
fn a_search_that_is_cut_short_says_so() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let search = Lanczos { count: 3, max_products: 4, relative_error: 1e-6, ..Lanczos::default() };
    let found = search.eigenvalues(&[("cut", &model(&network, 0))], &data.test).unwrap().remove(0);
    assert!(!found.converged && found.products == 4);
}

#[test]
fn distances_of_models_that_are_close_are_exact_and_cosines_at_most_one() {
    let network = Network::mlp(&[16, 32, 4]).unwrap();
    let first = model(&network, 0);
    let shift = 1e-3 / 16.0; // exact in f32 beside weights up to 1/4
    let moved = first.params.iter().map(|(name, tensor)| (name.to_owned(), tensor + shift));
    let second = Model::new(network.clone(), Params::new(moved.collect::<Vec<_>>(), [])).unwrap();
    let exact = |a: &Model, b: &Model| {
        let squares = a.params.tensors().iter().zip(b.params.tensors()).map(|(a, b)| {
            (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).square().sum(Kind::Double).double_value(&[])
        });
        squares.sum::<f64>().sqrt()
    };
    let pair = [first.clone(), second];
    let whole = geometry(&pair, &Alignment::naive(&pair).unwrap()).unwrap().rows.pop().unwrap();
    let expected = exact(&pair[0], &pair[1]);
    assert!(expected > 1e-3 && (whole.distance[0] / expected - 1.0).abs() < 1e-6, "{whole:?}, {expected}");
    let same = [first.clone(), first];
    for row in geometry(&same, &Alignment::naive(&same).unwrap()).unwrap().rows {
        assert!(row.distance == [0.0, 0.0] && row.cosine.iter().all(|&c| c <= 1.0 && c > 1.0 - 1e-12), "{row:?}");
    }
}

#[test]
fn models_in_double_precision_go_through_everything() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 12, 4]).unwrap();
    let double =
        |seed| Model::new(network.clone(), network.init(seed, CPU).unwrap().to_kind(Kind::Double).unwrap()).unwrap();
    let models = [double(0), double(1), double(2)];
    let single: Vec<Model> = (0..3).map(|seed| model(&network, seed)).collect();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-5, "{a} {b}");
    close(models[0].evaluate(&data.test).unwrap().loss, single[0].evaluate(&data.test).unwrap().loss);
    close(ensemble(&models, &data.test).unwrap().0, ensemble(&single, &data.test).unwrap().0);
    let matched = WeightMatching::default().align(&models, &data).unwrap();
    assert_eq!(matched.permutations, WeightMatching::default().align(&single, &data).unwrap().permutations);
    let merged = matched.merge(&models, &data.train).unwrap();
    assert!(merged.params.tensors().iter().all(|tensor| tensor.kind() == Kind::Double));
    assert_eq!(SteMm { epochs: 1, ..SteMm::default() }.align(&models, &data).unwrap().permutations.len(), 3);
    let walk = Interpolation { points: 3, ..Interpolation::default() };
    close(
        walk.curve(&models[..2], &data).unwrap().midpoint_loss(),
        walk.curve(&single[..2], &data).unwrap().midpoint_loss(),
    );
    assert!(Bezier { epochs: 1, points: 3, ..Bezier::default() }.fit("", &models[..2], &data).is_ok());
    assert!(Plane { points: 2, ..Plane::default() }.through("", &models, &data).is_ok());
    assert!(Plane { points: 2, ..Plane::default() }.around("", &models[0], &data).is_ok());
    let traces = |model: &Model| {
        let settings =
            Hutchinson { vectors: 4, estimator: Estimator::HutchPlusPlus { basis: 3 }, ..Hutchinson::default() };
        settings.traces(&[("", model)], &data.test).unwrap().estimates[0].mean()
    };
    close(traces(&models[0]), traces(&single[0]));
    let top = |model: &Model| {
        Lanczos { count: 2, ..Lanczos::default() }.eigenvalues(&[("", model)], &data.test).unwrap()[0].values[0]
    };
    close(top(&models[0]), top(&single[0]));
    // Not mixed, and not in formats that are not computed with.
    let mixed = [models[0].clone(), single[1].clone()];
    assert!(matches!(merge(&mixed, &data.train), Err(Error::NumberFormat { .. })));
    let half = network.init(0, CPU).unwrap().to_kind(Kind::BFloat16).unwrap();
    assert!(matches!(Model::new(network.clone(), half), Err(Error::NumberFormat { .. })));
    let mut tensors: Vec<(String, Tensor)> =
        single[0].params.iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect();
    tensors[1].1 = tensors[1].1.to_kind(Kind::Double);
    let error = Model::new(network, Params::new(tensors, [])).unwrap_err();
    assert!(matches!(&error, Error::NumberFormat { tensor, .. } if tensor == "layer1.bias"), "{error}");
}

#[test]
fn groups_of_models_share_none_and_a_single_group_has_no_band() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let models: Vec<Model> = (0..7).map(|seed| model(&network, seed)).collect();
    let own: Vec<f64> = models.iter().map(|model| model.evaluate(&data.test).unwrap().loss).collect();
    let growth = MergeGrowth::default().run(&models, &[], &data).unwrap();
    for n in 2..=7 {
        let rows: Vec<_> = growth.rows.iter().filter(|row| row.n_models == n && row.method == "naive").collect();
        assert_eq!(rows.len(), 7 / n, "{n} models");
        // Each mean of losses is that of n models, and no model serves twice: some assignment of models to groups fits.
        let sums: Vec<f64> = rows.iter().map(|row| row.models_loss * n as f64).collect();
        assert!(disjoint(&own, &sums, n), "{n} models: {sums:?}");
    }
    let small = MergeGrowth { most_models: 3, ..MergeGrowth::default() }.run(&models, &[], &data).unwrap();
    assert_eq!(small.rows.iter().map(|row| row.n_models).max(), Some(3));
    let few = MergeGrowth { groups: 2, ..MergeGrowth::default() }.run(&models, &[], &data).unwrap();
    assert_eq!(few.rows.iter().filter(|row| row.n_models == 2 && row.method == "naive").count(), 2);
    assert!(MergeGrowth { groups: 0, ..MergeGrowth::default() }.run(&models, &[], &data).is_err());
}

/// Whether disjoint subsets of `n` values have these sums.
fn disjoint(values: &[f64], sums: &[f64], n: usize) -> bool {
    fn search(values: &[f64], sums: &[f64], n: usize, used: u32) -> bool {
        let Some((sum, rest)) = sums.split_first() else { return true };
        (0u32..1 << values.len()).filter(|set| set & used == 0 && set.count_ones() as usize == n).any(|set| {
            let own: f64 = (0..values.len()).filter(|&index| set >> index & 1 == 1).map(|index| values[index]).sum();
            (own - sum).abs() < 1e-9 && search(values, rest, n, used | set)
        })
    }
    search(values, sums, n, 0)
}

#[test]
fn parameters_of_another_network_are_refused() {
    let data = blobs(0, CPU).unwrap();
    let (network, wider, longer) =
        (Network::mlp(&[16, 8, 4]).unwrap(), Network::mlp(&[16, 9, 4]).unwrap(), Network::mlp(&[16, 8, 8, 4]).unwrap());
    let own = model(&network, 0);
    let mut order: Vec<i64> = (0..8).collect();
    order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(0));
    let permutations = Permutations(vec![Permutation::new(order).unwrap()]);
    let plane = Plane { points: 2, ..Plane::default() }.around("", &own, &data).unwrap();
    for other in [&wider, &longer] {
        let params = other.init(0, CPU).unwrap();
        let error = permutations.apply(&network.permutation_spec(), &params).unwrap_err();
        assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
        for error in [own.params.dot(&params).err(), params.dot(&own.params).err()] {
            assert!(matches!(error, Some(Error::ShapeMismatch { .. } | Error::TensorNames { .. })), "{error:?}");
        }
        let foreign = model(other, 0);
        assert!(plane.project(&foreign).is_err() && plane.clone().with_path(&[foreign]).is_err());
    }
    assert!(own.params.dot(&own.params).is_ok() && plane.project(&own).is_ok());
}

#[test]
fn a_norms_epsilon_can_be_stated_and_old_descriptions_have_pytorchs() {
    let x = Tensor::rand([6, 4], (Kind::Float, CPU)) * 1e-2;
    for (stated, default) in [
        (Layer::from(BatchNorm::new(4).epsilon(1e-3)), Layer::from(BatchNorm::new(4))),
        (LayerNorm::new([4]).epsilon(1e-3).into(), LayerNorm::new([4]).into()),
        (GroupNorm::new(2, 4).epsilon(1e-3).into(), GroupNorm::new(2, 4).into()),
    ] {
        let run = |layer: &Layer| {
            let network = Network::new([4], [("norm", layer.clone())]).unwrap();
            network.forward(&network.init(0, CPU).unwrap(), &x, Mode::Train { seed: 0 }).unwrap()
        };
        let spread = |epsilon: f64, own: &Tensor| {
            let (groups, dim) = match stated {
                Layer::BatchNorm(_) => (own.view([6, 4]), 0i64),
                Layer::LayerNorm(_) => (own.view([6, 4]), 1),
                _ => (own.view([12, 2]), 1),
            };
            let mean = groups.mean_dim([dim].as_slice(), true, Kind::Float);
            let variance = groups.var_dim([dim].as_slice(), false, true);
            ((&groups - mean) / (variance + epsilon).sqrt()).view([6, 4])
        };
        for (layer, epsilon) in [(&stated, 1e-3), (&default, 1e-5)] {
            let error = (run(layer) - spread(epsilon, &x)).abs().max().double_value(&[]);
            assert!(error < 1e-4, "{}, {epsilon}: {error}", layer.kind());
        }
        let json = serde_json::to_string(&default).unwrap();
        let old = json.replace(",\"epsilon\":0.00001", "").replace(",\"epsilon\":1e-5", "");
        assert!(!old.contains("epsilon"), "{old}");
        assert_eq!(serde_json::from_str::<Layer>(&old).unwrap(), default);
        assert_eq!(serde_json::from_str::<Layer>(&serde_json::to_string(&stated).unwrap()).unwrap(), stated);
    }
    for epsilon in [0.0, -1e-5, f64::NAN, f64::INFINITY] {
        let bad = Network::new([4], [("norm", BatchNorm::new(4).epsilon(epsilon).into())]);
        assert!(matches!(bad, Err(Error::Layer { .. })), "{epsilon}");
    }
}

/// Loss of a dense network of two layers in f64, from nothing.
fn exact_loss(tensors: &[Tensor], data: &Dataset) -> f64 {
    let x = data.images().to_kind(Kind::Double);
    let logits = (x.matmul(&tensors[0].tr()) + &tensors[1]).relu().matmul(&tensors[2].tr()) + &tensors[3];
    let picked = logits.log_softmax(-1, Kind::Double).gather(1, &data.labels().unsqueeze(1), false);
    -picked.mean(Kind::Double).double_value(&[])
}

fn exact(model: &Model) -> Vec<Tensor> {
    model.params.tensors().iter().map(|tensor| tensor.to_kind(Kind::Double)).collect()
}

fn sum(sets: &[&[Tensor]], weights: &[f64]) -> Vec<Tensor> {
    let of = |k: usize| sets.iter().zip(weights).map(|(set, &weight)| &set[k] * weight).reduce(|a, b| a + b).unwrap();
    (0..sets[0].len()).map(of).collect()
}

fn inner(a: &[Tensor], b: &[Tensor]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).sum(Kind::Double).double_value(&[])).sum()
}

#[test]
fn a_plane_has_the_losses_of_its_places_and_goes_on_beyond_the_models_by_its_margin() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let models: Vec<Model> = (0..3).map(|seed| model(&network, seed)).collect();
    let settings = Plane { points: 3, margin: 0.5, samples: usize::MAX, ..Plane::default() };
    let plane = settings.through("three", &models, &data).unwrap();
    // Gram and Schmidt.
    let sets: Vec<Vec<Tensor>> = models.iter().map(exact).collect();
    let (along, other) = (sum(&[&sets[1], &sets[0]], &[1.0, -1.0]), sum(&[&sets[2], &sets[0]], &[1.0, -1.0]));
    let width = inner(&along, &along).sqrt();
    let shift = inner(&along, &other) / width;
    let across = sum(&[&other, &along], &[1.0, -shift / width]);
    let height = inner(&across, &across).sqrt();
    let margin = 0.5 * width.max(height);
    let ends = [(0f64.min(shift) - margin, width.max(shift) + margin), (-margin, height + margin)];
    for (axis, (low, high)) in plane.axis.iter().zip(ends) {
        let expected = [low, (low + high) / 2.0, high];
        assert!(axis.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{axis:?}, {expected:?}");
    }
    let places = plane.axis[1].iter().flat_map(|&y| plane.axis[0].iter().map(move |&x| (x, y)));
    for ((x, y), found) in places.zip(&plane.losses) {
        let expected = exact_loss(&sum(&[&sets[0], &along, &across], &[1.0, x / width, y / height]), &data.test);
        assert!((found - expected).abs() < 1e-4 * expected, "{x}, {y}: {found} instead of {expected}");
    }
}

#[test]
fn a_plane_wants_three_models_that_are_apart_however_little_and_settings_in_range() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let [a, b, c] = [0, 1, 2].map(|seed| model(&network, seed));
    let mixed = |other: &Model, share| {
        merge_weighted(&[a.clone(), other.clone()], &[1.0 - share, share], Repair::Off, &data.train).unwrap()
    };
    let plane = Plane { points: 2, ..Plane::default() };
    for line in [[&a, &b, &mixed(&b, 0.5)], [&a, &a, &b], [&a, &b, &b], [&a, &b, &a]] {
        let error = plane.through("", &line.map(Model::clone), &data).unwrap_err();
        assert!(error.to_string().contains("do not lie on one line"), "{error}");
        // In double precision as well, where 0 divided by nearly nothing is 0.
        let line = line.map(|own| Model::new(network.clone(), own.params.to_kind(Kind::Double).unwrap()).unwrap());
        assert!(plane.through("", &line, &data).is_err_and(|error| error.to_string().contains("on one line")));
    }
    let close = [a.clone(), mixed(&b, 1e-4), mixed(&c, 1e-4)];
    assert!(plane.through("", &close, &data).is_ok());
    let nan = f64::NAN;
    for (setting, margin, radius) in [
        ("margin", -0.1, 1.0),
        ("margin", f64::INFINITY, 1.0),
        ("margin", nan, 1.0),
        ("radius", 0.0, 0.0),
        ("radius", 0.0, nan),
    ] {
        let error = Plane { margin, radius, ..plane.clone() }.around("", &a, &data).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting: own, .. } if *own == setting), "{error}");
    }
    assert!(Plane { margin: 0.0, ..plane }.around("", &a, &data).is_ok());
}

#[test]
fn walks_are_evenly_spaced_and_have_the_losses_of_their_places() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 6, 4]).unwrap();
    let models: Vec<Model> = (0..4).map(|seed| model(&network, seed)).collect();
    let sets: Vec<Vec<Tensor>> = models.iter().map(exact).collect();
    let walk = Interpolation { points: 5, ..Interpolation::default() };
    let found = walk.barriers("", &models[..3], &data).unwrap();
    for (curve, (from, to)) in found.curves.iter().zip([(0, 1), (0, 2), (1, 2)]) {
        assert_eq!((curve.from, curve.to), (from, to));
        assert_eq!(curve.points.iter().map(|point| point.t).collect::<Vec<_>>(), [0.0, 0.25, 0.5, 0.75, 1.0]);
        let losses: Vec<f64> = curve
            .points
            .iter()
            .map(|point| exact_loss(&sum(&[&sets[from], &sets[to]], &[1.0 - point.t, point.t]), &data.test))
            .collect();
        assert!(curve.points.iter().zip(&losses).all(|(point, loss)| (point.loss - loss).abs() < 1e-5), "{losses:?}");
    }
    // Over the simplex: above the same combination of the models' own losses.
    let simplex = Simplex { samples: 5, steps: 1, ..Simplex::default() };
    let losses = simplex.losses("", &models, &data).unwrap();
    for mixture in losses.mixtures.iter().chain([&losses.centre]) {
        let all: Vec<&[Tensor]> = sets.iter().map(Vec::as_slice).collect();
        let own: f64 =
            mixture.weights.iter().zip(&sets).map(|(weight, set)| weight * exact_loss(set, &data.test)).sum();
        let expected = exact_loss(&sum(&all, &mixture.weights), &data.test) - own;
        assert!((mixture.above_ends() - expected).abs() < 1e-5, "{mixture:?}: {expected}");
    }
    assert!(matches!(simplex.ternary("", &models, &data), Err(Error::Setting { setting: "models", .. })));
    assert!(matches!(simplex.ternary("", &models[..2], &data), Err(Error::TooFewModels { found: 2, needed: 3, .. })));
}

#[test]
fn losses_and_accuracies_are_those_of_the_logits_and_of_the_mean_probabilities() {
    // Three batches, the last one short, and more classes than a hundred.
    stemm::tch::manual_seed(0);
    let x = Tensor::randn([2_345, 16], (Kind::Float, CPU));
    let data = Dataset::new("random", x, Tensor::randint(102, [2_345], (Kind::Int64, CPU)), 102).unwrap();
    let network = Network::mlp(&[16, 6, 102]).unwrap();
    let models: Vec<Model> = (0..3).map(|seed| model(&network, seed)).collect();
    let logs =
        |model: &Model| model.forward(data.images()).unwrap().to_kind(Kind::Double).log_softmax(-1, Kind::Double);
    let quality = |logs: &Tensor| {
        let loss = logs.gather(1, &data.labels().unsqueeze(1), false).mean(Kind::Double).double_value(&[]);
        let right = logs.argmax(-1, false).eq_tensor(data.labels()).sum(Kind::Int64).int64_value(&[]);
        (-loss, right as f64 / 2_345.0)
    };
    let close = |found: (f64, f64), expected: (f64, f64)| {
        assert!((found.0 - expected.0).abs() < 1e-6 && (found.1 - expected.1).abs() < 1e-12, "{found:?}, {expected:?}");
    };
    for model in &models {
        let found = model.evaluate(&data).unwrap();
        assert_eq!((found.data.as_str(), found.samples), ("random", 2_345));
        close((found.loss, found.accuracy), quality(&logs(model)));
    }
    let mean = models.iter().map(|model| logs(model).exp() / 3.0).reduce(|a, b| a + b).unwrap();
    close(ensemble(&models, &data).unwrap(), quality(&mean.log()));
}
