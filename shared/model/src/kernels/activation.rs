//! Gates whose layers are not computed together with them.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::OwnKernels;
use super::memory::{fresh, read, write};
use crate::layers::{Activation, Part, dim};

impl OwnKernels {
    /// `activation(gate) · up`, element by element. Both parts are `width` wide → `[tokens, width]`.
    pub(crate) fn gate(activation: Activation, [gate, up]: [&Part; 2], width: usize) -> Result<Array> {
        let mut out = fresh::<f32>(&[gate.rows.dim(0), dim(width)])?;
        let function = match activation {
            Activation::Silu => silu,
            Activation::GeluTanh => gelu_tanh,
        };
        let rows = write::<f32>(&mut out)?.chunks_exact_mut(width);
        for ((out, gate), up) in rows.zip(columns(gate, width)?).zip(columns(up, width)?) {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = function(*gate) * up;
            }
        }
        Ok(out)
    }
}

/// The part's slice of each row.
fn columns(part: &Part, width: usize) -> Result<impl Iterator<Item = &[f32]>> {
    let (offset, stride) = (part.offset, part.rows.dim(1).unsigned_abs() as usize);
    let rows = read::<f32>(&part.rows)?.chunks_exact(stride);
    Ok(rows.map(move |row| &row[offset..offset + width]))
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// Hendrycks and Gimpel 2016, arXiv 1606.08415: the approximation by a hyperbolic tangent, `(1 + tanh u) / 2` written as
/// `sigmoid(2u)`.
fn gelu_tanh(x: f32) -> f32 {
    let twice = 2.0 * std::f32::consts::FRAC_2_PI.sqrt();
    x / (1.0 + (-twice * (x + 0.044_715 * x * x * x)).exp())
}

#[cfg(test)]
mod tests {
    use super::gelu_tanh;

    #[test]
    fn gelu_is_its_approximation_by_a_hyperbolic_tangent() {
        for step in -2000..=2000_i16 {
            let x = f64::from(step) / 100.0;
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3));
            let expected = 0.5 * x * (1.0 + inner.tanh());
            let found = f64::from(gelu_tanh(f32::from(step) / 100.0));
            assert!((found - expected).abs() <= 2e-6 * x.abs(), "{x}: {found}, {expected}");
        }
    }
}
