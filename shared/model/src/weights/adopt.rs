//! Hands mapped memory to MLX, without a copy where the backend can use it in place.
#![expect(unsafe_code, reason = "gives MLX a pointer into a mapped file")]

#[cfg(target_os = "linux")]
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use memmap2::MmapMut;
use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype};

/// Bytes a tensor's start must be a multiple of to be adopted: MLX's vector loads assume the alignment of its own allocator.
pub(super) const ALIGNMENT: usize = 64;

/// A tensor within a mapped file. Made by [`MappedTensor::new`] only, which checks that it lies inside.
#[derive(Debug)]
pub(super) struct MappedTensor<'a> {
    map: &'a Arc<MmapMut>,
    offset: usize,
    shape: Vec<i32>,
    dtype: Dtype,
}

impl<'a> MappedTensor<'a> {
    /// Returns `None` where `shape` elements of `dtype` at `offset` do not lie within the mapping behind its first eight bytes.
    pub(super) fn new(map: &'a Arc<MmapMut>, offset: usize, shape: Vec<i32>, dtype: Dtype) -> Option<Self> {
        let item_bytes = match dtype {
            Dtype::Float32 | Dtype::Uint32 => 4,
            Dtype::Float16 | Dtype::Bfloat16 => 2,
            _ => return None,
        };
        let bytes = shape.iter().try_fold(item_bytes, |bytes: usize, length| {
            bytes.checked_mul(usize::try_from(*length).ok()?)
        })?;
        let end = offset.checked_add(bytes)?;
        (offset >= 8 && bytes > 0 && end <= map.len()).then_some(Self {
            map,
            offset,
            shape,
            dtype,
        })
    }

    fn data(&self) -> *const u8 {
        self.map[self.offset..].as_ptr()
    }

    /// Whether [`MappedTensor::adopt`] may be called.
    pub(super) fn is_adoptable(&self) -> bool {
        cfg!(target_os = "linux") && (self.data() as usize).is_multiple_of(ALIGNMENT)
    }

    /// Copies the tensor into memory of MLX's own.
    pub(super) fn copy(&self) -> Array {
        // SAFETY: `new` checked that the shape's elements lie within the mapping; MLX copies them before it returns.
        unsafe { Array::from_raw_data(self.data().cast(), &self.shape, self.dtype) }
    }

    /// Makes an array over the mapping itself, on the CPU backend only. The caller keeps a handle to the array for as long as any
    /// other array may use its memory: MLX then never takes it for its own to recycle.
    #[cfg(target_os = "linux")]
    pub(super) fn adopt(&self) -> Result<Array> {
        let payload = Arc::into_raw(Arc::clone(self.map)).cast_mut().cast::<c_void>();
        let rank = c_int::try_from(self.shape.len()).unwrap_or(c_int::MAX);
        // SAFETY: `new` checked that the elements lie within the mapping and at least eight bytes behind its start, as the shim
        // demands; the payload keeps the mapping alive until MLX calls `release`, and the mapping is writable (copy on write).
        let array = unsafe {
            let data = self.data().cast_mut().cast();
            kr_mlx_adopt_cpu(data, self.shape.as_ptr(), rank, self.dtype.into(), payload, release)
        };
        if array.ctx.is_null() {
            release(payload);
            return Err("cannot adopt mapped memory".into());
        }
        // SAFETY: the shim returned a valid handle that nobody else owns.
        Ok(unsafe { Array::from_ptr(array) })
    }

    /// Never called: [`MappedTensor::is_adoptable`] is false here.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn adopt(&self) -> Result<Array> {
        Ok(self.copy())
    }
}

/// Runs on whichever thread drops the last array: calls no MLX and cannot unwind.
#[cfg(target_os = "linux")]
extern "C" fn release(payload: *mut c_void) {
    // SAFETY: `adopt` made the pointer from an `Arc<MmapMut>`, and the shim calls this once.
    drop(unsafe { Arc::from_raw(payload.cast_const().cast::<MmapMut>()) });
}

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn kr_mlx_adopt_cpu(
        data: *mut c_void,
        shape: *const c_int,
        rank: c_int,
        dtype: mlx_sys::mlx_dtype,
        payload: *mut c_void,
        release: extern "C" fn(*mut c_void),
    ) -> mlx_sys::mlx_array;
}
