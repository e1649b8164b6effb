//! MKL's fast code on processors of every make.
//!
//! libtorch's matrix products are MKL's. MKL asks its own function `mkl_serv_intel_cpu_true` whether the processor is one of
//! Intel's, and takes code for older instructions where it is not: half the speed on AMD's. libtorch looks that function up
//! by its name, and so finds the one below before its own: the linker exports it from every program that contains this
//! crate, and from the shared library that cells are linked to.

use std::ffi::c_int;
use std::sync::OnceLock;

/// Set to 0, this variable leaves MKL's choice as it is.
const SWITCH: &str = "STEMM_MKL";

/// What MKL was answered, once it has asked.
static ANSWER: OnceLock<c_int> = OnceLock::new();

/// MKL's question whether the processor is one of Intel's; answered by whether it has the instructions.
// SAFETY: of the name, result and calling convention that libtorch expects; it reads nothing and cannot unwind.
#[unsafe(no_mangle)]
extern "C" fn mkl_serv_intel_cpu_true() -> c_int {
    *ANSWER.get_or_init(|| {
        let off = std::env::var_os(SWITCH).is_some_and(|value| value == "0");
        c_int::from(is_intel() || !off && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"))
    })
}

fn is_intel() -> bool {
    #[allow(unused_unsafe)] // safe in newer versions of Rust
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    #[test]
    fn mkl_asks_here() {
        let a = Tensor::randn([300, 300], (Kind::Float, Device::Cpu));
        let error = (a.matmul(&a) - a.to_kind(Kind::Double).matmul(&a.to_kind(Kind::Double))).abs().max();
        assert!(error.double_value(&[]) < 1e-3);
        assert!(ANSWER.get().is_some());
    }
}
