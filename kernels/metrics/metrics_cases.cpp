// The oracles: the definitions in long double or double, one value at a time. Upsampling is written with tent weights instead of two taps.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/base/rng.h"
#include "kernels/common/cases.h"
#include "kernels/metrics/bilinear.h"
#include "kernels/metrics/metrics.h"

namespace kd::cases {
namespace {

constexpr double kDouble = 1e-11;  // kernels that sum and answer in double
constexpr double kFloat = 1e-6;    // double sums, rounded once to float

// Room for n results where a kernel runs, and the results brought here.
template <class T>
struct Results {
  Tensor bytes;
  Results(int64_t n, Stream stream) : bytes(Tensor::empty({n, int64_t(sizeof(T))}, DType::u8, stream.device)) {
    fill_bytes(bytes.raw(), stream.device, 0xa5, bytes.bytes());  // what is not written is no right answer
  }
  T* data() const { return static_cast<T*>(bytes.raw()); }
  std::vector<T> read() const {
    std::vector<T> here(static_cast<size_t>(bytes.dim(0)));
    copy_bytes(here.data(), Device::cpu, bytes.raw(), bytes.device(), bytes.bytes());
    return here;
  }
};

// Rows that go wrong in a careless softmax: ties, all negative, past exp's overflow, shifted by 1e4. Multiples of 1/64 stay exact under the shift.
Tensor designed_logits(int64_t n, int64_t c, uint32_t stream) {
  Tensor t = Tensor::empty({n, c}, DType::f32);
  Rng rng(0x10917, Purpose::test, stream);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < c; ++j) {
      float x = float(rng.below(512)) / 64.f - 4.f;
      switch (i % 6) {
        case 1: x = std::floor(x); break;  // ties
        case 2: x = x - 300.f; break;      // all negative
        case 3: x = x * 100.f; break;      // one-hot, beyond exp's range
        case 4: x = x + 10000.f; break;    // common offset
        case 5: x = j == i % c ? 6.f : -x * 0.125f; break;
        default: break;
      }
      t.data<float>()[i * c + j] = x;
    }
  return t;
}

std::vector<long double> softmax(const Tensor& logits, int64_t row, double tau) {
  const int64_t c = logits.dim(1);
  const float* x = logits.data<float>() + row * c;
  long double top = *std::max_element(x, x + c), sum = 0;
  std::vector<long double> p;
  for (int64_t i = 0; i < c; ++i) p.push_back(std::exp((x[i] - top) / tau)), sum += p.back();
  for (long double& v : p) v /= sum;
  return p;
}
long double plogr(long double p, long double numerator, long double denominator) { return p > 0 ? p * std::log(numerator / denominator) : 0; }

std::vector<Checked> check_logits(int64_t n, int64_t c, Stream stream) {
  const Tensor logits = designed_logits(n, c, 1), there = logits.to(stream.device);
  const Results<LogitRecord> records(n, stream);
  metrics_logit_records(stream, {.logits = there.data<float>(), .out = records.data(), .n = n, .c = c});
  const auto got = records.read();
  Checked top{"top", {}, {}, 0}, confidence{"confidence", {}, {}, kDouble}, entropy{"entropy", {}, {}, kDouble}, lse{"log_sum_exp", {}, {}, kDouble},
      squares{"sum_squares", {}, {}, kDouble};
  for (int64_t i = 0; i < n; ++i) {
    const float* x = logits.data<float>() + i * c;
    std::vector<int> order(static_cast<size_t>(c));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
    order.resize(kTopClasses, -1);
    const LogitRecord& g = got[size_t(i)];
    top.got.insert(top.got.end(), g.top, g.top + kTopClasses);
    top.want.insert(top.want.end(), order.begin(), order.end());
    const auto p = softmax(logits, i, 1);
    long double h = 0, sq = 0;
    for (long double v : p) h -= plogr(v, v, 1), sq += v * v;
    confidence.got.push_back(g.confidence), confidence.want.push_back(double(*std::max_element(p.begin(), p.end())));
    entropy.got.push_back(g.entropy), entropy.want.push_back(double(h));
    // The largest logit is x_top = ln(p_top) + ln sum e^x.
    lse.got.push_back(g.log_sum_exp), lse.want.push_back(double(x[order[0]] - std::log(p[size_t(order[0])])));
    squares.got.push_back(g.sum_squares), squares.want.push_back(double(sq));
  }
  return {top, confidence, entropy, lse, squares};
}

std::vector<Checked> check_pair(int64_t n, int64_t c, double tau, Stream stream) {
  const Tensor a = designed_logits(n, c, 2), b = designed_logits(n, c, 3), there_a = a.to(stream.device), there_b = b.to(stream.device);
  const Results<PairRecord> records(n, stream);
  metrics_pair_records(stream, {.a = there_a.data<float>(), .b = there_b.data<float>(), .out = records.data(), .n = n, .c = c, .tau = tau});
  const auto got = records.read();
  Checked kl_ab{"kl_ab", {}, {}, kDouble}, kl_ba{"kl_ba", {}, {}, kDouble}, js{"js", {}, {}, kDouble}, tv{"tv", {}, {}, kDouble},
      hellinger{"hellinger", {}, {}, kDouble};
  for (int64_t i = 0; i < n; ++i) {
    const auto p = softmax(a, i, tau), q = softmax(b, i, tau);
    long double ab = 0, ba = 0, j = 0, t = 0, h = 0;
    for (size_t k = 0; k < p.size(); ++k) {
      ab += plogr(p[k], p[k], q[k]), ba += plogr(q[k], q[k], p[k]);
      j += plogr(p[k], 2 * p[k], p[k] + q[k]) / 2 + plogr(q[k], 2 * q[k], p[k] + q[k]) / 2;
      t += std::max(p[k], q[k]) - std::min(p[k], q[k]), h += std::sqrt(p[k] * q[k]);
    }
    const PairRecord& g = got[size_t(i)];
    kl_ab.got.push_back(g.kl_ab), kl_ab.want.push_back(double(ab));
    kl_ba.got.push_back(g.kl_ba), kl_ba.want.push_back(double(ba));
    js.got.push_back(g.js), js.want.push_back(double(j));
    tv.got.push_back(g.tv), tv.want.push_back(double(t / 2));
    hellinger.got.push_back(g.hellinger * g.hellinger), hellinger.want.push_back(double(1 - h));  // Hellinger^2 = 1 - Bhattacharyya coefficient
  }
  return {kl_ab, kl_ba, js, tv, hellinger};
}

std::vector<Checked> check_joint(int64_t n, int64_t c, Stream stream) {
  const Tensor a = designed_logits(n, c, 4), b = designed_logits(n, c, 5), there_a = a.to(stream.device), there_b = b.to(stream.device);
  std::vector<int32_t> la, lb;
  Rng rng(0x70147, Purpose::test);
  for (int64_t i = 0; i < n; ++i) la.push_back(int32_t(rng.below(uint32_t(c)))), lb.push_back(rng.coin(0.5f) ? la.back() : int32_t(rng.below(uint32_t(c))));
  const Tensor there_la = Tensor::of<int32_t>({n}, la).to(stream.device), there_lb = Tensor::of<int32_t>({n}, lb).to(stream.device);
  const Results<int64_t> all_counts(c * c, stream);
  metrics_joint_counts(stream, {.a = there_la.data<int32_t>(), .b = there_lb.data<int32_t>(), .counts = all_counts.data(), .n = n, .c = c});
  const Results<double> joints(c * c, stream);
  metrics_soft_joint(stream, {.a = there_a.data<float>(), .b = there_b.data<float>(), .joint = joints.data(), .n = n, .c = c});
  const auto counts = all_counts.read();

  std::vector<double> want_counts;
  std::vector<long double> want_joint(static_cast<size_t>(c * c));
  for (int32_t i = 0; i < c; ++i)
    for (int32_t j = 0; j < c; ++j) {
      double count = 0;
      for (size_t s = 0; s < la.size(); ++s) count += la[s] == i && lb[s] == j;
      want_counts.push_back(count);
    }
  for (int64_t s = 0; s < n; ++s) {
    const auto p = softmax(a, s, 1), q = softmax(b, s, 1);
    for (size_t i = 0; i < p.size(); ++i)
      for (size_t j = 0; j < q.size(); ++j) want_joint[i * q.size() + j] += p[i] * q[j] / (long double)(n);
  }
  return {{"counts", {counts.begin(), counts.end()}, want_counts, 0}, {"soft_joint", joints.read(), {want_joint.begin(), want_joint.end()}, kDouble}};
}

std::vector<Checked> check_maps(int64_t n, int64_t side, int64_t k, int64_t c, Stream stream) {
  const Device device = stream.device;
  const Tensor f = random_tensor({n, side, side, k}, DType::f32, 1, 0.f, 2.f).to(device), weight = random_tensor({c, k}, DType::f32, 2).to(device),
               bias = random_tensor({c}, DType::f32, 3).to(device), map = Tensor::empty({n, side, side}, DType::f32, device), energy = map.clone();
  Tensor alpha = random_tensor({n, c}, DType::f32, 4);
  for (int64_t i = 1; i < alpha.elements(); i += 3) alpha.data<float>()[i] = 0;
  alpha = alpha.to(device);
  metrics_class_map(stream, {.features = f.data<float>(),
                             .weight = weight.data<float>(),
                             .bias = bias.data<float>(),
                             .alpha = alpha.data<float>(),
                             .map = map.data<float>(),
                             .n = n,
                             .h = side,
                             .w = side,
                             .k = k,
                             .c = c});
  metrics_energy_map(stream, {.features = f.data<float>(), .map = energy.data<float>(), .n = n, .h = side, .w = side, .k = k});
  const auto fs = to_doubles(f), ws = to_doubles(weight), bs = to_doubles(bias), as = to_doubles(alpha);
  std::vector<double> want_map, want_energy;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t at = 0; at < side * side; ++at) {
      const double* x = &fs[size_t((i * side * side + at) * k)];
      double m = 0, e = 0;
      for (int64_t j = 0; j < c; ++j) {
        double score = bs[size_t(j)];  // the logit this position alone would give
        for (int64_t q = 0; q < k; ++q) score += ws[size_t(j * k + q)] * x[q];
        m += as[size_t(i * c + j)] * score;
      }
      for (int64_t q = 0; q < k; ++q) e += x[q] * x[q];
      want_map.push_back(m), want_energy.push_back(e / double(k));
    }
  return {{"class_map", to_doubles(map), want_map, kFloat}, {"energy_map", to_doubles(energy), want_energy, kFloat}};
}

