//! Data are checked at the door: what does not fit a network, or is not what it seems, gets its own clear error before
//! anything is computed from it.

#[path = "shared/folder.rs"]
mod shared;

use std::path::Path;

use stemm::Error;
use stemm::data::read_idx;
use stemm::prelude::*;

use shared::folder;

const CPU: Device = Device::Cpu;

fn model(network: &Network, seed: u64) -> Model {
    Model::new(network.clone(), network.init(seed, CPU).unwrap()).unwrap()
}

fn models(network: &Network, count: u64) -> Vec<Model> {
    (0..count).map(|seed| model(network, seed)).collect()
}

/// Something that takes data, a network and three of its models.
type Door = fn(&Splits, &Network, &[Model]) -> stemm::Result<()>;

/// Everything that takes data and a network, by name; each with its quickest settings.
const DOORS: [(&str, Door); 17] = [
    ("train", |data, network, _| {
        Trainer { epochs: 1, batch_size: 64, ..Trainer::default() }.train(network, data, &[0]).map(|_| ())
    }),
    ("evaluate", |data, _, m| m[0].evaluate(&data.test).map(|_| ())),
    ("ensemble", |data, _, m| ensemble(m, &data.test).map(|_| ())),
    ("ste-mm", |data, _, m| SteMm { epochs: 1, ..SteMm::default() }.align(&m[..2], data).map(|_| ())),
    ("barriers", |data, _, m| {
        Interpolation { points: 3, ..Interpolation::default() }.barriers("", m, data).map(|_| ())
    }),
    ("bezier", |data, _, m| Bezier { epochs: 1, points: 3, ..Bezier::default() }.fit("", &m[..2], data).map(|_| ())),
    ("simplex", |data, _, m| Simplex { samples: 2, ..Simplex::default() }.losses("", m, data).map(|_| ())),
    ("triangle", |data, _, m| Simplex { steps: 1, ..Simplex::default() }.ternary("", m, data).map(|_| ())),
    ("plane", |data, _, m| Plane { points: 2, ..Plane::default() }.through("", m, data).map(|_| ())),
    ("around", |data, _, m| Plane { points: 2, ..Plane::default() }.around("", &m[0], data).map(|_| ())),
    ("growth", |data, _, m| MergeGrowth::default().run(&m[..2], &[], data).map(|_| ())),
    ("collapse", |data, _, m| variance_collapse("", &m[..2], Repair::Variance, 3, data).map(|_| ())),
    ("merge", |data, _, m| merge_weighted(m, &[0.3; 3], Repair::Variance, &data.test).map(|_| ())),
    ("trace", |data, _, m| {
        Hutchinson { vectors: 2, ..Hutchinson::default() }.traces(&[("", &m[0])], &data.test).map(|_| ())
    }),
    ("lanczos", |data, _, m| {
        let search = Lanczos { count: 1, max_products: 2, ..Lanczos::default() };
        search.eigenvalues(&[("", &m[0])], &data.test).map(|_| ())
    }),
    ("density", |data, _, m| {
        let density = SpectralDensity { vectors: 2, steps: 2, points: 2, ..SpectralDensity::default() };
        density.of(("", &m[0]), &data.test).map(|_| ())
    }),
    ("correlation", |data, network, m| {
        let layer = network.frame().column("layer").unwrap().str().unwrap().get(0).unwrap().to_owned();
        unit_correlation("", &layer, &m[..2], &data.test).map(|_| ())
    }),
];

/// Doors that look at the test data alone, and so cannot name parts.
const TEST_ONLY: [&str; 7] = ["evaluate", "ensemble", "merge", "trace", "lanczos", "density", "correlation"];

