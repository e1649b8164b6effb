//! Every network and layer: permuted models compute the same function, weight matching climbs on all of them, batch
//! norm survives merging, and resumed trainings with running statistics end on the same bits.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use stemm::prelude::*;

fn random_permutations(network: &Network, seed: u64) -> Permutations {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let spec = network.permutation_spec();
    let shuffled = spec.groups().iter().map(|group| {
        let mut order: Vec<i64> = (0..group.size as i64).collect();
        order.shuffle(&mut rng);
        Permutation::new(order).unwrap()
    });
    Permutations(shuffled.collect())
}

/// Random values everywhere, in norms and running statistics too, where the initial ones would hide mistakes.
fn random_params(network: &Network, seed: u64) -> Params {
    tch::manual_seed(seed as i64);
    let params = network.init(seed, Device::Cpu).unwrap();
    let (parameters, buffers): (Vec<_>, Vec<_>) = params
        .iter()
        .map(|(name, tensor)| {
            let noise = if tensor.dim() == 1 || tensor.dim() == 3 { tensor.rand_like() + 0.5 } else { tensor * 2.0 };
            (name.to_owned(), noise)
        })
        .partition(|(name, _)| !name.contains("running"));
    Params::new(parameters, buffers)
}

fn input(network: &Network, batch: i64, kind: Kind) -> Tensor {
    let mut shape = vec![batch];
    shape.extend(network.input_shape());
    Tensor::randn(shape.as_slice(), (kind, Device::Cpu))
}

/// Largest difference between a model and its permuted copy, relative to the largest output.
fn relative_difference(network: &Network, params: &Params, mode: Mode, kind: Kind) -> f64 {
    let params = params.to_kind(kind).unwrap();
    let moved = random_permutations(network, 1).apply(&network.permutation_spec(), &params).unwrap();
    let x = input(network, 3, kind);
    let (a, b) = (network.forward(&params, &x, mode).unwrap(), network.forward(&moved, &x, mode).unwrap());
    ((&a - &b).abs().max().double_value(&[])) / a.abs().max().double_value(&[]).max(1e-3)
}

fn assert_same_function(name: &str, network: &Network) {
    let params = random_params(network, 3);
    assert!(!network.permutation_spec().groups().is_empty(), "{name}: nothing to permute");
    for mode in [Mode::Eval, Mode::Train { seed: 0 }] {
        let (single, double) = (Kind::Float, Kind::Double);
        let difference = relative_difference(network, &params, mode, double);
        assert!(difference < 1e-10, "{name}, {mode:?}, f64: {difference}");
        let difference = relative_difference(network, &params, mode, single);
        assert!(difference < 1e-4, "{name}, {mode:?}, f32: {difference}");
    }
}

#[test]
fn every_small_network_computes_the_same_function_when_permuted() {
    for norm in [Norm::Batch, Norm::Layer] {
        for depth in [11, 13, 16, 19] {
            let network = Vgg { depth, width: 0.125, norm, classes: 7 }.network().unwrap();
            assert_same_function(&format!("VGG{depth} {norm:?}"), &network);
        }
        for depth in [20, 32] {
            let network = CifarResNet { depth, width: 0.5, norm, classes: 7 }.network().unwrap();
            assert_same_function(&format!("ResNet{depth} {norm:?}"), &network);
        }
    }
    assert_same_function("MLP", &Network::mlp(&[20, 30, 30, 5]).unwrap());
    assert_same_function("convnet", &Network::convnet([1, 28, 28], 1.0, 10).unwrap());
}

#[test]
fn networks_for_large_images_compute_the_same_function_when_permuted() {
    for depth in [18, 50] {
        for norm in [Norm::Batch, Norm::Layer] {
            let network = ImageNetResNet { depth, width: 0.125, norm, classes: 7 }.network().unwrap();
            assert_same_function(&format!("ResNet{depth} {norm:?}"), &network);
        }
    }
}

