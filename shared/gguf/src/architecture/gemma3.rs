//! Gemma 3, its text: norms before and behind each part of a layer, written with the one added that the model adds to
//! them; rows as they were trained. Which layers slide, the rotation of those that do and the scale of queries are not in
//! the metadata: llama.cpp knows them, and so does this table.

use super::{Architecture, FieldKind, Norms, Rotation, Setting, Size, field, row};

pub(super) const GEMMA3: Architecture = Architecture {
    name: "gemma3",
    class: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    fields: &[
        field("attention.sliding_window", "sliding_window", FieldKind::Size),
        field(
            "attention.sliding_window_pattern",
            "sliding_window_pattern",
            FieldKind::SizeOrNumber(6),
        ),
        field(
            "rope.freq_base_swa",
            "rope_local_base_freq",
            FieldKind::FloatOr(10_000.0),
        ),
    ],
    settings: &[
        ("hidden_activation", Setting::Text("gelu_pytorch_tanh")),
        ("attention_bias", Setting::Flag(false)),
        ("attention_dropout", Setting::Number(0.0)),
        ("attn_logit_softcapping", Setting::Null),
        ("final_logit_softcapping", Setting::Null),
        // 62 layers are those of Gemma 3 27B, whose queries are scaled by their share of the width.
        ("query_pre_attn_scalar", Setting::QueryScale { wide_layers: 62 }),
        ("rope_scaling", Setting::Null),
        ("use_bidirectional_attention", Setting::Flag(false)),
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
        row(
            "post_attention_norm.weight",
            "post_attention_layernorm.weight",
            &[Size::Hidden],
        ),
        row("ffn_norm.weight", "pre_feedforward_layernorm.weight", &[Size::Hidden]),
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
        row(
            "post_ffw_norm.weight",
            "post_feedforward_layernorm.weight",
            &[Size::Hidden],
        ),
    ],
    norms: Norms::PlusOne,
    rotation: Rotation::Whole,
};
