//! From a model directory to a [`LoadedModel`].

use std::path::Path;

use kr_contract::{NumericsFingerprint, TokenId};
use kr_engine::model::{Model, ModelLimits};
use mlx_rs::error::Result as MlxResult;
use mlx_rs::memory::{active_memory, set_cache_limit};

use crate::blas;
use crate::config::{ConfigFile, Quantization};
use crate::cuda;
use crate::digest;
use crate::error::{Error, Result};
use crate::fingerprint::{Backend, Numerics, fingerprint};
use crate::kernels::{self, OwnKernels};
use crate::kv::{KvArenas, KvShape, Moves, Stale};
use crate::layers::LayerLoader;
use crate::limits::budget::{MLX_CACHE_BYTES, Taken, budget};
use crate::limits::machine::MachineMemory;
use crate::limits::{self, KvNeeds, workspace};
use crate::loaded::measure::WidestStep;
use crate::loaded::{LoadedModel, Parts};
use crate::models::{self, Architecture};
use crate::options::{ComputeDtype, Kernels, LoadOptions};
use crate::prepared::{Place, PreparedWeights};
use crate::sample::Sampler;
use crate::weights::{Footprint, Weights};

/// What a loaded model is. Holds no arrays: it may go to other threads.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// As config.json names it: `LlamaForCausalLM`.
    pub architecture: String,
    /// Number of weights, packed ones counted as what they stand for.
    pub parameters: u64,
    /// Type of activations and KV.
    pub dtype: ComputeDtype,
    /// How the weights are packed; `None` where they are not.
    pub quantization: Option<QuantizationInfo>,
    /// Number of token ids.
    pub vocab_size: u32,
    /// The tokens that end an answer.
    pub eos_token_ids: Vec<TokenId>,
    /// Bytes of the weight files, and of the file of prepared weights, that are used in place.
    pub mapped_bytes: u64,
    /// Bytes of weights that were copied: not aligned to 64 bytes in the file, converted, for a backend with memory of
    /// its own, or prepared without a file for it.
    pub copied_bytes: u64,
    /// What the arithmetic depends on.
    pub fingerprint: NumericsFingerprint,
    /// `sha256:…` over config.json, the tokenizer's digest and the weight files' names, sizes, headers and three probes of
    /// each tensor's data.
    pub model_digest: String,
    /// `sha256:…` of tokenizer.json; `None` where the directory has none.
    pub tokenizer_digest: Option<String>,
}

/// How weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizationInfo {
    /// Bits per weight.
    pub bits: u32,
    /// Weights that share a scale.
    pub group_size: u32,
    /// Layers that are packed otherwise, or not.
    pub overrides: usize,
}

impl From<&Quantization> for QuantizationInfo {
    fn from(quantization: &Quantization) -> Self {
        Self {
            bits: quantization.default.bits,
            group_size: quantization.default.group_size,
            overrides: quantization.overrides.len(),
        }
    }
}

/// Loads the model of `dir`: config.json, model.safetensors or its shards, and tokenizer.json for its digest. Uses MLX's default
/// device. The calling thread becomes the model's: see [`LoadedModel`].
///
/// # Errors
/// When a file is missing, broken or not supported, when an option is out of range, or when MLX fails. Nothing stays allocated.
pub fn load(dir: &Path, options: &LoadOptions) -> Result<LoadedModel> {
    options.check()?;
    let blas = blas::verify()?;
    let backend = Backend::current()?;
    let config = ConfigFile::open(dir)?;
    let architecture = models::read(&config)?;
    let quantization = config.quantization()?;
    let mut weights = Weights::open(dir, backend == Backend::Cpu)?;
    let dtype = match own_kernels(options, backend, ComputeDtype::Float32) && options.dtype.is_none() {
        // They widen what they read.
        true => ComputeDtype::Float32,
        false => compute_dtype(options, architecture.as_ref(), &weights, dir)?,
    };
    let dimensions = architecture.dimensions();
    let shape = KvShape {
        layers: dimensions.layers as usize,
        kv_heads: dimensions.heads.kv_heads,
        head_dim: dimensions.heads.head_dim,
        dtype: dtype.to_mlx(),
    };
    let options = LoadOptions {
        pipeline_depth: options.pipeline_depth.or(Some(u32::from(backend != Backend::Cpu))),
        ..options.clone()
    };
    let needs = KvNeeds {
        context_tokens: dimensions.max_position_embeddings,
        bytes_per_token: shape.bytes_per_token(),
    };
    set_cache_limit(usize::try_from(MLX_CACHE_BYTES).unwrap_or(usize::MAX))?;
    let memory = MachineMemory::read(backend);
    let at_most = options
        .kv_budget_bytes
        .unwrap_or_else(|| budget(backend, memory, Taken::default()));
    let limits = limits::limits(&options, needs, at_most)?;
    let tokenizer_digest = digest::tokenizer_digest_of(dir)?;
    let model_digest = digest::model_digest(config.bytes(), tokenizer_digest.as_deref(), &weights.digest_parts());
    let threads = threads(&options);
    let own = own_kernels(&options, backend, dtype).then(|| OwnKernels::new(threads as usize, options.activations));
    let prepared = own
        .as_ref()
        .and_then(|_| prepared_weights(&options, &weights, quantization.as_ref(), &model_digest));
    let uses_cuda = backend == Backend::Cuda && options.kernels == Kernels::Auto;
    let mut loader = LayerLoader {
        weights: &mut weights,
        quantization: quantization.as_ref(),
        dtype: dtype.to_mlx(),
        own: own.clone(),
        cuda: uses_cuda,
        prepared: prepared.as_ref(),
        packed: Footprint::default(),
        positions: limits.context_tokens as usize,
        parameters: 0,
        uses_mlx_products: own.is_none(),
    };
    let decoder = architecture.load(&mut loader)?;
    let (parameters, uses_mlx_products, packed) = (loader.parameters, loader.uses_mlx_products, loader.packed);

    let unused = weights.unused();
    if !unused.is_empty() {
        tracing::warn!(
            count = unused.len(),
            first = unused[0],
            "weight files hold tensors that the model does not use"
        );
    }
    let (footprint, adopted) = weights.finish();
    let footprint = footprint + packed;
    let info = ModelInfo {
        architecture: config.architecture()?.to_owned(),
        parameters,
        dtype,
        quantization: quantization.as_ref().map(QuantizationInfo::from),
        vocab_size: dimensions.vocab_size,
        eos_token_ids: config.eos_token_ids()?,
        mapped_bytes: footprint.mapped_bytes,
        copied_bytes: footprint.copied_bytes,
        fingerprint: fingerprint(Numerics {
            backend,
            dtype,
            blas: &blas,
            own: match &own {
                Some(own) => Some(own.name(packed != Footprint::default())),
                None => uses_cuda.then(|| cuda::KERNEL_SET.to_owned()),
            },
            uses_mlx_products,
            threads,
        }),
        model_digest,
        tokenizer_digest,
    };
    let kept = match (&own, backend) {
        (Some(_), _) => (Stale::Unread, Moves::Direct),
        (None, Backend::Cpu) => (Stale::Cleared, Moves::Graph),
        (None, _) => (Stale::Cleared, Moves::Queued),
    };
    let mut model = LoadedModel::new(Parts {
        decoder,
        kv: KvArenas::new(shape, &limits, kept)?,
        limits,
        info,
        machine: own.map(|own| own.machine()),
        sampler: Sampler::of(backend),
        adopted,
    });
    if options.kv_budget_bytes.is_none() {
        let workspace = measured_workspace(&mut model, &options, memory, |limits| {
            KvArenas::new(shape, limits, kept)
        })?;
        let weights = match backend {
            Backend::Cpu => footprint.mapped_bytes + footprint.copied_bytes,
            Backend::Metal | Backend::Cuda => active_memory()? as u64,
        };
        let bytes = budget(backend, memory, Taken { weights, workspace });
        tracing::info!(
            kv_budget_bytes = bytes,
            workspace_bytes = workspace,
            "measured the memory that is left for KV"
        );
        let limits = limits::limits(&options, needs, bytes)?;
        model.replace_kv(KvArenas::new(shape, &limits, kept)?, limits);
    }
    Ok(model)
}

