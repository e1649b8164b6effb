//! Which device the tensors live on: CUDA where it works, else the CPU, and why. Decided by trying, once a process: whether a
//! file or a program of the driver's is there says little in containers, under WSL and on machines in the cloud.

use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::notebook::{Bundle, Show};

/// What the driver has to support for libtorch's CUDA library, as the driver counts: 1000 for a major version.
const CUDA_VERSION: c_int = 13_000;
/// The driver's code for "no GPU".
const NO_DEVICE: c_int = 100;

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

/// Finds the best device: of several GPUs the one with the most free memory, if libtorch can compute on it; else the CPU.
///
/// ```
/// let choice = stemm::device();
/// println!("{choice}"); // "CPU: no NVIDIA driver on this machine"
/// let x = tch::Tensor::zeros([2], (tch::Kind::Float, choice.into()));
/// ```
pub fn device() -> DeviceChoice {
    static TRIED: OnceLock<Result<(i64, i64), String>> = OnceLock::new();
    match TRIED.get_or_init(try_cuda) {
        Ok((index, devices)) => {
            let reason = match devices {
                1 => "the only GPU".to_owned(),
                _ => format!("of {devices} GPUs the one with the most free memory"),
            };
            DeviceChoice { device: Device::Cuda(*index as usize), reason }
        }
        Err(reason) => DeviceChoice { device: Device::Cpu, reason: reason.clone() },
    }
}

/// All GPUs, for [`Trainer::devices`](crate::train::Trainer); empty where [`device`] is the CPU.
pub fn cuda_devices() -> Vec<Device> {
    match device().device {
        Device::Cuda(_) => (0..Cuda::device_count() as usize).map(Device::Cuda).collect(),
        _ => Vec::new(),
    }
}

/// The first of those devices that have the most free memory; what is not known counts as nothing.
fn most_free(devices: i64, free: impl Fn(Device) -> Option<u64>) -> i64 {
    (0..devices).rev().max_by_key(|&index| free(Device::Cuda(index as usize)).unwrap_or(0)).unwrap_or(0)
}

/// Lets cuDNN round the factors of convolutions to 10 bits (TF32) and look for the fastest algorithm at each new shape.
/// Off at first: convolutions are then in f32 throughout, as on the CPU. With it they are several times as fast on
/// recent GPUs, losses differ from the third digit on, and the same seed gives other bits in each run.
///
/// # Errors
/// Another libtorch than the one that the crate is made for.
///
/// ```
/// stemm::fast_convolutions(true)?;
/// # stemm::fast_convolutions(false)?;
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn fast_convolutions(on: bool) -> Result<()> {
    Cuda::cudnn_set_benchmark(on);
    if allow_tf32(on) {
        return Ok(());
    }
    let requirement = "used with libtorch 2.11.0, whose function `setAllowTF32CuDNN` is not found";
    Err(Error::Setting { setting: "fast_convolutions", value: on.to_string(), requirement })
}

/// libtorch's own setting, which tch does not offer; whether it was found.
fn allow_tf32(on: bool) -> bool {
    let program = Library::this();
    // SAFETY: names and signatures of `at::globalContext()` and of `at::Context::setAllowTF32CuDNN(bool)`.
    unsafe {
        let context = program.get::<extern "C" fn() -> *mut c_void>(b"_ZN2at13globalContextEv");
        let set = program.get::<extern "C" fn(*mut c_void, bool)>(b"_ZN2at7Context17setAllowTF32CuDNNEb");
        let (Ok(context), Ok(set)) = (context, set) else { return false };
        set(context(), on);
    }
    true
}

/// libtorch asks its CUDA library what it offers at the first backward pass, on whatever device, and never again. So that
/// library comes with the crate.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static WITH_THE_CRATE: extern "C" fn() = {
    extern "C" fn load() {
        let _ = libraries(); // `device` says what came of it
    }
    load
};

