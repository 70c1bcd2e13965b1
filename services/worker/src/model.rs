//! Loads a real model. To be called on the engine's thread, where the model stays.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use kr_model::{ComputeDtype, LoadOptions, LoadedModel, ModelInfo};

use crate::config::{Activations, Config, Dtype, Kernels};
use crate::profile::ModelFacts;

/// Where a model comes from and how it is loaded.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    folder: PathBuf,
    options: LoadOptions,
}

impl Source {
    /// Returns what `config` asks for.
    pub(crate) fn of(config: &Config) -> Self {
        let limits = &config.limits;
        let options = LoadOptions {
            dtype: config.dtype.map(compute_dtype),
            max_sequences: limits.max_sequences,
            step_tokens: limits.max_step_tokens,
            kv_budget_bytes: limits.kv_budget_bytes,
            store_blocks: config.prefix_cache.blocks,
            block_tokens: config.prefix_cache.block_tokens,
            cache_dir: Some(config.cache_folder()),
            threads: config.threads,
            max_context_tokens: limits.max_context_tokens,
            pipeline_depth: limits.pipeline_depth,
            kernels: match config.kernels {
                Kernels::Auto => kr_model::Kernels::Auto,
                Kernels::Mlx => kr_model::Kernels::MlxOnly,
            },
            activations: match config.activations {
                Activations::Int8 => kr_model::Activations::Int8,
                Activations::Float32 => kr_model::Activations::Float32,
            },
        };
        Self {
            folder: config.folder().unwrap_or_default(),
            options,
        }
    }

    /// Loads the model and tells `report` what it is.
    ///
    /// # Errors
    /// When the folder holds no model that can be run, naming file and cure.
    pub(crate) fn load(&self, report: &SyncSender<ModelFacts>) -> Result<LoadedModel, kr_model::Error> {
        let model = kr_model::load(&self.folder, &self.options)?;
        // The receiver is gone only where the process is ending.
        let _ = report.send(facts(model.info()));
        Ok(model)
    }
}

/// Returns whether loading failed because of the model's own files, so that trying again would fail the same way.
pub(crate) fn is_at_fault(error: &kr_engine::Error) -> bool {
    use kr_model::Error as Of;
    let kr_engine::Error::Load(source) = error else {
        return false;
    };
    match source.downcast_ref() {
        Some(Of::Read { .. } | Of::Json { .. } | Of::Config { .. } | Of::WeightFile { .. }) => true,
        Some(Of::Header { .. } | Of::Tensor { .. }) => true,
        Some(_) => false,
        // A fake model's.
        None => true,
    }
}

fn compute_dtype(dtype: Dtype) -> ComputeDtype {
    match dtype {
        Dtype::Float32 => ComputeDtype::Float32,
        Dtype::Bfloat16 => ComputeDtype::Bfloat16,
        Dtype::Float16 => ComputeDtype::Float16,
    }
}

fn facts(info: &ModelInfo) -> ModelFacts {
    let weights = info.quantization.as_ref().map_or_else(
        || info.dtype.to_string(),
        |quantization| {
            let overrides = match quantization.overrides {
                0 => String::new(),
                count => format!(", {count} overrides"),
            };
            format!(
                "affine {} bit, groups of {}{overrides}",
                quantization.bits, quantization.group_size
            )
        },
    );
    ModelFacts {
        digest: hexadecimal(&info.model_digest),
        tokenizer_digest: info.tokenizer_digest.as_deref().map(hexadecimal).unwrap_or_default(),
        fingerprint: info.fingerprint.clone(),
        architecture: info.architecture.clone(),
        parameter_count: info.parameters,
        weights,
        vocabulary_size: info.vocab_size,
        mapped_bytes: info.mapped_bytes,
        copied_bytes: info.copied_bytes,
        end_token_ids: info.eos_token_ids.clone(),
    }
}

/// Returns a digest as the wire has it: 64 hexadecimal digits.
pub(crate) fn hexadecimal(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).to_owned()
}