#[test]
fn a_label_without_an_output_is_refused_everywhere_in_every_part() {
    let network = Network::mlp(&[16, 8, 4]).unwrap();
    let good = blobs(0, CPU).unwrap();
    let spoil = |part: &Dataset| {
        let labels = part.labels().copy();
        let _ = labels.narrow(0, 5, 1).fill_(4);
        Dataset::new("spoilt", part.images().shallow_clone(), labels, 5).unwrap()
    };
    let with = |part| match part {
        "training" => Splits { train: spoil(&good.train), ..good.clone() },
        "held-out" => Splits { held_out: spoil(&good.held_out), ..good.clone() },
        _ => Splits { test: spoil(&good.test), ..good.clone() },
    };
    let models = models(&network, 3);
    for (name, door) in DOORS {
        door(&good, &network, &models).unwrap_or_else(|error| panic!("{name}: {error}"));
        for part in ["training", "held-out", "test"] {
            if part != "test" && TEST_ONLY.contains(&name) {
                continue;
            }
            let error =
                door(&with(part), &network, &models).err().unwrap_or_else(|| panic!("{name} took bad {part} labels"));
            let Error::LabelOutOfRange { data, index: 5, label: 4, classes: 4 } = &error else {
                panic!("{name}, {part}: {error}")
            };
            assert!(data.contains("spoilt") && (TEST_ONLY.contains(&name) || data.contains(part)), "{name}: {error}");
        }
    }
}