/// Loads the driver and libtorch_cuda.so, which the linker leaves out because nothing names a symbol of it.
fn libraries() -> Result<&'static Library, String> {
    static LOADED: OnceLock<Result<Library, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        if std::env::var("CUDA_VISIBLE_DEVICES").is_ok_and(|visible| ["", "-1"].contains(&visible.trim())) {
            return Err("CUDA_VISIBLE_DEVICES hides every GPU from this program".to_owned());
        }
        // SAFETY: loading runs the initialisers of NVIDIA's and of libtorch's, as linking against them would.
        let open = |name: &str| unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) };
        let driver = open("libcuda.so.1").map_err(|_| "no NVIDIA driver on this machine".to_owned())?;
        let mut version: c_int = 0;
        // SAFETY: the signature of the driver's `CUresult cuDriverGetVersion(int *)`.
        unsafe {
            let get = driver.get::<extern "C" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion");
            get.map_err(|error| format!("the NVIDIA driver is damaged ({error})"))?(&mut version);
        }
        if version < CUDA_VERSION {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            let needed = CUDA_VERSION / 1000;
            return Err(format!("the NVIDIA driver supports CUDA {major}.{minor}, and libtorch needs {needed}: update the driver"));
        }
        let torch = open("libtorch_cuda.so").map_err(|error| {
            format!("an NVIDIA driver is here, but libtorch's CUDA library does not load ({error}): run `STEMM_CUDA=1 make setup`")
        })?;
        std::mem::forget(torch); // it stays: CUDA's functions register themselves with libtorch
        allow_tf32(false);
        Ok(driver)
    });
    loaded.as_ref().map_err(String::clone)
}

/// The device with the most free memory and the number of them, if a product comes out right there.
fn try_cuda() -> Result<(i64, i64), String> {
    let driver = libraries()?;
    // SAFETY: the signature of the driver's `CUresult cuInit(unsigned)`.
    let code = unsafe {
        let init = driver.get::<extern "C" fn(c_uint) -> c_int>(b"cuInit");
        init.map_err(|error| format!("the NVIDIA driver is damaged ({error})"))?(0)
    };
    match code {
        0 => {}
        NO_DEVICE => return Err("an NVIDIA driver is here, but it finds no GPU".to_owned()),
        code => return Err(format!("the NVIDIA driver does not start (its error {code}): see what `nvidia-smi` says")),
    }
    if !Cuda::is_available() {
        return Err("a GPU is here, but libtorch does not find it: see what `nvidia-smi` says".to_owned());
    }
    let devices = Cuda::device_count();
    let index = if devices > 1 { most_free(devices, free_memory) } else { 0 };
    let product = || {
        let ones = Tensor::f_ones([8, 8], (Kind::Float, Device::Cuda(index as usize)))?;
        ones.f_matmul(&ones)?.f_sum(Kind::Float)?.f_double_value(&[])
    };
    match product() {
        Ok(512.0) => Ok((index, devices)),
        Ok(sum) => Err(format!("the GPU computes wrongly: a sum of 512 is {sum}")),
        Err(error) => {
            let text = error.to_string();
            Err(format!("the GPU does not compute: {}", text.lines().next().unwrap_or_default()))
        }
    }
}

/// Free bytes of a GPU as its driver says; `None` for the CPU, or where the driver does not say.
pub(crate) fn free_memory(device: Device) -> Option<u64> {
    let Device::Cuda(index) = device else { return None };
    let driver = libraries().ok()?;
    Cuda::synchronize(index as i64); // makes the device's context the thread's own
    let (mut free, mut total) = (0usize, 0usize);
    // SAFETY: the signature of the driver's `CUresult cuMemGetInfo_v2(size_t *, size_t *)`.
    let code = unsafe {
        driver.get::<extern "C" fn(*mut usize, *mut usize) -> c_int>(b"cuMemGetInfo_v2").ok()?(&mut free, &mut total)
    };
    (code == 0).then_some(free as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_gpus_the_first_with_the_most_free_memory_is_taken() {
        let free = |bytes: &'static [Option<u64>]| {
            most_free(bytes.len() as i64, |device| match device {
                Device::Cuda(index) => bytes[index],
                _ => None,
            })
        };
        assert_eq!(free(&[Some(5)]), 0);
        assert_eq!(free(&[Some(5), Some(9), Some(9), Some(1)]), 1);
        assert_eq!(free(&[None, Some(1)]), 1);
        assert_eq!(free(&[None, None]), 0);
    }
}
