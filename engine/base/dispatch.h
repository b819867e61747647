// dispatch: takes a kernel call to the code for the stream's device. At the end of <family>_cpu.cpp,
//   KD_KERNEL(sgd_step, SgdArgs)
// defines sgd_step(Stream, const SgdArgs&), which calls cpu::, cuda:: or emulated::sgd_step; the last two are one .cu file, compiled twice (simt/README.md).
// With KD_VERBOSE=1 the call is timed (profile.h).
#pragma once
#include "engine/base/check.h"
#include "engine/base/device.h"
#include "engine/base/profile.h"
#include "engine/base/tensor.h"

#if defined(KD_WITH_CUDA)
#define KD_DISPATCH_CUDA(name, stream, args) cuda::name(stream, args)
#else
#define KD_DISPATCH_CUDA(name, stream, args) KD_FAIL(#name ": this binary was built without CUDA; use --device cpu, or rebuild where nvcc and cuDNN are found")
#endif

#define KD_KERNEL(name, Args)                                              \
  namespace cuda {                                                         \
  void name(Stream, const Args&);                                          \
  }                                                                        \
  namespace emulated {                                                     \
  void name(Stream, const Args&);                                          \
  }                                                                        \
  void name(Stream stream, const Args& args) {                             \
    const profile::Call call(#name, stream, args);                         \
    switch (stream.device) {                                               \
      case Device::cpu: return cpu::name(stream, args);                    \
      case Device::cuda: KD_DISPATCH_CUDA(name, stream, args); return;     \
      case Device::emulated: return emulated::name(stream, args);          \
    }                                                                      \
  }

namespace kd {

// Calls f(T{}) with the C++ type of an activation dtype: float or bf16.
template <class F>
decltype(auto) with_float_type(DType type, F&& f) {
  switch (type) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    default: KD_FAIL("dtype {} where f32 or bf16 is needed", to_string(type));
  }
}

}  // namespace kd
