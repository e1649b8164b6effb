//! Sizes beyond any machine are errors that leave the process and its variables alive.

use stemm::Error;
use stemm::prelude::*;

const CPU: Device = Device::Cpu;

#[test]
fn parameters_beyond_the_memory_are_refused_before_they_are_drawn() {
    let network = Network::mlp(&[784, 512_000, 512_000, 10]).unwrap();
    let error = network.init(0, CPU).unwrap_err();
    assert!(matches!(&error, Error::OutOfMemory(text) if text.contains("GB")), "{error}");
    let data = blobs(0, CPU).unwrap();
    let wide = Network::mlp(&[16, 512_000, 512_000, 4]).unwrap();
    let trained = Trainer { epochs: 1, ..Trainer::default() }.train(&wide, &data, &[0]);
    assert!(matches!(trained, Err(Error::OutOfMemory(_))));
}

#[test]
fn no_size_of_a_layer_wraps_around() {
    let huge = [i64::MAX, i64::MAX - 1, i64::MAX / 2, 1 << 62, 1 << 40, i64::MIN, -1];
    for size in huge {
        let layers: Vec<(&str, Layer)> = vec![
            ("outputs", Linear::new(8, size).into()),
            ("inputs", Linear::new(size, 8).into()),
            ("channels", Conv2d::new(3, size, 1).into()),
            ("input channels", Conv2d::new(size, 3, 1).into()),
            ("kernel", Conv2d::new(3, 3, size).into()),
            ("stride", Conv2d::new(3, 3, 1).stride(size).into()),
            ("padding", Conv2d::new(3, 3, 1).padding(size).into()),
            ("max kernel", MaxPool2d::new(size).into()),
            ("max padding", MaxPool2d::new(2).padding(size).into()),
            ("average stride", AvgPool2d::new(2).stride(size).into()),
            ("average padding", AvgPool2d::new(size).padding(size).into()),
            ("pool", AdaptiveAvgPool2d::new([size, 1]).into()),
            ("both sides", AdaptiveAvgPool2d::new([size, size]).into()),
            ("batch norm", BatchNorm::new(size).into()),
            ("layer norm", LayerNorm::new([size, size, size]).into()),
            ("groups", GroupNorm::new(size, 3).into()),
            ("group channels", GroupNorm::new(1, size).into()),
        ];
        for (what, layer) in layers {
            for input in [vec![3, 8, 8], vec![8]] {
                let planned = Network::new(input.clone(), [("layer", layer.clone())]);
                assert!(
                    matches!(planned, Err(Error::Layer { .. } | Error::LayerShape { .. })),
                    "{what} {size} {input:?}"
                );
            }
        }
        for shape in [vec![size], vec![size, 2, 2], vec![size, size, size]] {
            assert!(matches!(
                Network::new(shape, [("relu", Relu.into())]),
                Err(Error::Setting { setting: "input_shape", .. })
            ));
        }
    }
    // Each side is possible, all of them together are not.
    let side = i64::from(i32::MAX);
    assert!(Network::new([side, side, side], [("relu", Relu.into())]).is_err());
    let deep = Network::new(
        [1, 1, 1],
        [("up", Conv2d::new(1, side, 1).into()), ("pool", AdaptiveAvgPool2d::new([side, side]).into())],
    );
    assert!(matches!(deep, Err(Error::Layer { .. })));
    let product = Network::new([1], [("a", Linear::new(1, side).into()), ("b", Linear::new(side, side).into())]);
    assert!(matches!(product, Err(Error::Layer { .. })));
}

#[test]
fn counts_of_steps_without_end_do_not_overflow() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let model = Model::new(network.clone(), network.init(0, CPU).unwrap()).unwrap();
    // Ends by patience, whatever the number of epochs; of several steps each.
    let trainer =
        Trainer { epochs: usize::MAX, batch_size: 64, patience: Some(1), learning_rate: 0.5, ..Trainer::default() };
    assert!(trainer.train(&network, &data, &[0, 1]).is_ok());
    let search = Lanczos { count: 1, max_products: usize::MAX, ..Lanczos::default() };
    assert!(search.eigenvalues(&[("", &model), ("", &model)], &data.test).unwrap()[0].converged);
    let trace = Hutchinson { vectors: usize::MAX, relative_error: Some(0.5), ..Hutchinson::default() };
    assert!(trace.traces(&[("", &model), ("", &model)], &data.test).is_ok());
}

#[test]
fn counts_of_places_beyond_any_list_are_refused() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let model = |seed| Model::new(network.clone(), network.init(seed, CPU).unwrap()).unwrap();
    let models = [model(0), model(1), model(2)];
    for points in [0, 1, 1 << 40, usize::MAX] {
        let refused = [
            Interpolation { points, ..Interpolation::default() }.barriers("", &models, &data).err(),
            Bezier { points, epochs: 1, ..Bezier::default() }.fit("", &models[..2], &data).err(),
            Plane { points, ..Plane::default() }.through("", &models, &data).err(),
            variance_collapse("", &models[..2], Repair::Off, points, &data).err(),
            SpectralDensity { points, ..SpectralDensity::default() }.of(("", &models[0]), &data.test).err(),
        ];
        for error in refused {
            let Some(Error::Setting { setting: "points", requirement, .. }) = error else {
                panic!("{points}: {error:?}")
            };
            assert!(requirement.starts_with("at least 2 and"), "{requirement}");
        }
    }
    for samples in [0, usize::MAX] {
        let error = Simplex { samples, ..Simplex::default() }.losses("", &models, &data).err();
        let Some(Error::Setting { setting: "samples", requirement, .. }) = error else {
            panic!("{samples}: {error:?}")
        };
        assert!(requirement.starts_with("at least 1 and"), "{requirement}");
    }
}

#[test]
fn a_network_without_parameters_is_refused_where_they_are_needed() {
    let data = blobs(0, CPU).unwrap();
    let network = Network::new([16], [("pool", Relu.into())]).unwrap();
    let model = Model::new(network.clone(), network.init(0, CPU).unwrap()).unwrap();
    let pair = [model.clone(), model.clone()];
    let refused = [
        Trainer { epochs: 1, ..Trainer::default() }.train(&network, &data, &[0]).err(),
        SteMm { epochs: 1, ..SteMm::default() }.align(&pair, &data).err(),
        Bezier { epochs: 1, ..Bezier::default() }.fit("", &pair, &data).err(),
        SpectralDensity::default().of(("", &model), &data.test).err(),
        Hutchinson::default().traces(&[("", &model)], &data.test).err(),
    ];
    for error in refused {
        assert!(matches!(error, Some(Error::Empty { .. })), "{error:?}");
    }
    let scalar = Network::new([1], [("relu", Relu.into())]).unwrap();
    let params = scalar.init(0, CPU).unwrap();
    for x in [Tensor::from(1f32), Tensor::from_slice(&[1f32])] {
        assert!(matches!(scalar.forward(&params, &x, Mode::Eval), Err(Error::ShapeMismatch { .. })));
    }
}

#[test]
fn names_of_layers_are_not_those_that_checkpoints_use() {
    for name in ["", "stemm:last", "stemm:"] {
        let named = Network::new([4], [(name, Linear::new(4, 2).into())]);
        assert!(matches!(named, Err(Error::Layer { .. })), "{name:?}");
    }
}
