//! Our own CPU kernels as operations of MLX's graph.
#![expect(
    unsafe_code,
    reason = "hands slices of MLX's arrays to kernels through a C interface"
)]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use kr_kernels::{Attention, Cache, Linear, Machine, RotaryTable, Span};
use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::attention::{Heads, Projections};
use crate::kv::LayerKv;

/// Kernels for float32 on the CPU backend. Cloning shares the threads.
#[derive(Debug, Clone)]
pub(crate) struct OwnKernels {
    machine: Arc<Machine>,
}

/// Whether the operation that calls kernels is linked.
pub(crate) const AVAILABLE: bool = cfg!(target_os = "linux");

impl OwnKernels {
    /// Starts `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize) -> Self {
        let machine = Arc::new(Machine::new(threads));
        Self { machine }
    }

    /// The name in the numerics fingerprint.
    pub(crate) fn name(&self) -> String {
        format!("kr-{}", self.machine.instructions.name())
    }

    /// `x`: `[rows, inputs]`, `weight`: `[outputs, inputs]`, `bias`: `[outputs]` → `[rows, outputs]`.
    pub(crate) fn linear(&self, x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        let inputs = weight.dim(1).unsigned_abs() as usize;
        let shape = [x.dim(0), weight.dim(0)];
        let mut arrays = vec![x, weight];
        arrays.extend(bias);
        one(&arrays, &shape, move |arrays, out| {
            let product = Linear {
                x: arrays[0],
                weight: arrays[1],
                bias: arrays.get(2).copied(),
                inputs,
            };
            kr_kernels::linear(&machine, product, out);
        })
    }

    /// `x`: `[rows, width]`, `weight`: `[width]` → the shape of `x`.
    pub(crate) fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        one(&[x, weight], x.shape(), move |arrays, out| {
            kr_kernels::rms_norm(&machine, arrays[0], arrays[1], eps, out);
        })
    }

    /// `gate`, `up`: one shape → `silu(gate) * up`.
    pub(crate) fn swiglu(&self, gate: &Array, up: &Array) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        one(&[gate, up], gate.shape(), move |arrays, out| {
            kr_kernels::swiglu(&machine, arrays[0], arrays[1], out);
        })
    }

    /// Rotates, writes and attends for the spans of one bucket, whose cache is updated in place. `new` is not rotated. Returns
    /// `[tokens, heads * head_dim]`, the tokens of other spans taken from `others`, or not set where there is none.
    pub(crate) fn attention(
        &self,
        rotary: &Rotary,
        spans: &Arc<[Span]>,
        new: &Projections,
        others: Option<Array>,
        kv: &mut LayerKv,
    ) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        let (rotary, spans) = (rotary.clone(), Arc::clone(spans));
        let Heads { heads, head_dim, .. } = rotary.heads;
        let capacity = kv.keys.dim(2).unsigned_abs() as usize;
        let (keys, values) = (take(&mut kv.keys), take(&mut kv.values));
        let shapes = [
            vec![new.q.dim(0), heads * head_dim],
            keys.shape().to_vec(),
            values.shape().to_vec(),
        ];
        let mut arrays = vec![&new.q, &new.k, &new.v, &keys, &values];
        arrays.extend(&others);
        let outputs = [
            Output::new(&shapes[0], others.as_ref().map(|_| 5)),
            Output::new(&shapes[1], Some(3)),
            Output::new(&shapes[2], Some(4)),
        ];
        let called = call(&arrays, &outputs, move |arrays, outputs| {
            let attention = Attention {
                heads: rotary.heads.heads.unsigned_abs() as usize,
                kv_heads: rotary.heads.kv_heads.unsigned_abs() as usize,
                head_dim: rotary.heads.head_dim.unsigned_abs() as usize,
                rotary: &rotary.table,
                q: arrays[0],
                k: arrays[1],
                v: arrays[2],
            };
            if let [out, keys, values] = outputs {
                let cache = Cache { keys, values, capacity };
                attention.run(&machine, &spans, cache, out);
            }
        });
        let Ok([out, new_keys, new_values]) = called.map(<[Array; 3]>::try_from)? else {
            return Err("a kernel has the wrong number of results".into());
        };
        (kv.keys, kv.values) = (new_keys, new_values);
        Ok(out)
    }
}

/// The angles of rotary positions, for heads of one shape. Cloning shares the table.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    pub(crate) heads: Heads,
    pub(crate) table: Arc<RotaryTable>,
}

/// Leaves nothing behind that holds on to the array's memory.
fn take(array: &mut Array) -> Array {
    std::mem::replace(array, Array::from_f32(0.0))
}

/// A result of a call, as the C interface wants it.
#[repr(C)]
struct Output<'a> {
    shape: *const c_int,
    rank: c_int,
    replaces: c_int,
    _shape: std::marker::PhantomData<&'a [i32]>,
}

impl<'a> Output<'a> {
    fn new(shape: &'a [i32], replaces: Option<usize>) -> Self {
        Self {
            shape: shape.as_ptr(),
            rank: crate::layers::dim(shape.len()),
            replaces: replaces.map_or(-1, crate::layers::dim),
            _shape: std::marker::PhantomData,
        }
    }

