//! Which instructions multiply bytes.

/// An instruction set that quantised products are compiled for. All compute bitwise the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteInstructions {
    set: ByteSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByteSet {
    /// x86-64 with AVX-512 (F, BW, VL) and VNNI. Each of these is only made where all its features were detected.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// x86-64 with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AArch64 with the dot products of Armv8.2.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// Whatever the compiler makes of arrays.
    Portable,
}

impl ByteInstructions {
    /// Returns the best set that the processor has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// Returns every set that the processor has, the best first. The last is the reference.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                sets.push(ByteSet::Avx512Vnni);
            }
            if avx2 {
                sets.push(ByteSet::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            sets.push(ByteSet::NeonDot);
        }
        sets.push(ByteSet::Portable);
        sets.into_iter().map(|set| Self { set }).collect()
    }

    /// Returns the name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            ByteSet::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            ByteSet::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            ByteSet::NeonDot => "neondot",
            ByteSet::Portable => "portable",
        }
    }

    pub(super) fn set(self) -> ByteSet {
        self.set
    }
}

/// Defines a function that runs one that is generic over [`Vector`](super::vector::Vector) with the vectors of an instruction set,
/// compiled for it.
macro_rules! by_bytes {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident = $generic:ident($($argument:ident: $type:ty),* $(,)?)) => {
        $(#[$attribute])*
        $visibility fn $name(instructions: $crate::quantized::ByteInstructions, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
            fn avx512vnni($($argument: $type),*) {
                $generic::<$crate::quantized::vector::Avx512Vnni>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) {
                $generic::<$crate::quantized::vector::Avx2>($($argument),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod")]
            fn neon_dot($($argument: $type),*) {
                $generic::<$crate::quantized::vector::NeonDot>($($argument),*)
            }
            match instructions.set() {
                // SAFETY: these sets are only made where all features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::quantized::instructions::ByteSet::Avx512Vnni => unsafe { avx512vnni($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::quantized::instructions::ByteSet::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                $crate::quantized::instructions::ByteSet::NeonDot => unsafe { neon_dot($($argument),*) },
                $crate::quantized::instructions::ByteSet::Portable => {
                    $generic::<$crate::quantized::vector::Portable>($($argument),*)
                }
            }
        }
    };
}
pub(super) use by_bytes;
