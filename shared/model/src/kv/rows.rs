//! Rows of arenas: which are free, and how many there are.

use mlx_rs::error::Result as MlxResult;
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::TryIndexMutOp;
use mlx_rs::{Array, transforms};

use kr_engine::model::{BucketId, ModelError, SlotId};

use super::{KvArenas, LayerKv, Moves, Place, Result, Row, Stale, backend, contract, memory, zeros};
use crate::kernels::{CopyRun, copy_runs, unwritten};
use crate::layers::dim;
use crate::step::indices;

/// Share of the budget that a bucket's first rows may take, one in so many: where rows take memory only as they are written, and
/// where they take it at once.
const STEP_UNWRITTEN: u64 = 4;
const STEP: u64 = 16;

impl KvArenas {
    pub(super) fn take_row(&mut self, slot: SlotId, bucket: BucketId) -> Result<Place> {
        let bucket = usize::from(bucket.0);
        let Some(arena) = self.arenas.get(bucket) else {
            return Err(contract(format!("there is no bucket {bucket}")));
        };
        let free = |wanted| arena.rows.iter().position(|row| *row == wanted);
        let row = match free(Row::Clean) {
            Some(row) => row,
            None => match free(Row::Stale) {
                Some(row) => {
                    if self.stale == Stale::Cleared {
                        self.clear_row(bucket, row).map_err(backend)?;
                    }
                    row
                }
                None => self.grow(bucket)?,
            },
        };
        self.arenas[bucket].rows[row] = Row::Taken(slot);
        Ok(Place { bucket, row })
    }

    fn clear_row(&mut self, bucket: usize, row: usize) -> MlxResult<()> {
        let nothing = Array::from_f32(0.0).as_dtype(self.shape.dtype)?;
        let row = dim(row);
        for layer in &mut self.layers {
            for array in layer[bucket].both() {
                array.try_index_mut(row..row + 1, &nothing)?;
                // Of an arena's only row MLX makes a broadcast, which has one element in memory.
                *array = array.contiguous()?;
            }
        }
        Ok(())
    }

    /// Adds rows to `bucket`, as far as the budget allows: as many as it has, and at first a share of the budget, so that a
    /// growing batch rarely waits for its arena to be moved. Returns the first new one.
    fn grow(&mut self, bucket: usize) -> Result<usize> {
        let rows = self.arenas[bucket].rows.len();
        let row_bytes = self.row_bytes(bucket);
        let share = match self.moves {
            Moves::Direct => STEP_UNWRITTEN,
            Moves::Graph | Moves::Queued => STEP,
        };
        let step = self.budget_bytes / share / row_bytes;
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        let wanted = rows.max(step).max(1).min(self.places.len().saturating_sub(rows).max(1));
        if self.room(bucket) == 0 {
            // Half of it done, rows would be numbered wrongly: nothing goes on after that.
            self.shrink_others(bucket).map_err(backend)?;
        }
        let added = wanted.min(self.room(bucket));
        if added == 0 {
            return Err(ModelError::OutOfMemory(format!(
                "another slot of {} tokens takes {row_bytes} bytes, the KV budget of {} bytes is spent",
                self.arenas[bucket].capacity, self.budget_bytes
            )));
        }
        if let Err(error) = self.add_rows(bucket, added) {
            let before: Vec<_> = (0..rows).collect();
            self.keep_rows(bucket, &before).map_err(backend)?;
            return Err(memory(error));
        }
        self.arenas[bucket].rows.resize(rows + added, Row::Clean);
        Ok(rows)
    }

