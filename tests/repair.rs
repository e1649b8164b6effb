//! Statistics of mixtures: those of all data whatever their order, and one treatment at every place of a path.

use stemm::Error;
use stemm::prelude::*;

const CPU: Device = Device::Cpu;

fn dataset(name: &str, images: Tensor, labels: Tensor) -> Dataset {
    Dataset::new(name, images, labels, 4).unwrap()
}

/// Blobs as images of 1 x 4 x 4.
fn images() -> Splits {
    let data = blobs(0, CPU).unwrap();
    let part = |part: &Dataset| dataset(part.name(), part.images().view([-1, 1, 4, 4]), part.labels().shallow_clone());
    Splits { train: part(&data.train), held_out: part(&data.held_out), test: part(&data.test) }
}

/// The same samples, sorted by class.
fn sorted(data: &Dataset) -> Dataset {
    let order = data.labels().argsort(0, false);
    dataset(data.name(), data.images().index_select(0, &order), data.labels().index_select(0, &order))
}

fn batch_norm_network() -> Network {
    Network::convnet([1, 4, 4], 0.5, 4).unwrap()
}

/// Models with running statistics that are none of the data's, as those of the last batches are.
fn trained(network: &Network, data: &Splits, count: u64) -> Vec<Model> {
    let trainer = Trainer { epochs: 6, batch_size: 64, ..Trainer::default() };
    trainer.train(network, data, &(0..count).collect::<Vec<_>>()).unwrap().models
}

fn loss(model: &Model, data: &Dataset) -> f64 {
    model.evaluate(data).unwrap().loss
}

fn repaired(model: &Model, data: &Dataset) -> Model {
    merge_weighted(std::slice::from_ref(model), &[1.0], Repair::BatchNorm, data).unwrap()
}

fn largest_difference(a: &Params, b: &Params) -> f64 {
    a.iter().zip(b.iter()).map(|((_, a), (_, b))| (a - b).abs().max().double_value(&[])).fold(0.0, f64::max)
}

#[test]
fn a_thousand_zeros_and_a_thousand_tens_have_variance_25() {
    let network = Network::new([1], [("bn", BatchNorm::new(1).into()), ("head", Linear::new(1, 4).into())]).unwrap();
    let model = Model::new(network.clone(), network.init(0, CPU).unwrap()).unwrap();
    let values = |value: f64| Tensor::full([1_000, 1], value, (Kind::Float, CPU));
    let data =
        dataset("sorted", Tensor::cat(&[values(0.0), values(10.0)], 0), Tensor::zeros([2_000], (Kind::Int64, CPU)));
    let merged = merge(&[model], &data).unwrap();
    let of = |name: &str| merged.params.get(name).unwrap().double_value(&[0]);
    assert!((of("bn.running_mean") - 5.0).abs() < 1e-5 && (of("bn.running_var") - 25.0).abs() < 1e-3);
}

fn tch_seed(seed: i64) {
    stemm::tch::manual_seed(seed);
}

