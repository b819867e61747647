// ResNets against torchvision in double precision: logits, every parameter's gradient, running statistics, ten SGD steps, evaluation mode.
// tests/golden/resnet/*.json come from tools/make_golden_resnet.py; weights and images follow one formula on both sides.
#include "models/resnet.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/base/file.h"
#include "engine/checkpoint.h"
#include "engine/optim.h"
#include "kd/losses.h"
#include "kernels/conv/conv.h"

namespace kd {
namespace {

TEST(FeatureSide, IsThatOfTheMap) {
  for (Stem stem : {Stem::cifar, Stem::imagenet}) {
    Resnet net({.stem = stem, .classes = 3, .width = 0.125});
    NoGrad no_grad;
    for (int64_t px : {8, 31, 32, 33, 40, 65}) {
      const Tensor map = net.features(Var(Tensor::zeros({1, px, px, 3}, DType::f32)), Mode::eval).value();
      EXPECT_EQ(map.dim(1), feature_side(stem, px)) << px << " px, " << to_string(stem);
      EXPECT_EQ(map.dim(2), map.dim(1));
    }
  }
}

using nlohmann::json;

std::vector<double> sequence(int64_t count, uint64_t stream) {
  std::vector<double> out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    uint64_t x = uint64_t(i) * 0x9E3779B97F4A7C15u + (stream + 1) * 0xD1B54A32D192ED03u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 32;
    out[size_t(i)] = double(x >> 40) / 0x1p23 - 1.0;
  }
  return out;
}

// A state dict in torchvision's layout, filled by the formula.
TensorFile formula_weights(const ParamArena& arena) {
  TensorFile file{state_dict(arena), {}};
  for (uint64_t stream = 0; stream < arena.parameters().size(); ++stream) {
    const std::string& name = arena.parameters()[stream].name;
    for (NamedTensor& t : file.tensors) {
      if (t.name != name) continue;
      auto v = sequence(t.value.elements(), stream);
      for (size_t i = 0; i < v.size(); ++i) {
        float x = float(v[i]);
        if (t.value.rank() == 4)
          x *= float(std::sqrt(6.0 / double(t.value.dim(2) * t.value.dim(3) * t.value.dim(0))));
        else if (t.value.rank() == 2)
          x *= float(1.0 / std::sqrt(double(t.value.dim(1))));
        else if (name.ends_with("weight"))
          x = 1.f + 0.25f * x;
        else
          x *= 0.125f;
        t.value.data<float>()[i] = x;
      }
    }
  }
  return file;
}

std::vector<double> torch_order(const Tensor& t) {
  std::vector<double> out;
  if (t.rank() != 4) {
    for (int64_t i = 0; i < t.elements(); ++i) out.push_back(double(t.data<float>()[i]));
    return out;
  }
  const int64_t k = t.dim(0), rs = t.dim(1) * t.dim(2), c = t.dim(3);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < c; ++j)
      for (int64_t a = 0; a < rs; ++a) out.push_back(double(t.data<float>()[(i * rs + a) * c + j]));
  return out;
}

// The digest of a tensor against the golden one. Errors are relative to the tensor's norm: one element's sample may be small by chance.
void expect_digest(const std::string& name, const std::vector<double>& v, const json& want, double tolerance) {
  double norm = 0, product = 0;
  const auto probe = sequence(int64_t(v.size()), 777);
  for (size_t i = 0; i < v.size(); ++i) norm += v[i] * v[i], product += v[i] * probe[i];
  norm = std::sqrt(norm);
  const double want_norm = want["norm"];
  ASSERT_TRUE(std::isfinite(norm)) << name;
  EXPECT_NEAR(norm, want_norm, tolerance * want_norm) << name;
  EXPECT_NEAR(product, want["probe"].get<double>(), tolerance * want_norm) << name;
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(v[i * v.size() / 8], want["samples"][i].get<double>(), tolerance * want_norm) << name << " sample " << i;
}

