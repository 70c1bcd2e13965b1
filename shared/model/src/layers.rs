//! The layers that architectures are made of, over weights of either form: dense or quantised in groups.
//!
//! Activations are `[tokens, width]`: the tokens of all sequences of a step in one flat batch, so that every matrix product sees
//! all of them.

use std::sync::Arc;

use kr_kernels::RotaryTable;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{addmm, dequantize, quantized_matmul, sigmoid};
use mlx_rs::{Array, Dtype, fast};

use crate::attention::{Heads, RotaryAttention};
use crate::config::{Quantization, Scheme};
use crate::error;
use crate::kernels::{OwnKernels, OwnWeight, Rotary};

use crate::weights::Weights;

/// A length of an array. Configurations are checked to be far below the limit.
pub(crate) fn dim(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

/// Loads layers by their names in the checkpoint.
#[derive(Debug)]
pub(crate) struct LayerLoader<'a> {
    pub(crate) weights: &'a mut Weights,
    pub(crate) quantization: Option<&'a Quantization>,
    /// Type of activations and of dense weights.
    pub(crate) dtype: Dtype,
    /// Kernels of our own, where they can be used.
    pub(crate) own: Option<OwnKernels>,
    /// Positions that can occur.
    pub(crate) positions: usize,
    /// Counts weights, packed ones as what they stand for.
    pub(crate) parameters: u64,
    /// Whether a layer's products are left to MLX.
    pub(crate) uses_mlx_products: bool,
}

/// The shape of a matrix as checkpoints store it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixShape {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
}

impl LayerLoader<'_> {
    /// `{name}.weight` of `shape.rows` outputs and `shape.columns` inputs, and `{name}.bias` where `bias` says so.
    pub(crate) fn linear(&mut self, name: &str, shape: MatrixShape, bias: bool) -> error::Result<Linear> {
        let weight = self.matrix(name, shape)?;
        let bias_name = format!("{name}.bias");
        if !bias {
            self.weights
                .refuse(&bias_name, "is there, but config.json says this layer has no bias")?;
            return Ok(Linear { weight, bias: None });
        }
        self.parameters += u64::from(shape.rows);
        let bias = self.weights.dense(&bias_name, &[shape.rows], self.dtype)?;
        Ok(Linear {
            weight,
            bias: Some(bias),
        })
    }

    /// `{name}.weight`, one row for each token of the vocabulary.
    pub(crate) fn embedding(&mut self, name: &str, shape: MatrixShape) -> error::Result<Embedding> {
        let weight = self.matrix(name, shape)?;
        Ok(Embedding { weight })
    }

    /// `{name}.weight` of `width` elements.
    pub(crate) fn rms_norm(&mut self, name: &str, width: u32, eps: f32) -> error::Result<RmsNorm> {
        self.parameters += u64::from(width);
        let weight = self.weights.dense(&format!("{name}.weight"), &[width], self.dtype)?;
        let own = self.own.clone();
        Ok(RmsNorm { weight, eps, own })
    }

    /// Attention with rotary positions of base `theta`, for all layers.
    pub(crate) fn rotary_attention(&self, heads: Heads, theta: f64) -> RotaryAttention {
        let rope = Rope::new(heads.head_dim.unsigned_abs(), theta);
        let own = self.own.clone().map(|kernels| {
            let table = Arc::new(RotaryTable::new(&rope.periods, self.positions));
            (kernels, Rotary { heads, table })
        });
        RotaryAttention { heads, rope, own }
    }

    fn matrix(&mut self, name: &str, shape: MatrixShape) -> error::Result<Matrix> {
        self.parameters += u64::from(shape.rows) * u64::from(shape.columns);
        let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
        match self.quantization.and_then(|quantization| quantization.scheme(name)) {
            Some(scheme) if self.weights.contains(&scales) => self.quantized(name, shape, scheme),
            _ => {
                self.weights.refuse(
                    &scales,
                    "is there, but config.json's `quantization` does not say how this layer is packed",
                )?;
                let weight = self.weights.dense(&weight, &[shape.rows, shape.columns], self.dtype)?;
                Ok(Matrix::dense(weight, self.own.clone()))
            }
        }
    }

    fn quantized(&mut self, name: &str, shape: MatrixShape, scheme: Scheme) -> error::Result<Matrix> {
        let MatrixShape { rows, columns } = shape;
        let groups = columns / scheme.group_size;
        let packed = columns * scheme.bits / 32;
        self.uses_mlx_products = true;

        Ok(Matrix::Quantized {
            weight: self.weights.packed(&format!("{name}.weight"), &[rows, packed])?,
            scales: self.weights.float(&format!("{name}.scales"), &[rows, groups])?,
            biases: self.weights.float(&format!("{name}.biases"), &[rows, groups])?,
            group_size: scheme.group_size.cast_signed(),
            bits: scheme.bits.cast_signed(),
            dtype: self.dtype,
        })
    }
}