#[test]
fn a_network_with_the_statistics_of_its_data_computes_what_it_computes_on_all_of_them_at_once() {
    let (data, network) = (images(), batch_norm_network());
    let model = repaired(&trained(&network, &data, 1)[0], &data.train);
    let x = data.train.images();
    let all_at_once = network.forward(&model.params, x, Mode::Train { seed: 0 }).unwrap();
    let difference = (model.forward(x).unwrap() - all_at_once).abs().max().double_value(&[]);
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn dropout_is_off_while_statistics_are_taken() {
    let with = |p| {
        let layers =
            [("drop", Dropout::new(p).into()), ("bn", BatchNorm::new(16).into()), ("head", Linear::new(16, 4).into())];
        let network = Network::new([16], layers).unwrap();
        let model = Model::new(network.clone(), network.init(0, CPU).unwrap()).unwrap();
        repaired(&model, &blobs(0, CPU).unwrap().train).params
    };
    assert_eq!(largest_difference(&with(0.0), &with(0.5)), 0.0);
}

#[test]
fn the_ends_of_every_path_are_treated_as_its_inner_places() {
    let (data, network) = (images(), batch_norm_network());
    let models = trained(&network, &data, 3);
    let expected: Vec<f64> = models.iter().map(|model| loss(&repaired(model, &data.train), &data.test)).collect();
    let as_trained: Vec<f64> = models.iter().map(|model| loss(model, &data.test)).collect();
    assert!(expected.iter().zip(&as_trained).all(|(a, b)| (a - b).abs() > 1e-3), "nothing to repair: {expected:?}");
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found} instead of {expected}");
    let walk = Interpolation { points: 3, ..Interpolation::default() };
    let line = walk.barriers("line", &models, &data).unwrap();
    for curve in &line.curves {
        close(curve.points[0].loss, expected[curve.from]);
        close(curve.points[2].loss, expected[curve.to]);
    }
    let bezier = Bezier { epochs: 1, points: 3, ..Bezier::default() }.fit("curve", &models[..2], &data).unwrap();
    close(bezier.curves[0].points[0].loss, expected[0]);
    close(bezier.curves[0].points[2].loss, expected[1]);
    let simplex = Simplex { samples: 1, steps: 2, ..Simplex::default() };
    let losses = simplex.losses("simplex", &models, &data).unwrap();
    losses.ends.iter().zip(&expected).for_each(|(found, expected)| close(*found, *expected));
    let triangle = simplex.ternary("triangle", &models, &data).unwrap();
    let corners = [&triangle.rows[0][0], &triangle.rows[0][2], &triangle.rows[2][0]];
    corners.iter().zip(&expected).for_each(|(corner, expected)| close(corner.loss, *expected));
    for frame in [line.frame(), line.curve_frame(), bezier.frame(), losses.frame(), triangle.frame()] {
        assert_eq!(frame.column("repair").unwrap().str().unwrap().get(0), Some("batch norm"));
    }
    // In between as well: the centre is the merged model.
    let merged = loss(&merge(&models, &data.train).unwrap(), &data.test);
    close(losses.centre.loss, merged);
    let mixture = &losses.mixtures[0];
    let own = merge_weighted(&models, &mixture.weights, Repair::BatchNorm, &data.train).unwrap();
    close(mixture.loss, loss(&own, &data.test));
    let middle = merge_weighted(&models[..2], &[0.5, 0.5], Repair::BatchNorm, &data.train).unwrap();
    close(triangle.rows[0][1].loss, loss(&middle, &data.test));
    // Without repair they are the models as they came.
    let plain = Interpolation { points: 3, repair: Repair::Off, ..Interpolation::default() };
    close(plain.barriers("", &models, &data).unwrap().curves[0].points[0].loss, as_trained[0]);
    let plain = Simplex { samples: 1, steps: 1, repair: Repair::Off, ..Simplex::default() };
    close(plain.losses("", &models, &data).unwrap().ends[0], as_trained[0]);
    close(plain.ternary("", &models, &data).unwrap().rows[0][0].loss, as_trained[0]);
}

/// The plane's place nearest to a model's mark, if the two coincide.
fn loss_at_mark(plane: &stemm::analysis::Landscape, mark: usize) -> f64 {
    let (x, y) = plane.marks[mark].1;
    let nearest = |axis: &[f64], at: f64| {
        let index = (0..axis.len()).min_by(|&a, &b| (axis[a] - at).abs().total_cmp(&(axis[b] - at).abs())).unwrap();
        assert!((axis[index] - at).abs() < 1e-6 * (1.0 + at.abs()), "no place at the mark");
        index
    };
    plane.losses[nearest(&plane.axis[1], y) * plane.axis[0].len() + nearest(&plane.axis[0], x)]
}

