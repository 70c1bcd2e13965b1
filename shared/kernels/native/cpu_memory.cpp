// Memory of MLX's arrays for kernels that run at once, on the caller's thread: no operation of MLX's graph, no stream.
//
// Reading computes what an array still waits for. Writing in place asks for an array that nobody else uses, operations that wait
// included; where somebody does, the handle gets a copy of its own. New arrays start at a cache line.

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>

#include "mlx/allocator.h"
#include "mlx/mlx.h"

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/enums.h"
#include "mlx/c/private/mlx.h"

namespace mx = mlx::core;

extern "C" {

// An array's elements, row by row.
typedef struct kr_view {
  void* data;
  size_t count;
  mlx_dtype dtype;
} kr_view;
}

namespace {

constexpr size_t kLine = 64;

// MLX's CPU buffers start with their size, right before the data.
mx::array allocate(mx::Shape shape, mx::Dtype dtype) {
  size_t bytes = mx::size_of(dtype);
  for (auto length : shape) {
    bytes *= length;
  }
  auto whole = (bytes + 2 * kLine - 1) / kLine * kLine;
  auto block = static_cast<char*>(std::aligned_alloc(kLine, whole));
  if (block == nullptr) {
    throw std::bad_alloc();
  }
  auto word = reinterpret_cast<size_t*>(block + kLine) - 1;
  *word = bytes;
  return mx::array(mx::allocator::Buffer(word), std::move(shape), dtype, [block](mx::allocator::Buffer) { std::free(block); });
}

kr_view view_of(mx::array& array) {
  return {array.data<void>(), array.size(), mlx_dtype_to_c(array.dtype())};
}

void compute(mx::array& array) {
  if (!array.is_available()) {
    array.eval();
  }
  if (!array.flags().row_contiguous) {
    throw std::invalid_argument("[kr] a kernel's arrays must be contiguous");
  }
}

template <typename Function>
int guarded(Function function) {
  try {
    function();
    return 0;
  } catch (const std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
}

}  // namespace

// To be read as long as the handle lives and nobody writes.
extern "C" int kr_mlx_read(mlx_array array, kr_view* view) {
  return guarded([&] {
    auto& inner = mlx_array_get_(array);
    compute(inner);
    *view = view_of(inner);
  });
}

// To be written as long as the handle lives and no other one is made of it.
extern "C" int kr_mlx_write(mlx_array array, kr_view* view) {
  return guarded([&] {
    auto& inner = mlx_array_get_(array);
    compute(inner);
    if (!inner.is_donatable()) {
      auto copy = allocate(inner.shape(), inner.dtype());
      std::memcpy(copy.data<void>(), inner.data<void>(), inner.nbytes());
      inner = std::move(copy);
    }
    *view = view_of(inner);
  });
}

// A new array; its elements are whatever lay there.
extern "C" int kr_mlx_new(mlx_array* result, const int* shape, int rank, mlx_dtype dtype) {
  return guarded([&] {
    *result = mlx_array_new_(allocate(mx::Shape(shape, shape + rank), mlx_dtype_to_cpp(dtype)));
  });
}
