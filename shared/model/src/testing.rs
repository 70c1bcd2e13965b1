//! What the tests share: tiny models, and a rig that runs steps on one.

mod seeded;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kr_contract::{SamplingParams, SequenceId, TokenId};
use kr_engine::model::{BucketId, Input, Model, PlanEntry, Sample, SlotId, StepOutput, StepPlan};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{Kernels, LoadOptions, LoadedModel, load};

pub(crate) const KERNELS: [Kernels; 2] = [Kernels::MlxOnly, Kernels::Auto];

/// MLX is used by one test at a time, as it is by one thread in the product.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static MLX: Mutex<()> = Mutex::new(());
    MLX.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The reference of a fixture: ids and the logits of every position.
pub(crate) fn expected(name: &str) -> (Vec<TokenId>, Vec<Vec<f32>>) {
    let bytes = fs::read(fixture(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
    let ids: Vec<_> = words("ids").into_iter().map(TokenId::from_le_bytes).collect();
    let logits: Vec<_> = words("logits").into_iter().map(f32::from_le_bytes).collect();
    let rows = logits.chunks(logits.len() / ids.len()).map(<[f32]>::to_vec).collect();
    (ids, rows)
}

/// A tensor in memory.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

/// A model directory in memory, to be changed before it is written.
#[derive(Debug)]
pub(crate) struct ModelDir {
    pub(crate) config: Value,
    pub(crate) tensors: HashMap<String, Tensor>,
}

impl ModelDir {
    /// With the weights that are kept beside it, or the seeded ones that its `tensors.json` lists.
    pub(crate) fn fixture(name: &str) -> Self {
        let dir = fixture(name);
        if let Ok(shapes) = fs::read(dir.join("tensors.json")) {
            let config = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
            let tensors = seeded::tensors(&shapes);
            return Self { config, tensors };
        }
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: TensorView<'_>| Tensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, tensor(view)))
            .collect();
        let config = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        Self { config, tensors }
    }

    pub(crate) fn write(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        fs::write(dir.path().join("model.safetensors"), aligned(serialized(&self.tensors))).unwrap();
        dir
    }
}

/// Pads the header so that data starts at a multiple of 64 bytes, as the importer's files do.
fn aligned(mut file: Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(*file.first_chunk().unwrap());
    let end = 8 + usize::try_from(length).unwrap();
    let padding = end.next_multiple_of(64) - end;
    file.splice(end..end, vec![b' '; padding]);
    file[..8].copy_from_slice(&(length + padding as u64).to_le_bytes());
    file
}

pub(crate) fn serialized(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

/// A loaded model and a step counter.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) model: LoadedModel,
    step: u64,
    _alone: MutexGuard<'static, ()>,
}

/// Tokens of one slot to be run from a position on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) slot: u32,
    pub(crate) start: usize,
    pub(crate) ids: &'a [TokenId],
}

impl Rig {
    pub(crate) fn new(dir: &Path, options: &LoadOptions) -> Self {
        let alone = one_at_a_time();
        Self {
            model: load(dir, options).unwrap(),
            step: 0,
            _alone: alone,
        }
    }

    pub(crate) fn with_kernels(name: &str, kernels: Kernels) -> Self {
        let options = LoadOptions {
            kernels,
            ..LoadOptions::default()
        };
        Self::new(ModelDir::fixture(name).write().path(), &options)
    }

    pub(crate) fn acquire(&mut self, slot: u32, bucket: u8) {
        self.model.acquire(SlotId(slot), BucketId(bucket)).unwrap();
    }

    /// Runs one step and returns the logits of every token of every run.
    pub(crate) fn logits(&mut self, runs: &[Run<'_>]) -> Vec<Vec<Vec<f32>>> {
        let entries = runs.iter().map(|run| entry(run, None)).collect();
        let plan = self.plan(entries);
        let hidden = self.model.run(&plan).unwrap();
        let logits = self.model.logits(&hidden).unwrap();
        let vocabulary = self.model.info().vocab_size as usize;
        let mut rows = logits
            .try_as_slice::<f32>()
            .unwrap()
            .chunks(vocabulary)
            .map(<[f32]>::to_vec);
        runs.iter()
            .map(|run| rows.by_ref().take(run.ids.len()).collect())
            .collect()
    }

    /// Runs one step that samples after every run.
    pub(crate) fn sample(&mut self, runs: &[(Run<'_>, Sample)]) -> StepOutput {
        let entries = runs
            .iter()
            .map(|(run, sample)| entry(run, Some(sample.clone())))
            .collect();
        self.run(entries)
    }

    pub(crate) fn run(&mut self, entries: Vec<PlanEntry>) -> StepOutput {
        let plan = self.plan(entries);
        let ticket = self.model.submit(&plan).unwrap();
        self.model.wait(ticket).unwrap()
    }

    pub(crate) fn plan(&mut self, entries: Vec<PlanEntry>) -> StepPlan {
        self.step += 1;
        StepPlan {
            step: self.step,
            entries,
        }
    }
}

pub(crate) fn entry(run: &Run<'_>, sample: Option<Sample>) -> PlanEntry {
    PlanEntry {
        sequence: SequenceId(u64::from(run.slot)),
        slot: SlotId(run.slot),
        start: u32::try_from(run.start).unwrap(),
        input: Input::Tokens(run.ids.to_vec()),
        sample,
        score: None,
    }
}

pub(crate) fn greedy() -> Sample {
    with_params(SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    })
}

pub(crate) fn with_params(params: SamplingParams) -> Sample {
    Sample {
        params: Arc::new(params),
        position: 0,
        forbidden: Arc::from([]),
        history: None,
    }
}

/// The largest difference of two rows of logits.
pub(crate) fn difference(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    let differences = left.iter().zip(right).map(|(left, right)| (left - right).abs());
    differences.fold(0.0, |most, next| if next > most || next.is_nan() { next } else { most })
}

pub(crate) fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (position, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = difference(found, expected);
        assert!(difference <= tolerance, "position {position} differs by {difference}");
    }
}