#[test]
fn models_have_their_own_losses_on_a_plane_with_every_repair() {
    let data = images();
    let plain = Network::mlp(&[16, 12, 4]).unwrap();
    for (network, repairs) in
        [(batch_norm_network(), [Repair::Off, Repair::BatchNorm]), (plain, [Repair::Off, Repair::Variance])]
    {
        let models = trained(&network, &data, 3);
        for repair in repairs {
            // Two places along each axis and no margin: the first two models lie on the corners.
            let settings = Plane { points: 2, margin: 0.0, repair, ..Plane::default() };
            let treated = merge_weighted(&models[..1], &[1.0], repair, &data.train).unwrap();
            if repair == Repair::BatchNorm {
                let change = loss(&treated, &data.test) - loss(&models[0], &data.test);
                assert!(change.abs() > 1e-3, "nothing to repair: {change}");
            }
            let plane = settings.through("three", &models, &data).unwrap();
            for (mark, model) in models[..2].iter().enumerate() {
                let alone = merge_weighted(std::slice::from_ref(model), &[1.0], repair, &data.train).unwrap();
                let (found, expected) = (loss_at_mark(&plane, mark), loss(&alone, &data.test));
                assert!((found - expected).abs() < 1e-4, "{repair}, model {mark}: {found} instead of {expected}");
            }
            // Far beyond the models statistics stay possible ones.
            let wide =
                Plane { points: 3, margin: 3.0, repair, ..Plane::default() }.through("far", &models, &data).unwrap();
            assert!(wide.losses.iter().all(|loss| !loss.is_nan()), "{repair}: {:?}", wide.losses);
            let around = Plane { points: 3, repair, ..Plane::default() }.around("one", &models[0], &data).unwrap();
            let alone = merge_weighted(&models[..1], &[1.0], repair, &data.train).unwrap();
            assert!((around.losses[4] - loss(&alone, &data.test)).abs() < 1e-4, "{repair}");
            assert_eq!(around.repair, repair);
        }
    }
}

#[test]
fn a_planes_samples_come_from_everywhere_in_sorted_data() {
    let data = images();
    let data = Splits { test: sorted(&data.test), ..data };
    let model = &trained(&Network::mlp(&[16, 12, 4]).unwrap(), &data, 1)[0];
    let whole = loss(model, &data.test);
    let first = loss(model, &data.test.take(64).unwrap());
    let found = |seed| {
        let plane = Plane { points: 3, samples: 64, seed, ..Plane::default() }.around("", model, &data).unwrap();
        assert_eq!(plane.data.1, 64);
        plane.losses[4]
    };
    let mean = (0..8).map(found).sum::<f64>() / 8.0;
    assert!((mean - whole).abs() < 0.5 * (first - whole).abs(), "{mean}, all {whole}, first {first}");
    assert_ne!(found(0), found(1));
}

#[test]
fn repair_uses_as_many_samples_as_the_setting_says() {
    let (data, network) = (images(), batch_norm_network());
    let models = trained(&network, &data, 2);
    let midpoint = |repair_samples, seed| {
        let walk = Interpolation { points: 3, repair_samples, seed, ..Interpolation::default() };
        walk.curve(&models, &data).unwrap().points[1].loss
    };
    let merged = loss(&merge(&models, &data.train).unwrap(), &data.test);
    assert!((midpoint(usize::MAX, 0) - merged).abs() < 1e-6, "all of them: the merged model");
    assert_ne!(midpoint(16, 0), midpoint(16, 1));
    let few = merge_weighted(&models, &[0.5, 0.5], Repair::BatchNorm, &data.train.sample(16, 1).unwrap()).unwrap();
    assert!((midpoint(16, 1) - loss(&few, &data.test)).abs() < 1e-6);
    let none = Interpolation { repair_samples: 0, ..Interpolation::default() }.curve(&models, &data);
    assert!(matches!(none, Err(Error::Setting { setting: "repair_samples", .. })));
    let one = Interpolation { repair_samples: 1, ..Interpolation::default() }.curve(&models, &data);
    assert!(matches!(one, Err(Error::Setting { .. })), "one sample has no variance");
}

