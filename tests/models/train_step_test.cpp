// The training step on every device. Device::emulated runs the code that a GPU runs - padded stems, bf16 copies of the weights, fused stem, our CUDA
// kernels - with the CPU's convolutions, so everything but cuDNN, cuBLAS and the graph is tested where there is no GPU.
#include "bench/train_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "engine/checkpoint.h"
#include "kernels/conv/conv_algorithm.h"

namespace kd {
namespace {

struct Setting {
  Stem stem;
  double width;
  DType type;
  int teachers;
  int64_t px, batch;
  float attention = 0;  // weight of the similarity with a reference, whose stem has other channels
  float lr = 0.01f;
  int64_t first_batch = 1000;
};

void PrintTo(const Setting& s, std::ostream* out) {
  *out << to_string(s.stem) << " width " << s.width << ' ' << to_string(s.type) << ' ' << s.teachers << " teachers " << s.px << " px"
       << (s.attention == 0 ? "" : ", attention");
}

struct Outcome {
  std::vector<double> losses;
  std::vector<NamedTensor> weights;
  KdSums sums;
  int64_t batches_tracked;
};

ResnetConfig config_of(const Setting& s, Device device, uint64_t seed) {
  return {.arch = Arch::resnet18, .stem = s.stem, .classes = 10, .width = s.width, .seed = seed, .device = device, .type = s.type};
}

Outcome train(const Setting& s, Device device, int steps, Launch launch = Launch::graph) {
  Resnet student(config_of(s, device, 1));
  std::vector<std::unique_ptr<Resnet>> owned;
  std::vector<Frozen> teachers;
  for (int i = 0; i < s.teachers; ++i) {
    owned.push_back(std::make_unique<Resnet>(config_of(s, device, uint64_t(10 + i))));
    teachers.push_back(owned.back().get());
  }
  Student spec{.net = &student, .teachers = {}};
  for (size_t i = 0; i < teachers.size(); ++i) spec.teachers.push_back(i);
  if (s.attention != 0) {
    ResnetConfig wider = config_of(s, device, 20);
    wider.width *= 2;
    owned.push_back(std::make_unique<Resnet>(wider));
    spec.references = {teachers.size()};
    spec.attention = {AttentionMode::similarity, s.attention};
    teachers.push_back(owned.back().get());
  }
  TrainStep step({spec}, teachers, s.px, 8, {.launch = launch});
  Outcome out;
  for (int i = 0; i < steps; ++i) {
    // The batch is a function of what was uploaded, as in a real run.
    const int64_t seed = s.first_batch + i;
    std::memcpy(step.inputs(), &seed, sizeof seed);
    Tensor pixels = Tensor::zeros({s.batch, s.px, s.px, student.input_channels()}, s.type), classes = Tensor::empty({s.batch}, DType::i32);
    Rng rng(uint64_t(seed), Purpose::test);
    for (int64_t at = 0; at < s.batch * s.px * s.px; ++at)
      for (int64_t c = 0; c < 3; ++c) {
        const float v = rng.uniform(-1.f, 1.f);
        const int64_t to = at * student.input_channels() + c;
        s.type == DType::f32 ? void(pixels.data<float>()[to] = v) : void(pixels.data<bf16>()[to] = bf16(v));
      }
    for (int64_t n = 0; n < s.batch; ++n) classes.data<int32_t>()[n] = int32_t(rng.below(10));
    const Tensor there = pixels.to(device), labels_there = classes.to(device);
    step.clear_sums();
    step.run(s.batch, s.lr, [&](const std::byte*, const Tensor& images, const Tensor& labels) {
      images.copy_from(there);
      labels.copy_from(labels_there);
    });
    out.losses.push_back(step.final_sums().loss / double(s.batch));
  }
  out.sums = step.final_sums();
  out.weights = state_dict(student.params());
  out.batches_tracked = student.params().batches_tracked;
  return out;
}

// Of any element, in units of its tensor's largest value, or of 1 where that is less.
double largest_difference(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    if (a[i].value.dtype() != DType::f32) continue;
    double scale = 1;
    for (int64_t k = 0; k < a[i].value.elements(); ++k) scale = std::max(scale, std::fabs(double(a[i].value.data<float>()[k])));
    for (int64_t k = 0; k < a[i].value.elements(); ++k) {
      const double d = std::fabs(double(a[i].value.data<float>()[k]) - double(b[i].value.data<float>()[k])) / scale;
      if (!(d <= worst)) worst = d;  // also when d is NaN
    }
  }
  return worst;
}

// Without bf16 instructions, bf16 needs channels that 16 divides.
bool can_train(const Setting& s) {
  const auto channels = int64_t(64 * s.width);
  return can_convolve({.n = s.batch, .h = s.px, .w = s.px, .c = channels, .k = channels, .r = 3, .s = 3, .stride = 1, .pad = 1}, s.type);
}

class TrainStepOn : public testing::TestWithParam<Setting> {};

TEST_P(TrainStepOn, emulated_follows_the_cpu) {
  const Setting& s = GetParam();
  if (!can_train(s)) GTEST_SKIP() << "no bf16 convolution of so few channels on this CPU";
  const Outcome cpu = train(s, Device::cpu, 3), emulated = train(s, Device::emulated, 3);
  const double tolerance = s.type == DType::f32 ? 2e-4 : 5e-2;
  for (size_t i = 0; i < cpu.losses.size(); ++i) {
    ASSERT_TRUE(std::isfinite(cpu.losses[i]));
    EXPECT_NEAR(emulated.losses[i], cpu.losses[i], tolerance * cpu.losses[i]) << "step " << i;
  }
  EXPECT_EQ(emulated.sums.images, s.batch);
  EXPECT_EQ(emulated.batches_tracked, 3);
}

// How far the first update of a filter is from the CPU's in f32, relative to that update.
double update_error(const Tensor& start, const Tensor& exact, const Tensor& got) {
  double difference = 0, size = 0;
  for (int64_t k = 0; k < start.elements(); ++k) {
    const double want = double(exact.data<float>()[k]) - double(start.data<float>()[k]), is = double(got.data<float>()[k]) - double(start.data<float>()[k]);
    difference += (is - want) * (is - want);
    size += want * want;
  }
  return std::sqrt(difference / size);
}

// Rounding to bf16 moves the gradient of a small batch by a third, on any device; a device must not move it much further than the CPU does, whose products
// may be in f32 (direct.avx2, Winograd). In f32 a ReLU whose input is within rounding of 0 may open on one device only, which moves every filter before it by a
// hundredth: that is one batch in many, and a mistake is in all.
TEST_P(TrainStepOn, emulated_updates_every_filter_as_the_cpu_does) {
  const Setting& s = GetParam();
  if (!can_train(s)) GTEST_SKIP() << "no bf16 convolution of so few channels on this CPU";
  Setting in_f32 = s;
  in_f32.type = DType::f32;
  const auto start = state_dict(Resnet(config_of(in_f32, Device::cpu, 1)).params());
  int batches = 0, close = 0;
  for (int64_t first_batch : s.type == DType::f32 ? std::vector<int64_t>{1000, 2000, 3000} : std::vector<int64_t>{1000}) {
    Setting here = s;
    here.first_batch = first_batch;
    Setting exact = in_f32;
    exact.first_batch = first_batch;
    const auto want = train(exact, Device::cpu, 1).weights, cpu = train(here, Device::cpu, 1).weights, emulated = train(here, Device::emulated, 1).weights;
    int filters = 0;
    double worst = 0;
    for (size_t i = 0; i < start.size(); ++i) {
      if (start[i].value.rank() != 4) continue;
      ++filters;
      const double error = update_error(start[i].value, want[i].value, emulated[i].value);
      EXPECT_LE(error, s.type == DType::f32 ? 0.05 : 1.1 * update_error(start[i].value, want[i].value, cpu[i].value) + 0.08) << start[i].name;
      if (!(error <= worst)) worst = error;  // also when it is NaN
    }
    EXPECT_EQ(filters, 20);
    ++batches, close += worst <= 2e-4;
  }
  if (s.type == DType::f32) {
    EXPECT_GE(close, batches - 1) << "of " << batches << " batches";
  }
}

TEST_P(TrainStepOn, repeats_itself_bit_for_bit) {
  const Setting& s = GetParam();
  if (!can_train(s)) GTEST_SKIP() << "no bf16 convolution of so few channels on this CPU";
  const Outcome first = train(s, Device::emulated, 2), second = train(s, Device::emulated, 2);
  EXPECT_EQ(largest_difference(first.weights, second.weights), 0);
  EXPECT_EQ(first.losses, second.losses);
}

INSTANTIATE_TEST_SUITE_P(settings, TrainStepOn,
                         testing::Values(Setting{Stem::cifar, 0.125, DType::f32, 0, 16, 4}, Setting{Stem::cifar, 0.125, DType::bf16, 2, 16, 4},
                                         Setting{Stem::cifar, 0.125, DType::f32, 0, 32, 4, 5.f}, Setting{Stem::cifar, 0.125, DType::bf16, 1, 32, 4, 5.f},
                                         Setting{Stem::imagenet, 0.125, DType::f32, 1, 32, 4}, Setting{Stem::imagenet, 1.0, DType::bf16, 0, 64, 3}));

// Ten steps with one algorithm wherever it offers a convolution, all other convolutions as they were.
Outcome train_with(const cpu::ConvAlgorithm& algorithm, const Setting& s, const std::string& lines, int& used) {
  std::istringstream in(lines);
  std::string pinned;
  for (std::string op, type, shape, math, name; in >> op >> type >> shape >> math >> name;) {
    ConvShape c{};
    if (std::sscanf(shape.c_str(), "n%ldh%ldw%ldc%ldk%ldr%lds%ldst%ldp%ld", &c.n, &c.h, &c.w, &c.c, &c.k, &c.r, &c.s, &c.stride, &c.pad) != 9)
      throw Error("cannot read " + shape);
    const cpu::ConvProblem problem{op.starts_with("fprop")   ? cpu::ConvOp::fprop
                                   : op.starts_with("dgrad") ? cpu::ConvOp::dgrad
                                                             : cpu::ConvOp::wgrad,
                                   c, type == "f32" ? DType::f32 : DType::bf16, op.ends_with("+add")};
    const bool ours = problem.type == s.type && algorithm.offers(problem);
    used += ours;
    pinned += fmt::format("{} {} {} {} {}\n", op, type, shape, math, ours ? algorithm.name : name);
  }
  pin_conv_choices(pinned, "the test's choices");
  const Outcome out = train(s, Device::cpu, 10);
  pin_conv_choices(lines, "the test's choices");
  return out;
}

// Every algorithm that this machine runs, and those of other machines in emulation, trains the network that oneDNN trains.
TEST(TrainStep, every_convolution_algorithm_learns_the_same) {
  for (DType type : {DType::f32, DType::bf16}) {
    // A step ten times smaller than the other tests': with theirs, ten steps of this small batch make 1e-7 of a first loss 1e-2 of the tenth.
    const Setting s{.stem = Stem::cifar, .width = 0.25, .type = type, .teachers = 0, .px = 16, .batch = 8, .lr = 1e-3f};
    Setting in_f32 = s;
    in_f32.type = DType::f32;
    set_conv_math(ConvMath::exact);
    const Outcome want = train(in_f32, Device::cpu, 10);
    if (type == DType::bf16) train(s, Device::cpu, 10);
    const std::string lines = conv_choices();
    int algorithms = 0;
    for (const auto& table : {cpu::winograd_algorithms(), cpu::direct_algorithms(), cpu::emulated_winograd_algorithms(), cpu::emulated_direct_algorithms()})
      for (const cpu::ConvAlgorithm& algorithm : table) {
        if (algorithm.isa > cpu_isa()) continue;
        int used = 0;
        const Outcome got = train_with(algorithm, s, lines, used);
        if (used == 0) continue;  // bf16 products for f32 activations, say
        ++algorithms;
        double worst = 0;
        for (size_t i = 0; i < want.losses.size(); ++i) {
          ASSERT_TRUE(std::isfinite(got.losses[i])) << algorithm.name << " step " << i;
          worst = std::max(worst, std::fabs(got.losses[i] - want.losses[i]) / want.losses[0]);
        }
        std::printf("%-26s %-4s %3d convolutions: ten losses differ by %.1e of the first at most\n", algorithm.name, to_string(type).c_str(), used, worst);
        EXPECT_LE(worst, type == DType::f32 ? 1e-3 : 2e-2) << algorithm.name << " " << to_string(type);
      }
    set_conv_math(ConvMath::fast);
    EXPECT_GE(algorithms, 4) << "emulated ones run everywhere";
  }
}

TEST(TrainStep, attention_moves_the_weights_and_is_counted) {
  const Setting plain{Stem::cifar, 0.125, DType::f32, 1, 32, 4};
  Setting apart = plain;
  apart.attention = 5.f;
  const Outcome without = train(plain, Device::cpu, 2), with = train(apart, Device::cpu, 2);
  EXPECT_EQ(without.sums.attention, 0);
  EXPECT_GT(with.sums.attention, 0);
  EXPECT_NEAR(with.losses[0], without.losses[0] + 5 * 0.9, 5 * 0.1) << "the same first batch and weights; a random network's similarity is near 1";
  EXPECT_NEAR(with.sums.loss, 0.6 * with.sums.ce + 0.4 * with.sums.kd + 5 * with.sums.attention, 1e-4 * with.sums.loss);
  EXPECT_GT(largest_difference(without.weights, with.weights), 1e-6);
}

// Out of memory, say: who goes on with fewer students needs what the failed step held.
TEST(TrainStep, a_step_that_fails_holds_no_memory) {
  Resnet student({.classes = 10, .width = 0.125}), teacher({.classes = 9, .width = 0.125});
  const auto live_after_one = [&] {
    TrainStep step({{.net = &student, .teachers = {0}}}, {&teacher}, 16, 8);
    step.inputs();
    EXPECT_THROW(step.run(4, 0.1f, [](const std::byte*, const Tensor& images, const Tensor& labels) { images.zero_(), labels.zero_(); }), Error);
    EXPECT_EQ(Tape::current().size(), 0u);
    return memory_stats().live_bytes;
  };
  const int64_t once = live_after_one();  // with what kernels keep for good
  EXPECT_EQ(live_after_one(), once);
}

TEST(TrainStep, padding_stays_zero) {
  Resnet net({.classes = 10, .width = 0.125, .device = Device::emulated, .type = DType::f32});
  ASSERT_EQ(net.input_channels(), 4);
  const ParamArena::Parameter& filter = net.params().parameters().front();
  ASSERT_EQ(filter.name, "conv1.weight");
  const Tensor stored = filter.slot->value().to(Device::cpu);
  ASSERT_EQ(stored.dim(3), 4);
  for (int64_t i = 0; i < stored.elements(); ++i)
    if (i % 4 == 3)
      EXPECT_EQ(stored.data<float>()[i], 0.f);
    else
      EXPECT_NE(stored.data<float>()[i], 0.f);
}

TEST(TrainStep, weights_are_the_same_on_every_device) {
  const ResnetConfig config{.classes = 10, .width = 0.25, .seed = 7};
  ResnetConfig elsewhere = config;
  elsewhere.device = Device::emulated;
  Resnet here(config), there(elsewhere);
  EXPECT_EQ(largest_difference(state_dict(here.params()), state_dict(there.params())), 0);
  // And through a file: what one device writes the other reads.
  Resnet fresh({.classes = 10, .width = 0.25, .seed = 8, .device = Device::emulated});
  load_state_dict(fresh.params(), {state_dict(here.params()), {}}, "memory");
  EXPECT_EQ(largest_difference(state_dict(here.params()), state_dict(fresh.params())), 0);
}

}  // namespace
}  // namespace kd
