//! Which device the tensors live on: CUDA where it works, else the CPU, and why.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use crate::notebook::{Bundle, Show};
use tch::{Cuda, Device};

/// The device in use and the reason for it; give it wherever a device is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceChoice {
    /// The device that tensors should be put on.
    pub device: Device,
    /// Why this one, in a sentence.
    pub reason: String,
}

impl From<DeviceChoice> for Device {
    fn from(choice: DeviceChoice) -> Device {
        choice.device
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = match self.device {
            Device::Cuda(index) => format!("CUDA device {index}"),
            other => format!("{other:?}").to_uppercase(),
        };
        write!(f, "{name}: {}", self.reason)
    }
}

impl Show for DeviceChoice {
    fn look(&self) -> Bundle {
        Bundle::text(format_args!("{self}"))
    }
}

/// Finds the best device: the first CUDA device if libtorch can use it, else the CPU.
///
/// ```
/// let choice = stemm::device();
/// println!("{choice}"); // "CPU: no NVIDIA driver on this machine"
/// let x = tch::Tensor::zeros([2], (tch::Kind::Float, choice.into()));
/// ```
pub fn device() -> DeviceChoice {
    let loaded = load_cuda_library();
    if Cuda::is_available() {
        let reason = format!("{} CUDA device(s) found", Cuda::device_count());
        return DeviceChoice { device: Device::Cuda(0), reason };
    }
    let reason = if !Path::new("/proc/driver/nvidia/version").exists() {
        "no NVIDIA driver on this machine".to_owned()
    } else if let Err(error) = loaded {
        format!(
            "a GPU is present, but libtorch's CUDA library does not load ({error}); run `make setup` again to install the CUDA set"
        )
    } else {
        "a GPU is present, but CUDA refuses to start; compare the driver version in `nvidia-smi` with CUDA 13"
            .to_owned()
    };
    DeviceChoice { device: Device::Cpu, reason }
}

/// Loads libtorch_cuda.so, which the linker leaves out because nothing names a symbol of it, once per process.
fn load_cuda_library() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED
        .get_or_init(|| {
            use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
            if !Path::new("/proc/driver/nvidia/version").exists() {
                return Ok(());
            }
            // SAFETY: loading runs libtorch's own initialisers, as linking against it would.
            let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
            // The library must stay: CUDA kernels register themselves with libtorch.
            library.map(std::mem::forget).map_err(|error| error.to_string())
        })
        .clone()
}