#[test]
fn networks_with_every_cut_of_group_norm_compute_the_same_function_when_permuted() {
    for (runs, channels) in [(1, 12), (2, 12), (3, 12), (4, 12), (6, 12), (12, 12), (4, 8), (5, 10)] {
        let network = Network::new(
            [3, 4, 4],
            [
                ("stem", Conv2d::new(3, channels, 3).padding(1).into()),
                ("norm", GroupNorm::new(runs, channels).into()),
                ("relu", Relu.into()),
                ("flatten", Flatten.into()),
                ("head", Linear::new(16 * channels, 5).into()),
            ],
        )
        .unwrap();
        for seed in 0..3 {
            let params = random_params(&network, seed).to_kind(Kind::Double).unwrap();
            let moved = random_permutations(&network, seed).apply(&network.permutation_spec(), &params).unwrap();
            let x = input(&network, 3, Kind::Double);
            let run = |params: &Params| network.forward(params, &x, Mode::Eval).unwrap();
            let difference = (run(&params) - run(&moved)).abs().max().double_value(&[]);
            assert!(difference < 1e-10, "{runs} runs of {channels} channels: {difference}");
        }
    }
}

/// One random layer or block for samples of `[channels, 8, 8]`; returns the channels that flow out.
fn piece(kind: u8, channels: i64, width: i64, layers: &mut Vec<(String, Layer)>) -> i64 {
    let name = |what: &str| format!("{what}{}", layers.len());
    let conv = |from, to| Conv2d::new(from, to, 3).padding(1);
    let (layer, out): (Layer, i64) = match kind {
        0 => (conv(channels, width).into(), width),
        1 => (BatchNorm::new(channels).into(), channels),
        2 => (LayerNorm::new([channels, 8, 8]).into(), channels),
        3 => (GroupNorm::new(if channels % 2 == 0 { 2 } else { 1 }, channels).into(), channels),
        4 => (Gelu.into(), channels),
        5 => (Tanh.into(), channels),
        6 => (AvgPool2d::new(3).stride(1).padding(1).into(), channels),
        7 => (MaxPool2d::new(3).stride(1).padding(1).into(), channels),
        // An identity shortcut ties both axes of a convolution to one group.
        8 => (Add::residual([("a", conv(channels, channels).into()), ("relu", Relu.into())]).into(), channels),
        9 => {
            let body = Sequence::new([("a", conv(channels, width).into()), ("b", conv(width, width + 1).into())]);
            let shortcut = Sequence::new([("shortcut", Conv2d::new(channels, width + 1, 1).without_bias().into())]);
            (Add::new([body, shortcut]).into(), width + 1)
        }
        10 => {
            let branch = |name: &str, to| Sequence::new([(name, conv(channels, to).into())]);
            (Concat::new([branch("a", width), Sequence::identity(), branch("b", 2)]).into(), width + channels + 2)
        }
        _ => {
            // A sum of a concatenation and a convolution: the groups must be cut alike.
            let parts = Concat::new([
                Sequence::new([("a", conv(channels, width).into())]),
                Sequence::new([("b", conv(channels, 3).into())]),
            ]);
            let whole = Sequence::new([("whole", conv(channels, width + 3).into())]);
            (Add::new([Sequence::new([("parts", parts.into())]), whole]).into(), width + 3)
        }
    };
    layers.push((name("piece"), layer));
    out
}

fn random_network(pieces: &[(u8, i64)]) -> Network {
    let mut layers = vec![("stem".to_owned(), Conv2d::new(3, 4, 3).padding(1).into())];
    let mut channels = 4;
    for &(kind, width) in pieces {
        channels = piece(kind, channels, width, &mut layers);
    }
    layers.push(("pool".to_owned(), AdaptiveAvgPool2d::new([2, 2]).into()));
    layers.push(("flatten".to_owned(), Flatten.into()));
    layers.push(("hidden".to_owned(), Linear::new(4 * channels, 6).into()));
    layers.push(("drop".to_owned(), Dropout::new(0.0).into()));
    layers.push(("head".to_owned(), Linear::new(6, 3).into()));
    Network::new([3, 8, 8], layers).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn random_networks_compute_the_same_function_when_permuted(
        pieces in proptest::collection::vec((0u8..12, 2i64..6), 1..6), seed in 0u64..1000,
    ) {
        let network = random_network(&pieces);
        let params = random_params(&network, seed);
        for mode in [Mode::Eval, Mode::Train { seed }] {
            let difference = relative_difference(&network, &params, mode, Kind::Double);
            prop_assert!(difference < 1e-10, "{mode:?}: {difference}");
            // In f32 the largest values of a pool may be ties up to rounding: no such pools, no such jumps.
            let difference = relative_difference(&network, &params, mode, Kind::Float);
            prop_assert!(difference < 1e-4, "{mode:?}, f32: {difference}");
        }
    }

    #[test]
    fn weight_matching_climbs_on_random_networks(
        pieces in proptest::collection::vec((0u8..12, 2i64..6), 1..5), seed in 0u64..1000,
    ) {
        let network = random_network(&pieces);
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu).unwrap()).unwrap();
        let models = [model(seed), model(seed + 1), model(seed + 2)];
        let data = blobs(0, Device::Cpu).unwrap();
        for count in [2, 3] {
            let alignment = WeightMatching::default().align(&models[..count], &data).unwrap();
            let objectives: Vec<f64> = alignment.history.iter().filter_map(|record| record.objective).collect();
            prop_assert!(objectives.windows(2).all(|pair| pair[1] >= pair[0] - 1e-5 * pair[0].abs()), "{objectives:?}");
            let aligned = alignment.apply(&models[..count]).unwrap();
            let mut sum = 0.0;
            for (index, a) in aligned.iter().enumerate() {
                for b in &aligned[..index] {
                    sum += a.params.dot(&b.params).unwrap();
                }
            }
            let last = objectives[objectives.len() - 1];
            prop_assert!((sum - last).abs() <= 1e-4 * last.abs().max(1e-2), "{sum} {last}");
        }
    }
}

