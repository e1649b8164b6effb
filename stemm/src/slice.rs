//! Tensors of f32 on the CPU as slices, for loops that do in one pass what tensor operations do in many.

use tch::{Device, Kind, Tensor};

/// The values of a contiguous f32 tensor on the CPU; `None` for others.
pub(crate) fn values(tensor: &Tensor) -> Option<&[f32]> {
    // SAFETY: the storage holds that many f32 values and lives as long as the tensor; none of the crate's functions
    // writes to a tensor while another one reads it.
    is_plain(tensor).then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}

/// The same to be written to; the caller is the only one that uses the tensor's storage meanwhile.
pub(crate) fn values_mut(tensor: &mut Tensor) -> Option<&mut [f32]> {
    // SAFETY: as above; `&mut` keeps the tensor to the caller, who answers for other handles to its storage.
    is_plain(tensor).then(|| unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}

fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous()
}
