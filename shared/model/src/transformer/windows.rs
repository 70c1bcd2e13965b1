//! Sliding windows: which layers see only the last positions.

use serde_json::Value;

use super::Shape;
use crate::config::ConfigFile;
use crate::error::Result;

/// A number of positions, the token's own included; `None` where the field is null or absent.
pub(crate) fn window(config: &ConfigFile, field: &str) -> Result<Option<usize>> {
    match config.get(field) {
        None => Ok(None),
        Some(_) => Ok(Some(config.integer(field, 1..=1 << 24)? as usize)),
    }
}

/// For each layer whether its window slides: by `layer_types`, or by `otherwise` where config.json does not list them.
pub(crate) fn sliding_layers(config: &ConfigFile, shape: &Shape, otherwise: impl Fn(u32) -> bool) -> Result<Vec<bool>> {
    let field = "layer_types";
    let layers = shape.num_hidden_layers;
    let Some(value) = config.get(field) else {
        return Ok((0..layers).map(otherwise).collect());
    };
    let slides = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let kinds: Option<Vec<_>> = value.as_array().and_then(|kinds| kinds.iter().map(slides).collect());
    kinds.filter(|kinds| kinds.len() == layers as usize).ok_or_else(|| {
        let problem = format!("it must list {layers} times \"full_attention\" or \"sliding_attention\"");
        config.refuse(field, &problem, "correct it, or download the model again")
    })
}

/// Each layer's window as Qwen's configurations put it: `sliding_window` where `use_sliding_window` is set, for the layers of
/// `layer_types`, else for those from `max_window_layers` on.
pub(crate) fn of_upper_layers(config: &ConfigFile, shape: &Shape) -> Result<Vec<Option<usize>>> {
    let used = config.boolean_or("use_sliding_window", false)?;
    let window = if used { window(config, "sliding_window")? } else { None };
    let first = config.integer_or("max_window_layers", 0..=1 << 12, 28)?;
    let sliding = sliding_layers(config, shape, |index| window.is_some() && index >= first)?;
    if window.is_none() && sliding.contains(&true) {
        let problem = "it has sliding layers, but use_sliding_window and sliding_window give them no window";
        return Err(config.refuse(
            "layer_types",
            problem,
            "set both, or make the layers \"full_attention\"",
        ));
    }
    Ok(sliding.into_iter().map(|sliding| window.filter(|_| sliding)).collect())
}