std::vector<double> oracle_upsample(const Tensor& map, int64_t image, int64_t px) {
  const int64_t h = map.dim(1), w = map.dim(2);
  auto source = [px](int64_t i, int64_t in) { return std::clamp((double(i) + 0.5) * double(in) / double(px) - 0.5, 0.0, double(in - 1)); };
  auto tent = [](double distance) { return std::max(0.0, 1 - std::fabs(distance)); };
  std::vector<double> out;
  for (int64_t y = 0; y < px; ++y)
    for (int64_t x = 0; x < px; ++x) {
      double v = 0;
      for (int64_t i = 0; i < h; ++i)
        for (int64_t j = 0; j < w; ++j) v += tent(source(y, h) - double(i)) * tent(source(x, w) - double(j)) * map.data<float>()[(image * h + i) * w + j];
      out.push_back(v);
    }
  return out;
}
std::vector<double> oracle_unit(std::vector<double> v) {
  const auto [low, high] = std::minmax_element(v.begin(), v.end());
  const double min = *low, range = *high - *low + 1e-8;
  for (double& x : v) x = (x - min) / range;
  return v;
}

struct MaskProblem {
  int64_t n, side_a, side_b, px;
  int models;
  bool truth;
};

Tensor truth_masks(int64_t n, int64_t px) {
  Tensor t = Tensor::empty({n, px, px}, DType::u8);
  for (int64_t i = 0; i < t.elements(); ++i) t.data<uint8_t>()[i] = (i / (px / 2 + 1)) % 3 == 0 ? 255 : 0;
  return t;
}

