// dispatch: one line takes a kernel call to the file that implements it on the stream's device.
//   void sgd_step(Stream stream, const SgdArgs& args) { KD_DISPATCH(stream, sgd_step, args); }
// calls cpu::sgd_step or cuda::sgd_step of the enclosing namespace. Without CUDA the GPU branch throws; no list of stubs to maintain.
#pragma once
#include "engine/base/check.h"
#include "engine/base/device.h"
#include "engine/base/tensor.h"

#if defined(KD_WITH_CUDA)
#define KD_DISPATCH(stream, name, ...) ((stream).device == ::kd::Device::cuda ? cuda::name(stream, __VA_ARGS__) : cpu::name(stream, __VA_ARGS__))
#else
#define KD_DISPATCH(stream, name, ...)                                                                                         \
  do {                                                                                                                         \
    KD_CHECK((stream).device == ::kd::Device::cpu, #name ": this binary was built without CUDA; use --device cpu or rebuild"); \
    cpu::name(stream, __VA_ARGS__);                                                                                            \
  } while (0)
#endif

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
