//! Builds GGUF files, well-formed ones and others.

use half::{bf16, f16};

/// A metadata value as it is written.
#[derive(Debug, Clone)]
pub(super) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl From<&str> for Meta {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[derive(Debug, Clone)]
pub(super) struct TensorSource {
    pub(super) name: String,
    /// Columns first.
    pub(super) dimensions: Vec<u64>,
    pub(super) type_id: u32,
    pub(super) data: Vec<u8>,
}

/// A file in the making.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) version: u32,
    pub(super) metadata: Vec<(String, Meta)>,
    pub(super) tensors: Vec<TensorSource>,
}

pub(super) const F32: u32 = 0;
pub(super) const F16: u32 = 1;
pub(super) const Q4_0: u32 = 2;
pub(super) const Q4_1: u32 = 3;
pub(super) const Q5_0: u32 = 6;
pub(super) const Q5_1: u32 = 7;
pub(super) const Q8_0: u32 = 8;
pub(super) const Q4_K: u32 = 12;
pub(super) const Q5_K: u32 = 13;
pub(super) const Q6_K: u32 = 14;
pub(super) const BF16: u32 = 30;
const ALIGNMENT: usize = 32;

impl File {
    /// A complete Llama of one layer: hidden 32, 4 heads of 8, 1 KV head, feed-forward 64, 262 tokens.
    pub(super) fn tiny_llama() -> Self {
        let mut file = Self {
            version: 3,
            metadata: Vec::new(),
            tensors: Vec::new(),
        };
        for (key, value) in [
            ("general.architecture", Meta::from("llama")),
            ("general.name", "tiny".into()),
            ("llama.block_count", Meta::U32(1)),
            ("llama.context_length", Meta::U32(128)),
            ("llama.embedding_length", Meta::U32(32)),
            ("llama.feed_forward_length", Meta::U32(64)),
            ("llama.attention.head_count", Meta::U32(4)),
            ("llama.attention.head_count_kv", Meta::U32(1)),
            ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
            ("llama.rope.freq_base", Meta::F32(10_000.0)),
        ] {
            file.set(key, value);
        }
        file.add_tokenizer();
        for (name, dimensions, type_id) in [
            ("token_embd.weight", vec![32, 262], Q8_0),
            ("blk.0.attn_norm.weight", vec![32], F32),
            ("blk.0.attn_q.weight", vec![32, 32], Q4_1),
            ("blk.0.attn_k.weight", vec![32, 8], Q4_1),
            ("blk.0.attn_v.weight", vec![32, 8], Q4_1),
            ("blk.0.attn_output.weight", vec![32, 32], F16),
            ("blk.0.ffn_norm.weight", vec![32], F32),
            ("blk.0.ffn_gate.weight", vec![32, 64], Q4_1),
            ("blk.0.ffn_up.weight", vec![32, 64], Q4_1),
            ("blk.0.ffn_down.weight", vec![64, 32], Q4_1),
            ("output_norm.weight", vec![32], F32),
        ] {
            file.add_tensor(name, dimensions, type_id);
        }
        file
    }

    /// The same with sizes that every type's blocks divide (hidden and feed-forward 256, 4 heads of 64), all matrices of
    /// one type.
    pub(super) fn llama_of(type_id: u32) -> Self {
        let mut file = Self::tiny_llama()
            .with("llama.embedding_length", Meta::U32(256))
            .with("llama.feed_forward_length", Meta::U32(256));
        for tensor in std::mem::take(&mut file.tensors) {
            let shape = match tensor.dimensions.as_slice() {
                [_] => vec![256],
                [_, 262] => vec![256, 262],
                [_, 8] => vec![256, 64],
                _ => vec![256, 256],
            };
            let type_id = if shape.len() == 1 { F32 } else { type_id };
            file.add_tensor(&tensor.name, shape, type_id);
        }
        file
    }

    /// The tiny model under another architecture's name, with further tensors: name, length, both of float32.
    pub(super) fn tiny_of(architecture: &str, vectors: &[(&str, u64)]) -> Self {
        let mut file = Self::tiny_llama().with("general.architecture", architecture);
        for (key, _) in &mut file.metadata {
            if let Some(name) = key.strip_prefix("llama.") {
                *key = format!("{architecture}.{name}");
            }
        }
        for (name, length) in vectors {
            file.add_tensor(&format!("blk.0.{name}"), vec![*length], F32);
        }
        file
    }

    /// The tiny model with another vocabulary: tokens and their kinds. Token 1 begins texts, token 2 ends them.
    pub(super) fn with_tokens(self, tokens: Vec<String>, kinds: Vec<i32>) -> Self {
        let rows = tokens.len() as u64;
        let mut file = self
            .without("token_embd.weight")
            .with("tokenizer.ggml.tokens", Meta::Texts(tokens))
            .with("tokenizer.ggml.token_type", Meta::I32s(kinds))
            .with("tokenizer.ggml.bos_token_id", Meta::U32(1))
            .with("tokenizer.ggml.eos_token_id", Meta::U32(2));
        file.add_tensor("token_embd.weight", vec![32, rows], F32);
        file
    }

    /// The tiny model with a SentencePiece vocabulary of seven tokens.
    pub(super) fn tiny_sentence_piece() -> Self {
        let tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a"].map(str::to_owned);
        Self::tiny_llama()
            .with_tokens(tokens.to_vec(), vec![2, 3, 3, 1, 1, 1, 1])
            .without("tokenizer.ggml.pre")
            .without("tokenizer.ggml.merges")
            .with("tokenizer.ggml.model", "llama")
            .with(
                "tokenizer.ggml.scores",
                Meta::F32s(vec![0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0]),
            )
    }

