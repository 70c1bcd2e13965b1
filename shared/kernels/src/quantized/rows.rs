//! Single rows of quantised weights: what an embedding looks up.

use super::layout::{Bits, Layout, PANEL};
use super::linear::Weight;
use super::pack::float;

/// Writes the rows `ids` of `weight`, as `scale · q + bias`, to `out`: `[ids, inputs]`.
///
/// # Panics
/// When an id is no row, or the slices' lengths do not agree.
pub fn take_rows(weight: Weight<'_>, ids: impl ExactSizeIterator<Item = usize>, out: &mut [f32]) {
    let layout = weight.layout;
    assert_eq!(weight.panels.len(), layout.bytes());
    assert_eq!(out.len(), ids.len() * layout.inputs());
    for (id, out) in ids.zip(out.chunks_exact_mut(layout.inputs())) {
        assert!(id < layout.outputs());
        let panel = &weight.panels[id / PANEL * layout.panel_bytes()..][..layout.panel_bytes()];
        let groups = panel.chunks_exact(layout.group_bytes());
        for (group, out) in groups.zip(out.chunks_exact_mut(layout.group())) {
            take_group(&layout, group, id % PANEL, out);
        }
    }
}

fn take_group(layout: &Layout, group: &[u8], lane: usize, out: &mut [f32]) {
    let bytes = layout.scales().bytes();
    let (scales, lines) = group.split_at(2 * PANEL * bytes);
    let scale = float(&scales[lane * bytes..], layout.scales());
    let bias = float(&scales[(PANEL + lane) * bytes..], layout.scales());
    let of = |code: u8| scale * f32::from(code) + bias;
    for (line, out) in lines
        .chunks_exact(4 * PANEL)
        .zip(out.chunks_exact_mut(32 / layout.bits().count()))
    {
        let codes = &line[4 * lane..4 * lane + 4];
        match layout.bits() {
            Bits::Eight => out.iter_mut().zip(codes).for_each(|(out, code)| *out = of(*code)),
            Bits::Four => {
                let (low, high) = out.split_at_mut(4);
                low.iter_mut().zip(codes).for_each(|(out, code)| *out = of(code & 15));
                high.iter_mut().zip(codes).for_each(|(out, code)| *out = of(code >> 4));
            }
        }
    }
}
