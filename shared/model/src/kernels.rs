//! Our own CPU kernels as operations of MLX's graph.
#![expect(
    unsafe_code,
    reason = "hands slices of MLX's arrays to kernels through a C interface"
)]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use kr_kernels::{
    Attention, CacheShape, Machine, RotaryTable, Rows, Span, TokenPart, Weight, write_keys, write_values,
};
use mlx_rs::Array;
use mlx_rs::error::Result;

use crate::attention::Heads;
use crate::kv::LayerKv;
use crate::layers::{Part, dim};

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

    /// Several layers side by side, onto `residual`. `x`: `[rows, inputs]` → `[rows, outputs of all]`, the shape of `residual`.
    pub(crate) fn linear(&self, x: &Array, weights: &[OwnWeight<'_>], residual: Option<&Array>) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        let width = x.dim(1).unsigned_abs() as usize;
        let shape = [x.dim(0), weights.iter().map(|weight| weight.matrix.dim(0)).sum()];
        let (mut arrays, biased) = with_weights(x, weights);
        arrays.extend(residual);
        call(&arrays, fresh(&shape), move |arrays, out| {
            let x = Rows {
                values: arrays[0],
                width,
            };
            let (weights, rest) = weights_of(&arrays[1..], &biased);
            kr_kernels::linear(&machine, x, &weights, rest.first().copied(), out);
        })
    }

    /// `g · sigmoid(g) · u` of the layers `[g, u]`. `x`: `[rows, inputs]` → `[rows, outputs]`.
    pub(crate) fn gated(&self, x: &Array, weights: [OwnWeight<'_>; 2]) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        let width = x.dim(1).unsigned_abs() as usize;
        let shape = [x.dim(0), weights[0].matrix.dim(0)];
        let (arrays, biased) = with_weights(x, &weights);
        call(&arrays, fresh(&shape), move |arrays, out| {
            let x = Rows {
                values: arrays[0],
                width,
            };
            if let [gate, up] = weights_of(&arrays[1..], &biased).0[..] {
                kr_kernels::gated(&machine, x, [gate, up], out);
            }
        })
    }

    /// `x`: `[rows, width]`, `weight`: `[width]` → the shape of `x`.
    pub(crate) fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        let machine = Arc::clone(&self.machine);
        call(&[x, weight], fresh(x.shape()), move |arrays, out| {
            kr_kernels::rms_norm(&machine, arrays[0], arrays[1], eps, out);
        })
    }

    /// Writes keys and values of the spans of one bucket, in place, and attends. Queries and keys are not rotated.
    /// Returns `[tokens, heads * head_dim]`, the tokens of other spans taken from `others`, or not set where there is none.
    pub(crate) fn attention(
        &self,
        rotary: &Rotary,
        spans: &Arc<[Span]>,
        [q, k, v]: [&Part; 3],
        others: Option<Array>,
        kv: &mut LayerKv,
    ) -> Result<Array> {
        let cache = rotary.heads.cache(kv);
        let (table, places) = (Arc::clone(&rotary.table), Arc::clone(spans));
        update(&mut kv.keys, k, move |k, keys| {
            write_keys(cache, &table, &places, k, keys)
        })?;
        let places = Arc::clone(spans);
        update(&mut kv.values, v, move |v, values| {
            write_values(cache, &places, v, values)
        })?;
        let (table, spans) = (Arc::clone(&rotary.table), Arc::clone(spans));
        let (machine, heads) = (Arc::clone(&self.machine), rotary.heads);
        let shape = [q.rows.dim(0), heads.heads * heads.head_dim];
        let place = PartPlace::of(q);
        let mut inputs = vec![&q.rows, &kv.keys, &kv.values];
        inputs.extend(&others);
        let output = Output {
            shape: &shape,
            replaces: others.as_ref().map(|_| 3),
        };
        call(&inputs, output, move |arrays, out| {
            let attention = Attention {
                heads: heads.heads.unsigned_abs() as usize,
                rotary: &table,
                q: place.within(arrays[0]),
                cache,
                keys: arrays[1],
                values: arrays[2],
            };
            attention.run(&machine, &spans, out);
        })
    }
}

impl Heads {
    fn cache(self, kv: &LayerKv) -> CacheShape {
        CacheShape {
            kv_heads: self.kv_heads.unsigned_abs() as usize,
            capacity: kv.keys.dim(2).unsigned_abs() as usize,
            head_dim: self.head_dim.unsigned_abs() as usize,
        }
    }
}

/// A layer's weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnWeight<'a> {
    /// `[outputs, inputs]`.
    pub(crate) matrix: &'a Array,
    /// `[outputs]`.
    pub(crate) bias: Option<&'a Array>,
}

impl<'a> OwnWeight<'a> {
    pub(crate) fn new(matrix: &'a Array) -> Self {
        Self { matrix, bias: None }
    }
}

/// `x` and the weights in a row, and which of them have a bias behind them.
fn with_weights<'a>(x: &'a Array, weights: &[OwnWeight<'a>]) -> (Vec<&'a Array>, Vec<bool>) {
    let mut arrays = vec![x];
    for weight in weights {
        arrays.push(weight.matrix);
        arrays.extend(weight.bias);
    }
    (arrays, weights.iter().map(|weight| weight.bias.is_some()).collect())
}

/// The weights of [`with_weights`] as a kernel gets them, and what comes after them.
fn weights_of<'a, 'b>(mut slices: &'b [&'a [f32]], biased: &[bool]) -> (Vec<Weight<'a>>, &'b [&'a [f32]]) {
    let mut weights = Vec::with_capacity(biased.len());
    for biased in biased {
        let (own, rest) = slices.split_at(1 + usize::from(*biased));
        weights.push(Weight {
            matrix: own[0],
            bias: own.get(1).copied(),
        });
        slices = rest;
    }
    (weights, slices)
}

/// Where a [`Part`] lies, without its array.
#[derive(Debug, Clone, Copy)]
struct PartPlace {
    offset: usize,
    stride: usize,
}

impl PartPlace {
    fn of(part: &Part) -> Self {
        Self {
            offset: part.offset,
            stride: part.rows.dim(1).unsigned_abs() as usize,
        }
    }

    fn within(self, values: &[f32]) -> TokenPart<'_> {
        TokenPart {
            values,
            offset: self.offset,
            stride: self.stride,
        }
    }
}

/// The angles of rotary positions, for heads of one shape. Cloning shares the table.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    pub(crate) heads: Heads,
    pub(crate) table: Arc<RotaryTable>,
}

/// A result.
#[derive(Debug, Clone, Copy)]
struct Output<'a> {
    shape: &'a [i32],
    /// The input of the same shape whose memory it takes over.
    replaces: Option<usize>,
}

fn fresh(shape: &[i32]) -> Output<'_> {
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

/// Not linked elsewhere, and never called: see [`AVAILABLE`].
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

/// Replaces `array` by what `compute` makes of it and `input`; in place, because no handle to the old one is left behind.
fn update(
    array: &mut Array,
    input: &Part,
    compute: impl Fn(TokenPart<'_>, &mut [f32]) + Send + Sync + 'static,
) -> Result<()> {
    let old = std::mem::replace(array, Array::from_f32(0.0));
    let shape = old.shape().to_vec();
    let output = Output {
        shape: &shape,
        replaces: Some(1),
    };
    let place = PartPlace::of(input);
    let inputs = [&input.rows, &old];
    *array = call(&inputs, output, move |inputs, out| {
        compute(place.within(inputs[0]), out)
    })?;
    Ok(())
}

/// Adds a call of `compute` to the graph. All inputs are float32 and contiguous.
fn call(
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