// `room`: how much more than the floors below rounding may do; `flips`: the same for gradients, which feel every ReLU.
void expect_golden(const std::string& name, double room, double flips) {
  const json golden = json::parse(read_text(Path(KD_GOLDEN_DIR) / "resnet" / (name + ".json")));
  Resnet model(
      {.arch = arch_from_name(golden["arch"].get<std::string>()), .stem = stem_from_name(golden["stem"].get<std::string>()), .classes = golden["classes"]});
  EXPECT_EQ(model.params().parameter_count(), golden["parameters"].get<int64_t>());
  EXPECT_EQ(state_dict(model.params()).size(), golden["entries"].get<size_t>());
  load_state_dict(model.params(), formula_weights(model.params()), "formula");

  const int64_t n = golden["batch"], px = golden["px"], classes = golden["classes"];
  Tensor images = Tensor::empty({n, px, px, 3}, DType::f32), labels = Tensor::empty({n}, DType::i32);
  const auto pixels = sequence(images.elements(), 1000);
  for (int64_t i = 0; i < images.elements(); ++i) images.data<float>()[i] = float(pixels[size_t(i)]);
  for (int64_t i = 0; i < n; ++i) labels.data<int32_t>()[i] = int32_t(i * 7 % classes);
  const Var x(images);
  // f32 against double: where a ReLU's input is within rounding of zero it flips, and batch norm carries that to the whole batch. The file says how far
  // PyTorch's own f32 strays for the same reason; we allow four times that, and a floor for what rounding alone does.
  const json& torch_error = golden["torch_f32_error"];
  const auto allowed = [room](double floor, double torch) { return room * std::max(floor, 4 * torch); };
  const double allowed_gradient = flips * std::max(1e-4, 4 * torch_error["gradients"].get<double>());

  for (int64_t step = 0; step < golden["steps"].get<int64_t>(); ++step) {
    Var logits = model(x, Mode::train);
    LossValue loss = cross_entropy(logits, labels);
    double torch_so_far = 0;  // the largest so far: errors along a trajectory cancel by chance
    for (size_t i = 0; i <= size_t(step); ++i) torch_so_far = std::max(torch_so_far, torch_error["losses"][i].get<double>());
    EXPECT_NEAR(*loss.total.value().data<float>(), golden["losses"][size_t(step)].get<double>(), allowed(step == 0 ? 2e-5 : 1e-3, torch_so_far))
        << "step " << step;
    Tape::current().backward(loss.total);
    if (step == 0) {
      for (int64_t i = 0; i < n * classes; ++i)
        EXPECT_NEAR(logits.value().data<float>()[i], golden["logits"][size_t(i)].get<double>(), room * 2e-4) << "logit " << i;
      for (const auto& p : model.params().parameters())
        expect_digest(p.name, torch_order(p.slot->grad()), golden["gradients"][p.name], allowed_gradient);
      for (const auto& b : model.params().buffers()) expect_digest(b.name, torch_order(*b.slot), golden["running"][b.name], room * 5e-5);
    }
    sgd(model.params(), {.momentum = golden["momentum"], .weight_decay = golden["weight_decay"]}, golden["lr"]);
  }
  NoGrad no_grad;
  Var logits = model(x, Mode::eval);
  for (int64_t i = 0; i < n * classes; ++i)
    EXPECT_NEAR(logits.value().data<float>()[i], golden["eval_logits"][size_t(i)].get<double>(), allowed(1e-3, torch_error["eval_logits"]))
        << "eval logit " << i;
}

class ResnetGolden : public testing::TestWithParam<const char*> {
 protected:
  void TearDown() override { set_conv_math(ConvMath::fast); }
};

TEST_P(ResnetGolden, agrees_with_torchvision) {
  set_conv_math(ConvMath::exact);
  expect_golden(GetParam(), 1, 1);
}

// A convolution by Winograd is off by up to 7e-6 where sums of products are by 1e-6 (docs/cpu.md), so more ReLUs flip. The gradients of
// resnet18_imagenet's first filters are off by 2.4e-3 of their norm, which one flip would explain: stride 2 by Winograd with stride 1 by sums, and the other
// way round, stay within 3 and 10 times the room of sums.
TEST_P(ResnetGolden, agrees_with_torchvision_by_winograd) { expect_golden(GetParam(), 10, 30); }

