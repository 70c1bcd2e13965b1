//! Writes the weights row by row; memory use does not grow with the model.

use std::io::{self, Write};

use super::plan::{Array, Content, Plan};
use super::staging::Failure;
use super::{Progress, Stage};
use crate::architecture::{Model, Weight};
use crate::error::{Error, Place};
use crate::gguf::Gguf;
use crate::quantized;
use crate::safetensors::ALIGNMENT;
use crate::tensor_type::{Affine, Codec, Groups, TensorType};

const PROGRESS_BYTES: u64 = 4 << 20;

pub(super) fn write(
    gguf: &Gguf,
    model: &Model<'_>,
    plan: &Plan,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Failure> {
    let mut out = Reporting {
        out,
        progress,
        done_bytes: 0,
        reported_bytes: 0,
        total_bytes: plan.layout.bytes(),
    };
    plan.layout.write_header(&mut out)?;
    for (index, padding) in &plan.layout.order {
        let array = &plan.arrays[*index];
        write_array(gguf, &model.weights[array.weight], array, &mut out)?;
        out.write_all(&[0; ALIGNMENT][..*padding])?;
    }
    out.report();
    Ok(())
}

fn write_array(gguf: &Gguf, weight: &Weight<'_>, array: &Array, out: &mut impl Write) -> Result<(), Failure> {
    let tensor = weight.tensor;
    let data = gguf.data(tensor);
    let source_bytes = data.len() / tensor.rows();
    let mut encoder = RowEncoder::of(weight, array.content);
    let mut row_bytes = Vec::with_capacity(array.row_bytes);
    for row in 0..tensor.rows() {
        let source_row = weight.rows.source(row);
        let start = source_row * source_bytes;
        row_bytes.clear();
        if !encoder.encode(&data[start..start + source_bytes], &mut row_bytes) {
            return Err(Failure::Source(Error::NotFinite {
                path: gguf.path_of(tensor).to_owned(),
                subject: Place::Tensor(tensor.name().to_owned()),
                row: source_row as u64,
                offset: (tensor.range().start + start) as u64,
            }));
        }
        out.write_all(&row_bytes)?;
    }
    Ok(())
}

/// Turns rows of the source into rows of one array.
struct RowEncoder {
    tensor_type: &'static TensorType,
    content: Content,
    values: Vec<f32>,
    excess: f32,
}

impl RowEncoder {
    fn of(weight: &Weight<'_>, content: Content) -> Self {
        let columns = weight.tensor.columns();
        let values = match content {
            Content::Values | Content::Copied(_) => vec![0.0; columns],
            _ => Vec::new(),
        };
        Self {
            tensor_type: weight.tensor.tensor_type(),
            content,
            values,
            excess: weight.excess,
        }
    }

    /// Appends the encoded row; false when it holds a value that is not finite.
    fn encode(&mut self, source: &[u8], encoded: &mut Vec<u8>) -> bool {
        match self.content {
            Content::Values => {
                let Some(codec) = self.tensor_type.codec else {
                    return false;
                };
                self.tensor_type.dequantize(codec, source, &mut self.values);
                self.values.iter_mut().for_each(|value| *value -= self.excess);
                append_finite(&self.values, encoded)
            }
            Content::Copied(dense) => {
                encoded.extend_from_slice(source);
                self.tensor_type
                    .dequantize(Codec::Dense(dense), source, &mut self.values);
                self.values.iter().all(|value| value.is_finite())
            }
            Content::Levels(affine) => self.blocks(affine, source, |groups| {
                quantized::pack(&groups.levels, affine.bits, encoded);
                true
            }),
            Content::Scales(affine) => self.blocks(affine, source, |groups| append_finite(&groups.scales, encoded)),
            Content::Biases(affine) => self.blocks(affine, source, |groups| append_finite(&groups.biases, encoded)),
        }
    }

    fn blocks(&self, affine: Affine, source: &[u8], mut each: impl FnMut(&Groups) -> bool) -> bool {
        let mut groups = Groups::of(self.tensor_type, affine);
        source.chunks_exact(self.tensor_type.block_bytes).all(|block| {
            (affine.unpack)(block, &mut groups);
            each(&groups)
        })
    }
}

fn append_finite(values: &[f32], encoded: &mut Vec<u8>) -> bool {
    encoded.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    values.iter().all(|value| value.is_finite())
}

/// Counts what passes and reports it every few megabytes.
struct Reporting<'a> {
    out: &'a mut dyn Write,
    progress: &'a mut dyn FnMut(Progress),
    done_bytes: u64,
    reported_bytes: u64,
    total_bytes: u64,
}

impl Reporting<'_> {
    fn report(&mut self) {
        self.reported_bytes = self.done_bytes;
        (self.progress)(Progress {
            stage: Stage::Tensors,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
        });
    }
}

impl Write for Reporting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.done_bytes += written as u64;
        if self.done_bytes - self.reported_bytes >= PROGRESS_BYTES {
            self.report();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
