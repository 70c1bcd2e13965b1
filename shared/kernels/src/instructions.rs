//! Which instructions the processor has.

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instructions {
    set: Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// x86-64 with AVX2 and FMA. Only made where both were detected.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of eight lanes.
    Portable,
}

impl Instructions {
    /// Returns the best set that the processor has.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Self { set: Set::Avx2 };
        }
        Self::portable()
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
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                $generic::<$crate::lanes::Avx2>($($argument),*)
            }
            match instructions.set() {
                // SAFETY: this set is only made where both features were detected.
                #[cfg(target_arch = "x86_64")]
                $crate::instructions::Set::Avx2 => unsafe { avx2($($argument),*) },
                $crate::instructions::Set::Portable => $generic::<$crate::lanes::Portable>($($argument),*),
            }
        }
    };
}
pub(crate) use dispatched;
