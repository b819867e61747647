// The tape alone, with three ops recorded by hand: what reaches a gradient, who may write into whose buffer, when saved memory goes.
#include "engine/tape.h"

#include <gtest/gtest.h>

#include "kernels/pointwise/pointwise.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

std::vector<float> values(const Tensor& t) { return {t.data<float>(), t.data<float>() + t.elements()}; }
Tensor row(const std::vector<float>& x) { return Tensor::of<float>({int64_t(x.size())}, x); }

Tensor scaled(const Tensor& a, float factor) {
  Tensor out = Tensor::empty(a.shape(), DType::f32);
  pointwise_scale({}, {.a = a.raw(), .out = out.raw(), .n = a.elements(), .factor = factor, .type = DType::f32});
  return out;
}

Var add(const Var& a, const Var& b) {
  Tensor out = a.value().clone();
  pointwise_add({}, {.a = out.raw(), .b = b.value().raw(), .out = out.raw(), .n = out.elements(), .type = DType::f32});
  Var y(out, wants_grad({a, b}));
  Tape::current().record("add", {a, b}, y, 0, [a, b](const Tensor& dy) {
    a.accumulate(dy);  // the same tensor goes to both: neither may write into it
    b.accumulate(dy);
  });
  return y;
}

Var scale(const Var& a, float factor) {
  Var y(scaled(a.value(), factor), wants_grad({a}));
  Tape::current().record("scale", {a}, y, 0, [a, factor](const Tensor& dy) { a.accumulate(scaled(dy, factor)); });
  return y;
}

Var sum(const Var& a) {
  float total = 0;
  for (float x : values(a.value())) total += x;
  Var y(Tensor::of<float>({}, {total}), wants_grad({a}));
  Tape::current().record("sum", {a}, y, 0, [a](const Tensor& dy) {
    Tensor dx = Tensor::empty(a.shape(), DType::f32);
    std::fill_n(dx.data<float>(), dx.elements(), *dy.data<float>());
    a.accumulate(dx);
  });
  return y;
}

class TapeTest : public testing::Test {
 protected:
  void SetUp() override { tape_.clear(); }
  void TearDown() override { tape_.clear(); }
  Tape& tape_ = Tape::current();
};

TEST_F(TapeTest, XPlusXAccumulatesTwice) {
  Var x(row({1, 2, 3}), true);
  tape_.backward(sum(add(x, x)));
  EXPECT_EQ(values(x.grad()), (std::vector<float>{2, 2, 2}));
}

TEST_F(TapeTest, ScalarXPlusXLeavesTheSeedAlone) {
  Var x(Tensor::of<float>({}, {5}), true);
  Var y = add(x, x);
  tape_.backward(add(y, y));
  EXPECT_EQ(values(x.grad()), std::vector<float>{4});
}

TEST_F(TapeTest, ASharedGradientIsNotWrittenInto) {
  Var x(row({1, 2}), true), y(row({3, 4}), true);
  Var early = scale(x, 10);  // first on the tape, so its contribution to x comes last, when x and y hold one buffer
  Var both = add(x, y);
  tape_.backward(sum(add(both, early)));
  EXPECT_EQ(values(x.grad()), (std::vector<float>{11, 11}));
  EXPECT_EQ(values(y.grad()), (std::vector<float>{1, 1}));
  EXPECT_NE(x.grad().raw(), y.grad().raw());
}

TEST_F(TapeTest, AGradientSomebodyKeepsIsNotWrittenInto) {
  Var x(row({1, 2}), true);
  Tensor kept = row({1, 1});
  x.accumulate(kept);
  EXPECT_EQ(x.grad().raw(), kept.raw());  // adopted without a copy
  x.accumulate(row({5, 5}));
  EXPECT_EQ(values(kept), (std::vector<float>{1, 1}));
  EXPECT_EQ(values(x.grad()), (std::vector<float>{6, 6}));
  const void* own = x.grad().raw();
  x.accumulate(row({1, 1}));
  EXPECT_EQ(x.grad().raw(), own);  // a sole owner adds in place
  EXPECT_EQ(values(x.grad()), (std::vector<float>{7, 7}));
}

TEST_F(TapeTest, DiamondOfBranches) {  // d/dx sum(2(3x) + 5(3x) + 3x) = 24
  Var x(row({1, -1}), true);
  Var h = scale(x, 3);
  tape_.backward(sum(add(add(scale(h, 2), scale(h, 5)), h)));
  EXPECT_EQ(values(x.grad()), (std::vector<float>{24, 24}));
  EXPECT_FALSE(h.grad().defined()) << "an intermediate gradient outlived its node";
}