    /// Rows that the budget allows `bucket` beside all arenas there are.
    fn room(&self, bucket: usize) -> usize {
        let room = self.budget_bytes.saturating_sub(self.arena_bytes()) / self.row_bytes(bucket);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// Layer by layer, so that old and new lie side by side for one layer only. Where that fails, layers before it have their rows.
    fn add_rows(&mut self, bucket: usize, added: usize) -> MlxResult<()> {
        if self.moves == Moves::Direct {
            return self.add_unwritten_rows(bucket, added);
        }
        let (shape, capacity) = (self.shape, self.arenas[bucket].capacity);
        for layer in &mut self.layers {
            let new = zeros(shape, added, capacity)?;
            let old = &layer[bucket];
            let grown = match old.keys.dim(0) {
                0 => new,
                _ => LayerKv {
                    keys: concatenate(&[&old.keys, &new.keys], 0)?,
                    values: concatenate(&[&old.values, &new.values], 0)?,
                },
            };
            transforms::eval([&grown.keys, &grown.values])?;
            layer[bucket] = grown;
        }
        Ok(())
    }

    /// The same for memory that the system gives as it is written: rows that nobody owns are not touched.
    fn add_unwritten_rows(&mut self, bucket: usize, added: usize) -> MlxResult<()> {
        let arena = &self.arenas[bucket];
        let taken = |row: &usize| matches!(arena.rows[*row], Row::Taken(_));
        let taken: Vec<_> = (0..arena.rows.len()).filter(taken).collect();
        for layer in &mut self.layers {
            for array in layer[bucket].both() {
                let [rows, heads, capacity, width] = *array.shape() else {
                    return Err("an arena has four dimensions".into());
                };
                let len = array.size().checked_div(rows.unsigned_abs() as usize).unwrap_or(0);
                let mut grown = unwritten(&[rows + dim(added), heads, capacity, width])?;
                if !taken.is_empty() {
                    let runs = taken.iter().map(|row| CopyRun {
                        from: row * len,
                        to: row * len,
                        len,
                    });
                    copy_runs(array, &mut grown, runs)?;
                }
                *array = grown;
            }
        }
        Ok(())
    }

    /// Leaves `kept` of a bucket's rows in every layer.
    fn keep_rows(&mut self, bucket: usize, kept: &[usize]) -> MlxResult<()> {
        let rows = indices(kept.iter().map(|row| dim(*row)).collect());
        for layer in &mut self.layers {
            layer[bucket] = match kept.len() {
                0 => zeros(self.shape, 0, self.arenas[bucket].capacity)?,
                _ => layer[bucket].map(|array| array.take_axis(&rows, 0))?,
            };
            if !kept.is_empty() {
                transforms::eval(layer[bucket].both().map(|array| &*array))?;
            }
        }
        Ok(())
    }

    /// Gives back the free rows of all buckets but `keep`.
    fn shrink_others(&mut self, keep: usize) -> MlxResult<()> {
        for bucket in (0..self.arenas.len()).filter(|bucket| *bucket != keep) {
            let rows = &self.arenas[bucket].rows;
            let taken: Vec<_> = (0..rows.len())
                .filter(|row| matches!(rows[*row], Row::Taken(_)))
                .collect();
            if taken.len() == rows.len() {
                continue;
            }
            self.keep_rows(bucket, &taken)?;
            self.renumber(bucket, &taken);
        }
        mlx_rs::memory::clear_cache()
    }

    fn renumber(&mut self, bucket: usize, taken: &[usize]) {
        let arena = &mut self.arenas[bucket];
        arena.rows = taken.iter().map(|row| arena.rows[*row]).collect();
        for (row, owner) in arena.rows.iter().enumerate() {
            if let Row::Taken(slot) = owner {
                self.places[slot.0 as usize] = Some(Place { bucket, row });
            }
        }
    }

    fn row_bytes(&self, bucket: usize) -> u64 {
        self.arenas[bucket].capacity as u64 * self.shape.bytes_per_token()
    }

    /// Bytes of all arenas.
    pub(crate) fn arena_bytes(&self) -> u64 {
        (0..self.arenas.len())
            .map(|bucket| self.arenas[bucket].rows.len() as u64 * self.row_bytes(bucket))
            .sum()
    }
}
