#include <array>

#include "kernels/common/cases.h"
#include "kernels/sgd/sgd.h"

namespace kd::cases {
namespace {

constexpr float kRate = 0.1f, kMomentum = 0.9f, kDecay = 5e-4f;

enum Array { kW, kG, kV, kW16, kG16, kArrays };

// n weights of which the first n16 have bf16 gradients and copies; `shifted` begins one element into its storage, so no 16-byte access can reach it.
struct Problem {
  int64_t n, n16 = 0;
  Array shifted = kArrays;
};

std::vector<Checked> check(const Problem& p, Stream stream) {
  const bool has16 = p.n16 > 0;
  Tensor arrays[kArrays];
  const auto fill = [&](Array a, uint32_t id) {
    const bool rounded = a == kW16 || a == kG16;
    arrays[a] = random_tensor({(rounded ? p.n16 : p.n) + (a == p.shifted)}, rounded ? DType::bf16 : DType::f32, id).to(stream.device);
  };
  const auto at = [&](Array a) { return arrays[a].data<float>() + (a == p.shifted); };
  const auto at16 = [&](Array a) { return has16 ? arrays[a].data<bf16>() + (a == p.shifted) : nullptr; };
  const auto shift = [&](Array a) { return size_t(a == p.shifted); };
  for (Array a : {kW, kV, kW16}) fill(a, uint32_t(a));
  const Tensor lr = Tensor::of<float>({1}, {kRate}).to(stream.device);
  auto w = to_doubles(arrays[kW]), v = to_doubles(arrays[kV]), w16 = to_doubles(arrays[kW16]);
  std::vector<double> g, g16;
  for (uint32_t step = 0; step < 3; ++step) {  // three steps: the velocity must carry over
    fill(kG, 10 + step), fill(kG16, 20 + step);
    g = to_doubles(arrays[kG]), g16 = to_doubles(arrays[kG16]);
    sgd_step(stream, {.w = at(kW),
                      .g = at(kG),
                      .v = at(kV),
                      .n = p.n,
                      .w16 = at16(kW16),
                      .g16 = at16(kG16),
                      .n16 = p.n16,
                      .lr = lr.data<float>(),
                      .momentum = kMomentum,
                      .weight_decay = kDecay});
    for (size_t i = 0; i < size_t(p.n); ++i) {
      const bool in16 = i < size_t(p.n16);
      double &wi = w[i + shift(kW)], &vi = v[i + shift(kV)], &gi = g[i + shift(kG)];
      vi = double(kMomentum) * vi + (in16 ? g16[i + shift(kG16)] : gi) + double(kDecay) * wi;
      wi -= double(kRate) * vi;
      if (!in16) gi = 0;
    }
  }
  const auto got_w = to_doubles(arrays[kW]);
  constexpr double kTolerance = 4e-6;  // about ten roundings, of terms that may be several times what is left of them
  std::vector<Checked> checked{{"w", got_w, w, kTolerance}, {"v", to_doubles(arrays[kV]), v, kTolerance}, {"g", to_doubles(arrays[kG]), g, 0}};
  if (has16) {
    for (size_t i = 0; i < size_t(p.n16); ++i) w16[i + shift(kW16)] = double(float(bf16(float(got_w[i + shift(kW)]))));  // this w rounded, bit for bit
    checked.push_back({"w16", to_doubles(arrays[kW16]), w16, 0});
    checked.push_back({"g16", to_doubles(arrays[kG16]), g16, 0});
  }
  return checked;
}

Work perf(int64_t n, int64_t n16, Stream stream) {
  auto arena = std::make_shared<Tensor>(Tensor::zeros({3, n}, DType::f32, stream.device));
  auto rounded = std::make_shared<Tensor>(Tensor::zeros({2, n16}, DType::bf16, stream.device));
  auto lr = std::make_shared<Tensor>(Tensor::of<float>({1}, {kRate}).to(stream.device));
  return {.run =
              [=] {
                float* w = arena->data<float>();
                bf16* w16 = rounded->data<bf16>();
                sgd_step(stream, {.w = w,
                                  .g = w + n,
                                  .v = w + 2 * n,
                                  .n = n,
                                  .w16 = w16,
                                  .g16 = w16 + n16,
                                  .n16 = n16,
                                  .lr = lr->data<float>(),
                                  .momentum = kMomentum,
                                  .weight_decay = kDecay});
              },
          .bytes = 20.0 * double(n16) + 24.0 * double(n - n16),
          .flops = 0};
}

}  // namespace

void add_sgd_cases(Cases& all) {
  const auto add = [&all](const std::string& name, const Problem& p) {
    all.push_back({.name = "sgd:" + name, .check = [p](Stream stream) { return check(p, stream); }, .grad = {}, .perf = {}});
  };
  // A GPU takes 4 weights at a time, 2048 a block.
  for (int64_t n : {1, 3, 4, 5, 77, 2047, 2048, 2049, 40003}) add(fmt::format("f32:{}", n), {n});
  for (auto [n, n16] : {std::pair<int64_t, int64_t>{1, 1}, {5, 4}, {77, 77}, {77, 32}, {77, 30}, {4100, 2048}, {40003, 39984}})
    add(fmt::format("bf16:{}:{}", n, n16), {n, n16});
  for (Array a : {kW, kG, kV, kW16, kG16}) add(fmt::format("bf16:77:32:shifted_{}", std::array{"w", "g", "v", "w16", "g16"}[a]), {77, 32, a});
  constexpr int64_t n = 11227812, n16 = n - 9600 - 100;  // resnet18, 100 classes; batch norms and the head's bias stay f32
  all.push_back({.name = fmt::format("sgd:f32:{}", n), .check = {}, .grad = {}, .perf = [](Stream stream) { return perf(n, 0, stream); }});
  all.push_back({.name = fmt::format("sgd:bf16:{}", n), .check = {}, .grad = {}, .perf = [](Stream stream) { return perf(n, n16, stream); }});
}

}  // namespace kd::cases