// [N,thresholds]
std::vector<MaskCounts> count_masks(const std::vector<Tensor>& maps, const Tensor& truth, int64_t px, const std::vector<double>& thresholds, Stream stream) {
  const int64_t n = maps[0].dim(0);
  const Results<MaskCounts> counts(n * int64_t(thresholds.size()), stream);
  std::vector<Tensor> there;
  for (const Tensor& map : maps) there.push_back(map.to(stream.device));
  const Tensor there_truth = truth.to(stream.device);
  MetricsMaskArgs args{.maps = {},
                       .models = int(maps.size()),
                       .truth = truth.defined() ? there_truth.data<uint8_t>() : nullptr,
                       .out = counts.data(),
                       .n = n,
                       .px = px,
                       .thresholds = {},
                       .cuts = int(thresholds.size())};
  std::copy(thresholds.begin(), thresholds.end(), args.thresholds);
  for (size_t m = 0; m < maps.size(); ++m) args.maps[m] = {there[m].data<float>(), maps[m].dim(1), maps[m].dim(2)};
  metrics_mask_counts(stream, args);
  return counts.read();
}

std::vector<Checked> check_masks(const MaskProblem& p, Stream stream) {
  std::vector<Tensor> maps;
  for (int m = 0; m < p.models; ++m) {
    const int64_t side = m == 1 ? p.side_b : p.side_a;
    maps.push_back(random_tensor({p.n, side, side}, DType::f32, uint32_t(10 + m), -3.f, 5.f));
  }
  const Tensor truth = truth_masks(p.n, p.px);
  // One, or all that a call can take, in no order.
  const std::vector<double> thresholds = p.n % 2 ? std::vector<double>{0.4} : std::vector<double>{0.4, 0.2, 0.7, 0.3, 0.5, 0.6, 0.9, 0.1};
  const auto got = count_masks(maps, p.truth ? truth : Tensor(), p.px, thresholds, stream);
  const Tensor first_map = maps[0].to(stream.device), raw = Tensor::empty({p.n, p.px, p.px}, DType::f32, stream.device), unit = raw.clone();
  for (auto [scale, out] : {std::pair{MapScale::raw, raw}, {MapScale::unit, unit}})
    metrics_upsample(stream, {.map = first_map.data<float>(), .out = out.data<float>(), .n = p.n, .h = p.side_a, .w = p.side_a, .px = p.px, .scale = scale});

  Checked all{"all", {}, {}, 0}, any{"any", {}, {}, 0}, area{"area", {}, {}, 0}, up{"upsampled", to_doubles(raw), {}, kFloat},
      scaled{"unit", to_doubles(unit), {}, kFloat};
  for (int64_t i = 0; i < p.n; ++i) {
    std::vector<std::vector<double>> units;
    for (const Tensor& map : maps) units.push_back(oracle_unit(oracle_upsample(map, i, p.px)));
    for (size_t t = 0; t < thresholds.size(); ++t) {
      std::vector<std::vector<bool>> masks;
      for (const auto& unit_map : units) {
        masks.emplace_back();
        for (double v : unit_map) masks.back().push_back(v > thresholds[t]);
      }
      if (p.truth) {
        masks.emplace_back();
        for (int64_t at = 0; at < p.px * p.px; ++at) masks.back().push_back(truth.data<uint8_t>()[i * p.px * p.px + at] != 0);
      }
      double want_all = 0, want_any = 0;
      for (size_t at = 0; at < size_t(p.px * p.px); ++at) {
        want_all += std::all_of(masks.begin(), masks.end(), [&](const auto& m) { return m[at]; });
        want_any += std::any_of(masks.begin(), masks.end(), [&](const auto& m) { return m[at]; });
      }
      const MaskCounts& g = got[size_t(i) * thresholds.size() + t];
      all.got.push_back(double(g.all)), all.want.push_back(want_all);
      any.got.push_back(double(g.any)), any.want.push_back(want_any);
      for (size_t m = 0; m < masks.size(); ++m)
        area.got.push_back(double(g.area[m])), area.want.push_back(double(std::count(masks[m].begin(), masks[m].end(), true)));
    }
    const auto values = oracle_upsample(maps[0], i, p.px);
    up.want.insert(up.want.end(), values.begin(), values.end()), scaled.want.insert(scaled.want.end(), units[0].begin(), units[0].end());
  }
  return {all, any, area, up, scaled};
}