#[test]
fn weights_for_which_statistics_make_no_sense_are_refused() {
    let data = images();
    let models = trained(&batch_norm_network(), &data, 2);
    let with = |models: &[Model], weights: &[f64], repair| merge_weighted(models, weights, repair, &data.train);
    for weights in [[2.0, -1.0], [-0.5, 0.5]] {
        let error = with(&models, &weights, Repair::Off).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting: "weights", .. }), "{error}");
        assert!(error.to_string().contains("Repair::BatchNorm"), "{error}");
        let beyond = with(&models, &weights, Repair::BatchNorm).unwrap();
        assert!(loss(&beyond, &data.test).is_finite());
    }
    let plain = trained(&Network::mlp(&[16, 8, 4]).unwrap(), &data, 2);
    assert!(with(&plain, &[2.0, -1.0], Repair::Off).is_ok());
    assert!(matches!(with(&plain, &[2.0, -1.0], Repair::Variance), Err(Error::Setting { .. })));
    for weights in [[1e39, -1e39], [1e39, 1.0], [f64::MAX, f64::MAX]] {
        let error = with(&plain, &weights, Repair::Off).unwrap_err();
        assert!(matches!(&error, Error::NonFinite { .. }), "{error}");
        assert!(!error.to_string().contains("train"), "{error}");
    }
    for weights in [vec![f64::NAN, 1.0], vec![f64::INFINITY, 0.0], vec![1.0], vec![0.3, 0.3, 0.4]] {
        assert!(matches!(with(&plain, &weights, Repair::Off), Err(Error::Setting { setting: "weights", .. })));
    }
}

#[test]
fn a_running_variance_below_zero_is_refused() {
    let network = batch_norm_network();
    let params = network.init(0, CPU).unwrap();
    let spoilt = |value: f64| {
        let tensors = params.iter().map(|(name, tensor)| {
            let tensor = tensor.copy();
            if name == "bn2.running_var" {
                let _ = tensor.narrow(0, 3, 1).fill_(value);
            }
            (name.to_owned(), tensor)
        });
        let (buffers, parameters): (Vec<_>, Vec<_>) = tensors.partition(|(name, _)| name.contains("running"));
        Model::new(network.clone(), Params::new(parameters, buffers))
    };
    let error = spoilt(-1e-5).unwrap_err();
    assert!(matches!(&error, Error::NegativeVariance { tensor, .. } if tensor == "bn2.running_var"), "{error}");
    assert!(spoilt(0.0).is_ok());
}

#[test]
fn units_of_a_small_variance_beside_a_large_mean_are_repaired_as_others() {
    // Pixels of 10,000 ± 1: squares of them in f32 would lose the variance.
    tch_seed(5);
    let network = Network::mlp(&[8, 16, 4]).unwrap();
    let samples = 2_000;
    let x = Tensor::rand([samples, 8], (Kind::Float, CPU)) * 2.0 - 1.0 + 1e4;
    let data = dataset("shifted", x, Tensor::zeros([samples], (Kind::Int64, CPU)));
    let data = Splits { train: data.clone(), held_out: data.clone(), test: data };
    let models: Vec<Model> =
        (0..2).map(|seed| Model::new(network.clone(), network.init(seed, CPU).unwrap()).unwrap()).collect();
    let repaired = variance_collapse("", &models, Repair::Variance, 3, &data).unwrap();
    assert!((repaired.ratios[1][0] - 1.0).abs() < 1e-2, "{:?}", repaired.ratios);
    // A unit's correlation with itself is 1 however little it varies.
    let still = unit_correlation("", "layer1", &[models[0].clone(), models[0].clone()], &data.test).unwrap();
    assert!(still.aligned().iter().all(|&own| (own - 1.0).abs() < 1e-6), "{:?}", still.aligned());
    let faint = |tensor: &Tensor| if tensor.dim() == 2 { tensor * 1e-9 } else { tensor + 1.0 };
    let tensors = models[0].params.iter().map(|(name, tensor)| (name.to_owned(), faint(tensor)));
    let faint = Model::new(network.clone(), Params::new(tensors, []).to_kind(Kind::Double).unwrap()).unwrap();
    let found = unit_correlation("", "layer1", &[faint.clone(), faint], &blobs_of_eight()).unwrap();
    assert!(found.aligned().iter().all(|&own| (own - 1.0).abs() < 1e-6), "{:?}", found.aligned());
    // A unit that never varies has a correlation of 0 with all, itself among them.
    let constant = models[0]
        .params
        .iter()
        .map(|(name, tensor)| (name.to_owned(), if name == "layer1.weight" { tensor * 0.0 } else { tensor + 0.0 }));
    let constant = Model::new(network.clone(), Params::new(constant, [])).unwrap();
    let found = unit_correlation("", "layer1", &[constant.clone(), constant], &data.test).unwrap();
    assert!(found.aligned().iter().all(|&own| own == 0.0), "{:?}", found.aligned());
}

