//! Linear layers of which each token uses some.

use mlx_rs::error::Result;
use mlx_rs::ops::{gather_mm, gather_qmm, stack};
use mlx_rs::{Array, Dtype};

use super::{LayerLoader, Linear, MatrixShape};
use crate::config::Scheme;
use crate::error;
use crate::fingerprint::Backend;

/// What the weights of one layer of every expert are called: one by one, or all in one tensor as mlx-lm's converter writes them.
#[derive(Debug, Clone)]
pub(crate) struct ExpertNames {
    /// In expert order.
    pub(crate) each: Vec<String>,
    pub(crate) all: String,
}

impl LayerLoader<'_> {
    /// The experts' layers one by one.
    pub(crate) fn expert_linears(&mut self, names: &ExpertNames, shape: MatrixShape) -> error::Result<Vec<Linear>> {
        self.name_experts(names);
        names.each.iter().map(|name| self.linear(name, shape, false)).collect()
    }

    /// The experts' layers as one, for MLX's operations. Copies them where they are not stored so.
    pub(crate) fn stacked_linear(&mut self, names: &ExpertNames, shape: MatrixShape) -> error::Result<StackedLinear> {
        self.name_experts(names);
        let MatrixShape { rows, columns } = shape;
        let count = u64::try_from(names.each.len()).unwrap_or(u64::MAX);
        self.parameters += count * u64::from(rows) * u64::from(columns);
        self.uses_mlx_products = true;
        let scheme = names.each.first().and_then(|name| self.scheme(name));
        let Some(scheme) = scheme.filter(|_| self.weights.contains(&format!("{}.scales", names.each[0]))) else {
            // MLX's CPU backend gathers in float32 only.
            let stored = match Backend::current()? {
                Backend::Cpu => Dtype::Float32,
                Backend::Metal | Backend::Cuda => self.dtype,
            };
            let weight = self.stacked(names, "weight", |loader, name| {
                loader.weights.dense(name, &[rows, columns], stored)
            })?;
            return Ok(StackedLinear::Dense {
                transposed: weight.swap_axes(1, 2)?,
                dtype: self.dtype,
            });
        };
        let (packed, groups) = (columns * scheme.bits / 32, columns / scheme.group_size);
        Ok(StackedLinear::Quantized {
            weight: self.stacked(names, "weight", |loader, name| {
                loader.weights.packed(name, &[rows, packed])
            })?,
            scales: self.stacked(names, "scales", |loader, name| {
                loader.weights.float(name, &[rows, groups])
            })?,
            biases: self.stacked(names, "biases", |loader, name| {
                loader.weights.float(name, &[rows, groups])
            })?,
            scheme,
            dtype: self.dtype,
        })
    }

    /// Lets tensors of all experts be asked for one by one.
    fn name_experts(&mut self, names: &ExpertNames) {
        for tensor in ["weight", "scales", "biases"] {
            let each = names.each.iter().map(|name| format!("{name}.{tensor}"));
            self.weights.unstack(&format!("{}.{tensor}", names.all), each);
        }
    }

    fn stacked(
        &mut self,
        names: &ExpertNames,
        tensor: &str,
        mut load: impl FnMut(&mut Self, &str) -> error::Result<Array>,
    ) -> error::Result<Array> {
        let each = names.each.iter().map(|name| load(self, &format!("{name}.{tensor}")));
        let whole = stack(&each.collect::<error::Result<Vec<_>>>()?, 0)?;
        whole.eval()?;
        Ok(whole)
    }
}

/// The layers `y = x Wᵀ` of all experts.
#[derive(Debug)]
pub(crate) enum StackedLinear {
    Dense {
        /// `[experts, inputs, outputs]`.
        transposed: Array,
        /// Type of the results: weights may be of a wider one.
        dtype: Dtype,
    },
    Quantized {
        weight: Array,
        scales: Array,
        biases: Array,
        scheme: Scheme,
        /// Type of the results: scales may be of a wider one.
        dtype: Dtype,
    },
}

impl StackedLinear {
    /// `x`: `[tokens, 1 or chosen, 1, inputs]`, `experts`: `[tokens, chosen]` → `[tokens, chosen, 1, outputs]`.
    pub(crate) fn forward(&self, x: &Array, experts: &Array) -> Result<Array> {
        match self {
            Self::Dense { transposed, dtype } => {
                let x = x.as_dtype(transposed.dtype())?;
                gather_mm(&x, transposed, None, Some(experts), None)?.as_dtype(*dtype)
            }
            Self::Quantized {
                weight,
                scales,
                biases,
                scheme,
                dtype,
            } => {
                let (group_size, bits) = (scheme.group_size.cast_signed(), scheme.bits.cast_signed());
                gather_qmm(
                    x,
                    weight,
                    scales,
                    Some(biases),
                    None,
                    Some(experts),
                    true,
                    group_size,
                    bits,
                    None,
                )?
                .as_dtype(*dtype)
            }
        }
    }
}