#[test]
fn channels_that_come_last_are_refused_everywhere_with_a_hint_to_permute() {
    let network = Network::convnet([3, 8, 8], 0.25, 4).unwrap();
    let images = |n: i64| Tensor::rand([n, 8, 8, 3], (Kind::Float, CPU));
    let labels = |n: i64| Tensor::arange(n, (Kind::Int64, CPU)).remainder(4);
    let part = |n| Dataset::new("last", images(n), labels(n), 4).unwrap();
    let last = Splits { train: part(32), held_out: part(8), test: part(8) };
    let first = |data: &Dataset| {
        Dataset::new("first", data.images().permute([0, 3, 1, 2]), data.labels().shallow_clone(), 4).unwrap()
    };
    let first = Splits { train: first(&last.train), held_out: first(&last.held_out), test: first(&last.test) };
    let models = models(&network, 3);
    for (name, door) in DOORS {
        if name != "correlation" && name != "collapse" {
            door(&first, &network, &models).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let error = door(&last, &network, &models).unwrap_err();
        assert!(
            matches!(&error, Error::ShapeMismatch { expected, found, .. } if *expected == [3, 8, 8] && *found == [8, 8, 3]),
            "{name}: {error}"
        );
        assert!(error.to_string().contains("permute([0, 3, 1, 2])"), "{name}: {error}");
    }
    let error = network.forward(&network.init(0, CPU).unwrap(), &images(2), Mode::Eval).unwrap_err();
    assert!(matches!(&error, Error::ShapeMismatch { .. }) && error.to_string().contains("permute"), "{error}");
}

#[test]
fn only_a_flat_side_is_reshaped() {
    let flat = Network::mlp(&[48, 4]).unwrap();
    let forward = |network: &Network, shape: &[i64]| {
        network.forward(&network.init(0, CPU).unwrap(), &Tensor::zeros(shape, (Kind::Float, CPU)), Mode::Eval)
    };
    assert!(forward(&flat, &[2, 3, 4, 4]).is_ok() && forward(&flat, &[2, 48]).is_ok());
    let image = Network::convnet([3, 4, 4], 0.25, 4).unwrap();
    assert!(forward(&image, &[2, 48]).is_ok() && forward(&image, &[2, 3, 4, 4]).is_ok());
    for shape in [vec![2, 4, 3, 4], vec![2, 12, 4], vec![2, 3, 4, 5], vec![2, 3, 16], vec![48]] {
        assert!(matches!(forward(&image, &shape), Err(Error::ShapeMismatch { .. })), "{shape:?}");
    }
}

#[test]
fn a_network_without_one_output_a_class_is_refused() {
    let network = Network::new([1, 4, 4], [("conv", Conv2d::new(1, 4, 3).into())]).unwrap();
    let images = Tensor::zeros([4, 1, 4, 4], (Kind::Float, CPU));
    let data = Dataset::new("images", images, Tensor::from_slice(&[0i64, 1, 2, 3]), 4).unwrap();
    let error = model(&network, 0).evaluate(&data).unwrap_err();
    assert!(matches!(&error, Error::ShapeMismatch { found, .. } if *found == [4, 2, 2]), "{error}");
}

#[test]
fn parts_without_samples_do_not_exist() {
    let data = blobs(0, CPU).unwrap();
    for empty in [data.take(0, 0).err(), data.take(8, 0).err(), data.take(0, 8).err()] {
        assert!(matches!(empty, Some(Error::Empty { .. })), "{empty:?}");
    }
    assert!(
        matches!(data.test.take(0), Err(Error::Empty { .. }))
            && matches!(data.test.sample(0, 0), Err(Error::Empty { .. }))
    );
    let none = |shape: &[i64]| {
        Dataset::new("none", Tensor::zeros(shape, (Kind::Float, CPU)), Tensor::zeros([shape[0]], (Kind::Int64, CPU)), 1)
    };
    assert!(matches!(none(&[0, 3]), Err(Error::Empty { .. })));
    assert!(
        matches!(none(&[2, 0]), Err(Error::ShapeMismatch { .. }))
            && matches!(none(&[2]), Err(Error::ShapeMismatch { .. }))
    );
}

#[test]
fn a_random_sample_comes_from_everywhere_once_and_the_seed_repeats_it() {
    let images = Tensor::arange(1_000, (Kind::Float, CPU)).view([1_000, 1]);
    let data = Dataset::new("count", images, Tensor::zeros([1_000], (Kind::Int64, CPU)), 1).unwrap();
    let drawn = |seed| Vec::<f32>::try_from(data.sample(100, seed).unwrap().images().view([-1])).unwrap();
    let mut first = drawn(0);
    assert_eq!(first, drawn(0));
    assert_ne!(first, drawn(1));
    first.sort_by(f32::total_cmp);
    assert!(first.windows(2).all(|pair| pair[0] < pair[1]), "drawn twice");
    assert!(first[0] < 100.0 && first[99] > 900.0 && (first.iter().sum::<f32>() / 100.0 - 500.0).abs() < 120.0);
    assert_eq!(data.sample(2_000, 0).unwrap().images(), data.images());
}

#[test]
fn labels_are_whole_numbers_of_any_kind() {
    let images = || Tensor::zeros([4, 1], (Kind::Float, CPU));
    let with = |labels: Tensor| Dataset::new("labels", images(), labels, 3);
    let error = with(Tensor::from_slice(&[0f32, 0.7, 1.6, -0.9])).unwrap_err();
    assert!(matches!(error, Error::FractionalLabel { index: 1, .. }) && error.to_string().contains("0.7"), "{error}");
    let error = with(Tensor::from_slice(&[0f64, 1.0, f64::NAN, 1.0])).unwrap_err();
    assert!(matches!(error, Error::FractionalLabel { index: 2, .. }), "{error}");
    assert!(with(Tensor::from_slice(&[0f32, 1.0, f32::INFINITY, 1.0])).is_err());
    for labels in [
        Tensor::from_slice(&[0f32, 2.0, 1.0, 1.0]),
        Tensor::from_slice(&[0u8, 2, 1, 1]),
        Tensor::from_slice(&[0i32, 2, 1, 1]),
    ] {
        assert_eq!(Vec::<i64>::try_from(with(labels).unwrap().labels()).unwrap(), [0, 2, 1, 1]);
    }
    assert!(matches!(with(Tensor::from_slice(&[0f32, 1.0, -1.0, 1.0])), Err(Error::LabelOutOfRange { index: 2, .. })));
}

#[test]
fn a_pixel_that_is_no_number_is_not_answered_with_training() {
    let images = Tensor::from_slice(&[1f32, f32::NAN]).view([2, 1]);
    let error = Dataset::new("bad", images, Tensor::from_slice(&[0i64, 1]), 2).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("isfinite") && !text.contains("train"), "{text}");
}

#[test]
fn shapes_to_fit_to_have_sides_of_at_least_one_and_no_absurd_ones() {
    let grey = || Tensor::zeros([2, 1, 9, 9], (Kind::Float, CPU));
    let data = Dataset::new("grey", grey(), Tensor::from_slice(&[0i64, 0]), 1).unwrap();
    for shape in [[0, 9, 9], [3, 0, 9], [-1, 9, 9], [3, i64::MAX, 9], [i64::MAX, 9, 9], [i64::MIN, i64::MIN, 9]] {
        assert!(matches!(data.fit_to(&shape), Err(Error::ShapeMismatch { .. })), "{shape:?}");
    }
    for crop_padding in [usize::MAX, 1 << 40] {
        let wide = data.augmented(Augmentation { flip: false, crop_padding });
        assert!(matches!(wide, Err(Error::Setting { setting: "crop_padding", .. })));
    }
    assert!(matches!(data.normalised(&[0.0], &[1e-300]), Err(Error::Setting { setting: "normalisation", .. })));
    assert!(matches!(data.normalised(&[1e300], &[1.0]), Err(Error::Setting { setting: "normalisation", .. })));
}

