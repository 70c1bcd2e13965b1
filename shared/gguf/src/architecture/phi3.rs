//! Phi-3 and Phi-4-mini: queries, keys and values in one matrix, gate and up in another, which GGUF calls `ffn_up`; rows as
//! they were trained; heads that may be turned in part.

use super::{Architecture, FieldKind, Norms, Rotation, Setting, Size, field, row};

pub(super) const PHI3: Architecture = Architecture {
    name: "phi3",
    class: "Phi3ForCausalLM",
    model_type: "phi3",
    fields: &[
        field("attention.sliding_window", "sliding_window", FieldKind::SizeOrNull),
        field(
            "rope.scaling.original_context_length",
            "original_max_position_embeddings",
            FieldKind::SizeOr("max_position_embeddings"),
        ),
    ],
    settings: &[
        ("hidden_act", Setting::Text("silu")),
        ("attention_dropout", Setting::Number(0.0)),
        ("embd_pdrop", Setting::Number(0.0)),
        ("partial_rotary_factor", Setting::RotatedPart),
        ("resid_pdrop", Setting::Number(0.0)),
        ("rope_scaling", Setting::Null),
        ("use_cache", Setting::Flag(true)),
    ],
    layer: &[
        row("attn_norm.weight", "input_layernorm.weight", &[Size::Hidden]),
        row(
            "attn_qkv.weight",
            "self_attn.qkv_proj.weight",
            &[Size::QueriesKeysValues, Size::Hidden],
        ),
        row(
            "attn_output.weight",
            "self_attn.o_proj.weight",
            &[Size::Hidden, Size::Queries],
        ),
        row("ffn_norm.weight", "post_attention_layernorm.weight", &[Size::Hidden]),
        row(
            "ffn_up.weight",
            "mlp.gate_up_proj.weight",
            &[Size::GateUp, Size::Hidden],
        ),
        row(
            "ffn_down.weight",
            "mlp.down_proj.weight",
            &[Size::Hidden, Size::Intermediate],
        ),
    ],
    norms: Norms::AsTrained,
    rotation: Rotation::Part,
};
