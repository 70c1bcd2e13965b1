//! The numerics a loaded model computes with.

use kr_contract::{Exactness, NumericsFingerprint};
use mlx_rs::error::Result;
use mlx_rs::{Device, DeviceType};

use crate::blas::Blas;
use crate::options::ComputeDtype;

/// The MLX release that mlx-sys is pinned to.
const MLX_VERSION: &str = "0.32.2";

/// Where MLX computes by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Cpu,
    Metal,
    Cuda,
}

impl Backend {
    pub(crate) fn current() -> Result<Self> {
        Ok(match Device::try_default()?.get_type()? {
            DeviceType::Cpu => Self::Cpu,
            DeviceType::Gpu if cfg!(target_os = "macos") => Self::Metal,
            DeviceType::Gpu => Self::Cuda,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
        }
    }
}

pub(crate) fn fingerprint(backend: Backend, dtype: ComputeDtype, blas: &Blas) -> NumericsFingerprint {
    let kernel_set = match (&blas.openblas, backend) {
        (Some(description), Backend::Cpu) => format!("mlx+{}", description.replace(' ', "-").to_lowercase()),
        _ => "mlx".to_owned(),
    };
    let threads =
        std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    NumericsFingerprint {
        backend: format!("{}-mlx-{MLX_VERSION}", backend.name()),
        dtype: dtype.as_str().to_owned(),
        kernel_set,
        threads,
        class: Exactness::Close,
    }
}
