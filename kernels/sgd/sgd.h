// sgd: stochastic gradient descent with momentum and weight decay over one flat arena.
//   v <- momentum * v + (g + weight_decay * w);   w <- w - lr * v;   g <- 0        (as torch.optim.SGD, dampening 0, no Nesterov)
// shapes  w, g, v f32 [n]      moves  6 n floats: bandwidth-bound; clearing g here spares a pass of its own
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

struct SgdArgs {
  float *w, *g, *v;
  int64_t n;
  float lr, momentum, weight_decay;
};
void sgd_step(Stream, const SgdArgs&);

}  // namespace kd
