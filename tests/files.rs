//! State dicts, models and alignments as files: what is read is what was written, in its own number format, and what does
//! not fit is named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use stemm::Error;
use stemm::prelude::*;

const CPU: Device = Device::Cpu;

/// A path of its own for each test.
fn path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stemm-files-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

type Raw<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

fn write(path: &Path, tensors: &[Raw], metadata: &[(&str, &str)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The smallest network with a hidden layer, and its tensors as a file would have them.
fn small() -> (Network, Vec<Raw<'static>>) {
    let network = Network::mlp(&[2, 3, 1]).unwrap();
    let tensors = vec![
        ("layer1.weight", Dtype::F32, vec![3, 2], floats(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])),
        ("layer1.bias", Dtype::F32, vec![3], floats(&[0.7, 0.8, 0.9])),
        ("layer2.weight", Dtype::F32, vec![1, 3], floats(&[1.0, 1.1, 1.2])),
        ("layer2.bias", Dtype::F32, vec![1], floats(&[1.3])),
    ];
    (network, tensors)
}

fn model(network: &Network) -> Model {
    Model::new(network.clone(), network.init(7, CPU).unwrap()).unwrap()
}

fn error<T>(result: Result<T, Error>) -> String {
    result.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn a_comparison_is_saved_as_the_frame_that_it_shows() {
    let network = Network::mlp(&[16, 4]).unwrap();
    let data = blobs(0, Device::Cpu).unwrap();
    let training = Trainer { epochs: 1, ..Trainer::default() }.train(&network, &data, &[0, 1]).unwrap();
    let table = compare(&training, &[&Alignment::naive(&training.models).unwrap()], &data).unwrap();
    let path = std::env::temp_dir().join(format!("stemm-comparison-{}.csv", std::process::id()));
    table.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let methods: Vec<&str> = text.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(methods, ["method", "model 0", "model 1", "naive"], "{text}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn counters_of_any_format_are_ignored_and_other_formats_than_floats_are_listed_as_what_they_are() {
    let (network, tensors) = small();
    let file = path("formats.safetensors");
    let load = || Model::load_state_dict(&file, &network, &[], CPU);
    let kinds = [
        (Dtype::I64, 8),
        (Dtype::I32, 4),
        (Dtype::I16, 2),
        (Dtype::I8, 1),
        (Dtype::U8, 1),
        (Dtype::U16, 2),
        (Dtype::U32, 4),
        (Dtype::U64, 8),
        (Dtype::BOOL, 1),
        (Dtype::F8_E4M3, 1),
        (Dtype::F8_E5M2, 1),
        (Dtype::C64, 8),
    ];
    for (dtype, bytes) in kinds {
        let mut counted = tensors.clone();
        counted.push(("bn1.num_batches_tracked", dtype, vec![], vec![1; bytes]));
        counted.push(("n_averaged", dtype, vec![], vec![1; bytes]));
        write(&file, &counted, &[]);
        assert_eq!(error(load()), "", "{dtype:?}");
        let mut quantised = tensors.clone();
        quantised[0] = ("layer1.weight", dtype, vec![3, 2], vec![1; 6 * bytes]);
        write(&file, &quantised, &[]);
        let Err(Error::StateDict { missing, surplus, misshapen, hint, .. }) = load() else { panic!("{dtype:?}") };
        assert_eq!((missing.len(), surplus.len()), (0, 0));
        assert_eq!(misshapen, [format!("layer1.weight is {dtype:?} instead of floats")]);
        assert!(hint.contains("dequantise"), "{hint}");
        let mut unused = tensors.clone();
        unused.push(("codebook", dtype, vec![2], vec![1; 2 * bytes]));
        write(&file, &unused, &[]);
        let Err(Error::StateDict { surplus, misshapen, .. }) = load() else { panic!("{dtype:?}") };
        assert_eq!((surplus, misshapen), (vec!["codebook".to_owned()], vec![]));
    }
}

#[test]
fn parameters_in_f64_come_back_bit_for_bit_and_half_precision_as_f32() {
    let (network, mut tensors) = small();
    let double = network.init(0, CPU).unwrap().to_kind(Kind::Double).unwrap();
    let third = Params::new(double.iter().map(|(name, tensor)| (name.to_owned(), tensor / 3.0)), []);
    let model = Model::new(network.clone(), third).unwrap();
    let file = path("double.safetensors");
    for back in [
        {
            model.save(&file).unwrap();
            Model::load(&file, CPU).unwrap()
        },
        Model::load_state_dict(&file, &network, &[], CPU).unwrap(),
    ] {
        for ((name, own), (_, found)) in model.params.iter().zip(back.params.iter()) {
            assert_eq!(found.kind(), Kind::Double, "{name}");
            assert!(own.equal(found), "{name}");
        }
    }
    let half = [0x3c00_u16, 0x4000, 0x3800].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    tensors[1] = ("layer1.bias", Dtype::F16, vec![3], half);
    write(&file, &tensors, &[]);
    let back = Model::load_state_dict(&file, &network, &[], CPU).unwrap();
    assert_eq!(back.params.get("layer1.bias").unwrap(), &Tensor::from_slice(&[1f32, 2.0, 0.5]));
    // One tensor in f64 makes all f64: no digit is lost, and a network computes in one format.
    let digits = 1.0 / 3.0;
    tensors[3] = ("layer2.bias", Dtype::F64, vec![1], f64::to_le_bytes(digits).to_vec());
    write(&file, &tensors, &[]);
    let back = Model::load_state_dict(&file, &network, &[], CPU).unwrap();
    assert!(back.params.tensors().iter().all(|tensor| tensor.kind() == Kind::Double));
    assert_eq!(back.params.get("layer2.bias").unwrap().double_value(&[0]), digits);
}

#[test]
fn prefixes_of_wrappers_are_recognised_nested_as_well() {
    let (network, tensors) = small();
    let file = path("prefixes.safetensors");
    let plain = {
        write(&file, &tensors, &[]);
        Model::load_state_dict(&file, &network, &[], CPU).unwrap()
    };
    let written = |prefix: &str| {
        let names: Vec<String> = tensors.iter().map(|(name, ..)| format!("{prefix}{name}")).collect();
        let renamed = names
            .iter()
            .zip(&tensors)
            .map(|(name, (_, dtype, shape, bytes))| (name.as_str(), *dtype, shape.clone(), bytes.clone()));
        write(&file, &renamed.collect::<Vec<_>>(), &[]);
    };
    for prefix in ["module.", "_orig_mod.", "model.", "_orig_mod.module.", "model.module._orig_mod."] {
        written(prefix);
        let back =
            Model::load_state_dict(&file, &network, &[], CPU).unwrap_or_else(|error| panic!("{prefix}: {error}"));
        assert!(back.params.iter().zip(plain.params.iter()).all(|(own, other)| own == other), "{prefix}");
    }
    // Any other prefix is one pair of names.
    written("encoder.backbone.");
    assert!(error(Model::load_state_dict(&file, &network, &[], CPU)).contains("missing \"layer1.weight\""));
    assert_eq!(error(Model::load_state_dict(&file, &network, &[("", "encoder.backbone")], CPU)), "");
    written("module.encoder.");
    assert_eq!(error(Model::load_state_dict(&file, &network, &[("", "encoder")], CPU)), "");
    // What is missing is named as the file would name it.
    let wider = Network::mlp(&[2, 3, 3, 1]).unwrap();
    written("module.");
    assert!(error(Model::load_state_dict(&file, &wider, &[], CPU)).contains("missing \"module.layer3.weight\""));
}

#[test]
fn a_layer_that_is_called_as_a_wrapper_is_a_layer() {
    // Every name begins with `model.`, as behind Lightning's wrapper.
    let network = Network::new([2], [("model", Linear::new(2, 2).into())]).unwrap();
    let (model, file) = (model(&network), path("own.safetensors"));
    model.save(&file).unwrap();
    let back = Model::load_state_dict(&file, &network, &[], CPU).unwrap();
    assert!(back.params.iter().zip(model.params.iter()).all(|(own, other)| own == other));
}

#[test]
fn names_that_cannot_be_meant_are_refused_on_loading_and_saving() {
    let (network, _) = small();
    let (model, file) = (model(&network), path("names.safetensors"));
    model.save(&file).unwrap();
    let before = std::fs::read(&file).unwrap();
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("layer1", "0"), ("layer2", "0")], "\"0.weight\" for both"),
        (&[("layer1", "layer2")], "\"layer2.weight\" for both"),
        (&[("layr1", "0")], "\"layr1\" for the file's \"0\""),
        (&[("layer", "0")], "\"layer\" for the file's \"0\""),
        (&[("layer1", "0"), ("layer1", "1")], "\"layer1\" for the file's \"1\""),
    ];
    for (names, expected) in cases {
        for error in
            [error(model.save_state_dict(&file, names)), error(Model::load_state_dict(&file, &network, names, CPU))]
        {
            assert!(error.contains("setting `names`") && error.contains(expected), "{error}");
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), before, "a save that is refused leaves the old file");
    for names in [&[("layer1", "layer2"), ("layer2", "layer1")][..], &[("relu1", "1")], &[("layer1.weight", "w")]] {
        model.save_state_dict(&file, names).unwrap();
        let back = Model::load_state_dict(&file, &network, names, CPU).unwrap();
        assert!(back.params.iter().zip(model.params.iter()).all(|(own, other)| own == other), "{names:?}");
    }
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let (network, _) = small();
    let folder = path("writes");
    let file = folder.join("model.safetensors");
    let good = model(&network);
    good.save(&file).unwrap();
    let before = std::fs::read(&file).unwrap();
    let twice = Params::new(good.params.iter().map(|(_, tensor)| ("same".to_owned(), tensor.shallow_clone())), []);
    let bad = Model { network: network.clone(), params: twice };
    assert!(error(bad.save(&file)).contains("two things are called `same`"));
    let undefined = Params::new([("a".to_owned(), Tensor::new())], []);
    assert!(Model { network, params: undefined }.save(&file).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), before);
    for (nowhere, hint) in [(folder.clone(), "add the name of a file"), (file.join("inside"), "permissions")] {
        assert!(error(good.save(&nowhere)).contains(hint), "{}", error(good.save(&nowhere)));
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no partial file is left");
    // The longest name that a file can have.
    good.save(folder.join(format!("{}.safetensors", "x".repeat(255 - 12)))).unwrap();
}

