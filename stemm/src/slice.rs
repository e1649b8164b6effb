//! Tensors of f32 on the CPU as slices, for loops that do in one pass what tensor operations do in many.

use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// The values of a contiguous f32 tensor on the CPU; `None` for others, and for empty ones, which have no storage.
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

/// Whether a tensor has such values.
pub(crate) fn is_plain(tensor: &Tensor) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == Kind::Float && tensor.is_contiguous() && tensor.numel() > 0
}

/// The entries `index` of an axis, in that order: libtorch's `index_select`, which copies one entry at a time.
pub(crate) fn select(tensor: &Tensor, axis: usize, index: &[i64]) -> Result<Tensor> {
    let mut shape = tensor.size();
    let (len, block) = (shape[axis] as usize, shape[axis + 1..].iter().product::<i64>() as usize);
    shape[axis] = index.len() as i64;
    if let Some(values) = values(tensor).filter(|_| !tensor.requires_grad()) {
        let mut selected = Tensor::f_empty(&shape, (Kind::Float, Device::Cpu))?;
        if let Some(selected) = values_mut(&mut selected) {
            let rows = values.chunks_exact(len * block).zip(selected.chunks_exact_mut(index.len() * block));
            for (values, selected) in rows {
                match block {
                    1 => selected.iter_mut().zip(index).for_each(|(to, &entry)| *to = values[entry as usize]),
                    _ => selected.chunks_exact_mut(block).zip(index).for_each(|(to, &entry)| {
                        to.copy_from_slice(&values[entry as usize * block..][..block]);
                    }),
                }
            }
        }
        return Ok(selected);
    }
    Ok(tensor.f_index_select(axis as i64, &Tensor::f_from_slice(index)?.f_to_device(tensor.device())?)?)
}

/// `sum += weight * tensor`, with the entries of its first two axes taken from `index`, in one pass over memory; `None`,
/// and nothing done, for other tensors.
pub(crate) fn add_selected(sum: &mut Tensor, tensor: &Tensor, index: &[Option<Vec<i64>>], weight: f32) -> Option<()> {
    if index.iter().skip(2).any(Option::is_some) || sum.size() != tensor.size() {
        return None;
    }
    let size = tensor.size();
    let row = size.iter().skip(1).product::<i64>() as usize;
    let block = size.iter().skip(2).product::<i64>() as usize;
    let (values, sum) = (values(tensor)?, values_mut(sum)?);
    let at = |axis: usize| index.get(axis).and_then(Option::as_deref);
    let (rows, columns) = (at(0), at(1));
    let add =
        |sum: &mut [f32], values: &[f32]| sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
    sum.par_chunks_mut(row).with_min_len(PIECE.div_ceil(row)).enumerate().for_each(|(place, sum)| {
        let from = rows.map_or(place, |rows| rows[place] as usize);
        let values = &values[from * row..][..row];
        match columns {
            None => add(sum, values),
            Some(columns) if block == 1 => {
                sum.iter_mut().zip(columns).for_each(|(sum, &column)| *sum += weight * values[column as usize]);
            }
            Some(columns) => sum.chunks_exact_mut(block).zip(columns).for_each(|(sum, &column)| {
                add(sum, &values[column as usize * block..][..block]);
            }),
        }
    });
    Some(())
}

/// Values that are worth a thread of their own.
const PIECE: usize = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selecting_is_index_select_on_every_axis() -> Result<()> {
        for shape in [vec![5], vec![4, 6], vec![3, 4, 2, 2]] {
            let tensor = Tensor::randn(&shape, (Kind::Float, Device::Cpu));
            for axis in 0..shape.len() {
                for index in [vec![], vec![1, 0, 1]] {
                    let expected = tensor.index_select(axis as i64, &Tensor::from_slice(&index));
                    let found = select(&tensor, axis, &index)?;
                    assert!(found.size() == expected.size() && found.equal(&expected), "{shape:?}, axis {axis}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn adding_what_is_selected_is_selecting_and_adding() -> Result<()> {
        for (shape, index) in [
            (vec![3], vec![Some(vec![2, 0, 1])]),
            (vec![3, 4], vec![Some(vec![2, 0, 1]), Some(vec![3, 1, 0, 2])]),
            (vec![3, 4], vec![None, Some(vec![3, 1, 0, 2])]),
            (vec![3, 2, 2, 2], vec![Some(vec![1, 2, 0]), Some(vec![1, 0]), None, None]),
            (vec![3, 2, 2, 2], vec![Some(vec![1, 2, 0]), None, None, None]),
        ] {
            let random = || Tensor::randn(&shape, (Kind::Float, Device::Cpu));
            let (mut sum, tensor) = (random(), random());
            let mut selected = tensor.shallow_clone();
            for (axis, index) in index.iter().enumerate() {
                if let Some(index) = index {
                    selected = select(&selected, axis, index)?;
                }
            }
            let expected = &sum + selected * 0.3;
            assert!(add_selected(&mut sum, &tensor, &index, 0.3).is_some());
            assert!((sum - expected).abs().max().double_value(&[]) < 1e-6, "{shape:?}");
        }
        Ok(())
    }
}