// Thresholds that pixels equal. Whole multiples of 2^27 on a grid of eighths and a range that 1e-8 does not change make every value and the cut exact.
std::vector<Checked> check_exact_ties(Stream stream) {
  constexpr int64_t n = 8, side = 3, px = 12;
  Tensor map = Tensor::empty({n, side, side}, DType::f32);
  Rng rng(0x71e5, Purpose::test);
  for (int64_t i = 0; i < map.elements(); ++i)
    map.data<float>()[i] = 0x1p27f * (i % 9 == 0 ? 0.f : i % 9 == 2 ? 4.f : float(rng.below(5)));  // the extremes in corners, which are read as they are
  Checked area{"area", {}, {}, 0}, ties{"ties", {}, {}, 0};
  for (double threshold : {0.0, 0.25, 0.5, 0.75}) {
    const auto got = count_masks({map}, {}, px, {threshold}, stream);
    int64_t equal = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto values = oracle_upsample(map, i, px);
      const double cut = threshold * 4 * 0x1p27;
      area.got.push_back(double(got[size_t(i)].area[0]));
      area.want.push_back(double(std::count_if(values.begin(), values.end(), [&](double v) { return v > cut; })));
      equal += std::count(values.begin(), values.end(), cut);
    }
    ties.got.push_back(equal > 0), ties.want.push_back(1);  // or this tests nothing
  }
  return {area, ties};
}