#[test]
fn long_lists_of_names_are_cut_with_a_count() {
    let (network, _) = small();
    let deep = Network::mlp(&[2; 130]).unwrap();
    let file = path("deep.safetensors");
    model(&deep).save(&file).unwrap();
    let text = error(Model::load_state_dict(&file, &network, &[], CPU));
    assert!(text.contains(" more") && text.len() < 1000, "{text}");
    let long = "n".repeat(100_000);
    write(&file, &[(&long, Dtype::F32, vec![1], floats(&[1.0]))], &[]);
    let text = error(Model::load_state_dict(&file, &network, &[], CPU));
    assert!(text.contains("(100000 characters)") && text.len() < 1500, "{}", text.len());
}

/// The lists of a model: group and permutation.
type Lists<'a> = Vec<(&'a str, &'a [i64])>;

/// One content as JSON and as safetensors.
struct Both {
    network: Network,
    stem: PathBuf,
}

impl Both {
    /// The verdicts on lists by model and group, from JSON and from safetensors: an error's text, or nothing.
    fn verdicts(&self, models: &[Lists]) -> [String; 2] {
        let list = |list: &[i64]| format!("{list:?}");
        let objects = models.iter().map(|lists| {
            let pairs: Vec<String> = lists.iter().map(|(name, own)| format!("\"{name}\": {}", list(own))).collect();
            format!("{{{}}}", pairs.join(", "))
        });
        let objects = objects.collect::<Vec<_>>().join(", ");
        let json = self.stem.with_extension("json");
        std::fs::write(&json, format!("{{\"method\": \"m\", \"models\": [{objects}]}}")).unwrap();
        let tensors = self.stem.with_extension("safetensors");
        let mut named = Vec::new();
        for (model, lists) in models.iter().enumerate() {
            for (name, list) in lists {
                let bytes = list.iter().flat_map(|value| value.to_le_bytes()).collect();
                named.push((format!("{model}.{name}"), list.len(), bytes));
            }
        }
        let raw: Vec<Raw> =
            named.into_iter().map(|(name, len, bytes)| (&*name.leak(), Dtype::I64, vec![len], bytes)).collect();
        write(&tensors, &raw, &[("method", "\"m\""), ("models", &models.len().to_string())]);
        [json, tensors].map(|path| {
            let loaded = Alignment::load(&path, &self.network);
            if let Ok(alignment) = &loaded {
                assert!(alignment.converged && alignment.permutations.len() == models.len());
            }
            error(loaded).replace(&path.display().to_string(), "FILE")
        })
    }
}

