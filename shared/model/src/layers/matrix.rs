//! Matrices of either form: dense or quantised in groups.

use mlx_rs::error::Result;
use mlx_rs::ops::{dequantize, quantized_matmul};
use mlx_rs::{Array, Dtype};

use super::{LayerLoader, MatrixShape};
use crate::config::Scheme;
use crate::error;
use crate::kernels::{OwnKernels, OwnWeight, PackedWeight};
use crate::prepared::PackedMatrix;

impl LayerLoader<'_> {
    pub(super) fn matrix(&mut self, name: &str, shape: MatrixShape) -> error::Result<Matrix> {
        self.parameters += u64::from(shape.rows) * u64::from(shape.columns);
        let (weight, scales) = (format!("{name}.weight"), format!("{name}.scales"));
        match self.scheme(name) {
            Some(scheme) if self.weights.contains(&scales) => self.quantized(name, shape, scheme),
            _ => {
                self.weights.refuse(
                    &scales,
                    "is there, but config.json's `quantization` does not say how this layer is packed",
                )?;
                let stored = self.stored(&weight);
                let weight = self.weights.dense(&weight, &[shape.rows, shape.columns], stored)?;
                Ok(Matrix::dense(weight, self.own.clone()))
            }
        }
    }

    /// How a layer's weights are packed.
    pub(super) fn scheme(&self, name: &str) -> Option<Scheme> {
        self.quantization?.scheme(self.weights.stored_layer(name))
    }

    /// The type that a dense matrix is kept in: our kernels read any, MLX's operations the one that is computed with.
    fn stored(&self, name: &str) -> Dtype {
        match &self.own {
            Some(_) => self.weights.float_dtype(name).unwrap_or(self.dtype),
            None => self.dtype,
        }
    }

    fn quantized(&mut self, name: &str, shape: MatrixShape, scheme: Scheme) -> error::Result<Matrix> {
        let MatrixShape { rows, columns } = shape;
        let groups = columns / scheme.group_size;
        let packed = columns * scheme.bits / 32;
        let [weight, scales, biases] = ["weight", "scales", "biases"].map(|part| format!("{name}.{part}"));
        if let Some(own) = self.own.clone() {
            self.weights.accept_packed(&weight, &[rows, packed])?;
            self.weights.accept_float(&scales, &[rows, groups])?;
            self.weights.accept_float(&biases, &[rows, groups])?;
            if let Some(matrix) = PackedMatrix::open(self.prepared, self.weights, name, scheme) {
                self.count_packed(&matrix);
                return Ok(Matrix::Packed { matrix, own });
            }
        }
        self.uses_mlx_products = true;
        Ok(Matrix::Quantized {
            weight: self.weights.packed(&weight, &[rows, packed])?,
            scales: self.weights.float(&scales, &[rows, groups])?,
            biases: self.weights.float(&biases, &[rows, groups])?,
            group_size: scheme.group_size.cast_signed(),
            bits: scheme.bits.cast_signed(),
            dtype: self.dtype,
        })
    }

    fn count_packed(&mut self, matrix: &PackedMatrix) {
        let bytes = matrix.layout().bytes() as u64;
        match matrix.is_mapped() {
            true => self.packed.mapped_bytes += bytes,
            false => self.packed.copied_bytes += bytes,
        }
    }
}

/// A matrix `[rows, columns]`.
#[derive(Debug)]
pub(super) enum Matrix {
    Dense {
        weight: Array,
        /// A view of `weight`: `[columns, rows]`.
        transposed: Array,
        own: Option<OwnKernels>,
    },
    /// Quantised, for our own kernels.
    Packed { matrix: PackedMatrix, own: OwnKernels },
    /// Quantised, for MLX's.
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
    pub(super) fn project(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense {
                weight, own: Some(own), ..
            } => own.linear(x, &[OwnWeight::new(weight)], None),
            Self::Dense { transposed, .. } => x.matmul(transposed),
            Self::Packed { matrix, own } => own.packed_linear(x, &[PackedWeight { matrix, bias: None }], None),
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
    pub(super) fn rows(&self, ids: &Array) -> Result<Array> {
        match self {
            Self::Dense {
                weight, own: Some(own), ..
            } => own.rows(weight, ids),
            Self::Dense { weight, .. } => weight.take_axis(ids, 0),
            Self::Packed { matrix, own } => own.packed_rows(matrix, ids),
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
