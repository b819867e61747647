// optim: stochastic gradient descent over a ParamArena, one fused pass. Learning rates come from the recipe's schedule.
#pragma once
#include "engine/nn.h"

namespace kd {

struct SgdOptions {
  float momentum = 0.9f, weight_decay = 5e-4f;
};

// w, v and g of the whole model in one pass; clears the gradients.
void sgd(ParamArena&, const SgdOptions&, float lr);

}  // namespace kd
