#include "engine/optim.h"

#include "kernels/sgd/sgd.h"

namespace kd {

void sgd(ParamArena& arena, const SgdOptions& options, const Tensor& lr) {
  const Tensor& w = arena.weights();
  KD_CHECK(lr.elements() == 1 && lr.dtype() == DType::f32 && lr.device() == w.device(), "sgd: {} for {}", lr.describe("lr"), w.describe("weights"));
  const bool rounded = arena.rounded().defined();
  for (const ParamArena::Parameter& p : arena.parameters())  // nobody clears a bf16 gradient: it would be the last step's
    KD_CHECK(!p.slot->rounded().defined() || p.slot->gradient_claimed(), "sgd: '{}' got no gradient since the last step", p.name);
  sgd_step(current_stream(w.device()), {.w = w.data<float>(),
                                        .g = arena.grads().data<float>(),
                                        .v = arena.momentum().data<float>(),
                                        .n = w.elements(),
                                        .w16 = rounded ? arena.rounded().data<bf16>() : nullptr,
                                        .g16 = rounded ? arena.rounded_grads().data<bf16>() : nullptr,
                                        .n16 = rounded ? arena.rounded().elements() : 0,
                                        .lr = lr.data<float>(),
                                        .momentum = options.momentum,
                                        .weight_decay = options.weight_decay});
  for (const ParamArena::Parameter& p : arena.parameters()) p.slot->release_gradient();
  arena.stepped();
}

void sgd(ParamArena& arena, const SgdOptions& options, float lr) {
  sgd(arena, options, Tensor::of<float>({}, {lr}).to(arena.weights().device()));
}

}  // namespace kd
