//! Sixteen-bit floats, one by one: what is left over at the end of a row, and what has no instruction for it.

/// The value of a bfloat16.
#[inline(always)]
pub(crate) fn from_bfloat16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The value of a float16 (IEEE 754 binary16), exactly.
#[inline(always)]
pub(crate) fn from_float16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // Zero and subnormals: so many times 2^-24.
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        // NaNs are made quiet, as the instruction does.
        31 => 0x7f80_0000 | fraction << 13 | u32::from(fraction != 0) << 22,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}