/// A matrix `[rows, columns]`.
#[derive(Debug)]
enum Matrix {
    Dense {
        weight: Array,
        /// A view of `weight`: `[columns, rows]`.
        transposed: Array,
        own: Option<OwnKernels>,
    },
    Quantized {
        weight: Array,
        scales: Array,
        biases: Array,
        group_size: i32,
        bits: i32,
        /// Type of the results: scales may be of a wider one.
        dtype: Dtype,
    },
}

impl Matrix {
    fn dense(weight: Array, own: Option<OwnKernels>) -> Self {
        let transposed = weight.t();
        Self::Dense {
            weight,
            transposed,
            own,
        }
    }

    /// `x`: `[tokens, columns]` → `[tokens, rows]`.
    fn project(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense {
                weight, own: Some(own), ..
            } => own.linear(x, &[OwnWeight::new(weight)], None),
            Self::Dense { transposed, .. } => x.matmul(transposed),
            Self::Quantized {
                weight,
                scales,
                biases,
                group_size,
                bits,
                dtype,
            } => quantized_matmul(x, weight, scales, biases, true, *group_size, *bits)?.as_dtype(*dtype),
        }
    }

    /// `ids`: `[tokens]` → `[tokens, columns]`.
    fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Self::Dense { weight, .. } => weight.take_axis(ids, 0),
            Self::Quantized {
                weight,
                scales,
                biases,
                group_size,
                bits,
                dtype,
            } => {
                let (weight, scales) = (weight.take_axis(ids, 0)?, scales.take_axis(ids, 0)?);
                let biases = biases.take_axis(ids, 0)?;
                dequantize(&weight, &scales, &biases, *group_size, *bits)?.as_dtype(*dtype)
            }
        }
    }
}

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    bias: Option<Array>,
}

impl Linear {
    /// `x`: `[tokens, inputs]` → `[tokens, outputs]`.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        if let Some((own, weight)) = self.own_weight() {
            return own.linear(x, &[weight], None);
        }
        match (&self.weight, &self.bias) {
            (weight, None) => weight.project(x),
            (Matrix::Dense { transposed, .. }, Some(bias)) => addmm(bias, x, transposed, None, None),
            (weight, Some(bias)) => weight.project(x)?.add(bias),
        }
    }

    /// `residual + y`. `x`: `[tokens, inputs]`, `residual`: `[tokens, outputs]` → the shape of `residual`.
    pub(crate) fn forward_onto(&self, residual: &Array, x: &Array) -> Result<Array> {
        match self.own_weight() {
            Some((own, weight)) => own.linear(x, &[weight], Some(residual)),
            None => residual.add(self.forward(x)?),
        }
    }

    /// The weights as our own kernels take them, where they can.
    fn own_weight(&self) -> Option<(&OwnKernels, OwnWeight<'_>)> {
        match &self.weight {
            Matrix::Dense {
                weight, own: Some(own), ..
            } => {
                let bias = self.bias.as_ref();
                Some((own, OwnWeight { matrix: weight, bias }))
            }
            _ => None,
        }
    }
}

/// A part of each row of an array: what one of several layers makes of a token.
#[derive(Debug)]
pub(crate) struct Part {
    /// `[tokens, stride]`.
    pub(crate) rows: Array,
    /// Where the part begins in a row.
    pub(crate) offset: usize,
}