#[test]
fn weight_matching_recovers_a_hidden_permutation_of_a_residual_network() {
    let network = Network::resnet20(0.5).unwrap();
    let original = Model::new(network.clone(), network.init(0, Device::Cpu).unwrap()).unwrap();
    let hidden = random_permutations(&network, 5);
    let moved = hidden.apply(&network.permutation_spec(), &original.params).unwrap();
    let models = [original, Model::new(network, moved).unwrap()];
    let alignment = WeightMatching::default().align(&models, &blobs(0, Device::Cpu).unwrap()).unwrap();
    let undo: Vec<Permutation> = hidden.0.iter().map(Permutation::inverse).collect();
    assert_eq!(alignment.permutations[1].0, undo);
}

/// Sixteen features as images of 1 x 4 x 4.
fn images() -> Splits {
    let data = blobs(0, Device::Cpu).unwrap();
    let part = |part: &Dataset| {
        Dataset::new(part.name(), part.images().view([-1, 1, 4, 4]), part.labels().shallow_clone(), 4).unwrap()
    };
    Splits { train: part(&data.train), held_out: part(&data.held_out), test: part(&data.test) }
}

#[test]
fn ste_mm_with_repair_merges_networks_with_batch_norm() {
    let data = images();
    let network = Network::convnet([1, 4, 4], 1.0, 4).unwrap();
    let trainer = Trainer { epochs: 12, batch_size: 64, ..Trainer::default() };
    let training = trainer.train(&network, &data, &[0, 1, 2]).unwrap();
    let naive = Alignment::naive(&training.models).unwrap();
    let aligned = SteMm { epochs: 8, batch_size: 64, ..SteMm::default() }.align(&training.models, &data).unwrap();
    let table = compare(&training, &[&naive, &aligned], &data).unwrap();
    let loss = |method: &str, repair| {
        table.rows.iter().find(|row| row.method == method && row.repair == repair).unwrap().test_loss
    };
    let repaired = loss("ste-mm", Repair::BatchNorm);
    assert!(repaired < loss("naive", Repair::BatchNorm), "{:?}", table.rows);
    assert!(repaired < loss("ste-mm", Repair::Off), "{:?}", table.rows);
    assert_eq!(table.rows.len(), 3 + 2 * 2);
    let walk = Interpolation { points: 3, ..Interpolation::default() };
    let barriers = walk.barriers("aligned", &aligned.apply(&training.models).unwrap(), &data).unwrap();
    assert_eq!(barriers.repair, Repair::BatchNorm);
}

