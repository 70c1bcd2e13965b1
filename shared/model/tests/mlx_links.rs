//! The process that cargo links is the one we mean: MLX computes, OpenBLAS does its products, adopted memory is not copied.

use mlx_rs::Array;

fn on_cpu() {
    mlx_rs::Device::set_default(&mlx_rs::Device::cpu());
}

#[test]
fn a_matrix_product_is_computed() {
    on_cpu();
    let left = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]);
    let right = Array::from_slice(&[5.0_f32, 6.0, 7.0, 8.0], &[2, 2]);
    let product = left.matmul(&right).unwrap();
    product.eval().unwrap();
    assert_eq!(product.as_slice::<f32>(), [19.0, 22.0, 43.0, 50.0]);
}

#[test]
fn the_intended_blas_is_loaded() {
    let blas = kr_model::blas::verify().unwrap();
    if cfg!(target_os = "linux") {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let library = std::fs::canonicalize(&blas.library).unwrap();
        assert!(
            maps.contains(library.to_str().unwrap()),
            "{} is not mapped",
            library.display()
        );
        assert!(blas.openblas.unwrap().contains("OpenBLAS"));
    }
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "calls the C interface of MLX directly, below the crate's own wrappers"
)]
mod adoption {
    use std::ffi::{c_int, c_void};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use mlx_rs::Array;

    unsafe extern "C" {
        fn kr_mlx_adopt_cpu(
            data: *mut c_void,
            shape: *const c_int,
            rank: c_int,
            dtype: mlx_sys::mlx_dtype,
            payload: *mut c_void,
            release: extern "C" fn(*mut c_void),
        ) -> mlx_sys::mlx_array;
    }

    static RELEASED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn count_release(_: *mut c_void) {
        RELEASED.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn adopted_memory_is_used_in_place_and_released_once() {
        super::on_cpu();
        // The first 8 bytes stand for a file's header: MLX takes the word before the data for its own.
        let mut memory: Vec<f32> = (0..34).map(|value| value as f32).collect();
        let data = memory[2..].as_mut_ptr();
        let shape: [c_int; 2] = [4, 8];
        // SAFETY: `memory` outlives every array below, and two floats lie before `data`.
        let array = unsafe {
            let (data, payload) = (data.cast(), std::ptr::null_mut());
            Array::from_ptr(kr_mlx_adopt_cpu(
                data,
                shape.as_ptr(),
                2,
                mlx_sys::mlx_dtype__MLX_FLOAT32,
                payload,
                count_release,
            ))
        };
        assert_eq!(array.as_slice::<f32>().as_ptr(), data.cast_const());
        let sum = array.sum(None).unwrap();
        sum.eval().unwrap();
        assert_eq!(sum.as_slice::<f32>(), [memory[2..].iter().sum::<f32>()]);
        assert_eq!(RELEASED.load(Ordering::SeqCst), 0, "released while an array is alive");
        drop((array, sum));
        assert_eq!(RELEASED.load(Ordering::SeqCst), 1);
        drop(memory);
    }
}
