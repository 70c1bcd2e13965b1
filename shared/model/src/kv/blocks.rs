//! The block store: KV of fixed-size blocks beside the slots, copied in and out.
//!
//! Blocks lie in segments, each an array `[blocks, parts, kv_heads, block_tokens, head_dim]` whose parts are the keys and the values of
//! every layer. A segment takes memory when one of its blocks is first written, and keeps it.

use mlx_rs::Array;
use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, zeros_dtype};

use kr_engine::model::BlockId;

use super::{KvShape, LayerKv, Place, Result, contract};
use crate::kernels::{CopyRun, copy_runs, unwritten};
use crate::layers::dim;
use crate::step::indices;

/// Bytes of a segment, where a block has no more; few in tests, so that tiny models have several segments too.
const SEGMENT_BYTES: u64 = if cfg!(test) { 24 << 10 } else { 32 << 20 };

/// Segments' worth of blocks that the graph copies at once.
const SEGMENTS_AT_ONCE: usize = if cfg!(test) { 1 } else { 4 };

/// A number of blocks of `block_tokens` positions each.
#[derive(Debug)]
pub(super) struct BlockStore {
    shape: KvShape,
    count: usize,
    block_tokens: usize,
    blocks_per_segment: usize,
    /// `None` until a block of it is written.
    segments: Vec<Option<Array>>,
}

impl BlockStore {
    pub(super) fn new(shape: KvShape, count: usize, block_tokens: usize) -> Self {
        let block_bytes = shape.bytes_per_token() * block_tokens as u64;
        let fitting = usize::try_from(SEGMENT_BYTES / block_bytes).unwrap_or(usize::MAX);
        // Of about one size, so that the last one does not stand for blocks that there are not.
        let blocks_per_segment = count.div_ceil(count.div_ceil(fitting.max(1)));
        Self {
            shape,
            count,
            block_tokens,
            blocks_per_segment,
            segments: vec![None; count.div_ceil(blocks_per_segment)],
        }
    }

