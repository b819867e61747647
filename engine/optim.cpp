#include "engine/optim.h"

#include "kernels/sgd/sgd.h"

namespace kd {

void sgd(ParamArena& arena, const SgdOptions& options, float lr) {
  const Tensor& w = arena.weights();
  sgd_step({w.device()}, {.w = w.data<float>(),
                          .g = arena.grads().data<float>(),
                          .v = arena.momentum().data<float>(),
                          .n = w.elements(),
                          .lr = lr,
                          .momentum = options.momentum,
                          .weight_decay = options.weight_decay});
  arena.touch();
}

}  // namespace kd
