//! The one function of mach-sys that mlx-rs calls (a time-based seed), for every target.
#![no_std]

/// Mach's clock.
pub mod mach_time {
    #[cfg(target_vendor = "apple")]
    extern "C" {
        /// Mach ticks since boot.
        pub fn mach_approximate_time() -> u64;
    }

    /// Nanoseconds of the system's clock; only its variety matters, as a seed.
    ///
    /// # Safety
    /// Always safe; unsafe only because the function it stands for is foreign.
    #[cfg(not(target_vendor = "apple"))]
    pub unsafe fn mach_approximate_time() -> u64 {
        extern crate std;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |elapsed| elapsed.as_nanos() as u64)
    }
}