impl Part {
    /// `[tokens, heads, head_dim]`.
    pub(crate) fn heads(&self, heads: i32, head_dim: i32) -> Result<Array> {
        let (tokens, start) = (self.rows.dim(0), dim(self.offset));
        let part = self.rows.try_index((.., start..start + heads * head_dim))?;
        part.reshape(&[tokens, heads, head_dim])
    }
}

/// Several layers over the same `x`: `[tokens, inputs]`.
pub(crate) fn project<const N: usize>(layers: [&Linear; N], x: &Array) -> Result<[Part; N]> {
    let mut parts = Vec::with_capacity(N);
    let own: Option<Vec<_>> = layers.iter().map(|layer| layer.own_weight()).collect();
    if let Some((own, _)) = own.as_ref().and_then(|own| own.first()) {
        let weights: Vec<_> = layers.iter().filter_map(|layer| Some(layer.own_weight()?.1)).collect();
        let rows = own.linear(x, &weights, None)?;
        let mut offset = 0;
        for weight in weights {
            let rows = rows.clone();
            parts.push(Part { rows, offset });
            offset += weight.matrix.dim(0).unsigned_abs() as usize;
        }
    } else {
        for layer in layers {
            let rows = layer.forward(x)?;
            parts.push(Part { rows, offset: 0 });
        }
    }
    parts.try_into().map_err(|_| "a layer is missing".into())
}

/// `silu(gate(x)) · up(x)` with `silu(g) = g · sigmoid(g)` (Shazeer 2020, arXiv 2002.05202). `x`: `[tokens, inputs]` →
/// `[tokens, outputs]`.
pub(crate) fn swiglu(gate: &Linear, up: &Linear, x: &Array) -> Result<Array> {
    if let (Some((own, gate)), Some((_, up))) = (gate.own_weight(), up.own_weight()) {
        return own.gated(x, [gate, up]);
    }
    let (gate, up) = (gate.forward(x)?, up.forward(x)?);
    sigmoid(&gate)?.multiply(gate)?.multiply(up)
}

/// Token vectors.
#[derive(Debug)]
pub(crate) struct Embedding {
    weight: Matrix,
}

impl Embedding {
    /// `ids`: `[tokens]` → `[tokens, hidden]`. Ids must be within the vocabulary.
    pub(crate) fn forward(&self, ids: &Array) -> Result<Array> {
        self.weight.rows(ids)
    }

    /// The embedding as output layer: `x`: `[tokens, hidden]` → `[tokens, vocabulary]`.
    pub(crate) fn as_linear(&self, x: &Array) -> Result<Array> {
        self.weight.project(x)
    }
}

/// Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Array,
    eps: f32,
    own: Option<OwnKernels>,
}

impl RmsNorm {
    /// `x`: `[tokens, width]` → the same shape.
    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        match &self.own {
            Some(own) => own.rms_norm(x, &self.weight, self.eps),
            None => fast::rms_norm(x, Some(&self.weight), self.eps),
        }
    }
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves rotated against each other as in Hugging Face's
/// implementation.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    head_dim: i32,
    /// θ^(2i / head_dim) for each pair i of a head.
    periods: Vec<f64>,
    /// `[head_dim / 2]`: the same, float32.
    frequencies: Array,
}

impl Rope {
    pub(crate) fn new(head_dim: u32, theta: f64) -> Self {
        let periods: Vec<f64> = (0..head_dim / 2)
            .map(|index| theta.powf(f64::from(2 * index) / f64::from(head_dim)))
            .collect();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounds to the type that is computed with"
        )]
        let rounded: Vec<f32> = periods.iter().map(|period| *period as f32).collect();
        Self {
            head_dim: head_dim.cast_signed(),
            periods,
            frequencies: Array::from_slice(&rounded, &[dim(rounded.len())]),
        }
    }

    /// `x`: `[tokens, heads, head_dim]`, `positions`: `[tokens]`, int32 → the shape of `x`.
    pub(crate) fn forward(&self, x: &Array, positions: &Array) -> Result<Array> {
        let shape = x.shape().to_vec();
        let rows = x.reshape(&[shape[0], shape[1], 1, shape[2]])?;
        fast::rope_dynamic(&rows, self.head_dim, false, None, 1.0, positions, &self.frequencies)?.reshape(&shape)
    }
}

#[cfg(test)]
mod tests;
