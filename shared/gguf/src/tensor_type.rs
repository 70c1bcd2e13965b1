//! The tensor types of GGUF. One row each; a row with a codec can be converted, the others are known by name and size
//! only. To add a type: write its unpacking function and put it into its row.

mod blocks;
mod requantized;
mod super_blocks;

use half::{bf16, f16};

pub use requantized::RequantizationError;
pub(crate) use requantized::Requantized;

/// What one tensor type looks like in the file.
#[derive(Debug)]
pub(crate) struct TensorType {
    id: u32,
    pub(crate) name: &'static str,
    /// Values of a block.
    pub(crate) block_len: usize,
    pub(crate) block_bytes: usize,
    pub(crate) codec: Option<Codec>,
}

/// How the values of a block are found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Codec {
    /// Plain floats.
    Dense(Dense),
    /// Exactly `scale * level + bias` for every group of values.
    Affine(Affine),
    /// Exact as floats; as `scale * level + bias` only nearly, because the type's own groups are smaller.
    Requantized(Requantized),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dense {
    Float32,
    Float16,
    Bfloat16,
}

impl Dense {
    /// The name that `config.json` and people use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine {
    /// Bits of a level.
    pub(crate) bits: usize,
    /// Values that share a scale and a bias; divides the block.
    pub(crate) group_len: usize,
    pub(crate) unpack: fn(block: &[u8], groups: &mut Groups),
}

/// The groups of one block, unpacked. Buffers are as long as the block's row says.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) levels: Vec<u8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) biases: Vec<f32>,
}

impl Groups {
    pub(crate) fn of(tensor_type: &TensorType, affine: Affine) -> Self {
        let groups = tensor_type.block_len / affine.group_len;
        Self {
            levels: vec![0; tensor_type.block_len],
            scales: vec![0.0; groups],
            biases: vec![0.0; groups],
        }
    }
}

impl TensorType {
    pub(crate) fn by_id(id: u32) -> Option<&'static Self> {
        TYPES.iter().find(|row| row.id == id)
    }

    #[cfg(test)]
    pub(crate) fn by_name(name: &str) -> Option<&'static Self> {
        TYPES.iter().find(|row| row.name == name)
    }

    /// Names of the types that can be converted, for messages.
    pub(crate) fn supported_names() -> String {
        let names: Vec<_> = TYPES
            .iter()
            .filter(|row| row.codec.is_some())
            .map(|row| row.name)
            .collect();
        names.join(", ")
    }

    /// Values of `bytes`, as float32. `values` is as long as the blocks in `bytes` say.
    pub(crate) fn dequantize(&self, codec: Codec, bytes: &[u8], values: &mut [f32]) {
        match codec {
            Codec::Dense(Dense::Float32) => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Codec::Dense(Dense::Float16) => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Codec::Dense(Dense::Bfloat16) => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Codec::Requantized(requantized) => {
                let blocks = bytes.chunks_exact(self.block_bytes);
                for (block, values) in blocks.zip(values.chunks_exact_mut(self.block_len)) {
                    (requantized.values)(block, values);
                }
            }
            Codec::Affine(affine) => {
                let mut groups = Groups::of(self, affine);
                let blocks = bytes.chunks_exact(self.block_bytes);
                for (block, values) in blocks.zip(values.chunks_exact_mut(self.block_len)) {
                    (affine.unpack)(block, &mut groups);
                    groups.values(affine.group_len, values);
                }
            }
        }
    }
}

impl Groups {
    fn values(&self, group_len: usize, values: &mut [f32]) {
        let levels = self.levels.chunks_exact(group_len);
        for (group, (values, levels)) in values.chunks_exact_mut(group_len).zip(levels).enumerate() {
            for (value, level) in values.iter_mut().zip(levels) {
                *value = self.scales[group] * f32::from(*level) + self.biases[group];
            }
        }
    }
}

const fn row(id: u32, name: &'static str, block_len: usize, block_bytes: usize, codec: Option<Codec>) -> TensorType {
    TensorType {
        id,
        name,
        block_len,
        block_bytes,
        codec,
    }
}

const fn dense(dense: Dense) -> Option<Codec> {
    Some(Codec::Dense(dense))
}

const fn affine(bits: usize, unpack: fn(&[u8], &mut Groups)) -> Affine {
    Affine {
        bits,
        group_len: 32,
        unpack,
    }
}

const fn exact(bits: usize, unpack: fn(&[u8], &mut Groups)) -> Option<Codec> {
    Some(Codec::Affine(affine(bits, unpack)))
}

const Q6_K: Requantized = Requantized {
    values: super_blocks::q6_k_values,
    affine: affine(8, requantized::q6_k),
};

static TYPES: [TensorType; 33] = [
    row(0, "F32", 1, 4, dense(Dense::Float32)),
    row(1, "F16", 1, 2, dense(Dense::Float16)),
    row(2, "Q4_0", 32, 18, exact(4, blocks::q4_0)),
    row(3, "Q4_1", 32, 20, exact(4, blocks::q4_1)),
    row(6, "Q5_0", 32, 22, exact(5, blocks::q5_0)),
    row(7, "Q5_1", 32, 24, exact(5, blocks::q5_1)),
    row(8, "Q8_0", 32, 34, exact(8, blocks::q8_0)),
    row(10, "Q2_K", 256, 84, None),
    row(11, "Q3_K", 256, 110, None),
    row(12, "Q4_K", 256, 144, exact(4, super_blocks::q4_k)),
    row(13, "Q5_K", 256, 176, exact(5, super_blocks::q5_k)),
    row(14, "Q6_K", 256, 210, Some(Codec::Requantized(Q6_K))),
    row(15, "Q8_K", 256, 292, None),
    row(16, "IQ2_XXS", 256, 66, None),
    row(17, "IQ2_XS", 256, 74, None),
    row(18, "IQ3_XXS", 256, 98, None),
    row(19, "IQ1_S", 256, 50, None),
    row(20, "IQ4_NL", 32, 18, None),
    row(21, "IQ3_S", 256, 110, None),
    row(22, "IQ2_S", 256, 82, None),
    row(23, "IQ4_XS", 256, 136, None),
    row(24, "I8", 1, 1, None),
    row(25, "I16", 1, 2, None),
    row(26, "I32", 1, 4, None),
    row(27, "I64", 1, 8, None),
    row(28, "F64", 1, 8, None),
    row(29, "IQ1_M", 256, 56, None),
    row(30, "BF16", 1, 2, dense(Dense::Bfloat16)),
    row(34, "TQ1_0", 256, 54, None),
    row(35, "TQ2_0", 256, 66, None),
    row(39, "MXFP4", 32, 17, None),
    row(40, "NVFP4", 64, 36, None),
    row(41, "Q1_0", 128, 18, None),
];

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
