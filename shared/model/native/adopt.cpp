// An MLX array over memory that somebody else owns, without a copy. CPU backend only.
//
// MLX's CPU allocator hands out buffers that start with an 8-byte size word, the data right behind it. A buffer made here
// points 8 bytes before the caller's data: those bytes must be readable (in a mapped safetensors file the header is there), and
// the array must never be given back to the allocator for reuse, where they would count as a size: the caller holds a handle to it.

#include <cstddef>
#include <exception>
#include <utility>

#include "mlx/allocator.h"
#include "mlx/mlx.h"

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/enums.h"
#include "mlx/c/private/mlx.h"

namespace mx = mlx::core;

// Calls `release(payload)` once, on whichever thread drops the last reference; on failure the array's context is null, the error
// handler has been called and `release` has not.
extern "C" mlx_array kr_mlx_adopt_cpu(
    void* data, const int* shape, int rank, mlx_dtype dtype, void* payload, void (*release)(void*)) {
  try {
    mx::allocator::Buffer buffer(static_cast<size_t*>(data) - 1);
    auto deleter = [payload, release](mx::allocator::Buffer) { release(payload); };
    return mlx_array_new_(mx::array(buffer, mx::Shape(shape, shape + rank), mlx_dtype_to_cpp(dtype), deleter));
  } catch (const std::exception& error) {
    mlx_error(error.what());
    return mlx_array{nullptr};
  }
}