    /// The file's parts, as a model split after so many tensors is written: all metadata in the first.
    pub(super) fn split(&self, after: usize) -> [Self; 2] {
        let (mut first, mut second) = (self.clone(), self.clone());
        second.tensors = first.tensors.split_off(after);
        second.metadata.clear();
        for (number, part) in [&mut first, &mut second].into_iter().enumerate() {
            part.set("split.no", Meta::U32(u32::try_from(number).unwrap()));
            part.set("split.count", Meta::U32(2));
            part.set(
                "split.tensors.count",
                Meta::U32(u32::try_from(self.tensors.len()).unwrap()),
            );
        }
        [first, second]
    }

    fn add_tokenizer(&mut self) {
        let mut tokens: Vec<String> = ["<|start|>", "<|end|>", "<tool>"].map(str::to_owned).into();
        tokens.extend(byte_alphabet().map(String::from));
        tokens.extend(["he", "ll", "hell"].map(str::to_owned));
        let mut kinds = vec![1; tokens.len()];
        kinds[..3].copy_from_slice(&[3, 3, 4]);
        self.set("tokenizer.ggml.model", "gpt2".into());
        self.set("tokenizer.ggml.pre", "smollm".into());
        self.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
        self.set("tokenizer.ggml.token_type", Meta::I32s(kinds));
        let merges = ["h e", "l l", "he ll"].map(str::to_owned).into();
        self.set("tokenizer.ggml.merges", Meta::Texts(merges));
        self.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
        self.set("tokenizer.ggml.eos_token_id", Meta::U32(1));
        self.set("tokenizer.chat_template", "{{ messages[0].content }}".into());
    }

    pub(super) fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub(super) fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.tensors.retain(|tensor| tensor.name != key);
        self
    }

    pub(super) fn with(mut self, key: &str, value: impl Into<Meta>) -> Self {
        self.set(key, value.into());
        self
    }

    pub(super) fn add_tensor(&mut self, name: &str, dimensions: Vec<u64>, type_id: u32) {
        let values = usize::try_from(dimensions.iter().product::<u64>()).unwrap();
        let data = tensor_data(type_id, values, self.tensors.len());
        self.tensors.push(TensorSource {
            name: name.to_owned(),
            dimensions,
            type_id,
            data,
        });
    }

    pub(super) fn tensor(&mut self, name: &str) -> &mut TensorSource {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut bytes, key);
            meta(&mut bytes, value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            text(&mut bytes, &tensor.name);
            bytes.extend(u32::try_from(tensor.dimensions.len()).unwrap().to_le_bytes());
            for dimension in &tensor.dimensions {
                bytes.extend(dimension.to_le_bytes());
            }
            bytes.extend(tensor.type_id.to_le_bytes());
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend_from_slice(&tensor.data);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        bytes
    }
}

/// The characters that stand for bytes in byte-level BPE.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = 256..256 + 68;
    (0..256).filter(printable).chain(others).filter_map(char::from_u32)
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn meta(bytes: &mut Vec<u8>, value: &Meta) {
    let array = |bytes: &mut Vec<u8>, kind: u32, len: usize| {
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend((len as u64).to_le_bytes());
    };
    match value {
        Meta::U32(value) => {
            bytes.extend(4_u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        Meta::F32(value) => {
            bytes.extend(6_u32.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        Meta::Bool(value) => {
            bytes.extend(7_u32.to_le_bytes());
            bytes.push((*value).into());
        }
        Meta::Text(value) => {
            bytes.extend(8_u32.to_le_bytes());
            text(bytes, value);
        }
        Meta::Texts(values) => {
            array(bytes, 8, values.len());
            values.iter().for_each(|value| text(bytes, value));
        }
        Meta::F32s(values) => {
            array(bytes, 6, values.len());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        Meta::I32s(values) => {
            array(bytes, 5, values.len());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
    }
}

/// Blocks full of different values, all finite.
fn tensor_data(type_id: u32, values: usize, salt: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at * 37 + salt * 101) % 251).unwrap();
    let half = |at: usize| f16::from_f32((at % 23 + salt) as f32 / 16.0 - 0.5).to_le_bytes();
    let (block_len, block_bytes, halves): (_, _, &[usize]) = match type_id {
        F32 => {
            return (0..values)
                .flat_map(|at| ((at + salt) as f32 / 3.0).to_le_bytes())
                .collect();
        }
        F16 => return (0..values).flat_map(half).collect(),
        BF16 => {
            let value = |at: usize| bf16::from_f32((at + salt) as f32 / 3.0).to_le_bytes();
            return (0..values).flat_map(value).collect();
        }
        Q4_0 => (32, 18, &[0]),
        Q4_1 => (32, 20, &[0, 2]),
        Q5_0 => (32, 22, &[0]),
        Q5_1 => (32, 24, &[0, 2]),
        Q8_0 => (32, 34, &[0]),
        Q4_K => (256, 144, &[0, 2]),
        Q5_K => (256, 176, &[0, 2]),
        Q6_K => (256, 210, &[208]),
        _ => (32, 32, &[]),
    };
    let mut data = Vec::new();
    for block in 0..values / block_len {
        let start = data.len();
        data.extend((0..block_bytes).map(|at| byte(block * block_bytes + at)));
        for (number, at) in halves.iter().enumerate() {
            data[start + at..start + at + 2].copy_from_slice(&half(block * halves.len() + number));
        }
    }
    data
}
