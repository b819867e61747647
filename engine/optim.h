// optim: stochastic gradient descent over a ParamArena, one fused pass. Learning rates come from the recipe's schedule.
#pragma once
#include "engine/nn.h"

namespace kd {

struct SgdOptions {
  float momentum = 0.9f, weight_decay = 5e-4f;
};

// w, v and g of the whole model in one pass; clears the gradients. lr: one f32 on the model's device, so that a captured step takes the rate of each replay.
void sgd(ParamArena&, const SgdOptions&, const Tensor& lr);
void sgd(ParamArena&, const SgdOptions&, float lr);

}  // namespace kd
