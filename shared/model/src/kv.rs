//! KV memory: slots in arenas by length bucket, and the block store beside them.
//!
//! An arena holds the slots of one bucket: for every layer `[rows, kv_heads, capacity, head_dim]` of keys and the same of values.
//! A slot's KV index is its absolute position. Arenas grow by doubling and give rows back when another one needs the memory, so that
//! all arenas together stay within the budget. What a former owner left in a row, NaN included, reaches no sum of
//! a new one: see [`Stale`].

mod blocks;
mod rows;

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::zeros_dtype;
use mlx_rs::{Array, Dtype, transforms};

use kr_engine::model::{BlockId, BucketId, ModelError, ModelLimits, SlotId};

use crate::layers::dim;
use crate::step::ArenaShape;
use blocks::BlockStore;

type Result<T> = std::result::Result<T, ModelError>;

/// How a former owner's KV is kept out of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stale {
    /// Attention reads what the owner wrote and nothing else.
    Unread,
    /// Attention reads whole rows, weighing what the owner did not write with zero: rows are cleared when they are taken.
    Cleared,
}

/// How KV moves between slots and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moves {
    /// By the processor, at once: float32 where our own kernels run.
    Direct,
    /// As operations of MLX's graph, waited for.
    Graph,
    /// As operations of MLX's graph, queued before the next step.
    Queued,
}

/// What one token's KV is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) dtype: Dtype,
}

impl KvShape {
    /// Bytes of KV that one token takes.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        let item = match self.dtype {
            Dtype::Float32 => 4,
            _ => 2,
        };
        let width = u64::from(self.kv_heads.unsigned_abs()) * u64::from(self.head_dim.unsigned_abs());
        2 * self.layers as u64 * width * item
    }
}

/// One layer's keys and values of one arena: `[rows, kv_heads, capacity, head_dim]`.
#[derive(Debug, Clone)]
pub(crate) struct LayerKv {
    pub(crate) keys: Array,
    pub(crate) values: Array,
}

impl LayerKv {
    fn map(&self, change: impl Fn(&Array) -> MlxResult<Array>) -> MlxResult<Self> {
        Ok(Self {
            keys: change(&self.keys)?,
            values: change(&self.values)?,
        })
    }

    fn both(&mut self) -> [&mut Array; 2] {
        [&mut self.keys, &mut self.values]
    }
}

/// A row of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Never used since it was made: all zeros, or whatever lay there where attention reads nothing unwritten.
    Clean,
    /// Free, with a former owner's KV in it.
    Stale,
    /// Owned.
    Taken(SlotId),
}

/// The rows of one bucket.
#[derive(Debug)]
struct Arena {
    capacity: usize,
    rows: Vec<Row>,
}

/// Where a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) bucket: usize,
    pub(crate) row: usize,
}

/// All KV memory of a model.
#[derive(Debug)]
pub(crate) struct KvArenas {
    shape: KvShape,
    stale: Stale,
    moves: Moves,
    /// By bucket.
    arenas: Vec<Arena>,
    /// By layer, then by bucket: what a layer of the model is handed.
    layers: Vec<Vec<LayerKv>>,
    /// By slot.
    places: Vec<Option<Place>>,
    budget_bytes: u64,
    store: Option<BlockStore>,
}

impl KvArenas {
    pub(crate) fn new(shape: KvShape, limits: &ModelLimits, (stale, moves): (Stale, Moves)) -> MlxResult<Self> {
        let arenas: Vec<_> = limits
            .bucket_tokens
            .iter()
            .map(|capacity| Arena {
                capacity: *capacity as usize,
                rows: Vec::new(),
            })
            .collect();
        let empty: Vec<_> = arenas
            .iter()
            .map(|arena| zeros(shape, 0, arena.capacity))
            .collect::<MlxResult<_>>()?;
        let store = match limits.store_blocks {
            0 => None,
            count => Some(BlockStore::new(shape, count as usize, limits.block_tokens as usize)),
        };
        Ok(Self {
            shape,
            stale,
            moves,
            arenas,
            layers: vec![empty; shape.layers],
            places: vec![None; limits.max_sequences as usize],
            budget_bytes: limits.kv_budget_bytes,
            store,
        })
    }

