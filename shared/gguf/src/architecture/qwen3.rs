//! Qwen3, the dense ones: as Llama, with a norm over each query and key head, and rows as they were trained.

use super::{Architecture, Norms, Rotation, Setting, Size, row};

pub(super) const QWEN3: Architecture = Architecture {
    name: "qwen3",
    class: "Qwen3ForCausalLM",
    model_type: "qwen3",
    fields: &[],
    settings: &[
        ("hidden_act", Setting::Text("silu")),
        ("attention_bias", Setting::Flag(false)),
        ("attention_dropout", Setting::Number(0.0)),
        ("rope_scaling", Setting::Null),
        ("use_sliding_window", Setting::Flag(false)),
        ("use_cache", Setting::Flag(true)),
    ],
    layer: &[
        row("attn_norm.weight", "input_layernorm.weight", &[Size::Hidden]),
        row(
            "attn_q.weight",
            "self_attn.q_proj.weight",
            &[Size::Queries, Size::Hidden],
        ),
        row("attn_q_norm.weight", "self_attn.q_norm.weight", &[Size::Head]),
        row("attn_k.weight", "self_attn.k_proj.weight", &[Size::Keys, Size::Hidden]),
        row("attn_k_norm.weight", "self_attn.k_norm.weight", &[Size::Head]),
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
