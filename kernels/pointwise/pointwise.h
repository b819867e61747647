// pointwise: element-by-element passes that no larger kernel absorbs.
//   add   out = a + b            out may be a or b
//   scale out = factor * *by * a  out may be a
//   cast  out = type conversion  f32 <-> bf16, round to nearest even
// shapes  n elements, dense      moves  add 3n, scale 2n, cast 2n elements: bandwidth-bound
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

struct PointwiseAddArgs {
  const void *a, *b;
  void* out;
  int64_t n;
  DType type;  // f32 | bf16
};
void pointwise_add(Stream, const PointwiseAddArgs&);

struct PointwiseScaleArgs {
  const void* a;
  void* out;
  int64_t n;
  float factor;
  const float* by = nullptr;  // one more factor, on the stream's device; null: 1
  DType type;                 // f32 | bf16
};
void pointwise_scale(Stream, const PointwiseScaleArgs&);

struct PointwiseCastArgs {
  const void* a;
  void* out;
  int64_t n;
  DType from, to;  // f32 | bf16
};
void pointwise_cast(Stream, const PointwiseCastArgs&);

}  // namespace kd
