//! A kernel in CUDA C++ as an operation of MLX's graph.
#![expect(unsafe_code, reason = "mlx-rs has no interface to CUDA kernels; mlx-c has")]

use std::ffi::{CStr, c_int};

use mlx_rs::error::Result;
use mlx_rs::{Array, Dtype, Stream};

/// A kernel's source with the names it uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) name: &'static CStr,
    pub(super) inputs: &'static [&'static CStr],
    /// The body of the kernel: inputs and `out` are pointers in it, template arguments constants.
    pub(super) body: &'static CStr,
}

/// One launch.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) inputs: &'a [&'a Array],
    pub(super) constants: &'a [(&'static CStr, i32)],
    /// Type `T` of the kernel and of its output.
    pub(super) dtype: Dtype,
    pub(super) output: &'a [i32],
    /// Blocks, each of so many threads.
    pub(super) blocks: i32,
    pub(super) threads: i32,
}

/// A kernel that was handed to MLX.
#[derive(Debug)]
pub(super) struct CudaKernel {
    raw: mlx_sys::mlx_fast_cuda_kernel,
}

impl CudaKernel {
    pub(super) fn new(source: Source) -> Self {
        let mut inputs: Vec<_> = source.inputs.iter().map(|name| name.as_ptr()).collect();
        let mut outputs = [c"out".as_ptr()];
        // SAFETY: all strings are static and end with a null byte; both vectors are copied and freed.
        let raw = unsafe {
            let inputs = mlx_sys::mlx_vector_string_new_data(inputs.as_mut_ptr(), inputs.len());
            let outputs = mlx_sys::mlx_vector_string_new_data(outputs.as_mut_ptr(), outputs.len());
            let header = c"".as_ptr();
            let raw = mlx_sys::mlx_fast_cuda_kernel_new(
                source.name.as_ptr(),
                inputs,
                outputs,
                source.body.as_ptr(),
                header,
                true,
                0,
            );
            mlx_sys::mlx_vector_string_free(inputs);
            mlx_sys::mlx_vector_string_free(outputs);
            raw
        };
        Self { raw }
    }

    /// Adds a launch to the graph.
    pub(super) fn launch(&self, launch: &Launch<'_>) -> Result<Array> {
        let config = Config::new(launch);
        let handles: Vec<_> = launch.inputs.iter().map(|array| array.as_ptr()).collect();
        let stream = Stream::thread_local_or_default();
        let mut results = mlx_sys::mlx_vector_array {
            ctx: std::ptr::null_mut(),
        };
        let mut result = mlx_sys::mlx_array {
            ctx: std::ptr::null_mut(),
        };
        // SAFETY: the handles are those of live arrays; MLX counts its own references to what the launch needs.
        let status = unsafe {
            let inputs = mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
            let mut status =
                mlx_sys::mlx_fast_cuda_kernel_apply(&raw mut results, self.raw, inputs, config.raw, stream.as_ptr());
            mlx_sys::mlx_vector_array_free(inputs);
            if status == 0 {
                status = mlx_sys::mlx_vector_array_get(&raw mut result, results, 0);
                mlx_sys::mlx_vector_array_free(results);
            }
            status
        };
        if status != 0 {
            return Err("MLX did not take a CUDA kernel".into());
        }
        // SAFETY: on success the result is a handle that nobody else owns.
        Ok(unsafe { Array::from_ptr(result) })
    }
}

impl Drop for CudaKernel {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once; launches keep what they need.
        unsafe { mlx_sys::mlx_fast_cuda_kernel_free(self.raw) };
    }
}

/// What MLX is told of a launch beside its inputs.
struct Config {
    raw: mlx_sys::mlx_fast_cuda_kernel_config,
}

impl Config {
    fn new(launch: &Launch<'_>) -> Self {
        // SAFETY: the setters copy what they are given.
        let raw = unsafe {
            let raw = mlx_sys::mlx_fast_cuda_kernel_config_new();
            let dtype = launch.dtype as mlx_sys::mlx_dtype;
            mlx_sys::mlx_fast_cuda_kernel_config_add_output_arg(
                raw,
                launch.output.as_ptr(),
                launch.output.len(),
                dtype,
            );
            // MLX counts threads, not blocks.
            let threads: c_int = launch.blocks * launch.threads;
            mlx_sys::mlx_fast_cuda_kernel_config_set_grid(raw, threads, 1, 1);
            mlx_sys::mlx_fast_cuda_kernel_config_set_thread_group(raw, launch.threads, 1, 1);
            mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_dtype(raw, c"T".as_ptr(), dtype);
            for (name, value) in launch.constants {
                mlx_sys::mlx_fast_cuda_kernel_config_add_template_arg_int(raw, name.as_ptr(), *value);
            }
            raw
        };
        Self { raw }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed once.
        unsafe { mlx_sys::mlx_fast_cuda_kernel_config_free(self.raw) };
    }
}