TEST_F(TapeTest, ParametersAddIntoTheirArenaWindow) {
  Tensor arena = row({100, 0, 0, 100});
  Var w(row({1, 2}), arena.slice(1, {2})), x(row({3, 4}));
  EXPECT_TRUE(w.is_parameter());
  for (int step = 1; step <= 2; ++step) {
    tape_.backward(sum(add(scale(w, 3), add(x, w))));
    float want = 4.f * float(step);  // added to, never replaced
    EXPECT_EQ(values(arena), (std::vector<float>{100, want, want, 100}));
    EXPECT_EQ(w.grad().raw(), arena.data<float>() + 1);
  }
  EXPECT_FALSE(x.grad().defined());
  EXPECT_NE(error_of([] { Var(row({1, 2}), row({1, 2, 3})); }).find("parameter and gradient differ: value f32[2] cpu grad f32[3] cpu"), std::string::npos);
}

TEST_F(TapeTest, NoGradLeavesNoNode) {
  Var w(row({1, 2}), true);
  {
    NoGrad teacher;
    EXPECT_FALSE(tape_.recording());
    { NoGrad nested; }
    EXPECT_FALSE(tape_.recording()) << "the inner scope's end resumed recording";
    Var y = sum(scale(add(w, w), 2));
    EXPECT_FALSE(y.requires_grad());
    EXPECT_EQ(tape_.size(), 0u);
  }
  try {
    NoGrad teacher;
    throw Error("interrupted");
  } catch (const Error&) {
  }
  EXPECT_TRUE(tape_.recording());
  sum(w);
  EXPECT_EQ(tape_.size(), 1u);
}

TEST_F(TapeTest, ConstantsLeaveNoNode) {
  Var a(row({1, 2})), b(row({3, 4}));
  EXPECT_FALSE(sum(add(a, b)).requires_grad());
  EXPECT_EQ(tape_.size(), 0u);
  Var w(row({1, 1}), true);
  tape_.backward(sum(add(a, w)));
  EXPECT_FALSE(a.grad().defined());
  EXPECT_EQ(values(w.grad()), (std::vector<float>{1, 1}));
}

TEST_F(TapeTest, BranchesThatMissTheLossAreNotRun) {
  Var x(row({1, 2}), true), aside(row({1, 2}), true);
  Var loss = sum(x);
  scale(aside, 2);
  tape_.backward(loss);
  EXPECT_FALSE(aside.grad().defined());
  EXPECT_EQ(tape_.size(), 0u);
}

TEST_F(TapeTest, SavedTensorsGoAsBackwardPasses) {
  constexpr int kNodes = 4;
  const int64_t saved_bytes = int64_t(1) << 20, before = memory_stats().live_bytes;
  std::vector<int64_t> live;  // while node kNodes - 1, ..., 0 runs
  Var x(row({1}), true), y = x;
  for (int i = 0; i < kNodes; ++i) {
    Var in = y;
    y = Var(in.value(), true);
    tape_.record("keep", {in}, y, saved_bytes, [in, saved = Tensor::empty({saved_bytes}, DType::u8), &live](const Tensor& dy) {
      live.push_back(memory_stats().live_bytes);
      in.accumulate(dy);
    });
  }
  EXPECT_GE(memory_stats().live_bytes, before + kNodes * saved_bytes);
  tape_.backward(y);
  ASSERT_EQ(live.size(), size_t(kNodes));
  for (size_t i = 1; i < live.size(); ++i) EXPECT_EQ(live[i], live[i - 1] - saved_bytes) << "the node before kept its saved tensor";
  EXPECT_LT(memory_stats().live_bytes, before + saved_bytes);
  EXPECT_EQ(values(x.grad()), std::vector<float>{1});
}

TEST_F(TapeTest, Misuse) {
  Var x(row({1, 2}), true);
  EXPECT_NE(error_of([&] { tape_.backward(Var(Tensor::of<float>({}, {1}), true)); }).find("empty tape"), std::string::npos);
  Var y = scale(x, 2);
  EXPECT_NE(error_of([&] { tape_.backward(y); }).find("scalar loss, got loss f32[2] cpu"), std::string::npos);
  EXPECT_NE(error_of([&] { tape_.backward(Var()); }).find("scalar loss, got nothing"), std::string::npos);
  EXPECT_EQ(tape_.size(), 1u) << "a refused backward changed the tape";
  Var loss = sum(y);
  tape_.backward(loss);
  EXPECT_NE(error_of([&] { tape_.backward(loss); }).find("backward ran already"), std::string::npos);
  EXPECT_NE(error_of([&] { x.accumulate(row({1, 2, 3})); }).find("gradient dy f32[3] cpu for value f32[2] cpu"), std::string::npos);
  EXPECT_NE(error_of([&] { tape_.record("detached", {x}, Var(row({1})), 0, {}); }).find("detached: recorded with an output that wants no gradient"),
            std::string::npos);
}

TEST_F(TapeTest, PrintsOneLineANode) {
  Var x(row({1, 2}), true), y(row({1, 2}), true);
  tape_.record("conv2d", {x}, y, 2500000, [](const Tensor&) {});
  std::string text = tape_.print();
  for (const char* part : {"conv2d", "f32[2] cpu", "2.500 MB", "1 nodes"}) EXPECT_NE(text.find(part), std::string::npos) << text;
}

}  // namespace
}  // namespace kd
