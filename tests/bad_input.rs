//! Each kind of bad input gets its own clear error, never a panic.

use stemm::Error;
use stemm::prelude::*;

fn model(widths: &[i64], seed: u64) -> Model {
    let network = Network::mlp(widths).unwrap();
    let params = network.init(seed, Device::Cpu).unwrap();
    Model::new(network, params).unwrap()
}

fn aligners() -> [Box<dyn Aligner>; 2] {
    [Box::new(WeightMatching::default()), Box::new(SteMm { epochs: 1, ..SteMm::default() })]
}

#[test]
fn one_model_only() {
    let data = blobs(0, Device::Cpu).unwrap();
    for aligner in aligners() {
        let error = aligner.align(&[model(&[16, 8, 4], 0)], &data).unwrap_err();
        assert!(matches!(error, Error::TooFewModels { found: 1, needed: 2, .. }), "{error}");
    }
    assert!(matches!(
        merge(&[], &blobs(0, Device::Cpu).unwrap().train).unwrap_err(),
        Error::TooFewModels { found: 0, .. }
    ));
}

#[test]
fn models_of_different_networks() {
    let data = blobs(0, Device::Cpu).unwrap();
    let models = [model(&[16, 8, 4], 0), model(&[16, 9, 4], 0)];
    for aligner in aligners() {
        assert!(matches!(aligner.align(&models, &data).unwrap_err(), Error::NetworkMismatch { index: 1 }));
    }
    assert!(matches!(merge(&models, &data.train).unwrap_err(), Error::NetworkMismatch { index: 1 }));
}

#[test]
fn nan_and_infinite_weights_are_named() {
    let data = blobs(0, Device::Cpu).unwrap();
    let good = model(&[16, 8, 4], 0);
    for factor in [f64::NAN, f64::INFINITY] {
        let spoilt = Params::new(
            good.params.iter().map(|(name, tensor)| {
                (name.to_owned(), if name == "layer2.weight" { tensor.abs() * factor } else { tensor.shallow_clone() })
            }),
            [],
        );
        let bad = Model { network: good.network.clone(), params: spoilt };
        for aligner in aligners() {
            let error = aligner.align(&[good.clone(), bad.clone()], &data).unwrap_err();
            assert!(matches!(&error, Error::NonFinite { tensor, .. } if tensor == "layer2.weight"), "{error}");
        }
    }
}

#[test]
fn wrong_shapes_and_names_are_listed() {
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let params = network.init(0, Device::Cpu).unwrap();
    let narrow = Params::new(
        params.iter().map(|(name, t)| {
            (name.to_owned(), if name == "layer1.weight" { t.narrow(1, 0, 15) } else { t.shallow_clone() })
        }),
        [],
    );
    let error = Model::new(network.clone(), narrow).unwrap_err();
    assert!(
        matches!(&error, Error::ShapeMismatch { tensor, expected, found, .. }
            if tensor == "layer1.weight" && *expected == [8, 16] && *found == [8, 15]),
        "{error}"
    );
    let renamed = Params::new(params.iter().map(|(name, t)| (name.replace("layer2", "head"), t.shallow_clone())), []);
    let error = Model::new(network, renamed).unwrap_err();
    assert!(
        matches!(&error, Error::TensorNames { missing, surplus }
            if missing.contains(&"layer2.weight".into()) && surplus.contains(&"head.bias".into())),
        "{error}"
    );
}

#[test]
fn data_that_do_not_fit_the_network() {
    let data = blobs(0, Device::Cpu).unwrap();
    let network = Network::mlp(&[784, 8, 4]).unwrap();
    let error = Trainer::default().train(&network, &data, &[0]).unwrap_err();
    assert!(matches!(error, Error::ShapeMismatch { .. }), "{error}");
}

#[test]
fn a_network_that_does_not_fit_together_names_the_layer() {
    let layers = [("first", Linear::new(4, 8).into()), ("second", Linear::new(9, 2).into())];
    let error = Network::new([4], layers).unwrap_err();
    assert!(matches!(&error, Error::LayerShape { layer, given, .. } if layer == "second" && *given == [8]), "{error}");
    let layers = [("same", Linear::new(4, 4).into()), ("same", Linear::new(4, 2).into())];
    assert!(matches!(Network::new([4], layers), Err(Error::Layer { .. })));
    assert!(matches!(Network::mlp(&[4]), Err(Error::Setting { .. })));
    assert!(matches!(Network::mlp(&[4, 0, 2]), Err(Error::Layer { .. })));
}

#[test]
fn a_batch_of_one_sample_has_no_variance() {
    let network = Network::new([4], [("norm", BatchNorm::new(4).into())]).unwrap();
    let (params, x) = (network.init(0, Device::Cpu).unwrap(), Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)));
    let error = network.forward(&params, &x, Mode::Train { seed: 0 }).unwrap_err();
    assert!(matches!(error, Error::Setting { setting: "batch_size", .. }), "{error}");
    assert!(network.forward(&params, &x, Mode::Eval).is_ok());
}

