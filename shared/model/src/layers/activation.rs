//! The gate of feed-forward layers.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::sigmoid;

use super::Linear;

/// `silu(gate(x)) · up(x)` with `silu(g) = g · sigmoid(g)` (Shazeer 2020, arXiv 2002.05202). `x`: `[tokens, inputs]` →
/// `[tokens, outputs]`.
pub(crate) fn swiglu(gate: &Linear, up: &Linear, x: &Array) -> Result<Array> {
    if let (Some((own, gate)), Some((_, up))) = (gate.own_weight(), up.own_weight()) {
        return own.gated(x, [gate, up]);
    }
    let (gate, up) = (gate.forward(x)?, up.forward(x)?);
    sigmoid(&gate)?.multiply(gate)?.multiply(up)
}