    /// Bytes taken so far.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let segments = self.arrays().count() * self.blocks_per_segment * self.block_tokens;
        segments as u64 * self.shape.bytes_per_token()
    }

    /// Every segment there is.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.segments.iter().flatten()
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

    /// Blocks to be copied by the graph at once, so that a long prefix is not in memory twice.
    pub(super) fn at_once(&self) -> usize {
        self.blocks_per_segment * SEGMENTS_AT_ONCE
    }

    pub(super) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    fn place(&self, block: BlockId) -> (usize, usize) {
        let block = block.0 as usize;
        (block / self.blocks_per_segment, block % self.blocks_per_segment)
    }

    fn written(&self, block: BlockId) -> MlxResult<(&Array, usize)> {
        let (segment, index) = self.place(block);
        match &self.segments[segment] {
            Some(segment) => Ok((segment, index)),
            None => Err("a block was never written".into()),
        }
    }

    /// `[kv_heads, block_tokens, head_dim]` of every part.
    fn segment_shape(&self) -> [i32; 5] {
        let parts = dim(2 * self.shape.layers);
        let (kv_heads, head_dim) = (self.shape.kv_heads, self.shape.head_dim);
        [
            dim(self.blocks_per_segment),
            parts,
            kv_heads,
            dim(self.block_tokens),
            head_dim,
        ]
    }

    /// Where the heads of one part of a block lie in a segment, and where in an arena from position `start` of a row on.
    fn runs(&self, (block, part): (usize, usize), row: Row) -> impl Iterator<Item = (usize, usize, usize)> {
        let (kv_heads, head_dim) = (width(self.shape.kv_heads), width(self.shape.head_dim));
        let len = self.block_tokens * head_dim;
        let first = (block * 2 * self.shape.layers + part) * kv_heads;
        (0..kv_heads).map(move |head| {
            let in_arena = ((row.row * kv_heads + head) * row.capacity + row.start) * head_dim;
            ((first + head) * len, in_arena, len)
        })
    }

    /// Copies blocks to the start of a slot, by the processor.
    pub(super) fn copy_in(&self, blocks: &[BlockId], to: Place, layers: &mut [Vec<LayerKv>]) -> MlxResult<()> {
        let targets = layers.iter_mut().flat_map(|layer| layer[to.bucket].both());
        for (part, target) in targets.enumerate() {
            let capacity = width(target.dim(2));
            for (index, block) in blocks.iter().enumerate() {
                let (segment, block) = self.written(*block)?;
                let row = Row {
                    row: to.row,
                    capacity,
                    start: index * self.block_tokens,
                };
                let runs = self.runs((block, part), row);
                copy_runs(segment, target, runs.map(|(from, to, len)| CopyRun { from, to, len }))?;
            }
        }
        Ok(())
    }

    /// Copies one block of a slot to the store, by the processor.
    pub(super) fn copy_out(
        &mut self,
        from: Place,
        start: usize,
        block: BlockId,
        layers: &[Vec<LayerKv>],
    ) -> MlxResult<()> {
        let (segment, index) = self.place(block);
        let mut target = match self.segments[segment].take() {
            Some(target) => target,
            None => unwritten(&self.segment_shape())?,
        };
        let sources = layers.iter().map(|layer| &layer[from.bucket]);
        let sources = sources.flat_map(|kv| [&kv.keys, &kv.values]);
        let copied = sources.enumerate().try_for_each(|(part, source)| {
            let row = Row {
                row: from.row,
                capacity: width(source.dim(2)),
                start,
            };
            let runs = self.runs((index, part), row);
            copy_runs(
                source,
                &mut target,
                runs.map(|(to, from, len)| CopyRun { from, to, len }),
            )
        });
        self.segments[segment] = Some(target);
        copied
    }

    /// As [`copy_in`](Self::copy_in), as operations of the graph, from position `start` of the slot on. Takes as much memory again as
    /// the blocks do.
    pub(super) fn queue_in(
        &self,
        blocks: &[BlockId],
        (to, start): (Place, usize),
        layers: &mut [Vec<LayerKv>],
    ) -> MlxResult<()> {
        let gathered = self.gathered(blocks)?;
        let (row, end) = (dim(to.row), dim(start + blocks.len() * self.block_tokens));
        let start = dim(start);
        let targets = layers.iter_mut().flat_map(|layer| layer[to.bucket].both());
        for (part, target) in targets.enumerate() {
            let joined = joined_blocks(&gathered.try_index((.., dim(part)))?)?;
            target.try_index_mut((row..row + 1, .., start..end), &joined)?;
        }
        Ok(())
    }

    /// `[blocks, parts, kv_heads, block_tokens, head_dim]`: neighbours of one segment at a time.
    fn gathered(&self, blocks: &[BlockId]) -> MlxResult<Array> {
        let mut pieces = Vec::new();
        for run in blocks.chunk_by(|a, b| self.place(*a).0 == self.place(*b).0) {
            let (segment, _) = self.written(run[0])?;
            let places = run.iter().map(|block| dim(self.place(*block).1)).collect();
            pieces.push(segment.take_axis(indices(places), 0)?);
        }
        match pieces.len() {
            1 => Ok(pieces.swap_remove(0)),
            _ => concatenate(&pieces, 0),
        }
    }

    /// As [`copy_out`](Self::copy_out), as operations of the graph.
    pub(super) fn queue_out(
        &mut self,
        from: Place,
        start: usize,
        block: BlockId,
        layers: &[Vec<LayerKv>],
    ) -> MlxResult<()> {
        let (row, start, end) = (dim(from.row), dim(start), dim(start + self.block_tokens));
        let sources = layers.iter().map(|layer| &layer[from.bucket]);
        let parts: Vec<Array> = sources
            .flat_map(|kv| [&kv.keys, &kv.values])
            .map(|source| source.try_index((row..row + 1, .., start..end)))
            .collect::<MlxResult<_>>()?;
        let (segment, index) = self.place(block);
        let mut target = match self.segments[segment].take() {
            Some(target) => target,
            None => zeros_dtype(&self.segment_shape(), self.shape.dtype)?.contiguous()?,
        };
        let index = dim(index);
        let copied = concatenate(&parts, 0)
            .and_then(|parts| parts.expand_dims(0))
            .and_then(|block| target.try_index_mut(index..index + 1, &block));
        self.segments[segment] = Some(target);
        copied
    }
}

/// A row of an arena, from a position on.
#[derive(Debug, Clone, Copy)]
struct Row {
    row: usize,
    capacity: usize,
    start: usize,
}

fn width(dimension: i32) -> usize {
    dimension.unsigned_abs() as usize
}

/// `[blocks, kv_heads, block_tokens, head_dim]` → `[1, kv_heads, blocks * block_tokens, head_dim]`.
fn joined_blocks(blocks: &Array) -> MlxResult<Array> {
    let (kv_heads, head_dim) = (blocks.dim(1), blocks.dim(3));
    blocks
        .transpose_axes(&[1, 0, 2, 3])?
        .reshape(&[1, kv_heads, -1, head_dim])
}
