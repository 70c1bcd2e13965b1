//! Llama and the models that share its architecture name in GGUF: grouped-query attention, rotary positions in two
//! halves, SwiGLU, RMS norms. GGUF's writers interleave the rotary halves of the query and key rows; they are put back.

use super::{Architecture, Norms, Rotation, Setting, Size, interleaved, row};

pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    model_type: "llama",
    fields: &[],
    settings: &[
        ("hidden_act", Setting::Text("silu")),
        ("attention_bias", Setting::Flag(false)),
        ("attention_dropout", Setting::Number(0.0)),
        ("mlp_bias", Setting::Flag(false)),
        ("rope_scaling", Setting::Null),
        ("use_cache", Setting::Flag(true)),
    ],
    layer: &[
        row("attn_norm.weight", "input_layernorm.weight", &[Size::Hidden]),
        interleaved(
            "attn_q.weight",
            "self_attn.q_proj.weight",
            &[Size::Queries, Size::Hidden],
        ),
        interleaved("attn_k.weight", "self_attn.k_proj.weight", &[Size::Keys, Size::Hidden]),
        row("attn_v.weight", "self_attn.v_proj.weight", &[Size::Keys, Size::Hidden]),
        row(
            "attn_output.weight",
            "self_attn.o_proj.weight",
            &[Size::Hidden, Size::Queries],
        ),
        row("ffn_norm.weight", "post_attention_layernorm.weight", &[Size::Hidden]),
        row(
            "ffn_gate.weight",
            "mlp.gate_proj.weight",
            &[Size::Intermediate, Size::Hidden],
        ),
        row(
            "ffn_up.weight",
            "mlp.up_proj.weight",
            &[Size::Intermediate, Size::Hidden],
        ),
        row(
            "ffn_down.weight",
            "mlp.down_proj.weight",
            &[Size::Hidden, Size::Intermediate],
        ),
    ],
    norms: Norms::AsTrained,
    rotation: Rotation::Whole,
};
