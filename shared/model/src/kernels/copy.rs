//! Runs of elements from array to array.

use mlx_rs::Array;
use mlx_rs::error::Result;

use super::memory::{fresh, read, write};

/// Elements that lie side by side in two flat arrays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CopyRun {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) len: usize,
}

/// Copies `runs` of `source` into `target`, both float32 and contiguous, at once and in place: `target` is copied whole where anybody
/// else uses its memory.
///
/// # Errors
/// When a run is outside an array, when an array is of another type, or when MLX fails.
pub(crate) fn copy_runs(source: &Array, target: &mut Array, runs: impl IntoIterator<Item = CopyRun>) -> Result<()> {
    let (source, target) = (read::<f32>(source)?, write::<f32>(target)?);
    for run in runs {
        let from = source.get(run.from..run.from + run.len);
        let to = target.get_mut(run.to..run.to + run.len);
        let (Some(from), Some(to)) = (from, to) else {
            return Err("a copy reaches beyond its array".into());
        };
        to.copy_from_slice(from);
    }
    Ok(())
}

/// A float32 array of whatever lay in its memory, which the system gives it as it is written.
pub(crate) fn unwritten(shape: &[i32]) -> Result<Array> {
    fresh::<f32>(shape)
}
