// sgd: stochastic gradient descent with momentum and weight decay over one flat arena.
//   v <- momentum * v + (g + weight_decay * w);   w <- w - lr * v;   g <- 0        (as torch.optim.SGD, dampening 0, no Nesterov)
// For the first n16 elements the gradient is g16, which backward overwrites and nobody clears, and w16 receives w rounded to bf16: the operands
// of the next step's matrix products.
// shapes  w, g, v f32 [n]; w16, g16 bf16 [n16]      moves  6 n floats (20 bytes an element with bf16 copies): bandwidth-bound; clearing g spares a pass
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

struct SgdArgs {
  float *w, *g, *v;
  int64_t n;
  bf16* w16 = nullptr;
  const bf16* g16 = nullptr;
  int64_t n16 = 0;
  const float* lr;  // one number on the stream's device: a captured step reads the rate of its replay
  float momentum, weight_decay;
};
void sgd_step(Stream, const SgdArgs&);

}  // namespace kd