#[test]
fn more_classes_in_the_data_than_the_network_has_outputs() {
    let data = blobs(0, Device::Cpu).unwrap();
    let error = Trainer::default().train(&Network::mlp(&[16, 8, 3]).unwrap(), &data, &[0]).unwrap_err();
    assert!(matches!(error, Error::LabelOutOfRange { classes: 3, .. }), "{error}");
}

#[test]
fn settings_out_of_range_name_the_field() {
    let data = blobs(0, Device::Cpu).unwrap();
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let name = |trainer: Trainer, seeds: &[u64]| match trainer.train(&network, &data, seeds).unwrap_err() {
        Error::Setting { setting, .. } => setting,
        other => panic!("{other}"),
    };
    assert_eq!(name(Trainer { epochs: 0, ..Trainer::default() }, &[0]), "epochs");
    assert_eq!(name(Trainer { batch_size: 0, ..Trainer::default() }, &[0]), "batch_size");
    for learning_rate in [f64::NAN, f64::INFINITY, 0.0, -1e-3] {
        assert_eq!(name(Trainer { learning_rate, ..Trainer::default() }, &[0]), "learning_rate");
    }
    for label_smoothing in [f64::NAN, -0.1, 1.0] {
        assert_eq!(name(Trainer { label_smoothing, ..Trainer::default() }, &[0]), "label_smoothing");
    }
    for (momentum, weight_decay) in [(1.0, 0.0), (-0.1, 0.0), (f64::NAN, 0.0), (0.9, -1e-4), (0.9, f64::INFINITY)] {
        let optimiser = Optimiser::Sgd { momentum, weight_decay, nesterov: false };
        assert_eq!(name(Trainer { optimiser, ..Trainer::default() }, &[0]), "optimiser");
    }
    for rise in [-1.0, 10.0, f64::NAN] {
        for schedule in [Schedule::UpDown { peak: rise }, Schedule::Cosine { warmup: rise }] {
            assert_eq!(name(Trainer { schedule, ..Trainer::default() }, &[0]), "schedule");
        }
    }
    assert_eq!(name(Trainer { at_once: Some(0), ..Trainer::default() }, &[0]), "at_once");
    assert_eq!(name(Trainer { patience: Some(0), ..Trainer::default() }, &[0]), "patience");
    assert_eq!(name(Trainer::default(), &[0, 0]), "seeds");
    assert_eq!(name(Trainer::default(), &[1, 2, 0, 2]), "seeds");
    assert!(matches!(Trainer::default().train(&network, &data, &[]), Err(Error::TooFewModels { found: 0, .. })));
    // The ends of the ranges are in them.
    let plain = Optimiser::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };
    let schedule = Schedule::UpDown { peak: 0.0 };
    let least = Trainer { epochs: 1, label_smoothing: 0.0, optimiser: plain, schedule, ..Trainer::default() };
    assert!(least.train(&network, &data, &[0]).is_ok());
}

#[test]
fn a_diverging_training_says_so() {
    let data = blobs(0, Device::Cpu).unwrap();
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let wild = Trainer { learning_rate: 1e30, epochs: 3, ..Trainer::default() };
    let error = wild.train(&network, &data, &[0]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    // Whose learning rate it was.
    let models = [model(&[16, 8, 4], 0), model(&[16, 8, 4], 1)];
    let wild = SteMm { learning_rate: 1e300, epochs: 3, batch_size: 64, ..SteMm::default() };
    let error = wild.align(&models, &data).unwrap_err();
    assert!(error.to_string().contains("`learning_rate` of STE-MM"), "{error}");
    let wild = Bezier { learning_rate: 1e300, epochs: 3, batch_size: 64, ..Bezier::default() };
    let error = wild.fit("", &models, &data).unwrap_err();
    assert!(error.to_string().contains("`learning_rate` of the curve"), "{error}");
}

#[test]
fn files_that_are_missing_or_foreign() {
    let missing = Model::load("/nonexistent/model.safetensors", Device::Cpu).unwrap_err();
    assert!(matches!(missing, Error::File { action: "read", .. }), "{missing}");
    let path = std::env::temp_dir().join(format!("stemm-foreign-{}.safetensors", std::process::id()));
    std::fs::write(&path, b"this is a text file and no tensor file").unwrap();
    let foreign = Model::load(&path, Device::Cpu).unwrap_err();
    assert!(matches!(foreign, Error::Corrupt { .. }), "{foreign}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn permutations_of_another_network() {
    let data = blobs(0, Device::Cpu).unwrap();
    let models = [model(&[16, 8, 4], 0), model(&[16, 8, 4], 1)];
    let alignment = WeightMatching::default().align(&models, &data).unwrap();
    let other = [model(&[16, 9, 4], 0), model(&[16, 9, 4], 1)];
    assert!(matches!(alignment.apply(&other).unwrap_err(), Error::Permutation { .. }));
    assert!(matches!(alignment.apply(&models[..1]).unwrap_err(), Error::Permutation { .. }));
}

#[test]
fn device_out_of_memory_is_its_own_error() {
    // 2^60 bytes are more than any machine has.
    let error = Error::from(Tensor::f_zeros([1i64 << 58], (Kind::Float, Device::Cpu)).unwrap_err());
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
}