    /// By bucket, for a step's layout.
    pub(crate) fn arena_shapes(&self) -> Vec<ArenaShape> {
        let shape = |arena: &Arena| ArenaShape {
            rows: arena.rows.len(),
            capacity: arena.capacity,
        };
        self.arenas.iter().map(shape).collect()
    }

    /// One layer's KV, by bucket.
    pub(crate) fn layer(&mut self, index: usize) -> &mut [LayerKv] {
        &mut self.layers[index]
    }

    /// Every array there is, to be computed with a step's results.
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array> {
        arrays_of(&self.layers)
    }

    /// Where `slot` lives and how many tokens it holds.
    pub(crate) fn place(&self, slot: SlotId) -> Result<(Place, usize)> {
        let place = self.places.get(slot.0 as usize).copied().flatten();
        let place = place.ok_or_else(|| contract(format!("slot {} is not acquired", slot.0)))?;
        Ok((place, self.arenas[place.bucket].capacity))
    }

    pub(crate) fn acquire(&mut self, slot: SlotId, bucket: BucketId) -> Result<()> {
        match self.places.get(slot.0 as usize) {
            Some(None) => {}
            Some(Some(_)) => return Err(contract(format!("slot {} is acquired already", slot.0))),
            None => return Err(contract(format!("there is no slot {}", slot.0))),
        }
        let place = self.take_row(slot, bucket)?;
        self.places[slot.0 as usize] = Some(place);
        Ok(())
    }

    /// Moves `slot` to a longer bucket with its first `written` positions; returns the bytes copied.
    pub(crate) fn promote(&mut self, slot: SlotId, bucket: BucketId, written: usize) -> Result<u64> {
        let (from, capacity) = self.place(slot)?;
        if usize::from(bucket.0) <= from.bucket || written > capacity {
            let problem = format!(
                "slot {} cannot be promoted to bucket {} with {written} tokens",
                slot.0, bucket.0
            );
            return Err(contract(problem));
        }
        let to = self.take_row(slot, bucket)?;
        // Taking a row may have moved the old one.
        let (from, _) = self.place(slot)?;
        let (source, target, end) = (dim(from.row), dim(to.row), dim(written));
        for layer in &mut self.layers {
            let old = layer[from.bucket].clone();
            for (new, old) in layer[to.bucket].both().into_iter().zip([&old.keys, &old.values]) {
                let kept = old.try_index((source..source + 1, .., 0..end)).map_err(backend)?;
                new.try_index_mut((target..target + 1, .., 0..end), &kept)
                    .map_err(backend)?;
            }
        }
        if let Err(error) = self.evaluate() {
            self.arenas[to.bucket].rows[to.row] = Row::Stale;
            return Err(error);
        }
        self.arenas[from.bucket].rows[from.row] = Row::Stale;
        self.places[slot.0 as usize] = Some(to);
        Ok(written as u64 * self.shape.bytes_per_token())
    }

    pub(crate) fn release(&mut self, slot: SlotId) {
        if let Some(place) = self.places.get_mut(slot.0 as usize).and_then(Option::take) {
            self.arenas[place.bucket].rows[place.row] = Row::Stale;
        }
    }

    /// Copies stored blocks to the start of `slot`; returns the bytes copied.
    pub(crate) fn copy_in(&mut self, slot: SlotId, blocks: &[BlockId]) -> Result<u64> {
        let (place, capacity) = self.place(slot)?;
        let store = self.store.as_ref().ok_or(ModelError::NoBlockStore)?;
        let tokens = store.check(blocks, capacity)?;
        if self.moves == Moves::Direct {
            store.copy_in(blocks, place, &mut self.layers).map_err(backend)?;
        } else {
            let mut start = 0;
            for blocks in blocks.chunks(store.at_once()) {
                store
                    .queue_in(blocks, (place, start), &mut self.layers)
                    .map_err(backend)?;
                start += blocks.len() * store.block_tokens();
                moved(self.moves, arrays_of(&self.layers))?;
            }
        }
        Ok(tokens as u64 * self.shape.bytes_per_token())
    }