#[test]
fn parts_that_were_normalised_differently_are_refused() {
    let images = |n: i64| Tensor::rand([n, 1, 4, 4], (Kind::Float, CPU));
    let part = |n: i64| Dataset::new("grey", images(n), Tensor::arange(n, (Kind::Int64, CPU)).remainder(4), 4).unwrap();
    let plain = Splits { train: part(16), held_out: part(8), test: part(8) };
    let network = Network::mlp(&[16, 4]).unwrap();
    let train = |data: &Splits| Trainer { epochs: 1, ..Trainer::default() }.train(&network, data, &[0]);
    let other =
        |test: Dataset| Splits { train: plain.train.normalised(&[0.5], &[0.25]).unwrap(), test, ..plain.clone() };
    for test in [plain.test.clone(), plain.test.normalised(&[0.5], &[0.2]).unwrap()] {
        let error = train(&other(test)).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting: "normalisation", .. }), "{error}");
    }
    assert!(train(&plain.normalised(&[0.5], &[0.25]).unwrap()).is_ok());
}

fn picture(path: &Path, value: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(4, 4, image::Rgb([value; 3])).save(path).unwrap();
}

#[test]
fn what_programs_leave_in_a_folder_is_no_class_and_no_image() {
    let folder = folder("data-left");
    for (class, value) in [("cat", 10), ("dog", 20)] {
        picture(&folder.join(class).join("x.png"), value);
        picture(&folder.join(class).join("deeper/still/y.png"), value);
        std::fs::write(folder.join(class).join("._x.png"), b"resource fork").unwrap();
        std::fs::write(folder.join(class).join("notes.txt"), b"notes").unwrap();
    }
    picture(&folder.join(".ipynb_checkpoints/x.png"), 30);
    picture(&folder.join("__MACOSX/cat/x.png"), 30);
    picture(&folder.join("cat/__MACOSX/x.png"), 30);
    std::fs::write(folder.join("readme.md"), b"read me").unwrap();
    let data = image_folder(&folder, [3, 4, 4], CPU).unwrap();
    assert_eq!(data.class_names(), ["cat", "dog"]);
    assert_eq!(Vec::<i64>::try_from(data.labels()).unwrap(), [0, 0, 1, 1]);
    assert_eq!(data.skipped_files(), 3, "two notes and the readme");
    let value = data.images().get(2).mean(Kind::Float).double_value(&[]) * 255.0;
    assert!((value - 20.0).abs() < 1e-3, "{value}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_format_that_the_image_crate_reads_is_read() {
    let folder = folder("data-formats");
    let formats = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "PNG", "ppm"];
    for format in formats {
        picture(&folder.join("only").join(format!("x_{format}.{format}")), 128);
    }
    let data = image_folder(&folder, [1, 4, 4], CPU).unwrap();
    assert_eq!((data.len(), data.skipped_files()), (formats.len(), 0));
    let furthest = (data.images() - 128.0 / 255.0).abs().max().double_value(&[]);
    assert!(furthest < 0.02, "{furthest}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn parts_with_different_classes_are_refused_by_name_and_one_list_serves_both() {
    let folder = folder("data-parts");
    for class in ["0", "180", "270", "90"] {
        for number in 0..3 {
            picture(&folder.join("train").join(class).join(format!("{number}.png")), 10);
        }
    }
    for class in ["0", "270", "90"] {
        picture(&folder.join("test").join(class).join("x.png"), 10);
    }
    let read = |part: &str| image_folder(folder.join(part), [1, 4, 4], CPU).unwrap();
    let (train, test) = (read("train"), read("test"));
    let error = Splits::new(&train, 2, 0, test.clone()).unwrap_err();
    let Error::ClassMismatch { only_first, only_second, .. } = &error else { panic!("{error}") };
    assert_eq!(only_first, &["1 = 180", "2 = 270", "3 = 90"]);
    assert_eq!(only_second, &["1 = 270", "2 = 90"]);
    // Put together by hand, the parts are refused by whatever takes them.
    let by_hand = Splits { train: train.clone(), held_out: train.clone(), test };
    let network = Network::mlp(&[16, 4]).unwrap();
    let trained = Trainer { epochs: 1, ..Trainer::default() }.train(&network, &by_hand, &[0]);
    assert!(matches!(trained, Err(Error::ClassMismatch { .. })));
    let test = image_folder_of(folder.join("test"), train.class_names(), [1, 4, 4], CPU).unwrap();
    assert_eq!(Vec::<i64>::try_from(test.labels()).unwrap(), [0, 2, 3]);
    assert!(Splits::new(&train, 2, 0, test).is_ok());
    let foreign = image_folder_of(folder.join("train"), &["0", "90", "270"], [1, 4, 4], CPU).unwrap_err();
    assert!(matches!(&foreign, Error::Setting { setting: "classes", .. }) && foreign.to_string().contains("180"));
    assert!(image_folder_of(folder.join("test"), &["0", "90", "270", "0"], [1, 4, 4], CPU).is_err());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_class_without_images_is_named() {
    let folder = folder("data-empty-class");
    picture(&folder.join("cat/x.png"), 1);
    std::fs::create_dir_all(folder.join("dog")).unwrap();
    let error = image_folder(&folder, [1, 4, 4], CPU).unwrap_err();
    assert!(matches!(&error, Error::Empty { what } if what.contains("dog")), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn torchvisions_folders_and_the_folder_itself_are_looked_into() {
    let folder = folder("data-torchvision");
    // Files that are not the published ones: the message tells which were found.
    let reads = [false, true]
        .map(|fashion| move |folder: &Path| if fashion { fashion_mnist(folder, CPU) } else { mnist(folder, CPU) });
    for (below, fashion) in [("FashionMNIST/raw", 1), ("MNIST/raw", 0), ("mnist", 0), ("", 1)] {
        let place = folder.join(below);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("train-images-idx3-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 7]).unwrap();
        let error = reads[fashion](&folder).unwrap_err();
        let found = place.join("train-images-idx3-ubyte");
        assert!(matches!(&error, Error::Checksum { path, .. } if *path == found), "{below}: {error}");
        assert!(error.to_string().contains("make data") && !error.to_string().contains("delete"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn a_gzip_of_two_members_is_read_whole() {
    use std::io::Write;
    let bytes = [0, 0, 8, 1, 0, 0, 0, 4, 1, 2, 3, 4];
    let member = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let path = std::env::temp_dir().join(format!("stemm-members-{}.gz", std::process::id()));
    std::fs::write(&path, [member(&bytes[..9]), member(&bytes[9..])].concat()).unwrap();
    assert_eq!(read_idx(&path).unwrap().values, [1, 2, 3, 4]);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn an_odd_sample_beside_whole_batches_works_everywhere_with_batch_norm() {
    let layers = |units: i64| {
        [
            ("fc1", Linear::new(16, units).into()),
            ("bn1", BatchNorm::new(units).into()),
            ("relu", Relu.into()),
            ("head", Linear::new(units, 4).into()),
        ]
    };
    let network = Network::new([16], layers(6)).unwrap();
    let part = |n: i64| {
        let labels = Tensor::arange(n, (Kind::Int64, CPU)).remainder(4);
        Dataset::new("odd", Tensor::randn([n, 16], (Kind::Float, CPU)), labels, 4).unwrap()
    };
    let models = models(&network, 3);
    for (train, rest) in [(1_001, 1_001), (65, 2), (64 * 3 + 1, 65)] {
        let data = Splits { train: part(train), held_out: part(rest), test: part(rest) };
        for (name, door) in DOORS {
            door(&data, &network, &models)
                .unwrap_or_else(|error| panic!("{name} on {train} and {rest} samples: {error}"));
        }
    }
}
