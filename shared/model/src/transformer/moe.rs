//! A mixture of experts in place of the feed-forward layer (Shazeer et al. 2017, arXiv 1701.06538): a router sends each token to a few
//! gated feed-forward layers and weighs what they answer.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::{TryIndexOp, take_along_axis};
use mlx_rs::ops::{argpartition_axis, sigmoid, softmax_axis};
use mlx_rs::{Array, Dtype};

use super::{FeedForward, Shape};
use crate::error::Result;
use crate::kernels::{OwnKernels, Routing};
use crate::layers::{ExpertNames, LayerLoader, Linear, MatrixShape, StackedLinear, dim, swiglu};

/// The experts of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoeShape {
    pub(crate) experts: u32,
    /// Width of each expert.
    pub(crate) intermediate_size: u32,
    pub(crate) routing: Routing,
}

/// What the parts of an expert are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoeNames {
    pub(crate) gate_proj: &'static str,
    pub(crate) up_proj: &'static str,
    pub(crate) down_proj: &'static str,
}

/// The router and its experts.
#[derive(Debug)]
pub(crate) struct SparseMoe {
    gate: Linear,
    routing: Routing,
    experts: Experts,
}

#[derive(Debug)]
enum Experts {
    /// Each computes the rows of the tokens that go to it, so that a token's answer does not depend on the others'.
    Each { own: OwnKernels, experts: Vec<Expert> },
    /// All in one, in MLX's operations.
    Stacked {
        gate_proj: StackedLinear,
        up_proj: StackedLinear,
        down_proj: StackedLinear,
    },
}

#[derive(Debug)]
struct Expert {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl SparseMoe {
    /// `{name}.gate`, the router, and `{name}.experts.0.…` under the names of `names`.
    pub(crate) fn load(
        loader: &mut LayerLoader<'_>,
        name: &str,
        shape: &Shape,
        (moe, names): (MoeShape, MoeNames),
    ) -> Result<Self> {
        let gate = loader.linear(&format!("{name}.gate"), shape.inward(moe.experts), false)?;
        let of = |part: &str, converted: &str| ExpertNames {
            each: (0..moe.experts)
                .map(|expert| format!("{name}.experts.{expert}.{part}"))
                .collect(),
            all: format!("{name}.switch_mlp.{converted}"),
        };
        let parts = [
            (of(names.gate_proj, "gate_proj"), shape.inward(moe.intermediate_size)),
            (of(names.up_proj, "up_proj"), shape.inward(moe.intermediate_size)),
            (of(names.down_proj, "down_proj"), shape.outward(moe.intermediate_size)),
        ];
        Ok(Self {
            gate,
            routing: moe.routing,
            experts: Experts::load(loader, parts)?,
        })
    }

    /// `[tokens, chosen]`: the experts of each token, and what their answers count.
    fn route(&self, logits: &Array) -> MlxResult<(Array, Array)> {
        let probabilities = softmax_axis(logits.as_dtype(Dtype::Float32)?, -1, true)?;
        let chosen = dim(self.routing.chosen);
        let experts = argpartition_axis(probabilities.negative()?, chosen - 1, -1)?.try_index((.., 0..chosen))?;
        let mut weights = take_along_axis(&probabilities, &experts, -1)?;
        if self.routing.normalised {
            weights = weights.divide(weights.sum_axis(-1, true)?)?;
        }
        Ok((experts, weights.as_dtype(logits.dtype())?))
    }
}

impl Experts {
    fn load(loader: &mut LayerLoader<'_>, [gate, up, down]: [(ExpertNames, MatrixShape); 3]) -> Result<Self> {
        let Some(own) = loader.own.clone() else {
            return Ok(Self::Stacked {
                gate_proj: loader.stacked_linear(&gate.0, gate.1)?,
                up_proj: loader.stacked_linear(&up.0, up.1)?,
                down_proj: loader.stacked_linear(&down.0, down.1)?,
            });
        };
        let gates = loader.expert_linears(&gate.0, gate.1)?.into_iter();
        let ups = loader.expert_linears(&up.0, up.1)?;
        let downs = loader.expert_linears(&down.0, down.1)?;
        let experts = gates
            .zip(ups)
            .zip(downs)
            .map(|((gate_proj, up_proj), down_proj)| Expert {
                gate_proj,
                up_proj,
                down_proj,
            });
        Ok(Self::Each {
            own,
            experts: experts.collect(),
        })
    }
}

impl FeedForward for SparseMoe {
    fn forward_onto(&self, residual: &Array, x: &Array) -> MlxResult<Array> {
        let logits = self.gate.forward(x)?;
        match &self.experts {
            Experts::Each { own, experts } => {
                let mut sum = residual.clone();
                for (expert, routed) in experts.iter().zip(OwnKernels::route(&logits, self.routing)?) {
                    if routed.is_empty() {
                        continue;
                    }
                    let tokens: Vec<_> = routed.iter().map(|routed| dim(routed.token)).collect();
                    let rows = own.rows(x, &Array::from_slice(&tokens, &[dim(tokens.len())]))?;
                    let gated = swiglu(&expert.gate_proj, &expert.up_proj, &rows)?;
                    OwnKernels::add_weighed(&mut sum, &routed, &expert.down_proj.forward(&gated)?)?;
                }
                Ok(sum)
            }
            Experts::Stacked {
                gate_proj,
                up_proj,
                down_proj,
            } => {
                let (experts, weights) = self.route(&logits)?;
                let x = x.expand_dims_axes(&[1, 2])?;
                let (gate, up) = (gate_proj.forward(&x, &experts)?, up_proj.forward(&x, &experts)?);
                let gated = sigmoid(&gate)?.multiply(gate)?.multiply(up)?;
                let answers = down_proj.forward(&gated, &experts)?.squeeze_axes(&[2])?;
                residual.add(answers.multiply(weights.expand_dims(2)?)?.sum_axis(1, false)?)
            }
        }
    }
}
