//! Files of any other kind, and files with damage, are errors that say what they are: no panic, no endless wait, no
//! allocation beyond what the file can hold.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use stemm::Error;
use stemm::polars::df;
use stemm::prelude::*;

const CPU: Device = Device::Cpu;

/// The largest piece of memory that anything here asked for.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watched;

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static WATCHED: Watched = Watched;

fn path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stemm-foreign-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn network() -> Network {
    Network::new(
        [1, 4, 4],
        [
            ("conv", Conv2d::new(1, 3, 3).padding(1).into()),
            ("norm", BatchNorm::new(3).into()),
            ("relu", Relu.into()),
            ("flatten", Flatten.into()),
            ("head", Linear::new(48, 2).into()),
        ],
    )
    .unwrap()
}

fn model() -> Model {
    Model::new(network(), network().init(0, CPU).unwrap()).unwrap()
}

/// What every reader says about a file of these bytes: nothing if it reads it.
fn verdicts(bytes: &[u8], stem: &str) -> Vec<(&'static str, String)> {
    let (tensors, json) = (path(&format!("{stem}.safetensors")), path(&format!("{stem}.json")));
    for path in [&tensors, &json] {
        std::fs::write(path, bytes).unwrap();
    }
    let text = |error: Option<Error>| error.map(|error| error.to_string()).unwrap_or_default();
    vec![
        ("Model::load", text(Model::load(&tensors, CPU).err())),
        ("Model::load_state_dict", text(Model::load_state_dict(&tensors, &network(), &[], CPU).err())),
        ("Alignment::load", text(Alignment::load(&tensors, &network()).err())),
        ("Alignment::load of JSON", text(Alignment::load(&json, &network()).err())),
        ("load_parquet", text(load_parquet(&tensors).err())),
    ]
}

/// What every reader says about a path.
fn verdicts_on(path: &Path) -> Vec<String> {
    let text = |error: Option<Error>| error.map(|error| error.to_string()).unwrap_or_default();
    vec![
        text(Model::load(path, CPU).err()),
        text(Model::load_state_dict(path, &network(), &[], CPU).err()),
        text(Alignment::load(path, &network()).err()),
        text(load_parquet(path).err()),
    ]
}

