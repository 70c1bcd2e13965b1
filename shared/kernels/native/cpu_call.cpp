// An operation of MLX's graph on the CPU that is computed by a function of the caller's: the bridge to kernels written in Rust.
//
// The function sees plain pointers and runs on MLX's own thread of the stream, in the graph's order. The result may take over the
// memory of an input that nobody else uses, so that large arrays are updated in place; where somebody does, it starts as a copy.
// One result only: MLX holds an operation's inputs once for each result, and would find every input in use.

#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"

namespace mx = mlx::core;

extern "C" {

// What is computed: `run` may be called any number of times, on any thread; `release` is called once, after the last of them.
typedef struct kr_cpu_function {
  void* context;
  void (*run)(void* context, const float* const* inputs, float* output);
  void (*release)(void* context);
} kr_cpu_function;

// The float32 result. `replaces` is the index of the input whose memory it takes over, or -1.
typedef struct kr_cpu_output {
  const int* shape;
  int rank;
  int replaces;
} kr_cpu_output;
}

namespace {

// The caller's function, released when no operation can call it any more.
class Function {
 public:
  explicit Function(kr_cpu_function function) : function_(function) {}
  Function(const Function&) = delete;
  Function& operator=(const Function&) = delete;
  ~Function() {
    function_.release(function_.context);
  }
  void run(const std::vector<const float*>& inputs, float* output) const {
    function_.run(function_.context, inputs.data(), output);
  }

 private:
  kr_cpu_function function_;
};

class CpuCall : public mx::UnaryPrimitive {
 public:
  CpuCall(mx::Stream stream, std::shared_ptr<Function> function, int replaces)
      : mx::UnaryPrimitive(stream), function_(std::move(function)), replaces_(replaces) {}

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& output) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<const float*> sources;
    for (const auto& input : inputs) {
      if (!input.flags().row_contiguous) {
        throw std::invalid_argument("[kr::CpuCall] inputs must be contiguous");
      }
      encoder.set_input_array(input);
      sources.push_back(input.data<float>());
    }
    if (replaces_ >= 0 && inputs[replaces_].is_donatable()) {
      output.copy_shared_buffer(inputs[replaces_]);
    } else {
      output.set_data(mx::allocator::malloc(output.nbytes()));
      if (replaces_ >= 0) {
        encoder.dispatch([source = sources[replaces_], target = output.data<float>(), bytes = output.nbytes()] {
          std::memcpy(target, source, bytes);
        });
      }
    }
    encoder.set_output_array(output);
    encoder.dispatch([function = function_, sources = std::move(sources), target = output.data<float>()] {
      function->run(sources, target);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("[kr::CpuCall] is for the CPU backend");
  }

  const char* name() const override {
    return "KrCpuCall";
  }

 private:
  std::shared_ptr<Function> function_;
  int replaces_;
};

}  // namespace

// Adds the operation to the graph. All inputs must be float32. Takes the function over, also when it fails.
extern "C" int kr_mlx_cpu_call(
    mlx_array* result, kr_cpu_output output, const mlx_array* inputs, size_t input_count, kr_cpu_function function) {
  try {
    auto owned = std::make_shared<Function>(function);
    std::vector<mx::array> arrays;
    for (size_t i = 0; i < input_count; ++i) {
      arrays.push_back(mlx_array_get_(inputs[i]));
      if (arrays.back().dtype() != mx::float32) {
        throw std::invalid_argument("[kr::CpuCall] inputs must be float32");
      }
    }
    mx::Shape shape(output.shape, output.shape + output.rank);
    if (output.replaces >= 0 && arrays.at(output.replaces).shape() != shape) {
      throw std::invalid_argument("[kr::CpuCall] a result must have the shape of the input it replaces");
    }
    auto stream = mx::default_stream(mx::Device(mx::Device::cpu));
    auto call = std::make_shared<CpuCall>(stream, std::move(owned), output.replaces);
    *result = mlx_array_new_(mx::array(std::move(shape), mx::float32, std::move(call), std::move(arrays)));
    return 0;
  } catch (const std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
}
