//! From MLX's layout to panels.

use std::ops::Range;

use super::layout::{Bits, Layout, PANEL, RUN, ScaleType};

/// Quantised weights as MLX stores them, in the bytes of a weight file (little-endian, of any alignment).
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// `[outputs, inputs · bits / 32]` words, the first weight in the lowest bits.
    pub words: &'a [u8],
    /// `[outputs, inputs / group]`.
    pub scales: &'a [u8],
    /// `[outputs, inputs / group]`.
    pub biases: &'a [u8],
    /// The type of scales and biases.
    pub scale_type: ScaleType,
}

impl Source<'_> {
    /// Returns the smallest type that holds every scale and bias exactly.
    #[must_use]
    pub fn smallest_scale_type(&self) -> ScaleType {
        let all = |fits: fn(f32) -> bool| {
            let fits = |bytes: &[u8]| floats(bytes, self.scale_type).all(fits);
            fits(self.scales) && fits(self.biases)
        };
        if all(|value| half_of(value).is_some()) {
            ScaleType::Float16
        } else if all(|value| value.to_bits() & 0xffff == 0) {
            ScaleType::Bfloat16
        } else {
            ScaleType::Float32
        }
    }
}

/// Packs the panels `panels` into `target`. The scales must fit the layout's type: see [`Source::smallest_scale_type`].
///
/// # Panics
/// When the slices' lengths do not agree with `layout`.
pub fn pack_panels(layout: &Layout, source: Source<'_>, panels: Range<usize>, target: &mut [u8]) {
    let groups = layout.inputs() / layout.group();
    let word_bytes = layout.inputs() * layout.bits().count() / 8;
    assert_eq!(source.words.len(), layout.outputs() * word_bytes);
    for scales in [source.scales, source.biases] {
        assert_eq!(scales.len(), layout.outputs() * groups * source.scale_type.bytes());
    }
    assert!(panels.end <= layout.panels());
    assert_eq!(target.len(), panels.len() * layout.panel_bytes());
    target.fill(0);
    for (panel, target) in panels.zip(target.chunks_exact_mut(layout.panel_bytes())) {
        let outputs = panel * PANEL..layout.outputs().min((panel + 1) * PANEL);
        for (group, target) in target.chunks_exact_mut(layout.group_bytes()).enumerate() {
            for (lane, output) in outputs.clone().enumerate() {
                let place = output * groups + group;
                let words = &source.words[output * word_bytes + group * word_bytes / groups..][..word_bytes / groups];
                pack_group(layout, lane, words, target);
                for (part, scales) in [source.scales, source.biases].into_iter().enumerate() {
                    let bytes = source.scale_type.bytes();
                    let value = float(&scales[place * bytes..(place + 1) * bytes], source.scale_type);
                    store_scale(layout.scales(), value, part * PANEL + lane, target);
                }
            }
        }
    }
}

/// One output's weights of one group.
fn pack_group(layout: &Layout, lane: usize, words: &[u8], target: &mut [u8]) {
    let scale_bytes = 2 * PANEL * layout.scales().bytes();
    let lines = target[scale_bytes..].chunks_exact_mut(4 * PANEL);
    for (word, line) in words.as_chunks::<4>().0.iter().zip(lines) {
        let packed = match layout.bits() {
            Bits::Eight => *word,
            Bits::Four => {
                let word = u32::from_le_bytes(*word);
                (spread(word & 0xffff) | spread(word >> 16) << 4).to_le_bytes()
            }
        };
        line[4 * lane..4 * lane + 4].copy_from_slice(&packed);
    }
}

/// Four half-bytes to the low halves of four bytes.
fn spread(nibbles: u32) -> u32 {
    let pairs = (nibbles | nibbles << 8) & 0x00ff_00ff;
    (pairs | pairs << 4) & 0x0f0f_0f0f
}

