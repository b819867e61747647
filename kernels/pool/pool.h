// pool: the two poolings of a ResNet, NHWC.
//   max_pool         y[n,p,q,c] = max over the window of x, -inf outside; `arg` keeps which of the window's R*S places won (the first of equals)
//   global_avg_pool  y[n,c]     = mean over h,w of x[n,h,w,c], summed in f32
// shapes  x [N,H,W,C]  max: y, arg [N,P,Q,C]; average: y [N,C];  x, y f32 | bf16, arg u8
// moves   each tensor once: bandwidth-bound.  saves  max: arg (1 byte an output); average: nothing
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

struct PoolShape {
  int64_t n, h, w, c, window, stride, pad;
  int64_t p() const { return (h + 2 * pad - window) / stride + 1; }
  int64_t q() const { return (w + 2 * pad - window) / stride + 1; }
};

struct MaxPoolFwdArgs {
  PoolShape shape;
  DType type;
  const void* x;
  void* y;
  uint8_t* arg = nullptr;  // null: inference, not kept
};
void max_pool_fwd(Stream, const MaxPoolFwdArgs&);

struct MaxPoolBwdArgs {
  PoolShape shape;
  DType type;
  const void* dy;
  const uint8_t* arg;
  void* dx;
};
void max_pool_bwd(Stream, const MaxPoolBwdArgs&);

struct GlobalAvgPoolArgs {
  int64_t n, hw, c;
  DType type;
  const void* in;  // forward: x; backward: dy
  void* out;       // forward: y; backward: dx
};
void global_avg_pool_fwd(Stream, const GlobalAvgPoolArgs&);
void global_avg_pool_bwd(Stream, const GlobalAvgPoolArgs&);

}  // namespace kd
