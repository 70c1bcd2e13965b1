//! The block store: KV of fixed-size blocks beside the slots, copied in and out.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::transforms;

use kr_engine::model::BlockId;

use super::{KvShape, LayerKv, Place, Result, contract, zeros};
use crate::layers::dim;
use crate::step::indices;

/// A number of blocks of `block_tokens` positions each: an arena whose rows are blocks.
#[derive(Debug)]
pub(super) struct BlockStore {
    count: usize,
    block_tokens: usize,
    bytes_per_token: u64,
    /// By layer: `[blocks, kv_heads, block_tokens, head_dim]`.
    layers: Vec<LayerKv>,
}

impl BlockStore {
    pub(super) fn new(shape: KvShape, count: usize, block_tokens: usize) -> MlxResult<Self> {
        let layers: Vec<_> = (0..shape.layers)
            .map(|_| zeros(shape, count, block_tokens))
            .collect::<MlxResult<_>>()?;
        transforms::eval(layers.iter().flat_map(|kv| [&kv.keys, &kv.values]))?;
        Ok(Self {
            count,
            block_tokens,
            bytes_per_token: shape.bytes_per_token(),
            layers,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.count * self.block_tokens) as u64 * self.bytes_per_token
    }

    /// Returns the tokens of `blocks`, which must exist and fit a slot of `capacity`.
    pub(super) fn check(&self, blocks: &[BlockId], capacity: usize) -> Result<usize> {
        if let Some(block) = blocks.iter().find(|block| block.0 as usize >= self.count) {
            return Err(contract(format!("there is no block {}", block.0)));
        }
        let tokens = blocks.len() * self.block_tokens;
        if tokens > capacity {
            return Err(contract(format!(
                "{tokens} tokens of blocks do not fit a slot of {capacity}"
            )));
        }
        Ok(tokens)
    }

    pub(super) fn copy_in(&self, blocks: &[BlockId], to: Place, layers: &mut [Vec<LayerKv>]) -> MlxResult<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let ids = indices(blocks.iter().map(|block| block.0.cast_signed()).collect());
        let (row, end) = (dim(to.row), dim(blocks.len() * self.block_tokens));
        for (layer, stored) in layers.iter_mut().zip(&self.layers) {
            let arena = &mut layer[to.bucket];
            for (target, source) in [(&mut arena.keys, &stored.keys), (&mut arena.values, &stored.values)] {
                let joined = joined_blocks(&source.take_axis(&ids, 0)?)?;
                target.try_index_mut((row..row + 1, .., 0..end), &joined)?;
            }
        }
        Ok(())
    }

    pub(super) fn copy_out(
        &mut self,
        from: Place,
        start: usize,
        block: BlockId,
        layers: &[Vec<LayerKv>],
    ) -> MlxResult<()> {
        let (row, start, end) = (dim(from.row), dim(start), dim(start + self.block_tokens));
        let block = block.0.cast_signed();
        for (layer, stored) in layers.iter().zip(&mut self.layers) {
            let arena = &layer[from.bucket];
            for (source, target) in [(&arena.keys, &mut stored.keys), (&arena.values, &mut stored.values)] {
                let copied = source.try_index((row..row + 1, .., start..end))?;
                target.try_index_mut(block..block + 1, &copied)?;
            }
        }
        transforms::eval(self.layers.iter().flat_map(|kv| [&kv.keys, &kv.values]))
    }
}

/// `[blocks, kv_heads, block_tokens, head_dim]` → `[1, kv_heads, blocks * block_tokens, head_dim]`.
fn joined_blocks(blocks: &Array) -> MlxResult<Array> {
    let (kv_heads, head_dim) = (blocks.dim(1), blocks.dim(3));
    blocks
        .transpose_axes(&[1, 0, 2, 3])?
        .reshape(&[1, kv_heads, -1, head_dim])
}
