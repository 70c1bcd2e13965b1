//! Which instructions the processor has.

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instructions {
    set: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// x86-64 with AVX2, FMA and F16C. Only made where all were detected.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL besides. Only made where all were detected.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// aarch64, which always has it.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Whatever the compiler makes of eight lanes.
    Portable,
}

impl Instructions {
    /// Returns the best set that the processor has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or_else(Self::portable)
    }

    /// Returns every set that the processor has, the best one last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Set::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                sets.push(Set::Avx2);
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    sets.push(Set::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Set::Neon);
        sets.into_iter().map(|set| Self { set }).collect()
    }

    /// Returns the set that every processor has: the reference.
    #[must_use]
    pub fn portable() -> Self {
        Self { set: Set::Portable }
    }

    /// Returns the name in the numerics fingerprint: equal names round equally.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.set {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
            Set::Portable => "portable",
        }
    }

    pub(crate) fn set(self) -> Set {
        self.set
    }
}

/// Defines a function that runs one that is generic over [`Lanes`](crate::lanes::Lanes) with the lanes of an instruction set, compiled
/// for it.
macro_rules! dispatched {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident = $generic:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {
        $(#[$attribute])*
        $visibility fn $name(instructions: $crate::Instructions, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                $generic::<$crate::lanes::Avx2>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                $generic::<$crate::lanes::Avx512>($($argument),*)
            }
            match instructions.set() {
                // SAFETY: these sets are only made where all their features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::instructions::Set::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::instructions::Set::Avx512 => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::instructions::Set::Neon => $generic::<$crate::lanes::Neon>($($argument),*),
                $crate::instructions::Set::Portable => $generic::<$crate::lanes::Portable>($($argument),*),
            }
        }
    };
}
pub(crate) use dispatched;
