//! The gate of feed-forward layers in one launch.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::kernel::{CudaKernel, Launch, Source};
use crate::layers::dim;

const THREADS: i32 = 256;

thread_local! {
    static SWIGLU: CudaKernel = CudaKernel::new(Source {
        name: c"kr_swiglu",
        inputs: &[c"gate", c"up"],
        body: c"
            const long index = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x;
            if (index < static_cast<long>(gate_shape[0]) * gate_shape[1]) {
              const float g = static_cast<float>(gate[index]);
              out[index] = static_cast<T>(g / (1.0f + __expf(-g)) * static_cast<float>(up[index]));
            }",
    });
}

/// `g · sigmoid(g) · u`, computed in float32 and rounded once. `gate`, `up`: `[tokens, width]` → the same shape.
pub(crate) fn swiglu(gate: &Array, up: &Array) -> Result<Array> {
    let launch = Launch {
        inputs: &[gate, up],
        constants: &[],
        dtype: gate.dtype(),
        output: gate.shape(),
        blocks: dim(gate.size().div_ceil(THREADS.unsigned_abs() as usize)),
        threads: THREADS,
    };
    SWIGLU.with(|kernel| kernel.launch(&launch))
}