    fn elements(&self) -> usize {
        // SAFETY: made from a slice that is still borrowed.
        let shape = unsafe { std::slice::from_raw_parts(self.shape, self.rank.unsigned_abs() as usize) };
        shape.iter().map(|length| length.unsigned_abs() as usize).product()
    }
}

/// What a kernel computes from slices of its inputs; an input that an output replaces is empty.
type Compute = dyn Fn(&[&[f32]], &mut [&mut [f32]]) + Send + Sync;

/// A kernel and the lengths of what it is called with.
struct Kernel {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    compute: Box<Compute>,
}

#[repr(C)]
struct Function {
    context: *mut c_void,
    run: extern "C" fn(*mut c_void, *const *const f32, *const *mut f32),
    release: extern "C" fn(*mut c_void),
}

#[cfg(target_os = "linux")]
unsafe extern "C" {
    fn kr_mlx_cpu_call(
        results: *mut mlx_sys::mlx_array,
        outputs: *const Output<'_>,
        output_count: usize,
        inputs: *const mlx_sys::mlx_array,
        input_count: usize,
        function: Function,
    ) -> c_int;
}

/// Not linked elsewhere, and never called: see [`AVAILABLE`].
#[cfg(not(target_os = "linux"))]
unsafe fn kr_mlx_cpu_call(
    _: *mut mlx_sys::mlx_array,
    _: *const Output<'_>,
    _: usize,
    _: *const mlx_sys::mlx_array,
    _: usize,
    function: Function,
) -> c_int {
    (function.release)(function.context);
    1
}

fn one(
    inputs: &[&Array],
    shape: &[i32],
    compute: impl Fn(&[&[f32]], &mut [f32]) + Send + Sync + 'static,
) -> Result<Array> {
    let outputs = [Output::new(shape, None)];
    let mut results = call(inputs, &outputs, move |inputs, outputs| {
        if let [out] = outputs {
            compute(inputs, out);
        }
    })?;
    Ok(results.swap_remove(0))
}

/// Adds a call of `compute` to the graph. All inputs are float32 and contiguous.
fn call(
    inputs: &[&Array],
    outputs: &[Output<'_>],
    compute: impl Fn(&[&[f32]], &mut [&mut [f32]]) + Send + Sync + 'static,
) -> Result<Vec<Array>> {
    let replaced = |index| {
        outputs
            .iter()
            .any(|output| output.replaces == crate::layers::dim(index))
    };
    let lengths = inputs.iter().enumerate();
    let kernel = Box::new(Kernel {
        inputs: lengths
            .map(|(index, array)| if replaced(index) { 0 } else { array.size() })
            .collect(),
        outputs: outputs.iter().map(Output::elements).collect(),
        compute: Box::new(compute),
    });
    let function = Function {
        context: Box::into_raw(kernel).cast(),
        run,
        release,
    };
    let handles: Vec<_> = inputs.iter().map(|array| array.as_ptr()).collect();
    let mut results = vec![
        mlx_sys::mlx_array {
            ctx: std::ptr::null_mut()
        };
        outputs.len()
    ];
    // SAFETY: the pointers are valid for the counts given with them during the call; the function is taken over.
    let status = unsafe {
        let (results, outputs) = (results.as_mut_ptr(), (outputs.as_ptr(), outputs.len()));
        kr_mlx_cpu_call(results, outputs.0, outputs.1, handles.as_ptr(), handles.len(), function)
    };
    if status != 0 {
        return Err("a kernel's inputs or outputs have the wrong type or shape".into());
    }
    // SAFETY: on success every result is a handle that nobody else owns.
    Ok(results
        .into_iter()
        .map(|array| unsafe { Array::from_ptr(array) })
        .collect())
}

/// Called by MLX, on its thread of the stream. A panic of a kernel ends the process.
extern "C" fn run(context: *mut c_void, inputs: *const *const f32, outputs: *const *mut f32) {
    // SAFETY: `call` made the context, and MLX releases it after the last run.
    let kernel = unsafe { &*context.cast::<Kernel>() };
    let slice = |(index, length): (usize, &usize)| match length {
        0 => &[],
        // SAFETY: `inputs` has a pointer for each array, to as many elements as it has; nobody writes them while this runs.
        _ => unsafe { std::slice::from_raw_parts(*inputs.add(index), *length) },
    };
    let inputs: Vec<&[f32]> = kernel.inputs.iter().enumerate().map(slice).collect();
    let slice = |(index, length): (usize, &usize)| {
        // SAFETY: as above, and outputs belong to this operation alone: an input that shares one's memory is not handed out.
        unsafe { std::slice::from_raw_parts_mut(*outputs.add(index), *length) }
    };
    let mut outputs: Vec<&mut [f32]> = kernel.outputs.iter().enumerate().map(slice).collect();
    (kernel.compute)(&inputs, &mut outputs);
}

extern "C" fn release(context: *mut c_void) {
    // SAFETY: `call` made the context from a box, and this is called once.
    drop(unsafe { Box::from_raw(context.cast::<Kernel>()) });
}
