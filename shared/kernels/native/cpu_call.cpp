// An operation of MLX's graph on the CPU that is computed by a function of the caller's: the bridge to kernels written in Rust.
//
// The function sees plain pointers and runs on MLX's own thread of the stream, in the graph's order. An output may take over the
// memory of an input that nobody else uses, so that large arrays are updated in place; where that is not possible, it starts as a copy.

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
  void (*run)(void* context, const float* const* inputs, float* const* outputs);
  void (*release)(void* context);
} kr_cpu_function;

// One float32 result. `replaces` is the index of the input whose memory it takes over, or -1.
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
  void run(const std::vector<const float*>& inputs, const std::vector<float*>& outputs) const {
    function_.run(function_.context, inputs.data(), outputs.data());
  }

 private:
  kr_cpu_function function_;
};

class CpuCall : public mx::Primitive {
 public:
  CpuCall(mx::Stream stream, std::shared_ptr<Function> function, std::vector<int> replaces)
      : mx::Primitive(stream), function_(std::move(function)), replaces_(std::move(replaces)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<const float*> sources;
    for (const auto& input : inputs) {
      if (!input.flags().row_contiguous) {
        throw std::invalid_argument("[kr::CpuCall] inputs must be contiguous");
      }
      encoder.set_input_array(input);
      sources.push_back(input.data<float>());
    }
    std::vector<float*> targets;
    for (size_t i = 0; i < outputs.size(); ++i) {
      prepare(inputs, replaces_[i], outputs[i], encoder);
      encoder.set_output_array(outputs[i]);
      targets.push_back(outputs[i].data<float>());
    }
    encoder.dispatch([function = function_, sources = std::move(sources), targets = std::move(targets)] {
      function->run(sources, targets);
    });
  }

  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("[kr::CpuCall] is for the CPU backend");
  }

  const char* name() const override {
    return "KrCpuCall";
  }

 private:
  static void prepare(
      const std::vector<mx::array>& inputs, int replaced, mx::array& output, mx::cpu::CommandEncoder& encoder) {
    if (replaced >= 0 && inputs[replaced].is_donatable()) {
      output.copy_shared_buffer(inputs[replaced]);
      return;
    }
    output.set_data(mx::allocator::malloc(output.nbytes()));
    if (replaced >= 0) {
      encoder.dispatch([source = inputs[replaced].data<float>(), target = output.data<float>(), bytes = output.nbytes()] {
        std::memcpy(target, source, bytes);
      });
    }
  }

  std::shared_ptr<Function> function_;
  std::vector<int> replaces_;
};

}  // namespace

// Adds the operation to the graph and stores its `output_count` results. All inputs must be float32. Takes the function over, also
// when it fails.
extern "C" int kr_mlx_cpu_call(
    mlx_array* results,
    const kr_cpu_output* outputs,
    size_t output_count,
    const mlx_array* inputs,
    size_t input_count,
    kr_cpu_function function) {
  try {
    auto owned = std::make_shared<Function>(function);
    std::vector<mx::array> arrays;
    for (size_t i = 0; i < input_count; ++i) {
      arrays.push_back(mlx_array_get_(inputs[i]));
      if (arrays.back().dtype() != mx::float32) {
        throw std::invalid_argument("[kr::CpuCall] inputs must be float32");
      }
    }
    std::vector<mx::Shape> shapes;
    std::vector<int> replaces;
    for (size_t i = 0; i < output_count; ++i) {
      const auto& output = outputs[i];
      shapes.emplace_back(output.shape, output.shape + output.rank);
      replaces.push_back(output.replaces);
      if (output.replaces >= 0 && arrays.at(output.replaces).shape() != shapes.back()) {
        throw std::invalid_argument("[kr::CpuCall] an output must have the shape of the input it replaces");
      }
    }
    auto stream = mx::default_stream(mx::Device(mx::Device::cpu));
    auto call = std::make_shared<CpuCall>(stream, std::move(owned), std::move(replaces));
    auto made = mx::array::make_arrays(
        std::move(shapes), std::vector<mx::Dtype>(output_count, mx::float32), call, std::move(arrays));
    for (size_t i = 0; i < output_count; ++i) {
      results[i] = mlx_array_new_(std::move(made[i]));
    }
    return 0;
  } catch (const std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
}
