//! Token vectors, which may be the output layer too.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::matrix::Matrix;
use super::{LayerLoader, MatrixShape};
use crate::error;

impl LayerLoader<'_> {
    /// `{name}.weight`, one row for each token of the vocabulary.
    pub(crate) fn embedding(&mut self, name: &str, shape: MatrixShape) -> error::Result<Embedding> {
        let weight = self.matrix(name, shape)?;
        Ok(Embedding { weight })
    }
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
