//! Which BLAS library the process really computes with.
//!
//! MLX's Linux wheel brings the reference BLAS, an order of magnitude slower than OpenBLAS and with other rounding. Ours is linked in
//! front of it, and this module is how tests and the worker's start make sure of that.
#![expect(unsafe_code, reason = "asks the dynamic linker which library a symbol comes from")]

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::path::PathBuf;

/// The library that answers MLX's calls to BLAS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blas {
    /// Where it was loaded from.
    pub library: PathBuf,
    /// OpenBLAS's description of itself (version, threading, the processor's kernels), `None` for any other library. Belongs to
    /// the numerics fingerprint: two descriptions may round differently.
    pub openblas: Option<String>,
}

/// The process computes with a BLAS that is not meant to be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No library of the process defines `cblas_sgemm`.
    #[error("no BLAS library is loaded: install libopenblas-dev and run `make build`")]
    Missing,
    /// Linux, and something else than OpenBLAS comes first.
    #[error("slow BLAS {0} is loaded in place of OpenBLAS: install libopenblas-dev and run `make build`", .library.display())]
    NotOpenBlas {
        /// The library found.
        library: PathBuf,
    },
}

/// Returns the BLAS that the process has loaded, `None` when there is none.
#[must_use]
pub fn loaded() -> Option<Blas> {
    let library = library_of(symbol(c"cblas_sgemm")?)?;
    let config = symbol(c"openblas_get_config").filter(|config| library_of(*config).as_ref() == Some(&library));
    let openblas = config.map(|config| {
        // SAFETY: OpenBLAS declares `char* openblas_get_config(void)` and returns a static, terminated string.
        let text = unsafe {
            let config: extern "C" fn() -> *const c_char = std::mem::transmute(config);
            CStr::from_ptr(config())
        };
        text.to_string_lossy().trim().to_owned()
    });
    Some(Blas { library, openblas })
}

/// Returns the loaded BLAS if it is the intended one: OpenBLAS on Linux, whatever the system has (Accelerate) elsewhere.
///
/// # Errors
/// When it is another one. The caller must not go on: speed and numerics would not be the product's.
pub fn verify() -> Result<Blas, Error> {
    let blas = loaded().ok_or(Error::Missing)?;
    if cfg!(target_os = "linux") && blas.openblas.is_none() {
        return Err(Error::NotOpenBlas { library: blas.library });
    }
    Ok(blas)
}

/// The definition that the dynamic linker prefers, which is the one that MLX's own calls are bound to.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `name` is terminated; RTLD_DEFAULT is always a valid handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

fn library_of(address: *mut c_void) -> Option<PathBuf> {
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr takes any address; `info` is read only after it reported success, and its name lives as long as the library,
    // which is never unloaded.
    let name = unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return None;
        }
        CStr::from_ptr(info.assume_init().dli_fname)
    };
    Some(PathBuf::from(name.to_string_lossy().into_owned()))
}
