// The half-precision accessors that mlx-c leaves out off ARM, with the bits in place of the type.

#include <cstdint>
#include <cstring>
#include <exception>

#include "mlx/mlx.h"

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

#ifndef HAS_FLOAT16

namespace {

template <class Half>
int item(uint16_t* result, mlx_array array) {
  static_assert(sizeof(Half) == sizeof(uint16_t));
  try {
    const Half value = mlx_array_get_(array).item<Half>();
    std::memcpy(result, &value, sizeof(value));
    return 0;
  } catch (const std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
}

template <class Half>
const uint16_t* data(mlx_array array) {
  try {
    return reinterpret_cast<const uint16_t*>(mlx_array_get_(array).data<Half>());
  } catch (const std::exception& error) {
    mlx_error(error.what());
    return nullptr;
  }
}

}  // namespace

extern "C" int mlx_array_item_float16(uint16_t* result, mlx_array array) {
  return item<mlx::core::float16_t>(result, array);
}

extern "C" int mlx_array_item_bfloat16(uint16_t* result, mlx_array array) {
  return item<mlx::core::bfloat16_t>(result, array);
}

extern "C" const uint16_t* mlx_array_data_float16(mlx_array array) {
  return data<mlx::core::float16_t>(array);
}

extern "C" const uint16_t* mlx_array_data_bfloat16(mlx_array array) {
  return data<mlx::core::bfloat16_t>(array);
}

#endif
