//! Which tensors are prepared.

use kr_kernels::quantized::{Bits, Layout, ScaleType, Source};
use safetensors::Dtype;

use super::format::Entry;
use crate::config::{Quantization, Scheme};
use crate::weights::Weights;

/// Matrices by the names of their layers, in the order of the names.
#[derive(Debug)]
pub(super) struct Plan {
    matrices: Vec<(String, Layout)>,
}

impl Plan {
    /// Every quantised matrix whose shape our kernels know. What does not fit together is left out: the loader says what is wrong.
    pub(super) fn new(weights: &Weights, quantization: &Quantization) -> Self {
        let mut matrices: Vec<_> = weights
            .names()
            .filter_map(|name| {
                let layer = name.strip_suffix(".scales")?;
                let form = Form::of(weights, layer, quantization.scheme(layer)?)?;
                let layout = form.layout(source(weights, layer)?.smallest_scale_type())?;
                Some((layer.to_owned(), layout))
            })
            .collect();
        matrices.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        Self { matrices }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    /// Where each matrix lies if the first begins at `start`. Checksums are not computed yet.
    pub(super) fn entries(&self, start: usize) -> Vec<Entry> {
        let mut offset = start;
        let entry = |(name, layout): &(String, Layout)| {
            let entry = Entry {
                name: name.clone(),
                offset,
                layout: *layout,
                checksum: u64::MAX,
            };
            offset += layout.bytes();
            entry
        };
        self.matrices.iter().map(entry).collect()
    }
}

/// A quantised matrix that our kernels know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    shape: [usize; 2],
    group: usize,
    bits: Bits,
}

impl Form {
    /// The form of a layer's matrix, as the tensors' shapes tell it.
    pub(super) fn of(weights: &Weights, layer: &str, scheme: Scheme) -> Option<Self> {
        let bits = match scheme.bits {
            4 => Bits::Four,
            8 => Bits::Eight,
            _ => return None,
        };
        let [outputs, words] = weights.shape(&format!("{layer}.weight"))?.try_into().ok()?;
        let (inputs, group) = (words * 32 / bits.count(), scheme.group_size as usize);
        let scale_shape = [outputs, inputs / group];
        let same = |part| weights.shape(&format!("{layer}.{part}")) == Some(&scale_shape);
        let form = Self {
            shape: [outputs, inputs],
            group,
            bits,
        };
        let known = same("scales") && same("biases") && source(weights, layer).is_some();
        (known && form.layout(ScaleType::Float32).is_some()).then_some(form)
    }

    pub(super) fn layout(self, scales: ScaleType) -> Option<Layout> {
        Layout::new(self.shape, self.group, self.bits, scales)
    }

    pub(super) fn is_of(self, layout: Layout) -> bool {
        self.layout(layout.scales()) == Some(layout)
    }
}

/// The tensors of a layer, where they are of the types that a quantised matrix has.
pub(super) fn source<'a>(weights: &'a Weights, layer: &str) -> Option<Source<'a>> {
    let (words_type, words) = weights.data(&format!("{layer}.weight"))?;
    let (scale_type, scales) = weights.data(&format!("{layer}.scales"))?;
    let (bias_type, biases) = weights.data(&format!("{layer}.biases"))?;
    let scale_type = match scale_type {
        Dtype::F32 => ScaleType::Float32,
        Dtype::F16 => ScaleType::Float16,
        Dtype::BF16 => ScaleType::Bfloat16,
        _ => return None,
    };
    let same = words_type == Dtype::U32 && weights.data(&format!("{layer}.scales"))?.0 == bias_type;
    same.then_some(Source {
        words,
        scales,
        biases,
        scale_type,
    })
}

/// Lets the system take back the memory of a layer's tensors, which nobody will read soon.
pub(super) fn forget(weights: &Weights, layer: &str) {
    for part in ["weight", "scales", "biases"] {
        weights.forget(&format!("{layer}.{part}"));
    }
}
