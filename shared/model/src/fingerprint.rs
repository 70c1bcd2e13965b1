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

/// What the fingerprint is made of.
#[derive(Debug)]
pub(crate) struct Numerics<'a> {
    pub(crate) backend: Backend,
    pub(crate) dtype: ComputeDtype,
    pub(crate) blas: &'a Blas,
    /// Kernels of our own, where they are used.
    pub(crate) own: Option<String>,
    /// Whether MLX multiplies any matrix.
    pub(crate) uses_mlx_products: bool,
    pub(crate) threads: u32,
}

pub(crate) fn fingerprint(numerics: Numerics<'_>) -> NumericsFingerprint {
    let Numerics {
        backend,
        dtype,
        blas,
        own,
        uses_mlx_products,
        threads,
    } = numerics;
    let mlx = match (&blas.openblas, backend) {
        (Some(description), Backend::Cpu) => format!("mlx+{}", description.replace(' ', "-").to_lowercase()),
        _ => "mlx".to_owned(),
    };
    let class = exactness(own.is_some(), uses_mlx_products);
    let kernel_set = match own {
        Some(own) if uses_mlx_products => format!("{own}+{mlx}"),
        Some(own) => own,
        None => mlx,
    };

    NumericsFingerprint {
        backend: format!("{}-mlx-{MLX_VERSION}", backend.name()),
        dtype: dtype.as_str().to_owned(),
        kernel_set,
        threads,
        class,
    }
}

/// The class of what was loaded, which the loader knows layer by layer: our own kernels sum every output in one order, MLX's products
/// in one that depends on the batch.
fn exactness(has_own_kernels: bool, uses_mlx_products: bool) -> Exactness {
    match has_own_kernels && !uses_mlx_products {
        true => Exactness::Invariant,
        false => Exactness::Close,
    }
}
