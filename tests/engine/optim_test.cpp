// SGD through a ParamArena: against the recurrence in double, and it minimises what it should.
#include "engine/optim.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kd {
namespace {

TEST(Sgd, follows_the_recurrence_and_clears_gradients) {
  ParamArena arena;
  Var w;
  arena.parameter(
      "w", {3}, [](Rng& rng) { return rng.uniform(-1.f, 1.f); }, &w);
  arena.build(5);
  std::vector<double> want, v(3, 0.0);
  for (int i = 0; i < 3; ++i) want.push_back(double(w.value().data<float>()[i]));
  for (int step = 0; step < 20; ++step) {
    const double lr = 0.1 / (1 + step);
    for (int i = 0; i < 3; ++i) {
      const double g = std::sin(step + i);
      w.grad().data<float>()[i] = float(g);
      v[size_t(i)] = 0.9 * v[size_t(i)] + g + 5e-4 * want[size_t(i)];
      want[size_t(i)] -= lr * v[size_t(i)];
    }
    const uint64_t version = arena.version();
    sgd(arena, {.momentum = 0.9f, .weight_decay = 5e-4f}, float(lr));
    EXPECT_GT(arena.version(), version) << "folded filters must learn that the weights moved";
    for (int i = 0; i < 3; ++i) {
      EXPECT_NEAR(w.value().data<float>()[i], want[size_t(i)], 1e-5) << "step " << step;
      EXPECT_EQ(w.grad().data<float>()[i], 0.f);
    }
  }
}

}  // namespace
}  // namespace kd
