//! Qwen3's mixtures of experts: as Qwen3, with a router and experts in each layer. The experts' matrices stay one tensor for
//! each part, under the names that mlx-lm gives them.

use super::{Architecture, FieldKind, Norms, Rotation, Setting, Size, field, row};

pub(super) const QWEN3MOE: Architecture = Architecture {
    name: "qwen3moe",
    class: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    fields: &[
        field("expert_count", "num_experts", FieldKind::Size),
        field("expert_used_count", "num_experts_per_tok", FieldKind::Size),
        field("expert_feed_forward_length", "moe_intermediate_size", FieldKind::Size),
    ],
    settings: &[
        ("hidden_act", Setting::Text("silu")),
        ("attention_bias", Setting::Flag(false)),
        ("attention_dropout", Setting::Number(0.0)),
        ("norm_topk_prob", Setting::Flag(true)),
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
        row("ffn_gate_inp.weight", "mlp.gate.weight", &[Size::Experts, Size::Hidden]),
        row(
            "ffn_gate_exps.weight",
            "mlp.switch_mlp.gate_proj.weight",
            &[Size::Experts, Size::ExpertIntermediate, Size::Hidden],
        ),
        row(
            "ffn_up_exps.weight",
            "mlp.switch_mlp.up_proj.weight",
            &[Size::Experts, Size::ExpertIntermediate, Size::Hidden],
        ),
        row(
            "ffn_down_exps.weight",
            "mlp.switch_mlp.down_proj.weight",
            &[Size::Experts, Size::Hidden, Size::ExpertIntermediate],
        ),
    ],
    norms: Norms::AsTrained,
    rotation: Rotation::Whole,
};