#[test]
fn a_wrong_file_is_named_for_what_it_is() {
    let mut tar = vec![0; 512];
    tar[..5].copy_from_slice(b"a.txt");
    tar[257..262].copy_from_slice(b"ustar");
    let parquet = parquet();
    let torch_zip = [b"PK\x03\x04\x00\x00\x08\x08".as_slice(), &[0; 18], b"archive/data.pkl\x80\x02}q\x00"].concat();
    let cases: [(&[u8], &str, &str); 17] = [
        (b"", "empty", "write or fetch"),
        (
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
            "pickle",
            "safetensors.torch.save_file(torch.load(path, weights_only=True)",
        ),
        (&torch_zip, "pickle", "weights_only=True"),
        (b"PK\x03\x04\x14\x00\x00\x00model/weights.txt", "zip", "unpack"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "Git-LFS pointer",
            "git lfs pull",
        ),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page", "download"),
        (b"<HTML><head>", "web page", "download"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page", "download"),
        (b"404: Not Found", "plain text", "server"),
        (b"GGUF\x03\x00\x00\x00\x00\x00", "GGUF", "state dict"),
        (b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00", "HDF5", "state dict"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "gzip", "unpack"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "Zstandard", "unpack"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "NumPy", "save_file"),
        (&tar, "tar", "unpack"),
        (b"{\"weight_map\": {\"a\": \"model-00001.safetensors\"}}", "JSON", "Alignment::load"),
        (&parquet, "Parquet", "load_parquet"),
    ];
    for (bytes, what, hint) in cases {
        for (reader, text) in verdicts(bytes, "named") {
            // Each format is at home with one reader.
            let at_home = [("JSON", "Alignment::load of JSON"), ("Parquet", "load_parquet")].contains(&(what, reader));
            assert!(at_home || text.contains(what) && text.contains(hint), "{reader}: {text}");
            assert!(!text.contains("delete") && !text.contains("remove"), "{text}");
        }
    }
    model().save(path("model.safetensors")).unwrap();
    let whole = std::fs::read(path("model.safetensors")).unwrap();
    for (reader, text) in verdicts(&whole, "at_home") {
        let expected = match reader {
            "Model::load" | "Model::load_state_dict" => "",
            "Alignment::load" => "it holds a model; read it by `Model::load`",
            _ => "it is a safetensors file; read a model by `Model::load`",
        };
        assert!(text.contains(expected) && text.is_empty() == expected.is_empty(), "{reader}: {text}");
    }
}

#[test]
fn a_folder_a_device_and_a_missing_file_are_named() {
    for (place, expected) in [(path(""), "file in this folder"), (path("missing.safetensors"), "No such file")] {
        let with_ending = if place.is_dir() { path("folder.safetensors") } else { place };
        if expected.contains("folder") {
            std::fs::create_dir_all(&with_ending).unwrap();
        }
        for text in verdicts_on(&with_ending) {
            assert!(text.contains(expected), "{text}");
        }
    }
    if Path::new("/dev/zero").exists() {
        assert!(Model::load("/dev/zero", CPU).is_err_and(|error| error.to_string().contains("no regular file")));
    }
}

#[test]
fn each_reader_says_which_other_one_reads_the_file() {
    let (state_dict, renamed) = (path("state_dict.safetensors"), path("renamed.safetensors"));
    let model = model();
    // As PyTorch saves it again: the same tensors, no metadata.
    let tensors: Vec<(&str, Tensor)> =
        model.params.iter().map(|(name, tensor)| (name, tensor.shallow_clone())).collect();
    Tensor::write_safetensors(&tensors, &state_dict).unwrap();
    let text = |result: Result<Model, Error>| result.err().map(|error| error.to_string()).unwrap_or_default();
    let loaded = text(Model::load(&state_dict, CPU));
    assert!(
        loaded.contains("state dict that does not say its network; read it by `Model::load_state_dict`"),
        "{loaded}"
    );
    let aligned = Alignment::load(&state_dict, &network()).unwrap_err().to_string();
    assert!(aligned.contains("`Model::load_state_dict`"), "{aligned}");
    assert_eq!(text(Model::load_state_dict(&state_dict, &network(), &[], CPU)), "");

    let permutations = path("permutations.safetensors");
    Alignment::naive(std::slice::from_ref(&model)).unwrap().save(&permutations, &network()).unwrap();
    for found in
        [text(Model::load(&permutations, CPU)), text(Model::load_state_dict(&permutations, &network(), &[], CPU))]
    {
        assert!(found.contains("read it by `Alignment::load`"), "{found}");
    }

    // A model of another network, and one under other names.
    let own = path("own.safetensors");
    model.save(&own).unwrap();
    let other = Network::mlp(&[3, 2]).unwrap();
    let found = text(Model::load_state_dict(&own, &other, &[], CPU));
    assert!(
        found.contains("missing") && found.contains("`Model::load`, which takes the network from the file"),
        "{found}"
    );
    model.save_state_dict(&renamed, &[("head", "fc")]).unwrap();
    let found = text(Model::load(&renamed, CPU));
    assert!(found.contains("`Model::load_state_dict`, with the network and these names"), "{found}");
    let found = text(Model::load_state_dict(&renamed, &network(), &[], CPU));
    assert!(found.contains("list of names") && !found.contains("Model::load`"), "{found}");
    assert_eq!(text(Model::load_state_dict(&renamed, &network(), &[("head", "fc")], CPU)), "");
}

#[test]
fn a_checkpoint_is_read_by_model_load_and_named_elsewhere() {
    let folder = path("checkpoints");
    let network = Network::mlp(&[16, 4, 4]).unwrap();
    let trainer = Trainer { epochs: 1, checkpoints: Some(folder.clone()), ..Trainer::default() };
    trainer.train(&network, &blobs(0, CPU).unwrap(), &[0]).unwrap();
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    assert_eq!(Model::load(&file, CPU).unwrap().network, network);
    let state = Model::load_state_dict(&file, &network, &[], CPU).unwrap_err().to_string();
    let aligned = Alignment::load(&file, &network).unwrap_err().to_string();
    assert!(state.contains("read its model by `Model::load`") && aligned.contains("a checkpoint"), "{state} {aligned}");
}

fn parquet() -> Vec<u8> {
    let file = path("table.parquet");
    let numbers = (0..50).map(f64::from).collect::<Vec<_>>();
    let frame = df!["x" => numbers, "name" => vec!["a"; 50]].unwrap();
    save_parquet(&frame, &file).unwrap();
    std::fs::read(file).unwrap()
}

#[test]
fn a_table_that_was_changed_after_it_was_written_is_refused_and_one_of_another_program_is_read() {
    let (whole, file) = (parquet(), path("changed.parquet"));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        // Without its seal a table is one of another program: a change of the seal's own name changes no number.
        let same = load_parquet(&file).is_ok_and(|frame| frame.equals(&load_parquet(path("table.parquet")).unwrap()));
        let refused = load_parquet(&file).is_err();
        assert!(refused || same, "byte {at}");
    }
    let mut frame = load_parquet(path("table.parquet")).unwrap();
    stemm::polars::prelude::ParquetWriter::new(std::fs::File::create(&file).unwrap()).finish(&mut frame).unwrap();
    assert!(load_parquet(&file).unwrap().equals(&frame));
}

/// A safetensors file without the seal that refuses it at the first damage.
fn unsealed(path: &Path) -> Vec<u8> {
    let (mut bytes, seal) = (std::fs::read(path).unwrap(), b"stemm:sha256");
    let start = bytes.windows(seal.len()).position(|window| window == seal).unwrap();
    bytes[start..start + seal.len()].copy_from_slice(b"other:sha256");
    bytes
}

/// One whole file of each kind that is read here.
fn whole_files() -> Vec<Vec<u8>> {
    let (model, network) = (model(), network());
    let alignment = Alignment::naive(&[model.clone(), model.clone()]).unwrap();
    let (saved, tensors, json) = (path("whole.safetensors"), path("lists.safetensors"), path("lists.json"));
    model.save(&saved).unwrap();
    alignment.save(&tensors, &network).unwrap();
    alignment.save(&json, &network).unwrap();
    vec![unsealed(&saved), unsealed(&tensors), std::fs::read(json).unwrap(), parquet(), std::fs::read(saved).unwrap()]
}

/// A damage to a file, at a place between its beginning (0) and its end (1).
#[derive(Clone, Debug)]
enum Damage {
    Flip(f64, u8),
    Cut(f64),
    Repeat(f64, f64),
    Overwrite(f64, Vec<u8>),
    /// Another number in the place of the one there.
    Number(f64, &'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let numbers =
        ["0", "-1", "3", "999999999", "4294967296", "9223372036854775807", "18446744073709551615", "1e300", "0.5"];
    prop_oneof![
        (0.0..1.0, any::<u8>()).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        (0.0..1.0).prop_map(Damage::Cut),
        (0.0..1.0, 0.0..1.0).prop_map(|(from, to)| Damage::Repeat(from, to)),
        (0.0..1.0, proptest::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Damage::Overwrite(at, bytes)),
        (0.0..1.0, proptest::sample::select(numbers.to_vec())).prop_map(|(at, number)| Damage::Number(at, number)),
        (0.0..1.0, proptest::sample::select(numbers.to_vec())).prop_map(|(at, number)| Damage::Number(at, number)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: &Damage) -> Vec<u8> {
    let place = |at: f64, bytes: &[u8]| ((at * bytes.len() as f64) as usize).min(bytes.len().saturating_sub(1));
    match damage {
        _ if bytes.is_empty() => (),
        Damage::Flip(at, mask) => {
            let at = place(*at, &bytes);
            bytes[at] ^= mask;
        }
        Damage::Cut(at) => bytes.truncate(place(*at, &bytes)),
        Damage::Repeat(from, to) => {
            let (from, to) = (place(from.min(*to), &bytes), place(from.max(*to), &bytes));
            let part = bytes[from..to].to_vec();
            bytes.splice(from..from, part);
        }
        Damage::Overwrite(at, new) => {
            let at = place(*at, &bytes);
            let end = (at + new.len()).min(bytes.len());
            bytes.splice(at..end, new.iter().copied());
        }
        Damage::Number(at, number) => {
            let header = header(&bytes);
            let end = header.map_or(bytes.len(), |length| 8 + length);
            let from = place(*at, &bytes[..end]).max(if header.is_some() { 8 } else { 0 });
            let Some(first) = (from..end).find(|&index| bytes[index].is_ascii_digit()) else { return bytes };
            let last = (first..end).find(|&index| !bytes[index].is_ascii_digit()).unwrap_or(end);
            bytes.splice(first..last, number.bytes());
            if let Some(length) = header {
                let length = (length + number.len() - (last - first)) as u64;
                bytes[..8].copy_from_slice(&length.to_le_bytes());
            }
        }
    }
    bytes
}

/// The length of a safetensors file's header.
fn header(bytes: &[u8]) -> Option<usize> {
    let length = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    bytes.get(8..8usize.checked_add(length)?).is_some_and(|header| header.starts_with(b"{")).then_some(length)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_to_a_file_makes_a_reader_panic_or_ask_for_much_memory(
        which in 0..5_usize, damages in proptest::collection::vec(damage(), 1..4),
    ) {
        thread_local!(static WHOLE: Vec<Vec<u8>> = whole_files());
        let whole = WHOLE.with(|files| files[which].clone());
        let bytes = damages.iter().fold(whole, damaged);
        LARGEST.store(0, Ordering::Relaxed);
        verdicts(&bytes, "damaged");
        let largest = LARGEST.load(Ordering::Relaxed);
        prop_assert!(largest < 100 << 20, "{largest} bytes were asked for");
    }

    #[test]
    fn arbitrary_bytes_are_read_by_nobody(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for (reader, text) in verdicts(&bytes, "arbitrary") {
            prop_assert!(!text.is_empty(), "{reader}");
        }
    }
}