    /// Copies the block at position `start` of `slot` to `block`; returns the bytes copied.
    pub(crate) fn copy_out(&mut self, slot: SlotId, start: usize, block: BlockId) -> Result<u64> {
        let (place, capacity) = self.place(slot)?;
        let store = self.store.as_mut().ok_or(ModelError::NoBlockStore)?;
        let tokens = store.check(&[block], capacity)?;
        if !start.is_multiple_of(tokens) || start + tokens > capacity {
            return Err(contract(format!("no block of slot {} starts at {start}", slot.0)));
        }
        match self.moves {
            Moves::Direct => store.copy_out(place, start, block, &self.layers),
            Moves::Graph | Moves::Queued => store.queue_out(place, start, block, &self.layers),
        }
        .map_err(memory)?;
        if let (Moves::Graph | Moves::Queued, Some(store)) = (self.moves, &self.store) {
            moved(self.moves, store.arrays())?;
        }
        Ok(tokens as u64 * self.shape.bytes_per_token())
    }

    /// Bytes that the block store has taken so far.
    #[cfg(test)]
    pub(crate) fn store_bytes(&self) -> u64 {
        self.store.as_ref().map_or(0, BlockStore::bytes)
    }

    /// Fills every row with NaN, as a former owner's broken sequence would leave it.
    #[cfg(test)]
    pub(crate) fn poison(&mut self) {
        for kv in self.layers.iter_mut().flatten() {
            *kv = kv
                .map(|array| mlx_rs::ops::full_like(array, Array::from_f32(f32::NAN), None))
                .unwrap();
        }
        for row in self.arenas.iter_mut().flat_map(|arena| &mut arena.rows) {
            if *row == Row::Clean {
                *row = Row::Stale;
            }
        }
        self.evaluate().unwrap();
    }

    fn evaluate(&self) -> Result<()> {
        transforms::eval(self.arrays()).map_err(memory)
    }
}

/// Every array of the arenas that has a row.
fn arrays_of(layers: &[Vec<LayerKv>]) -> impl Iterator<Item = &Array> {
    let used = layers.iter().flatten().filter(|kv| kv.keys.dim(0) > 0);
    used.flat_map(|kv| [&kv.keys, &kv.values])
}

fn moved<'a>(moves: Moves, arrays: impl Iterator<Item = &'a Array>) -> Result<()> {
    match moves {
        Moves::Queued => transforms::async_eval(arrays).map_err(memory),
        Moves::Graph | Moves::Direct => transforms::eval(arrays).map_err(memory),
    }
}

fn zeros(shape: KvShape, rows: usize, capacity: usize) -> MlxResult<LayerKv> {
    let dims = [dim(rows), shape.kv_heads, dim(capacity), shape.head_dim];
    Ok(LayerKv {
        keys: zeros_dtype(&dims, shape.dtype)?.contiguous()?,
        values: zeros_dtype(&dims, shape.dtype)?.contiguous()?,
    })
}

fn contract(problem: String) -> ModelError {
    ModelError::Contract(problem)
}

fn backend(error: mlx_rs::error::Exception) -> ModelError {
    ModelError::Backend(Box::new(error))
}

/// What MLX says where an allocation may have failed: it has words only to tell that from a broken backend, which nobody should try
/// again with.
fn memory(error: mlx_rs::error::Exception) -> ModelError {
    let what = error.what().to_lowercase();
    let is_memory = ["out of memory", "insufficient memory", "allocat"];
    match is_memory.iter().any(|words| what.contains(words)) {
        true => ModelError::OutOfMemory(error.what().to_owned()),
        false => backend(error),
    }
}

#[cfg(test)]
mod tests;