/// What the widest step takes beside weights and KV: remembered, or measured by running it.
fn measured_workspace(
    model: &mut LoadedModel,
    options: &LoadOptions,
    memory: Option<MachineMemory>,
    kv: impl Fn(&ModelLimits) -> MlxResult<KvArenas>,
) -> Result<u64> {
    let step = WidestStep {
        tokens: options.step_tokens.min(model.limits().context_tokens),
        rows: options.max_sequences,
    };
    let key = workspace::Key {
        fingerprint: model.info().fingerprint.to_string(),
        model_digest: model.info().model_digest.clone(),
        memory: memory.map_or(0, |memory| memory.total),
        step_tokens: step.tokens,
        sampled_rows: step.rows,
    };
    let cache_dir = options.cache_dir.as_deref();
    if let Some(workspace) = workspace::remembered(cache_dir, &key) {
        return Ok(workspace);
    }
    let failed = |source| Error::WidestStep {
        tokens: step.tokens,
        source,
    };
    if let Some(limits) = step.limits(model.limits()) {
        model.replace_kv(kv(&limits)?, limits);
    }
    let workspace = model.workspace(step).map_err(failed)?;
    workspace::remember(cache_dir, &key, workspace);
    Ok(workspace)
}

/// The file of quantised weights for our kernels, where it is of use.
fn prepared_weights(
    options: &LoadOptions,
    weights: &Weights,
    quantization: Option<&Quantization>,
    model_digest: &str,
) -> Option<PreparedWeights> {
    let place = Place {
        cache_folder: options.cache_dir.as_deref(),
        model_digest,
    };
    PreparedWeights::open(weights, quantization?, place)
}

fn own_kernels(options: &LoadOptions, backend: Backend, dtype: ComputeDtype) -> bool {
    let possible = kernels::AVAILABLE && backend == Backend::Cpu && dtype == ComputeDtype::Float32;
    possible && options.kernels == Kernels::Auto
}

fn threads(options: &LoadOptions) -> u32 {
    options.threads.unwrap_or_else(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        u32::try_from(processors).unwrap_or(u32::MAX)
    })
}

/// The type that was asked for, else the file's own.
fn compute_dtype(
    options: &LoadOptions,
    architecture: &dyn Architecture,
    weights: &Weights,
    dir: &Path,
) -> Result<ComputeDtype> {
    if let Some(dtype) = options.dtype {
        return Ok(dtype);
    }
    let embedding = architecture.embedding_name();
    let weight = format!("{embedding}.weight");
    let scales = format!("{embedding}.scales");
    weights
        .float_dtype(&weight)
        .or_else(|| weights.float_dtype(&scales))
        .and_then(ComputeDtype::from_mlx)
        .ok_or_else(|| Error::Tensor {
            path: dir.to_owned(),
            tensor: weight,
            problem:
                "is missing or of an unsupported type (supported are F32, BF16, F16 and quantised weights with scales)"
                    .to_owned(),
        })
}