fn blobs_of_eight() -> Dataset {
    let data = blobs(0, CPU).unwrap().test;
    dataset("eight", data.images().narrow(1, 0, 8), data.labels().shallow_clone())
}

#[test]
fn losses_are_those_of_the_part_that_was_chosen() {
    let data = images();
    let models = trained(&Network::mlp(&[16, 12, 4]).unwrap(), &data, 3);
    for part in [Part::Train, Part::HeldOut, Part::Test] {
        let own = data.part(part);
        let expected = loss(&models[0], own);
        let close = |found: f64| assert!((found - expected).abs() < 1e-6, "{part:?}: {found} instead of {expected}");
        let line = Interpolation { points: 2, part, ..Interpolation::default() }.barriers("", &models, &data).unwrap();
        close(line.curves[0].points[0].loss);
        let curve = Bezier { epochs: 1, points: 2, part, ..Bezier::default() }.fit("", &models[..2], &data).unwrap();
        close(curve.curves[0].points[0].loss);
        let simplex = Simplex { samples: 1, steps: 1, part, ..Simplex::default() };
        let (losses, triangle) =
            (simplex.losses("", &models, &data).unwrap(), simplex.ternary("", &models, &data).unwrap());
        close(losses.ends[0]);
        close(triangle.rows[0][0].loss);
        let plane = Plane { points: 3, part, ..Plane::default() }.around("", &models[0], &data).unwrap();
        close(plane.losses[4]);
        for name in [&line.data, &curve.data, &losses.data, &triangle.data, &plane.data.0] {
            assert_eq!(name, own.name());
        }
    }
}

#[test]
fn a_setting_comes_to_what_the_network_needs_and_is_recorded_as_that() {
    let data = images();
    let (normed, plain) = (batch_norm_network(), Network::mlp(&[16, 8, 4]).unwrap());
    let walk = |repair| Interpolation { points: 2, repair, ..Interpolation::default() };
    for (network, repair, done) in [
        (&normed, Repair::Variance, Repair::BatchNorm),
        (&normed, Repair::Off, Repair::Off),
        (&plain, Repair::BatchNorm, Repair::Off),
        (&plain, Repair::Variance, Repair::Variance),
    ] {
        let models = trained(network, &data, 2);
        assert_eq!(walk(repair).barriers("", &models, &data).unwrap().repair, done);
        let with = |repair| merge_weighted(&models, &[0.4, 0.6], repair, &data.train).unwrap().params;
        assert_eq!(largest_difference(&with(repair), &with(done)), 0.0, "{repair} is {done}");
    }
    // Where nothing is set right nothing is asked of the data.
    let foreign = dataset("foreign", Tensor::zeros([3, 5], (Kind::Float, CPU)), Tensor::zeros([3], (Kind::Int64, CPU)));
    assert!(merge(&trained(&plain, &data, 2), &foreign).is_ok());
    assert!(merge(&trained(&normed, &data, 2), &foreign).is_err());
}

#[test]
fn statistics_are_averaged_by_the_shares_of_the_weights_whatever_their_sum() {
    let data = images();
    let models = trained(&Network::mlp(&[16, 8, 4]).unwrap(), &data, 2);
    let outputs = |model: &Model| {
        let params = &model.params;
        let x = data.train.images().flatten(1, -1).to_kind(Kind::Double);
        let get = |name: &str| params.get(name).unwrap().to_kind(Kind::Double);
        x.matmul(&get("layer1.weight").tr()) + get("layer1.bias")
    };
    let statistics = |model: &Model| {
        let outputs = outputs(model);
        let dim = [0i64];
        let (mean, variance) =
            (outputs.mean_dim(dim.as_slice(), false, Kind::Double), outputs.var_dim(dim.as_slice(), false, false));
        Tensor::cat(&[mean, variance.sqrt()], 0)
    };
    let goal = statistics(&models[0]) * 0.3 + statistics(&models[1]) * 0.7;
    for sum in [0.5, 1.0, 3.0] {
        let merged = merge_weighted(&models, &[0.3 * sum, 0.7 * sum], Repair::Variance, &data.train).unwrap();
        let furthest = (statistics(&merged) - &goal).abs().max().double_value(&[]);
        assert!(furthest < 1e-5, "{sum}: {furthest}");
    }
}