// Thresholds a rounding away from a pixel's value: any other order of operations, or a fused one, counts differently. The CPU's counts are the measure.
std::vector<Checked> check_same_counts(Stream stream) {
  constexpr int64_t n = 2, side_a = 7, side_b = 5, px = 33;
  const std::vector<Tensor> maps{random_tensor({n, side_a, side_a}, DType::f32, 20, -3.f, 5.f), random_tensor({n, side_b, side_b}, DType::f32, 21)};
  const float* map = maps[0].data<float>();
  auto value_at = [&](int64_t y, int64_t x) {
    const Tap row = bilinear_tap(y, side_a, px), column = bilinear_tap(x, side_a, px);
    auto across = [&](int64_t r) { return blend(map[r * side_a + column.low], map[r * side_a + column.high], column.weight); };
    return blend(across(row.low), across(row.high), row.weight);
  };
  double min = HUGE_VAL, max = -HUGE_VAL;
  for (int64_t at = 0; at < px * px; ++at) min = std::min(min, value_at(at / px, at % px)), max = std::max(max, value_at(at / px, at % px));
  Checked counts{"counts", {}, {}, 0};
  for (int64_t at = 40; at < px * px; at += 97) {
    const double threshold = (value_at(at / px, at % px) - min) / unit_range(min, max);
    const auto got = count_masks(maps, {}, px, {threshold}, stream), want = count_masks(maps, {}, px, {threshold}, {});
    for (size_t i = 0; i < n; ++i)
      for (auto [to, from] : {std::pair{&counts.got, &got[i]}, {&counts.want, &want[i]}})
        for (int64_t count : {from->all, from->any, from->area[0], from->area[1]}) to->push_back(double(count));
  }
  return {counts};
}

}  // namespace