INSTANTIATE_TEST_SUITE_P(torchvision, ResnetGolden, testing::Values("resnet18_cifar", "resnet18_imagenet", "resnet50_cifar", "resnet50_imagenet"),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST(Resnet, parameter_counts_are_those_of_the_paper) {
  auto count = [](Arch arch, int64_t classes) { return Resnet({.arch = arch, .stem = Stem::imagenet, .classes = classes}).params().parameter_count(); };
  EXPECT_EQ(count(Arch::resnet18, 100), 11227812);
  EXPECT_EQ(count(Arch::resnet18, 1000), 11689512);
  EXPECT_EQ(count(Arch::resnet50, 100), 23712932);
  EXPECT_EQ(count(Arch::resnet50, 1000), 25557032);
}

TEST(Resnet, folded_evaluation_equals_conv_then_norm) {
  Resnet model({.classes = 10, .width = 0.25, .seed = 3});
  Tensor images = Tensor::empty({4, 32, 32, 3}, DType::f32);
  const auto pixels = sequence(images.elements(), 5);
  for (int64_t i = 0; i < images.elements(); ++i) images.data<float>()[i] = float(pixels[size_t(i)]);
  NoGrad no_grad;
  // Training mode with momentum 0.1 moves the running statistics to those of this batch; evaluation then sees nearly the same normalisation.
  Tensor train;
  for (int i = 0; i < 200; ++i) train = model(Var(images), Mode::train).value();
  Tensor eval = model(Var(images), Mode::eval).value();
  // The running variance is the unbiased one: the two modes differ by a factor sqrt(n/(n-1)) per layer, n = 64 at the last stage.
  for (int64_t i = 0; i < eval.elements(); ++i) EXPECT_NEAR(eval.data<float>()[i], train.data<float>()[i], 0.05) << i;
}

TEST(Resnet, teachers_leave_no_trace) {
  Resnet model({.classes = 10, .width = 0.125});
  Tensor images = Tensor::zeros({2, 32, 32, 3}, DType::f32);
  {
    NoGrad no_grad;
    model(Var(images), Mode::eval);
    EXPECT_EQ(Tape::current().size(), 0u);
  }
  EXPECT_THROW(model(Var(images), Mode::eval), Error);  // evaluation outside NoGrad would silently have no gradient
  model(Var(images), Mode::train);
  EXPECT_GT(Tape::current().size(), 0u);
  Tape::current().clear();
}

TEST(Resnet, bf16_training_follows_f32) {
  if (cpu_isa() < CpuIsa::avx2) GTEST_SKIP() << "no bf16 convolution on this CPU";
  auto losses = [](DType type) {
    Resnet model({.classes = 10, .width = 0.25, .seed = 1});
    Tensor images = Tensor::empty({16, 32, 32, 3}, type), labels = Tensor::empty({16}, DType::i32);
    const auto pixels = sequence(images.elements(), 9);
    for (int64_t i = 0; i < images.elements(); ++i) {
      if (type == DType::f32)
        images.data<float>()[i] = float(pixels[size_t(i)]);
      else
        images.data<bf16>()[i] = bf16(float(pixels[size_t(i)]));
    }
    for (int64_t i = 0; i < 16; ++i) labels.data<int32_t>()[i] = int32_t(i % 10);
    std::vector<double> out;
    for (int step = 0; step < 8; ++step) {
      LossValue loss = cross_entropy(model(Var(images), Mode::train), labels);
      out.push_back(double(*loss.total.value().data<float>()));
      Tape::current().backward(loss.total);
      sgd(model.params(), {}, 0.02f);
    }
    return out;
  };
  auto exact = losses(DType::f32), rounded = losses(DType::bf16);
  EXPECT_LT(exact.back(), 0.5 * exact.front());  // it learns
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(rounded[i], exact[i], 0.1 + 0.05 * exact[i]) << "step " << i;
}

TEST(Checkpoint, refuses_what_does_not_fit) {
  Resnet model({.classes = 10, .width = 0.125});
  auto message = [&](TensorFile file) -> std::string {
    try {
      load_state_dict(model.params(), file, "some.safetensors");
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  TensorFile good{state_dict(model.params()), {}};
  EXPECT_EQ(message(good), "");
  TensorFile missing = good;
  missing.tensors.erase(missing.tensors.begin());
  EXPECT_NE(message(missing).find("has no tensor 'conv1.weight'"), std::string::npos);
  TensorFile extra = good;
  extra.tensors.push_back({"surprise", Tensor::zeros({1}, DType::f32)});
  EXPECT_NE(message(extra).find("'surprise'"), std::string::npos);
  TensorFile prefixed = good;
  for (auto& t : prefixed.tensors) t.name = "module." + t.name;
  EXPECT_EQ(message(prefixed), "");
  prefixed.tensors.push_back(good.tensors.back());
  EXPECT_NE(message(prefixed).find("twice, with and without"), std::string::npos);
  Resnet other({.classes = 20, .width = 0.125});
  EXPECT_NE(message({state_dict(other.params()), {}}).find("another number of classes"), std::string::npos);
}

}  // namespace
}  // namespace kd