fn store_scale(scales: ScaleType, value: f32, place: usize, target: &mut [u8]) {
    let at = place * scales.bytes();
    match scales {
        ScaleType::Float32 => target[at..at + 4].copy_from_slice(&value.to_le_bytes()),
        ScaleType::Float16 => target[at..at + 2].copy_from_slice(&half_of(value).unwrap_or(0x7e00).to_le_bytes()),
        ScaleType::Bfloat16 => target[at..at + 2].copy_from_slice(&value.to_le_bytes()[2..]),
    }
}

fn floats(bytes: &[u8], scale_type: ScaleType) -> impl Iterator<Item = f32> {
    bytes
        .chunks_exact(scale_type.bytes())
        .map(move |bytes| float(bytes, scale_type))
}

/// The first float of `bytes`.
pub(super) fn float(bytes: &[u8], scale_type: ScaleType) -> f32 {
    match scale_type {
        ScaleType::Float32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        ScaleType::Float16 => of_half(u16::from_le_bytes([bytes[0], bytes[1]])),
        ScaleType::Bfloat16 => f32::from_le_bytes([0, 0, bytes[0], bytes[1]]),
    }
}

/// The value of an IEEE binary16.
pub(super) fn of_half(half: u16) -> f32 {
    let magnitude = u32::from(half & 0x7fff);
    // A binary16's exponent counts from 112 less; subnormals come out right, because the product is exact.
    let value = match magnitude < 0x7c00 {
        true => f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23),
        false => f32::from_bits(0x7f80_0000 | magnitude << 13),
    };
    if half & 0x8000 == 0 { value } else { -value }
}

/// The finite IEEE binary16 of exactly this value.
fn half_of(value: f32) -> Option<u16> {
    let scaled = value.abs() * f32::from_bits((127 - 112) << 23);
    let magnitude = u16::try_from(scaled.to_bits() >> 13)
        .ok()
        .filter(|bits| *bits < 0x7c00)?;
    let half = magnitude | if value.is_sign_negative() { 0x8000 } else { 0 };
    (of_half(half).to_bits() == value.to_bits()).then_some(half)
}

/// Runs of one group.
pub(super) fn runs(layout: &Layout) -> usize {
    layout.group() / RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_is_found_again() {
        for half in (0..=u16::MAX).filter(|half| half & 0x7c00 != 0x7c00) {
            assert_eq!(half_of(of_half(half)), Some(half), "{half:#06x}");
        }
    }

    #[test]
    fn what_is_no_half_is_refused() {
        for value in [
            65536.0,
            1.0 + f32::EPSILON,
            1e-9,
            f32::NAN,
            f32::INFINITY,
            f32::MIN_POSITIVE,
            0.1,
        ] {
            assert_eq!(half_of(value), None, "{value}");
        }
        assert_eq!(half_of(-0.0), Some(0x8000));
        assert_eq!(half_of(65504.0), Some(0x7bff));
        assert_eq!(half_of(5.960_464_5e-8), Some(1));
    }

    #[test]
    fn special_halves_keep_their_meaning() {
        assert_eq!(of_half(0x7c00), f32::INFINITY);
        assert_eq!(of_half(0xfc00), f32::NEG_INFINITY);
        assert!(of_half(0x7e01).is_nan());
    }

    #[test]
    fn scales_take_the_smallest_type_that_is_exact() {
        let source = |value: f32| {
            let bytes = value.to_le_bytes();
            let of = |scales: &[u8]| {
                Source {
                    words: &[],
                    scales,
                    biases: &[],
                    scale_type: ScaleType::Float32,
                }
                .smallest_scale_type()
            };
            of(&bytes)
        };
        assert_eq!(source(0.25), ScaleType::Float16);
        assert_eq!(
            source(f32::from_bits(1e30_f32.to_bits() & 0xffff_0000)),
            ScaleType::Bfloat16
        );
        assert_eq!(source(0.1), ScaleType::Float32);
    }
}
