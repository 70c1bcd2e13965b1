//! Slices of MLX's arrays, for kernels that run at once on the calling thread.
#![expect(unsafe_code, reason = "slices of memory that MLX owns, through a C interface")]

use std::ffi::{c_int, c_void};

use kr_kernels::{Bfloat16, Float16};
use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::layers::dim;

/// What a slice may hold.
pub(super) trait Element: Copy + private::Sealed {
    const DTYPE: mlx_sys::mlx_dtype;
}

impl Element for f32 {
    const DTYPE: mlx_sys::mlx_dtype = mlx_sys::mlx_dtype__MLX_FLOAT32;
}

impl Element for i32 {
    const DTYPE: mlx_sys::mlx_dtype = mlx_sys::mlx_dtype__MLX_INT32;
}

impl Element for u32 {
    const DTYPE: mlx_sys::mlx_dtype = mlx_sys::mlx_dtype__MLX_UINT32;
}

impl Element for Bfloat16 {
    const DTYPE: mlx_sys::mlx_dtype = mlx_sys::mlx_dtype__MLX_BFLOAT16;
}

impl Element for Float16 {
    const DTYPE: mlx_sys::mlx_dtype = mlx_sys::mlx_dtype__MLX_FLOAT16;
}

mod private {
    use kr_kernels::{Bfloat16, Float16};

    /// Types whose every bit pattern is a value.
    pub(in crate::kernels) trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for i32 {}
    impl Sealed for u32 {}
    impl Sealed for Bfloat16 {}
    impl Sealed for Float16 {}
}

/// Reads an array, row by row, computing it first where it is not yet. It must be contiguous.
pub(super) fn read<T: Element>(array: &Array) -> Result<&[T]> {
    let mut view = View::default();
    // SAFETY: the handle is the array's.
    let status = unsafe { kr_mlx_read(array.as_ptr(), &raw mut view) };
    let data = view.checked::<T>(status)?;
    // SAFETY: so many elements of this type lie there while `array` lives; whoever writes through another handle to the same
    // memory gets a copy.
    Ok(unsafe { std::slice::from_raw_parts(data, view.count) })
}

/// Lets an array be written in place; where anybody else uses its memory, `array` becomes a copy first. It must be contiguous.
pub(super) fn write<T: Element>(array: &mut Array) -> Result<&mut [T]> {
    let mut view = View::default();
    // SAFETY: the handle is the array's.
    let status = unsafe { kr_mlx_write(array.as_ptr(), &raw mut view) };
    let data = view.checked::<T>(status)?;
    // SAFETY: so many elements of this type lie there, and only `array`, which is borrowed for as long, leads to them.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, view.count) })
}

/// Makes an array that holds whatever lay in its memory, to be written whole.
pub(super) fn fresh<T: Element>(shape: &[i32]) -> Result<Array> {
    let mut result = mlx_sys::mlx_array {
        ctx: std::ptr::null_mut(),
    };
    // SAFETY: the shape is valid for its length.
    let status = unsafe { kr_mlx_new(&raw mut result, shape.as_ptr(), dim(shape.len()), T::DTYPE) };
    if status != 0 {
        return Err("there is no memory for a kernel's result".into());
    }
    // SAFETY: on success the result is a handle that nobody else owns.
    Ok(unsafe { Array::from_ptr(result) })
}

#[repr(C)]
struct View {
    data: *mut c_void,
    count: usize,
    dtype: mlx_sys::mlx_dtype,
}

impl Default for View {
    fn default() -> Self {
        Self {
            data: std::ptr::null_mut(),
            count: 0,
            dtype: mlx_sys::mlx_dtype__MLX_BOOL,
        }
    }
}

impl View {
    fn checked<T: Element>(&self, status: c_int) -> Result<*mut T> {
        if status != 0 || self.dtype != T::DTYPE {
            return Err("a kernel's array could not be computed, is of another type or not contiguous".into());
        }
        Ok(match self.count {
            0 => std::ptr::NonNull::dangling().as_ptr(),
            _ => self.data.cast(),
        })
    }
}

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn kr_mlx_read(array: mlx_sys::mlx_array, view: *mut View) -> c_int;
    fn kr_mlx_write(array: mlx_sys::mlx_array, view: *mut View) -> c_int;
    fn kr_mlx_new(
        result: *mut mlx_sys::mlx_array,
        shape: *const c_int,
        rank: c_int,
        dtype: mlx_sys::mlx_dtype,
    ) -> c_int;
}

#[cfg(not(target_os = "linux"))]
use elsewhere::{kr_mlx_new, kr_mlx_read, kr_mlx_write};

/// Not linked elsewhere, and never called: see [`AVAILABLE`](super::AVAILABLE).
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{View, c_int};

    pub(super) unsafe fn kr_mlx_read(_: mlx_sys::mlx_array, _: *mut View) -> c_int {
        1
    }

    pub(super) unsafe fn kr_mlx_write(_: mlx_sys::mlx_array, _: *mut View) -> c_int {
        1
    }

    pub(super) unsafe fn kr_mlx_new(
        _: *mut mlx_sys::mlx_array,
        _: *const c_int,
        _: c_int,
        _: mlx_sys::mlx_dtype,
    ) -> c_int {
        1
    }
}

#[cfg(test)]
mod tests;
