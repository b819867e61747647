// onednn: the little that our code needs of oneDNN, spelled once for its 2.x and 3.x interfaces.
// 3.x dropped the operation descriptors: a primitive descriptor is made from the arguments directly.
#pragma once
#include <oneapi/dnnl/dnnl.hpp>

#include "engine/base/tensor.h"

namespace kd::onednn {

inline dnnl::engine& engine() {
  static dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}
inline dnnl::stream& stream() {
  thread_local dnnl::stream s(engine());
  return s;
}
inline dnnl::memory::data_type data_type(DType type) {
  switch (type) {
    case DType::f32: return dnnl::memory::data_type::f32;
    case DType::bf16: return dnnl::memory::data_type::bf16;
    default: KD_FAIL("oneDNN with dtype {}", to_string(type));
  }
}

template <class Primitive, class... Args>
typename Primitive::primitive_desc make_desc(const dnnl::primitive_attr& attr, Args&&... args) {
#if DNNL_VERSION_MAJOR >= 3
  return typename Primitive::primitive_desc(engine(), std::forward<Args>(args)..., attr);
#else
  return typename Primitive::primitive_desc(typename Primitive::desc(std::forward<Args>(args)...), attr, engine());
#endif
}
// Backward primitives take the forward one as a hint.
template <class Primitive, class Hint, class... Args>
typename Primitive::primitive_desc make_backward_desc(const Hint& hint, const dnnl::primitive_attr& attr, Args&&... args) {
#if DNNL_VERSION_MAJOR >= 3
  return typename Primitive::primitive_desc(engine(), std::forward<Args>(args)..., hint, attr);
#else
  return typename Primitive::primitive_desc(typename Primitive::desc(std::forward<Args>(args)...), attr, engine(), hint);
#endif
}

inline dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

}  // namespace kd::onednn