#[test]
fn training_with_running_statistics_and_momentum_resumes_to_the_same_bits() {
    let data = images().augmented(Augmentation { flip: true, crop_padding: 1 }).unwrap();
    let network = Network::convnet([1, 4, 4], 0.5, 4).unwrap();
    let folder = std::env::temp_dir().join(format!("stemm-bn-resume-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let trainer = |epochs| Trainer {
        epochs,
        batch_size: 64,
        optimiser: Optimiser::SGD,
        learning_rate: 0.05,
        choice: Choice::BestEpoch,
        label_smoothing: 0.1,
        ..Trainer::default()
    };
    let kept = |epochs| Trainer { checkpoints: Some(folder.clone()), ..trainer(epochs) };
    kept(2).train(&network, &data, &[3]).unwrap();
    let resumed = kept(5).train(&network, &data, &[3]).unwrap();
    let straight = trainer(5).train(&network, &data, &[3]).unwrap();
    let tensors = |training: &Training| training.models[0].params.clone();
    assert!(tensors(&resumed).iter().zip(tensors(&straight).iter()).all(|(a, b)| a.0 == b.0 && a.1 == b.1));
    assert!(straight.history.epochs.iter().all(|epoch| epoch.gradient_norm > 0.0 && epoch.learning_rate == 0.05));
    let other = Trainer { label_smoothing: 0.2, ..kept(5) }.train(&network, &data, &[3]).unwrap_err();
    assert!(matches!(other, stemm::Error::CheckpointMismatch { .. }), "{other}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn training_in_bf16_learns_as_well() {
    let data = images();
    let network = Network::convnet([1, 4, 4], 0.5, 4).unwrap();
    let train = |precision| {
        let trainer = Trainer { epochs: 6, batch_size: 64, precision, ..Trainer::default() };
        let epochs = trainer.train(&network, &data, &[0]).unwrap().history.epochs;
        (epochs[0].train_loss, epochs[5].train_loss)
    };
    let (full, half) = (train(Precision::F32), train(Precision::Bf16));
    assert_ne!(full, half);
    assert!(half.1 < half.0 / 2.0 && (half.1 - full.1).abs() < 0.1 * full.0, "{full:?} {half:?}");
}

#[test]
fn recipes_hold_the_papers_settings() {
    let cifar = Recipe::paper_cifar10().unwrap();
    assert_eq!((cifar.trainer.epochs, cifar.trainer.batch_size, cifar.trainer.learning_rate), (100, 500, 0.4));
    assert_eq!(cifar.trainer.optimiser, Optimiser::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: false });
    let grey = Tensor::rand([8, 1, 28, 28], (Kind::Float, Device::Cpu));
    let part = Dataset::new("grey", grey, Tensor::from_slice(&[0i64, 1, 2, 3, 0, 1, 2, 3]), 10).unwrap();
    let data = Splits { train: part.clone(), held_out: part.clone(), test: part };
    let prepared = cifar.prepare(&data).unwrap();
    assert_eq!(prepared.train.images().size(), [8, 3, 32, 32]);
    let (_, network) = &cifar.demo().unwrap().networks[1];
    let trainer = Trainer { epochs: 1, batch_size: 4, ..Trainer::default() };
    assert_eq!(trainer.train(network, &prepared, &[0]).unwrap().models.len(), 1);
}

#[test]
fn tensors_that_are_too_many_or_too_few_are_refused_by_a_pass() {
    let layers = |norm: bool| {
        let norm = norm.then(|| ("norm", Layer::from(BatchNorm::new(4))));
        [("fc", Layer::from(Linear::new(4, 4)))].into_iter().chain(norm)
    };
    let [plain, normed] = [false, true].map(|norm| Network::new([4], layers(norm)).unwrap());
    let longer = Network::mlp(&[4, 4, 4]).unwrap();
    let set = |network: &Network| network.init(0, Device::Cpu).unwrap();
    let x = Tensor::ones([3, 4], (Kind::Float, Device::Cpu));
    let run = |network: &Network, params: &Params| network.forward(params, &x, Mode::Eval).is_ok();
    assert!(run(&plain, &set(&plain)) && run(&normed, &set(&normed)));
    assert!(!run(&plain, &set(&longer)) && !run(&plain, &set(&normed)) && !run(&longer, &set(&plain)));
    let named = |params: &Params, buffers: bool| -> Vec<(String, Tensor)> {
        let own = params.iter().filter(|(name, _)| name.contains("running") == buffers);
        own.map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect()
    };
    let only_buffers = Params::new(named(&set(&plain), false), named(&set(&normed), true));
    assert!(!run(&plain, &only_buffers));
    let twice = Network::new([4], [("fc", Linear::new(4, 4).into()), ("fc", Linear::new(4, 4).into())]);
    assert!(twice.is_err_and(|error| error.to_string().contains("same name")));
}

#[test]
fn initial_values_fill_pytorchs_range() {
    let layers: [(&str, Layer); 3] =
        [("conv", Conv2d::new(4, 60, 5).into()), ("flatten", Flatten.into()), ("fc", Linear::new(60, 400).into())];
    let params = Network::new([4, 5, 5], layers).unwrap().init(0, Device::Cpu).unwrap();
    for (name, bound) in
        [("conv.weight", 0.1), ("conv.bias", 0.1), ("fc.weight", 1.0 / 60f64.sqrt()), ("fc.bias", 1.0 / 60f64.sqrt())]
    {
        let values = params.get(name).unwrap();
        let (low, high) = (values.min().double_value(&[]), values.max().double_value(&[]));
        let slack = 10.0 * bound / values.numel() as f64;
        assert!(-bound - 1e-7 <= low && low < slack - bound, "{name}: {low}");
        assert!(bound - slack < high && high <= bound + 1e-7, "{name}: {high}");
    }
}

#[test]
fn windows_have_as_many_places_as_fit_and_say_what_they_need() {
    let shape =
        |side, layer: Layer| Network::new([2, side, side], [("window", layer)]).map(|network| network.output_shape());
    for (kernel, stride, padding) in (1..=4).flat_map(|k| (1..=3).flat_map(move |s| (0..=2).map(move |p| (k, s, p)))) {
        for side in 1i64..=6 {
            let starts = (-padding..).step_by(stride as usize);
            let places = starts.take_while(|start| start + kernel <= side + padding).count() as i64;
            let case = format!("window of {kernel}, stride {stride}, padding {padding}, side {side}");
            let conv = shape(side, Conv2d::new(2, 3, kernel).stride(stride).padding(padding).into());
            assert_eq!(conv.as_ref().ok(), (places > 0).then(|| vec![3, places, places]).as_ref(), "{case}");
            if let Err(error) = conv {
                let least = kernel - 2 * padding;
                assert!(
                    error.to_string().contains(&format!("[2, at least {least}, at least {least}]")),
                    "{case}: {error}"
                );
            }
            let expected = (places > 0 && 2 * padding <= kernel).then(|| vec![2, places, places]);
            let (max, mean) = (MaxPool2d::new(kernel), AvgPool2d::new(kernel));
            let max = shape(side, max.stride(stride).padding(padding).into());
            let mean = shape(side, mean.stride(stride).padding(padding).into());
            assert_eq!((max.ok(), mean.ok()), (expected.clone(), expected), "{case}");
        }
    }
    for layer in
        [Layer::from(Conv2d::new(2, 3, 0)), MaxPool2d::new(2).stride(0).into(), AvgPool2d::new(2).padding(-1).into()]
    {
        assert!(shape(4, layer).is_err());
    }
}

#[test]
fn dropout_zeroes_its_share_and_keeps_the_mean() {
    let x = Tensor::ones([50, 2_000], (Kind::Float, Device::Cpu));
    for probability in [0.0, 0.25, 0.9] {
        let network = Network::new([2_000], [("drop", Dropout::new(probability).into())]).unwrap();
        let run = |mode| network.forward(&network.init(0, Device::Cpu).unwrap(), &x, mode).unwrap();
        assert_eq!(run(Mode::Eval), x);
        let kept = run(Mode::Train { seed: 1 });
        let zeros = kept.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((zeros - probability).abs() < 0.01, "{probability}: {zeros}");
        let largest = kept.max().double_value(&[]);
        assert!((largest - 1.0 / (1.0 - probability)).abs() < 1e-5, "{probability}: {largest}");
        assert!(probability == 0.0 || kept != run(Mode::Train { seed: 2 }), "another step, other units");
    }
    // Two layers draw masks of their own: a quarter is left.
    let twice = Network::new([2_000], [("a", Dropout::new(0.5).into()), ("b", Dropout::new(0.5).into())]).unwrap();
    let kept = twice.forward(&twice.init(0, Device::Cpu).unwrap(), &x, Mode::Train { seed: 1 }).unwrap();
    let left = kept.ne(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((left - 0.25).abs() < 0.01, "{left}");
    for probability in [-0.1, 1.0, f64::NAN] {
        assert!(Network::new([4], [("drop", Dropout::new(probability).into())]).is_err(), "{probability}");
    }
}
