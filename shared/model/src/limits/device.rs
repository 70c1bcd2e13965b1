//! What MLX tells about the default device.
#![expect(unsafe_code, reason = "mlx-rs does not wrap MLX's device information")]

use std::ffi::CString;
use std::ptr;

/// Returns a property in bytes; `None` where this backend has none of this name.
pub(super) fn size(property: &str) -> Option<u64> {
    let property = CString::new(property).ok()?;
    // SAFETY: makes a handle that is freed once, below.
    let mut device = unsafe { mlx_sys::mlx_device_new() };
    // SAFETY: as above.
    let mut info = unsafe { mlx_sys::mlx_device_info_new() };
    let mut known = false;
    let mut value = 0_usize;
    // SAFETY: the handles are live, the name is terminated, and what is written to outlives the calls. Each call is made only after the
    // one before it succeeded, and the value only read where the property is there.
    let found = unsafe {
        mlx_sys::mlx_get_default_device(ptr::from_mut(&mut device)) == 0
            && mlx_sys::mlx_device_info_get(ptr::from_mut(&mut info), device) == 0
            && mlx_sys::mlx_device_info_has_key(ptr::from_mut(&mut known), info, property.as_ptr()) == 0
            && known
            && mlx_sys::mlx_device_info_get_size(ptr::from_mut(&mut value), info, property.as_ptr()) == 0
    };
    // SAFETY: the handles were made above and are not used again.
    unsafe {
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
    }
    found.then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::one_at_a_time;

    #[test]
    fn a_property_that_the_device_lacks_is_none() {
        let _alone = one_at_a_time();
        assert_eq!(size("no such property"), None);
        assert_eq!(size("nul\0"), None);
    }
}
