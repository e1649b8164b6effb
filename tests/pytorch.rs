//! State dicts that PyTorch wrote (`tests/pytorch/make_fixtures.py`) load by name and give PyTorch's logits.

use std::path::{Path, PathBuf};

use stemm::Error;
use stemm::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/pytorch").join(format!("{name}.safetensors"))
}

fn tensor(path: &Path, name: &str) -> Tensor {
    let found = Tensor::read_safetensors(path).unwrap();
    found.into_iter().find(|(own, _)| own == name).unwrap().1
}

fn assert_same_logits(name: &str, network: &Network, names: &[(&str, &str)]) {
    let model = Model::load_state_dict(fixture(name), network, names, Device::Cpu).unwrap();
    let expected = fixture(&format!("{name}_logits"));
    let logits = model.forward(&tensor(&expected, "x")).unwrap();
    let error = (logits - tensor(&expected, "logits")).abs().max().double_value(&[]);
    assert!(error < 1e-5, "{name}: {error}");
}

/// Names of `nn.Sequential(Flatten, Linear, ReLU, Linear, ReLU, Linear)`.
const SEQUENTIAL: [(&str, &str); 3] = [("layer1", "1"), ("layer2", "3"), ("layer3", "5")];

#[test]
fn state_dicts_of_pytorch_give_the_logits_of_pytorch() {
    assert_same_logits("resnet20", &Network::resnet20(0.5).unwrap(), &[]);
    assert_same_logits("vgg11", &Network::vgg11(1.0 / 16.0).unwrap(), &[]);
    assert_same_logits("mlp", &Network::mlp(&[64, 32, 24, 10]).unwrap(), &SEQUENTIAL);
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_all_listed() {
    let wider = Network::mlp(&[64, 32, 25, 10]).unwrap();
    let error = Model::load_state_dict(fixture("mlp"), &wider, &SEQUENTIAL[..2], Device::Cpu).unwrap_err();
    let Error::StateDict { missing, surplus, misshapen, .. } = &error else { panic!("{error}") };
    assert_eq!(missing, &["layer3.weight", "layer3.bias"]);
    assert_eq!(surplus, &["5.bias", "5.weight"]);
    assert_eq!(misshapen, &["3.weight [24, 32] instead of [25, 32]", "3.bias [24] instead of [25]"]);
}

#[test]
fn what_is_written_is_what_was_read() {
    let network = Network::mlp(&[64, 32, 24, 10]).unwrap();
    let model = Model::load_state_dict(fixture("mlp"), &network, &SEQUENTIAL, Device::Cpu).unwrap();
    let path = std::env::temp_dir().join(format!("stemm-state-dict-{}.safetensors", std::process::id()));
    model.save_state_dict(&path, &SEQUENTIAL).unwrap();
    for (name, original) in Tensor::read_safetensors(fixture("mlp")).unwrap() {
        assert_eq!(tensor(&path, &name), original, "{name}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn permutations_come_back_from_json_and_safetensors() {
    let network = Network::resnet20(0.5).unwrap();
    let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu).unwrap()).unwrap();
    let models = [model(0), model(1), model(2)];
    let alignment = WeightMatching::default().align(&models, &blobs(0, Device::Cpu).unwrap()).unwrap();
    for ending in ["json", "safetensors"] {
        let path = std::env::temp_dir().join(format!("stemm-permutations-{}.{ending}", std::process::id()));
        alignment.save(&path, &network).unwrap();
        let back = Alignment::load(&path, &network).unwrap();
        assert_eq!(back.permutations, alignment.permutations);
        assert_eq!(back.method, "weight matching");
        let other = Alignment::load(&path, &Network::mlp(&[4, 3, 2]).unwrap()).unwrap_err();
        assert!(matches!(other, Error::AlignmentMismatch { .. }), "{other}");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(matches!(Alignment::load(&path, &network).unwrap_err(), Error::Corrupt { .. }));
        std::fs::remove_file(&path).unwrap();
    }
}
