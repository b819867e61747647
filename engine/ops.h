// ops: differentiable operations. Each is one function: check the shapes, call the kernel, record the tape node.
// Activations are NHWC f32 or bf16; parameters are f32. Under NoGrad, or when no input wants a gradient, nothing is recorded.
#pragma once
#include "engine/tape.h"
#include "kernels/batchnorm/batchnorm.h"

namespace kd {

enum class Mode { train, eval };

// x [N,H,W,C], w [K,R,S,C] -> [N,P,Q,K]
Var conv2d(const Var& x, const Var& w, int64_t stride, int64_t pad);

struct BatchNormParams {
  Var gamma, beta;                   // f32 [C]
  Tensor running_mean, running_var;  // f32 [C]; Mode::train moves them
};
// act(normalise(x) [+ residual]); x [..., C]. Mode::eval is inference only: it refuses to record.
Var batch_norm(const Var& x, const BatchNormParams&, Mode, Activation, const Var& residual = {});

Var max_pool(const Var& x, int64_t window, int64_t stride, int64_t pad);  // [N,H,W,C] -> [N,P,Q,C]
Var global_avg_pool(const Var& x);                                        // [N,H,W,C] -> [N,C]
Var linear(const Var& x, const Var& w, const Var& b);                     // [N,C] f32|bf16, [K,C], [K] -> f32 [N,K]
Var add(const Var& a, const Var& b);                                      // same shape and type
Var scale(const Var& a, float factor);

}  // namespace kd