#[test]
fn json_and_safetensors_are_accepted_and_refused_alike() {
    let both = Both { network: Network::mlp(&[8, 3, 2, 4]).unwrap(), stem: path("alike") };
    let (one, two) = (("layer1", [2, 0, 1].as_slice()), ("layer2", [1, 0].as_slice()));
    assert_eq!(both.verdicts(&[vec![one, two], vec![two, one]]), ["", ""]);
    let refused: [(Vec<Lists>, &str); 7] = [
        (vec![vec![one]], "model 0 has no list for group layer2 (2)"),
        (vec![vec![one, two], vec![two]], "model 1 has no list for group layer1 (3)"),
        (vec![vec![one, two, ("layer3", &[0, 1])]], "model 0 has a list for `layer3`"),
        (vec![vec![one, ("layer2", &[0, 1, 2])]], "the list of model 0 for group layer2 (2) has 3 entries"),
        (vec![vec![("layer1", &[0, 0, 1]), two]], "model 0, group layer1 (3): index 0 is repeated"),
        (vec![vec![("layer1", &[0, -1, 1]), two]], "index -1 is repeated or outside"),
        (vec![vec![("layer1", &[0, i64::MAX, 1]), two]], "outside 0..3"),
    ];
    for (models, expected) in refused {
        let [json, safetensors] = both.verdicts(&models);
        assert!(json.contains(expected), "{json}");
        assert_eq!(json, safetensors);
    }
    // A network without groups has models all the same, and their number comes back.
    let without = Both { network: Network::mlp(&[8, 4]).unwrap(), stem: path("without") };
    assert_eq!(without.verdicts(&[vec![], vec![], vec![]]), ["", ""]);
    // A group more than the network has, as of a deeper one.
    let deeper = Network::mlp(&[8, 5, 5, 5, 2]).unwrap();
    let models = [model(&deeper), model(&deeper)];
    for ending in ["json", "safetensors"] {
        let file = path("deeper").with_extension(ending);
        Alignment::naive(&models).unwrap().save(&file, &deeper).unwrap();
        let text = error(Alignment::load(&file, &Network::mlp(&[8, 5, 5, 2]).unwrap()));
        assert!(text.contains("`layer3`") && text.contains(&file.display().to_string()), "{text}");
    }
}

