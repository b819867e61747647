// One plan per (op, type, shape), from conv_planner.h; here are only the device's resources and the calls.
// All convolutions of a device share one workspace, so they must run in one stream, which is how Retort runs a device.
#include "kernels/conv/conv_cuda.h"

#include <cuda_runtime_api.h>

#include <map>
#include <span>

#include "engine/base/cuda_check.h"
#include "kernels/conv/conv_planner.h"

namespace kd::cuda {
namespace {

int current_device() {
  int device = 0;
  KD_CUDA(cudaGetDevice(&device));
  return device;
}

struct DeviceState {
  explicit DeviceState(int device) : planner(cudnn::DeviceDescription::of_gpu(device), default_books()) {
    KD_CUDA(cudaMalloc(&workspace, size_t(kConvWorkspaceBytes)));
  }
  ConvPlanner planner;
  void* workspace = nullptr;
};

// Never destroyed: the driver may be gone before static objects are.
struct DeviceStates {
  std::mutex mutex;
  std::map<int, std::unique_ptr<DeviceState>> all;
};
DeviceStates& device_states() {
  static DeviceStates& states = *new DeviceStates;
  return states;
}

class Handle {
 public:
  Handle() { KD_CUDNN(cudnnCreate(&raw_)); }
  ~Handle() { cudnnDestroy(raw_); }
  Handle(const Handle&) = delete;
  cudnnHandle_t in(cudaStream_t stream) {
    if (stream != stream_ || !bound_) KD_CUDNN(cudnnSetStream(raw_, stream));
    stream_ = stream;
    bound_ = true;
    return raw_;
  }

 private:
  cudnnHandle_t raw_ = nullptr;
  cudaStream_t stream_ = nullptr;
  bool bound_ = false;
};

struct Resources {
  DeviceState& device;
  Handle& handle;
};

Resources resources(cudaStream_t stream) {
  const int device = current_device();
  auto refuse_in_capture = [&] {
    cudaStreamCaptureStatus status{};
    KD_CUDA(cudaStreamIsCapturing(stream, &status));
    KD_CHECK(status == cudaStreamCaptureStatusNone,
             "conv: the first convolution of a device or thread cannot be captured; call reserve_conv_workspace() before");
  };
  DeviceState* state = nullptr;
  {
    std::lock_guard lock(device_states().mutex);
    auto& slot = device_states().all[device];
    if (!slot) {
      refuse_in_capture();
      slot = std::make_unique<DeviceState>(device);
    }
    state = slot.get();
  }
  thread_local std::map<int, std::unique_ptr<Handle>> handles;
  auto& handle = handles[device];
  if (!handle) {
    refuse_in_capture();
    handle = std::make_unique<Handle>();
  }
  return {*state, *handle};
}

struct Operand {
  const char* name;
  const void* data;
};

void run(Stream stream, const ConvKey& key, const cudnn::ConvPointers& pointers, std::span<const Operand> operands) {
  for (auto [name, data] : operands) {
    KD_CHECK(data, "conv {}: {} is missing", to_string(key), name);
    KD_CHECK(reinterpret_cast<uintptr_t>(data) % uintptr_t(cudnn::kAlignmentBytes) == 0, "conv {}: {} at {} is not aligned to {} bytes", to_string(key), name,
             data, cudnn::kAlignmentBytes);
  }
  auto s = static_cast<cudaStream_t>(stream.handle);
  auto [device, handle] = resources(s);
  const cudnn::Plan& plan = device.planner.plan(key);
  try {
    plan.execute(handle.in(s), pointers, device.workspace);
  } catch (const Error& e) {
    throw Error(fmt::format("conv {}, engine {}: {}", to_string(key), cudnn::to_string(plan.choice()), e.what()));
  }
}

void check_type(const ConvKey& key, const char* name, DType got) {
  KD_CHECK(got == key.type, "conv {}: {} is {}; on CUDA it has the type of the activations, cuDNN's fast kernels take and give nothing else", to_string(key),
           name, to_string(got));
}

}  // namespace

void conv_fprop(Stream stream, const ConvFpropArgs& args) {
  const ConvKey key{fprop_op(args.z, args.bias, args.epilogue == Epilogue::relu), args.type, args.shape};
  check_type(key, "w", args.w_type);
  if (args.bias) check_type(key, "bias", args.bias_type);
  std::vector<Operand> operands{{"x", args.x}, {"w", args.w}, {"y", args.y}};
  if (args.z) operands.push_back({"z", args.z});
  if (args.bias) operands.push_back({"bias", args.bias});
  run(stream, key, {.x = args.x, .w = args.w, .y = args.y, .z = args.z, .bias = args.bias}, operands);
}

void conv_dgrad(Stream stream, const ConvDgradArgs& args) {
  const ConvKey key{args.accumulate == Accumulate::yes ? 'A' : 'D', args.type, args.shape};
  check_type(key, "w", args.w_type);
  run(stream, key, {.x = args.dx, .w = args.w, .y = args.dy}, std::array{Operand{"dx", args.dx}, Operand{"w", args.w}, Operand{"dy", args.dy}});
}

void conv_wgrad(Stream stream, const ConvWgradArgs& args) {
  const ConvKey key{args.accumulate == Accumulate::yes ? 'V' : 'W', args.type, args.shape};
  check_type(key, "dw", args.dw_type);
  run(stream, key, {.x = args.x, .w = args.dw, .y = args.dy}, std::array{Operand{"x", args.x}, Operand{"dw", args.dw}, Operand{"dy", args.dy}});
}

void reserve_conv_workspace() { resources(nullptr); }

std::string list_plans() {
  std::lock_guard lock(device_states().mutex);
  std::string text;
  for (const auto& [number, device] : device_states().all)
    if (device) {
      const PlanStats stats = device->planner.stats();
      text += fmt::format("{}cuda:{} {}, cuDNN {}: {} calls, {} plans, {} from a plan book, {} of a book's plans refused\n", device->planner.list(), number,
                          device->planner.device().name(), cudnnGetVersion(), stats.hits + stats.misses, stats.misses, stats.from_book, stats.refused);
    }
  return text;
}

}  // namespace kd::cuda
