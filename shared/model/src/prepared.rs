//! Quantised weights as our kernels want them: repacked once to a file that all workers of a model map, or in memory where there is
//! no folder for such a file.
//!
//! The file is made by one worker, under a lock, beside its final name and then renamed; whoever opens it verifies it, and makes it
//! again where it is damaged. It is a cache: nothing is lost with it.

mod file;
mod format;
mod lock;
mod plan;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kr_kernels::quantized::{Layout, Weight, pack_panels};

use crate::config::{Quantization, Scheme};
use crate::weights::Weights;
use file::PreparedFile;
use format::Entry;
use plan::{Form, Plan};

/// Where prepared weights are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// `None` keeps them in memory.
    pub(crate) cache_folder: Option<&'a Path>,
    /// Names the weights.
    pub(crate) model_digest: &'a str,
}

impl Place<'_> {
    /// The file, where there is a folder for it.
    fn path(&self) -> Option<PathBuf> {
        let digest = self.model_digest.rsplit(':').next()?;
        let name = format!("{digest}-{}-v{}.krw", format::LAYOUT, format::VERSION);
        Some(self.cache_folder?.join("prepared").join(name))
    }
}

/// Prepared weights of a file, by the names of their layers.
#[derive(Debug)]
pub(crate) struct PreparedWeights {
    file: Arc<PreparedFile>,
    entries: HashMap<String, Entry>,
}

impl PreparedWeights {
    /// Opens, or makes, the file of what `weights` hold of quantised matrices that our kernels can multiply with. `None` where there is
    /// nothing to prepare, no folder, or no way to use it, of which a warning tells.
    pub(crate) fn open(weights: &Weights, quantization: &Quantization, place: Place<'_>) -> Option<Self> {
        let path = place.path()?;
        let opened = file::open_or_make(&path, place.model_digest, || Plan::new(weights, quantization), weights);
        let opened = opened.unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(
                path = %path.display(),
                error,
                "cannot keep prepared weights in a file: this worker holds a copy of its own in memory"
            );
            None
        });
        let (file, entries) = opened?;
        Some(Self {
            file: Arc::new(file),
            entries: entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect(),
        })
    }

    /// Returns the matrix of a layer, `None` where the file has none of this form.
    fn matrix(&self, layer: &str, form: Form) -> Option<PackedMatrix> {
        let entry = self.entries.get(layer).filter(|entry| form.is_of(entry.layout))?;
        Some(PackedMatrix {
            storage: Arc::new(Storage::File(Arc::clone(&self.file), entry.range())),
            layout: entry.layout,
        })
    }
}

/// The bytes of a matrix.
#[derive(Debug)]
enum Storage {
    File(Arc<PreparedFile>, Range<usize>),
    Memory(Vec<u8>),
}

/// A matrix of quantised weights for our kernels. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub(crate) struct PackedMatrix {
    storage: Arc<Storage>,
    layout: Layout,
}

impl PackedMatrix {
    /// Takes the weights of a layer from `prepared`, or packs them in memory where it has none. `None` where our kernels do not know
    /// their form.
    pub(crate) fn open(
        prepared: Option<&PreparedWeights>,
        weights: &Weights,
        layer: &str,
        scheme: Scheme,
    ) -> Option<Self> {
        let form = Form::of(weights, layer, scheme)?;
        prepared
            .and_then(|prepared| prepared.matrix(layer, form))
            .or_else(|| Self::pack(weights, layer, form))
    }

    fn pack(weights: &Weights, layer: &str, form: Form) -> Option<Self> {
        let source = plan::source(weights, layer)?;
        let layout = form.layout(source.smallest_scale_type())?;
        let mut bytes = vec![0; layout.bytes()];
        pack_panels(&layout, source, 0..layout.panels(), &mut bytes);
        plan::forget(weights, layer);
        let storage = Arc::new(Storage::Memory(bytes));
        Some(Self { storage, layout })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether the bytes are those of a file that workers share.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(*self.storage, Storage::File(..))
    }

    /// As kernels take it. `bias`: `[outputs]`.
    pub(crate) fn weight<'a>(&'a self, bias: Option<&'a [f32]>) -> Weight<'a> {
        let panels = match &*self.storage {
            Storage::File(file, range) => &file.bytes()[range.clone()],
            Storage::Memory(bytes) => bytes,
        };
        Weight {
            layout: self.layout,
            panels,
            bias,
        }
    }
}

#[cfg(test)]
mod tests;
