//! A function of ours as an operation of MLX's graph.
#![expect(
    unsafe_code,
    reason = "hands slices of MLX's arrays to kernels through a C interface"
)]

use std::ffi::{c_int, c_void};

use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::layers::dim;

/// A result.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output<'a> {
    pub(super) shape: &'a [i32],
    /// The input of the same shape whose memory it takes over.
    pub(super) replaces: Option<usize>,
}

pub(super) fn fresh(shape: &[i32]) -> Output<'_> {
    Output { shape, replaces: None }
}

/// What a kernel computes from slices of its inputs; an input that the output replaces is empty.
type Compute = dyn Fn(&[&[f32]], &mut [f32]) + Send + Sync;

/// A kernel and the lengths of what it is called with.
struct Kernel {
    inputs: Vec<usize>,
    output: usize,
    compute: Box<Compute>,
}

#[repr(C)]
struct Function {
    context: *mut c_void,
    run: extern "C" fn(*mut c_void, *const *const f32, *mut f32),
    release: extern "C" fn(*mut c_void),
}

#[repr(C)]
struct RawOutput {
    shape: *const c_int,
    rank: c_int,
    replaces: c_int,
}

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn kr_mlx_cpu_call(
        result: *mut mlx_sys::mlx_array,
        output: RawOutput,
        inputs: *const mlx_sys::mlx_array,
        input_count: usize,
        function: Function,
    ) -> c_int;
}

/// Not linked elsewhere, and never called: see [`AVAILABLE`](super::AVAILABLE).
#[cfg(not(target_os = "linux"))]
unsafe fn kr_mlx_cpu_call(
    _: *mut mlx_sys::mlx_array,
    _: RawOutput,
    _: *const mlx_sys::mlx_array,
    _: usize,
    function: Function,
) -> c_int {
    (function.release)(function.context);
    1
}

/// Adds a call of `compute` to the graph. All inputs are float32 and contiguous.
pub(super) fn call(
    inputs: &[&Array],
    output: Output<'_>,
    compute: impl Fn(&[&[f32]], &mut [f32]) + Send + Sync + 'static,
) -> Result<Array> {
    let length = |(index, array): (usize, &&Array)| {
        if output.replaces == Some(index) {
            0
        } else {
            array.size()
        }
    };
    let kernel = Box::new(Kernel {
        inputs: inputs.iter().enumerate().map(length).collect(),
        output: output
            .shape
            .iter()
            .map(|length| length.unsigned_abs() as usize)
            .product(),
        compute: Box::new(compute),
    });
    let function = Function {
        context: Box::into_raw(kernel).cast(),
        run,
        release,
    };
    let raw_output = RawOutput {
        shape: output.shape.as_ptr(),
        rank: dim(output.shape.len()),
        replaces: output.replaces.map_or(-1, dim),
    };
    let handles: Vec<_> = inputs.iter().map(|array| array.as_ptr()).collect();
    let mut result = mlx_sys::mlx_array {
        ctx: std::ptr::null_mut(),
    };
    // SAFETY: the pointers are valid for the counts given with them during the call; the function is taken over.
    let status = unsafe { kr_mlx_cpu_call(&raw mut result, raw_output, handles.as_ptr(), handles.len(), function) };
    if status != 0 {
        return Err("a kernel's inputs or output have the wrong type or shape".into());
    }
    // SAFETY: on success the result is a handle that nobody else owns.
    Ok(unsafe { Array::from_ptr(result) })
}

/// Called by MLX, on its thread of the stream. A panic of a kernel ends the process.
extern "C" fn run(context: *mut c_void, inputs: *const *const f32, output: *mut f32) {
    // SAFETY: `call` made the context, and MLX releases it after the last run.
    let kernel = unsafe { &*context.cast::<Kernel>() };
    let slice = |(index, length): (usize, &usize)| match length {
        0 => &[],
        // SAFETY: `inputs` has a pointer for each array, to as many elements as it has; nobody writes them while this runs.
        _ => unsafe { std::slice::from_raw_parts(*inputs.add(index), *length) },
    };
    let inputs: Vec<&[f32]> = kernel.inputs.iter().enumerate().map(slice).collect();
    // SAFETY: as above, and the output belongs to this operation alone: an input that shares its memory is not handed out.
    let output = unsafe { std::slice::from_raw_parts_mut(output, kernel.output) };
    (kernel.compute)(&inputs, output);
}

extern "C" fn release(context: *mut c_void) {
    // SAFETY: `call` made the context from a box, and this is called once.
    drop(unsafe { Box::from_raw(context.cast::<Kernel>()) });
}
