// Ops: gradients of small graphs against central differences through the ops' own forward, gradient sharing, and what bad shapes are told.
#include "engine/ops.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/nn.h"

namespace kd {
namespace {

Tensor random(Shape shape, uint32_t stream) {
  Tensor t = Tensor::empty(shape, DType::f32);
  Rng rng(42, Purpose::test, stream);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<float>()[i] = rng.uniform(-1.f, 1.f);
  return t;
}

// L = sum_i c_i f(x)_i with fixed random c: a plain sum would hide errors that cancel. Recorded as one node.
Var contract(const Var& y, uint32_t stream = 99) {
  Tensor c = random(y.shape(), stream), loss = Tensor::zeros({}, DType::f32);
  double sum = 0;
  for (int64_t i = 0; i < c.elements(); ++i) sum += double(c.data<float>()[i]) * double(y.value().data<float>()[i]);
  *loss.data<float>() = float(sum);
  Var out(loss, wants_grad({y}));
  Tape::current().record("contract", {y}, out, c.bytes(), [=](const Tensor& dy) {
    Tensor dx = c.clone();
    for (int64_t i = 0; i < dx.elements(); ++i) dx.data<float>()[i] *= *dy.data<float>();
    y.accumulate(std::move(dx));
  });
  return out;
}

double value(const Var& v) { return double(*v.value().data<float>()); }

// Compares dL/dx from the tape with central differences. f32 forward: step 1e-2 and a loose tolerance find wrong formulas, not rounding.
void expect_gradient(const Tensor& x, const std::function<Var(const Var&)>& f, double tolerance = 2e-2) {
  Var input(x.clone(), true);
  Tape::current().backward(contract(f(input)));
  ASSERT_TRUE(input.grad().defined());
  NoGrad no_grad;
  double scale = 0;
  for (int64_t i = 0; i < x.elements(); ++i) scale = std::max(scale, double(std::fabs(input.grad().data<float>()[i])));
  ASSERT_GT(scale, 0.0) << "a gradient of nothing but zeros proves nothing";
  for (int64_t i = 0; i < x.elements(); i += std::max<int64_t>(1, x.elements() / 20)) {
    Tensor up = x.clone(), down = x.clone();
    up.data<float>()[i] += 1e-2f;
    down.data<float>()[i] -= 1e-2f;
    double want = (value(contract(f(Var(up)))) - value(contract(f(Var(down))))) / (double(up.data<float>()[i]) - double(down.data<float>()[i]));
    EXPECT_NEAR(input.grad().data<float>()[i], want, tolerance * scale) << "element " << i;
  }
}

BatchNormParams bn_params(int64_t c, ParamArena& arena) {
  BatchNormParams bn;
  arena.parameter(
      "g", {c}, [](Rng& rng) { return rng.uniform(0.5f, 1.5f); }, &bn.gamma);
  arena.parameter(
      "b", {c}, [](Rng& rng) { return rng.uniform(-0.5f, 0.5f); }, &bn.beta);
  arena.build(3);
  bn.running_mean = Tensor::zeros({c}, DType::f32);
  bn.running_var = Tensor::zeros({c}, DType::f32);
  return bn;
}

TEST(Ops, conv2d_gradients) {
  Tensor x = random({2, 5, 5, 4}, 1), w = random({6, 3, 3, 4}, 2);
  expect_gradient(x, [&](const Var& v) { return conv2d(v, Var(w), 2, 1); });
  expect_gradient(w, [&](const Var& v) { return conv2d(Var(x), v, 1, 1); });
}

TEST(Ops, conv_bn_gradients_with_residual) {
  ParamArena arena;
  BatchNormParams bn = bn_params(4, arena);
  Tensor x = random({6, 3, 3, 4}, 1), r = random({6, 2, 2, 4}, 2), w = random({4, 3, 3, 4}, 3);
  expect_gradient(x, [&](const Var& v) { return conv_bn(v, Var(w), 2, 1, bn, Activation::none, Var(r)); });
  expect_gradient(w, [&](const Var& v) { return conv_bn(Var(x), v, 2, 1, bn, Activation::none, Var(r)); });
  expect_gradient(r, [&](const Var& v) { return conv_bn(Var(x), Var(w), 2, 1, bn, Activation::none, v); });
  // Where x is its own residual, two gradients meet in it.
  expect_gradient(x, [&](const Var& v) { return conv_bn(v, Var(w), 1, 1, bn, Activation::none, v); });
}

// Sums that the convolution's algorithm makes, and the pass over its result: one norm.
TEST(Ops, conv_bn_by_either_sums) {
  if (cpu_isa() < CpuIsa::avx2) GTEST_SKIP() << "no algorithm of this CPU makes sums";
  ParamArena arena;
  BatchNormParams bn = bn_params(16, arena);
  const Tensor x = random({3, 9, 7, 16}, 1), w = random({16, 3, 3, 16}, 2);
  const ConvShape shape{.n = 3, .h = 9, .w = 7, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 1, .pad = 1};
  std::vector<Tensor> y, mean, var;
  for (const ConvMath math : {ConvMath::exact, ConvMath::fast}) {
    set_conv_math(math);
    EXPECT_EQ(conv_sum_parts(current_stream(Device::cpu), shape, DType::f32) > 0, math == ConvMath::fast);
    std::fill_n(bn.running_mean.data<float>(), 16, 3.f);  // far from the mean, and so a poor shift
    std::fill_n(bn.running_var.data<float>(), 16, 1.f);
    y.push_back(conv_bn(Var(x), Var(w), 1, 1, bn, Activation::relu).value());
    mean.push_back(bn.running_mean.clone()), var.push_back(bn.running_var.clone());
  }
  for (int64_t i = 0; i < y[0].elements(); ++i) ASSERT_NEAR(y[1].data<float>()[i], y[0].data<float>()[i], 2e-5) << i;
  for (int64_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(mean[1].data<float>()[i], mean[0].data<float>()[i], 1e-5);
    EXPECT_NEAR(var[1].data<float>()[i], var[0].data<float>()[i], 1e-4);
  }
}

TEST(Ops, pool_linear_add_scale_gradients) {
  Tensor x = random({2, 6, 6, 3}, 1);
  // Distinct values far apart: a maximum that changes within the step has no derivative.
  for (int64_t i = 0; i < x.elements(); ++i) x.data<float>()[i] = float((i * 37) % 101) * 0.1f;
  expect_gradient(x, [](const Var& v) { return max_pool(v, 3, 2, 1); });
  expect_gradient(random({2, 3, 3, 4}, 2), [](const Var& v) { return global_avg_pool(v); });
  ParamArena arena;
  Linear head(arena, "fc", 5, 3);
  arena.build(1);
  expect_gradient(random({4, 5}, 3), [&](const Var& v) { return head(v); });
  expect_gradient(random({4, 5}, 4), [](const Var& v) { return add(scale(v, -2.f), v); });
}

TEST(Ops, evaluation_overwrites_a_residual_that_is_given_away_and_no_other) {
  ParamArena arena;
  const ConvBn layer(arena, "conv", "bn", 16, 32, 3, 1);
  arena.build(1, Device::cpu, DType::f32);
  const NoGrad no_grad;
  const Var x(random({2, 5, 5, 16}, 1));
  const Tensor original = random({2, 5, 5, 32}, 2);
  const auto same = [](const Tensor& a, const Tensor& b) { return std::equal(a.data<float>(), a.data<float>() + a.elements(), b.data<float>()); };

  Var kept(original.clone());
  const Tensor want = layer(x, Mode::eval, Activation::relu, kept).value();
  EXPECT_TRUE(same(kept.value(), original));
  const Tensor held = kept.value();  // another handle to the memory, none to the Var
  EXPECT_TRUE(same(layer(x, Mode::eval, Activation::relu, std::move(kept)).value(), want));
  EXPECT_TRUE(same(held, original));

  Var given(original.clone());
  const void* place = given.value().raw();
  const Var y = layer(x, Mode::eval, Activation::relu, std::move(given));
  EXPECT_EQ(y.value().raw(), place);
  EXPECT_TRUE(same(y.value(), want));
}

TEST(Ops, residual_branches_share_one_gradient_safely) {
  // y = x + x through two branches: dy is handed to both; the sum must be 2 dy and dy itself must not change under anyone.
  Tensor x = random({3, 4}, 1);
  Var input(x, true);
  Var y = add(input, input);
  Var loss = contract(add(y, scale(input, 3.f)));
  Tape::current().backward(loss);
  Tensor c = random({3, 4}, 99);
  for (int64_t i = 0; i < 12; ++i) EXPECT_NEAR(input.grad().data<float>()[i], 5.f * c.data<float>()[i], 1e-5);
}

TEST(Ops, parameters_gather_gradients_in_their_arena) {
  ParamArena arena;
  Linear head(arena, "fc", 3, 2);
  arena.build(7);
  Tensor x = random({4, 3}, 1);
  for (int round = 1; round <= 2; ++round) {
    Tape::current().backward(contract(head(Var(x))));
    double sum = 0;
    Tensor c = random({4, 2}, 99);
    for (int64_t n = 0; n < 4; ++n) sum += double(c.data<float>()[n * 2]);  // dL/db_0
    EXPECT_NEAR(head.bias.grad().data<float>()[0], round * sum, 1e-5) << "a second backward adds";
    EXPECT_EQ(head.bias.grad().raw(), arena.grads().slice(arena.parameters()[1].offset, {2}).raw());
  }
}

TEST(Ops, shape_errors_name_both_tensors) {
  auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  Var x(Tensor::zeros({2, 8, 8, 3}, DType::f32)), w(Tensor::zeros({16, 3, 3, 4}, DType::f32));
  std::string text = message([&] { conv2d(x, w, 1, 1); });
  EXPECT_NE(text.find("f32[16,3,3,4]"), std::string::npos) << text;
  EXPECT_NE(text.find("f32[2,8,8,3]"), std::string::npos) << text;
  EXPECT_NE(message([&] { add(x, w); }), "");
  EXPECT_NE(message([&] { max_pool(Var(Tensor::zeros({1, 1, 1, 3}, DType::f32)), 3, 2, 0); }), "");
  EXPECT_NE(message([&] { linear(Var(Tensor::zeros({2, 5}, DType::f32)), Var(Tensor::zeros({3, 4}, DType::f32)), Var(Tensor::zeros({3}, DType::f32))); }), "");
}

TEST(ParamArena, same_seed_same_weights_and_windows_do_not_overlap) {
  auto build = [](uint64_t seed) {
    auto arena = std::make_unique<ParamArena>();
    auto head = std::make_unique<Linear>(*arena, "fc", 7, 5);
    arena->build(seed);
    return std::pair(std::move(arena), std::move(head));
  };
  auto [a, ha] = build(1);
  auto [b, hb] = build(1);
  auto [c, hc] = build(2);
  EXPECT_EQ(std::vector<float>(a->weights().data<float>(), a->weights().data<float>() + a->weights().elements()),
            std::vector<float>(b->weights().data<float>(), b->weights().data<float>() + b->weights().elements()));
  EXPECT_NE(ha->weight.value().data<float>()[0], hc->weight.value().data<float>()[0]);
  EXPECT_EQ(a->parameter_count(), 40);
  int64_t end = 0;
  for (const auto& p : a->parameters()) {
    EXPECT_GE(p.offset, end);
    EXPECT_EQ(p.offset % 16, 0);
    end = p.offset + p.shape.elements();
  }
  EXPECT_LE(end, a->weights().elements());
}

}  // namespace
}  // namespace kd