void add_metrics_cases(Cases& all) {
  auto check = [&](std::string name, std::function<std::vector<Checked>(Stream)> run) {
    all.push_back({.name = "metrics:" + name, .check = std::move(run), .grad = {}, .perf = {}});
  };
  auto perf = [&](std::string name, std::function<Work(Stream)> make) {
    all.push_back({.name = "metrics:" + name, .check = {}, .grad = {}, .perf = std::move(make)});
  };

  struct Size {
    int64_t n, c;
  };
  for (const Size& p : {Size{1, 2}, {13, 3}, {61, 7}, {9, 31}, {8, 32}, {7, 33}, {100, 100}, {6, 1000}}) {
    check(fmt::format("logits:{}x{}", p.n, p.c), [=](Stream s) { return check_logits(p.n, p.c, s); });
    for (double tau : {1.0, 3.0}) check(fmt::format("pair:{}x{}:tau{}", p.n, p.c, tau), [=](Stream s) { return check_pair(p.n, p.c, tau, s); });
  }
  for (const Size& p : {Size{1, 1}, {130, 3}, {57, 33}, {1030, 13}})
    check(fmt::format("joint:{}x{}", p.n, p.c), [=](Stream s) { return check_joint(p.n, p.c, s); });
  struct MapProblem {
    int64_t n, side, k, c;
  };
  for (const MapProblem& p : {MapProblem{1, 1, 1, 1}, {5, 3, 13, 7}, {2, 2, 33, 40}, {3, 7, 512, 10}})
    check(fmt::format("maps:{}x{}x{}:k{}:c{}", p.n, p.side, p.side, p.k, p.c), [=](Stream s) { return check_maps(p.n, p.side, p.k, p.c, s); });
  for (const MaskProblem& p : {MaskProblem{3, 2, 2, 4, 1, true},
                               {5, 7, 7, 33, 2, false},
                               {3, 8, 5, 32, 3, true},
                               {2, 7, 7, 5, 2, true},
                               {1, 3, 4, 9, 2, true},
                               {3, 4, 4, 17, 3, false},
                               {2, 3, 3, 1, 2, true},
                               {1, 2, 3, 65, 2, true}})
    check(fmt::format("masks:{}x{}+{}:px{}:models{}{}", p.n, p.side_a, p.side_b, p.px, p.models, p.truth ? ":truth" : ""),
          [=](Stream s) { return check_masks(p, s); });
  check("masks:ties", check_exact_ties);
  check("masks:as_on_the_cpu", check_same_counts);

  // The sizes of one evaluation: 10000 test images, 100 classes; one batch of 7x7 maps at 224 px.
  perf("logits:10000x100", [](Stream s) {
    const Tensor logits = designed_logits(10000, 100, 1).to(s.device);
    const Results<LogitRecord> out(10000, s);
    return Work{.run = [=] { metrics_logit_records(s, {.logits = logits.data<float>(), .out = out.data(), .n = 10000, .c = 100}); },
                .bytes = double(logits.bytes()),
                .flops = 0};
  });
  perf("pair:10000x100", [](Stream s) {
    const Tensor a = designed_logits(10000, 100, 1).to(s.device), b = designed_logits(10000, 100, 2).to(s.device);
    const Results<PairRecord> out(10000, s);
    return Work{.run = [=] { metrics_pair_records(s, {.a = a.data<float>(), .b = b.data<float>(), .out = out.data(), .n = 10000, .c = 100}); },
                .bytes = 2.0 * double(a.bytes()),
                .flops = 0};
  });
  perf("soft_joint:10000x100", [](Stream s) {
    const Tensor a = designed_logits(10000, 100, 1).to(s.device), b = designed_logits(10000, 100, 2).to(s.device);
    const Results<double> out(10000, s);
    return Work{.run = [=] { metrics_soft_joint(s, {.a = a.data<float>(), .b = b.data<float>(), .joint = out.data(), .n = 10000, .c = 100}); },
                .bytes = 2.0 * double(a.bytes()),
                .flops = 2e8};
  });
  perf("class_map:128x7x7:k512:c100", [](Stream s) {
    const Tensor f = random_tensor({128, 7, 7, 512}, DType::f32, 1, 0.f, 2.f).to(s.device), weight = random_tensor({100, 512}, DType::f32, 2).to(s.device),
                 bias = random_tensor({100}, DType::f32, 3).to(s.device), map = Tensor::empty({128, 7, 7}, DType::f32, s.device);
    Tensor alpha = Tensor::zeros({128, 100}, DType::f32);
    for (int64_t i = 0; i < 128; ++i) alpha.data<float>()[i * 100 + i % 100] = 1;
    alpha = alpha.to(s.device);
    return Work{.run =
                    [=] {
                      metrics_class_map(s, {.features = f.data<float>(),
                                            .weight = weight.data<float>(),
                                            .bias = bias.data<float>(),
                                            .alpha = alpha.data<float>(),
                                            .map = map.data<float>(),
                                            .n = 128,
                                            .h = 7,
                                            .w = 7,
                                            .k = 512,
                                            .c = 100});
                    },
                .bytes = double(f.bytes() + map.bytes()),
                .flops = 2.0 * double(f.elements())};
  });
  perf("masks:128x7+7:px224", [](Stream s) {
    const Tensor a = random_tensor({128, 7, 7}, DType::f32, 1).to(s.device), b = random_tensor({128, 7, 7}, DType::f32, 2).to(s.device);
    const Results<MaskCounts> out(128, s);
    return Work{.run =
                    [=] {
                      metrics_mask_counts(s, {.maps = {{a.data<float>(), 7, 7}, {b.data<float>(), 7, 7}},
                                              .models = 2,
                                              .out = out.data(),
                                              .n = 128,
                                              .px = 224,
                                              .thresholds = {0.4},
                                              .cuts = 1});
                    },
                .bytes = double(a.bytes() + b.bytes()),
                .flops = 2.0 * 128 * 224 * 224 * 6};
  });
}

}  // namespace kd::cases
