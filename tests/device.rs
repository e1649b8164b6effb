//! The device is chosen by trying; where there is no GPU to try, drivers of paper say what real ones would.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs in a process of its own, with another driver.
#[test]
#[ignore = "the others run it"]
fn prints_the_device() {
    println!("device = {}", stemm::device());
}

fn device_with(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "prints_the_device", "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().find_map(|line| line.split_once("device = ")).unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

/// A folder with a driver of paper that supports a version of CUDA and starts with a code.
fn driver(version: u32, code: u32) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stemm-driver-{}-{version}-{code}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("driver.c");
    let text = format!(
        "int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }} int cuInit(unsigned f) {{ return {code}; }}"
    );
    std::fs::write(&source, text).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(folder.join("libcuda.so.1")).arg(&source).status();
    assert!(built.unwrap().success());
    folder
}

/// An empty library in the place of libtorch's for CUDA, so that it loads.
fn with_torch(folder: &Path) {
    let source = folder.join("empty.c");
    std::fs::write(&source, "").unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(folder.join("libtorch_cuda.so")).arg(&source).status();
    assert!(built.unwrap().success());
}

fn device_with_driver(folder: &Path) -> String {
    let others = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let found =
        device_with(&[("LD_LIBRARY_PATH", &format!("{}:{others}", folder.display())), ("CUDA_VISIBLE_DEVICES", "0")]);
    std::fs::remove_dir_all(folder).unwrap();
    found
}

#[test]
fn hidden_gpus_are_named_as_such() {
    for hidden in ["", "-1"] {
        let found = device_with(&[("CUDA_VISIBLE_DEVICES", hidden)]);
        assert_eq!(found, "CPU: CUDA_VISIBLE_DEVICES hides every GPU from this program");
    }
}

#[test]
fn a_driver_that_is_too_old_says_what_it_supports() {
    let found = device_with_driver(&driver(12_040, 0));
    assert_eq!(found, "CPU: the NVIDIA driver supports CUDA 12.4, and libtorch needs 13: update the driver");
}

#[test]
fn a_driver_without_a_gpu_and_one_that_does_not_start_are_told_apart() {
    for (code, words) in
        [(100, "it finds no GPU"), (803, "does not start (its error 803)"), (0, "libtorch does not find it")]
    {
        let folder = driver(13_000, code);
        with_torch(&folder);
        let found = device_with_driver(&folder);
        assert!(found.starts_with("CPU: ") && found.contains(words), "{found}");
    }
}

#[test]
fn a_cuda_library_that_does_not_load_says_which_set_to_install() {
    let folder = driver(13_000, 0);
    std::fs::write(folder.join("libtorch_cuda.so"), "no library").unwrap();
    let found = device_with_driver(&folder);
    assert!(found.contains("does not load") && found.contains("`STEMM_CUDA=1 make setup`"), "{found}");
}

#[test]
fn convolutions_are_in_full_precision_unless_they_may_be_fast() {
    use libloading::os::unix::Library;
    use std::ffi::c_void;
    let allowed = || {
        let program = Library::this();
        // SAFETY: `at::globalContext()` and `at::Context::allowTF32CuDNN(std::optional<Float32Op>) const`, without an operation.
        unsafe {
            let context = program.get::<extern "C" fn() -> *mut c_void>(b"_ZN2at13globalContextEv").unwrap();
            let name = b"_ZNK2at7Context14allowTF32CuDNNESt8optionalINS_9Float32OpEE";
            let allows = program.get::<extern "C" fn(*mut c_void, u64) -> bool>(name).unwrap();
            allows(context(), 0)
        }
    };
    stemm::fast_convolutions(true).unwrap();
    assert!(allowed());
    stemm::fast_convolutions(false).unwrap();
    assert!(!allowed());
}
