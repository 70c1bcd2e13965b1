//! Decode attention in one launch.

use std::rc::Rc;

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::kernel::{CudaKernel, Launch, Source};
use crate::attention::Heads;
use crate::kv::LayerKv;
use crate::layers::dim;
use crate::step::Decodes;

const THREADS: i32 = 256;
/// Query elements that one thread keeps in registers at most.
const MAX_KEPT: i32 = 32;

const SOURCE: Source = Source {
    name: c"kr_decode_attention",
    inputs: &[
        c"q",
        c"k",
        c"v",
        c"keys",
        c"values",
        c"offsets",
        c"rows",
        c"positions",
        c"periods",
        c"scales",
    ],
    body: match std::ffi::CStr::from_bytes_with_nul(concat!(include_str!("decode_attention.cu"), "\0").as_bytes()) {
        Ok(body) => body,
        Err(_) => c"",
    },
};

/// Rotary attention of single tokens. Cloning shares the kernel.
#[derive(Debug, Clone)]
pub(crate) struct DecodeAttention {
    kernel: Rc<CudaKernel>,
    heads: Heads,
    window: i32,
    /// `[turned / 2]`, float32.
    periods: Array,
    /// Of products of queries and keys, and of turned elements.
    scales: Array,
}

/// How queries and keys are treated.
#[derive(Debug)]
pub(crate) struct Decoding<'a> {
    pub(crate) heads: Heads,
    /// `[turned / 2]`, float32: at position p a pair is turned by p / period.
    pub(crate) periods: &'a Array,
    pub(crate) turned_scale: f32,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
}

impl DecodeAttention {
    /// Returns `None` where the kernel has no form for these heads.
    pub(crate) fn new(decoding: &Decoding<'_>) -> Option<Self> {
        let Heads {
            heads,
            kv_heads,
            head_dim,
        } = decoding.heads;
        let kept = heads / kv_heads * head_dim / 32;
        if !matches!(head_dim, 32 | 64 | 128 | 256) || kept > MAX_KEPT {
            return None;
        }
        Some(Self {
            kernel: Rc::new(CudaKernel::new(SOURCE)),
            heads: decoding.heads,
            window: decoding.window.map_or(0, dim),
            periods: decoding.periods.clone(),
            scales: Array::from_slice(&[decoding.scale, decoding.turned_scale], &[2]),
        })
    }

    /// The same over the last `window` positions; `None` for all.
    pub(crate) fn within(&self, window: Option<usize>) -> Self {
        let window = window.map_or(0, dim);
        Self { window, ..self.clone() }
    }

    /// Writes each token's key and value and attends. `[q, k, v]`: `[tokens, heads, head_dim]` of the whole step, not turned. Returns `[decodes, heads * head_dim]`.
    pub(crate) fn forward(&self, [q, k, v]: &[Array; 3], decodes: &Decodes, kv: &LayerKv) -> Result<Array> {
        let Heads {
            heads,
            kv_heads,
            head_dim,
        } = self.heads;
        let count = decodes.rows.dim(0);
        self.kernel.launch(&Launch {
            inputs: &[
                q,
                k,
                v,
                &kv.keys,
                &kv.values,
                &decodes.offsets,
                &decodes.rows,
                &decodes.positions,
                &self.periods,
                &self.scales,
            ],
            constants: &[
                (c"HEADS", heads),
                (c"KV_HEADS", kv_heads),
                (c"HEAD_DIM", head_dim),
                (c"TURNED", self.periods.dim(0) * 2),
                (c"WINDOW", self.window),
            ],
            dtype: q.dtype(),
            output: &[count, heads * head_dim],
            blocks: count * kv_heads,
            threads: THREADS,
        })
    }
}