#[test]
fn lists_that_are_no_whole_numbers_and_counts_that_do_not_agree_are_refused() {
    let network = Network::mlp(&[8, 3, 4]).unwrap();
    let file = path("lists.safetensors");
    let load = || error(Alignment::load(&file, &network));
    let list = |dtype, bytes: Vec<u8>| vec![("0.layer1", dtype, vec![3], bytes)];
    write(&file, &list(Dtype::F32, floats(&[0.4, 2.9, 1.2])), &[("method", "\"m\""), ("models", "1")]);
    assert!(load().contains("`0.layer1` is F32 [3], not integers"), "{}", load());
    write(
        &file,
        &list(Dtype::I32, [0i32, 2, 1].iter().flat_map(|i| i.to_le_bytes()).collect()),
        &[("method", "\"m\""), ("models", "1")],
    );
    assert_eq!(load(), "", "integers of any size are whole numbers");
    let square = vec![("0.layer1", Dtype::I8, vec![3, 1], vec![0, 1, 2])];
    write(&file, &square, &[("method", "\"m\""), ("models", "1")]);
    assert!(load().contains("I8 [3, 1]"), "{}", load());
    for count in ["0", "2", "18446744073709551615", "1000000000000"] {
        write(&file, &list(Dtype::I8, vec![0, 1, 2]), &[("method", "\"m\""), ("models", count)]);
        assert!(load().contains(&format!("says {count} models")), "{count}: {}", load());
        let none = Network::mlp(&[8, 4]).unwrap();
        write(&file, &[], &[("method", "\"m\""), ("models", count)]);
        let loaded = Alignment::load(&file, &none);
        assert_eq!(loaded.is_ok(), count.len() == 1, "{count}: {:?}", loaded.err());
    }
    let wrong = vec![("18446744073709551615.layer1", Dtype::I8, vec![3], vec![0, 1, 2])];
    write(&file, &wrong, &[("method", "\"m\""), ("models", "1")]);
    assert!(!load().is_empty());
    let json = path("lists.json");
    for (list, fits) in
        [("[0, 2, 1]", true), ("[0.4, 2.9, 1.2]", false), ("[0.0, 2.0, 1.0]", false), ("[0, 1e0, 2]", false)]
    {
        std::fs::write(&json, format!("{{\"method\": \"m\", \"models\": [{{\"layer1\": {list}}}]}}")).unwrap();
        assert_eq!(Alignment::load(&json, &network).is_ok(), fits, "{list}");
    }
    std::fs::write(&json, "{\"method\": \"m\", \"models\": [{\"layer1\": [0, 1, 2], \"layer1\": [2, 1, 0]}]}").unwrap();
    assert!(
        error(Alignment::load(&json, &network)).contains("`layer1`"),
        "one of two lists of a group is not chosen in silence"
    );
}

#[test]
fn an_alignment_comes_back_with_whether_it_converged() {
    let network = Network::mlp(&[8, 3, 4]).unwrap();
    let models = [model(&network), model(&network)];
    for converged in [false, true] {
        let alignment = Alignment { converged, ..Alignment::naive(&models).unwrap() };
        for ending in ["json", "safetensors"] {
            let file = path("converged").with_extension(ending);
            alignment.save(&file, &network).unwrap();
            let back = Alignment::load(&file, &network).unwrap();
            assert_eq!((back.converged, back.permutations), (converged, alignment.permutations.clone()));
        }
    }
}
