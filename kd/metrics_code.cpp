// What the released code computes, per batch and by its own names (docs/metrics.md says how each number differs from the textbook's).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/base/rng.h"
#include "kd/metrics.h"

namespace kd {
namespace {

using Labels = std::span<const int32_t>;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Epoch slots of Purpose::control from here on; metrics.cpp has the ones before.
constexpr uint32_t kNoiseDraws = 2;

std::vector<double> noise_of(int64_t n, uint64_t seed, uint32_t stream, uint32_t epoch) {
  Rng rng(seed, Purpose::control, stream, kNoiseDraws + epoch);
  std::vector<double> noise(static_cast<size_t>(n));
  for (double& v : noise) v = rng.normal();
  return noise;
}

// One model's logits of one batch, on the host.
struct BatchLogits {
  Tensor logits;  // [B,C]
  int64_t n, c;
  std::vector<int32_t> predicted;

  BatchLogits(const Tensor& anywhere, const std::string& name) {
    KD_CHECK(anywhere.defined() && anywhere.rank() == 2 && anywhere.dtype() == DType::f32 && anywhere.elements() > 0,
             "metrics of a batch: {} is not f32 [B,C] with B, C > 0", anywhere.describe(name.c_str()));
    logits = anywhere.to(Device::cpu), n = logits.dim(0), c = logits.dim(1);
    for (int64_t i = 0; i < n; ++i) {
      const float* x = row(i);
      KD_INPUT(std::all_of(x, x + c, [](float v) { return std::isfinite(v); }),
               "metrics of a batch: row {} of {} holds NaN or infinity; the model diverged or the file is damaged", i, logits.describe(name.c_str()));
      predicted.push_back(int32_t(std::max_element(x, x + c) - x));
    }
  }
  const float* row(int64_t i) const { return logits.data<float>() + i * c; }
};

// Averaged in float, as the logits are.
BatchLogits mean_logits(std::span<const BatchLogits> models) {
  const Tensor mean = Tensor::empty(models[0].logits.shape(), DType::f32);
  for (int64_t i = 0; i < mean.elements(); ++i) {
    float sum = 0;
    for (const BatchLogits& m : models) sum += m.logits.data<float>()[i];
    mean.data<float>()[i] = sum / float(models.size());
  }
  return {mean, "mean of the teachers"};
}

double log_sum_exp(const float* x, int64_t c) {
  const double top = *std::max_element(x, x + c);
  double sum = 0;
  for (int64_t i = 0; i < c; ++i) sum += std::exp(x[i] - top);
  return top + std::log(sum);
}

double mean_entropy(const BatchLogits& model) {
  double sum = 0;
  for (int64_t i = 0; i < model.n; ++i) {
    const float* x = model.row(i);
    const double whole = log_sum_exp(x, model.c);
    for (int64_t k = 0; k < model.c; ++k) sum -= std::exp(x[k] - whole) * (x[k] - whole);
  }
  return sum / double(model.n);
}

// 10 KL(softmax(b) || softmax(a)): a's logarithm in double, b's softmax in float.
double code_kl(const BatchLogits& a, const BatchLogits& b) {
  double sum = 0;
  std::vector<float> q(static_cast<size_t>(b.c));
  for (int64_t i = 0; i < a.n; ++i) {
    const float *x = a.row(i), *y = b.row(i), top = *std::max_element(y, y + b.c);
    float whole_b = 0;
    for (int64_t k = 0; k < b.c; ++k) whole_b += q[size_t(k)] = std::exp(y[k] - top);
    const double whole_a = log_sum_exp(x, a.c);
    for (int64_t k = 0; k < a.c; ++k)
      if (const double p = q[size_t(k)] / whole_b; p > 0) sum += p * (std::log(p) - (x[k] - whole_a));
  }
  return 10 * sum / double(a.n);
}

}  // namespace

double digamma(double x) {
  KD_CHECK(x > 0, "digamma of {}: a positive number is needed", x);
  double sum = 0;
  for (; x < 10; ++x) sum -= 1 / x;  // psi(x) = psi(x+1) - 1/x
  // psi(x) = ln x - 1/2x - sum_k B_2k / (2k x^2k), B the Bernoulli numbers: from 10 on, what follows the last term is below 1e-16.
  const double y = 1 / (x * x);
  const double series = y * (1. / 12 - y * (1. / 120 - y * (1. / 252 - y * (1. / 240 - y * (1. / 132 - y * (691. / 32760 - y / 12))))));
  return sum + std::log(x) - 0.5 / x - series;
}

double knn_mi(Labels target, Labels feature, std::span<const double> noise) {
  const size_t n = target.size();
  KD_INPUT(n > 0, "metrics: no labels: there is nothing to measure");
  KD_INPUT(feature.size() == n && noise.size() == n, "metrics: {} targets, {} features, {} noise values: one of each for every sample is needed", n,
           feature.size(), noise.size());
  double mean = 0, variance = 0, size = 0;
  for (int32_t v : feature) mean += double(v) / double(n);
  for (int32_t v : feature) variance += (v - mean) * (v - mean) / double(n);
  const double scale = variance > 0 ? std::sqrt(variance) : 1;
  for (int32_t v : feature) size += std::fabs(v / scale) / double(n);

  struct Sample {
    int32_t target;
    double x;
  };
  std::vector<Sample> samples;
  for (size_t i = 0; i < n; ++i) samples.push_back({target[i], feature[i] / scale + 1e-10 * std::max(1.0, size) * noise[i]});
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return std::pair(a.target, a.x) < std::pair(b.target, b.x); });

  // Sorted, the k nearest of the same target and the sample itself are k + 1 in a row.
  std::vector<double> kept, radii;
  double psi_k = 0, psi_count = 0, psi_within = 0;
  for (size_t begin = 0, end = 0; begin < n; begin = end) {
    while (end < n && samples[end].target == samples[begin].target) ++end;
    const size_t count = end - begin, k = std::min<size_t>(3, count - 1);
    if (k == 0) continue;
    psi_k += double(count) * digamma(double(k)), psi_count += double(count) * digamma(double(count));
    for (size_t i = begin; i < end; ++i) {
      const double x = samples[i].x;
      double radius = HUGE_VAL;
      for (size_t first = std::max(begin + k, i) - k; first <= i && first + k < end; ++first)
        radius = std::min(radius, std::max(x - samples[first].x, samples[first + k].x - x));
      kept.push_back(x), radii.push_back(std::nextafter(radius, 0.0));
    }
  }
  if (kept.empty()) return kNan;
  std::vector<double> sorted = kept;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < kept.size(); ++i) {
    const double x = kept[i], radius = radii[i];
    const auto first = std::partition_point(sorted.begin(), sorted.end(), [=](double other) { return x - other > radius; });
    const auto last = std::partition_point(first, sorted.end(), [=](double other) { return other - x <= radius; });
    psi_within += digamma(double(last - first));
  }
  const double samples_kept = double(kept.size());
  return std::max(0.0, digamma(samples_kept) + (psi_k - psi_count - psi_within) / samples_kept);
}

double knn_mi(Labels target, Labels feature, uint64_t seed) { return knn_mi(target, feature, noise_of(int64_t(target.size()), seed, 0, 0)); }

void CodeMetrics::add(const Tensor& student, std::span<const Tensor> teachers) {
  KD_CHECK(batches_ == 0 || teachers.size() == teachers_, "metrics of a batch: {} teachers after batches with {}", teachers.size(), teachers_);
  const BatchLogits s(student, "S");
  std::vector<BatchLogits> t;
  for (size_t i = 0; i < std::min<size_t>(3, teachers.size()); ++i) {
    t.emplace_back(teachers[i], "T" + std::to_string(i + 1));
    KD_INPUT(t.back().logits.shape() == s.logits.shape(), "metrics of a batch: {} and {} differ in shape; both models must see the same images and classes",
             teachers[i].describe(("T" + std::to_string(i + 1)).c_str()), student.describe("S"));
  }

  auto put = [&](const std::string& key, double value) {
    Sum& sum = sums_[key];
    if (!std::isnan(value)) sum.total += value, ++sum.batches;
  };
  // `place` tells the draws of a batch's pairs apart, whichever of them there are.
  constexpr uint32_t kPlaces = 8;
  auto information = [&](const BatchLogits& a, const BatchLogits& b, uint32_t place) {
    const uint32_t stream = uint32_t(batches_) * kPlaces + place;
    return std::pair(knn_mi(a.predicted, b.predicted, noise_of(s.n, seed_, stream, epoch_)), mutual_information(a.predicted, b.predicted));
  };
  auto put_pair = [&](const std::string& key, const BatchLogits& a, const BatchLogits& b, uint32_t place) {
    const auto [mi, mis] = information(a, b, place);
    put(key + "_f", label_agreement(a.predicted, b.predicted));
    put(key + "_kl", code_kl(a, b));
    put(key + "_mi", mi);
    put(key + "_mis", mis);
    return std::pair(mi, mis);
  };

  put("S_entropy", mean_entropy(s));
  if (t.size() >= 1) {
    const auto [mi_1, mis_1] = put_pair("1Tand1S", t[0], s, 0);
    put("T1_entropy", mean_entropy(t[0]));
    if (t.size() >= 2) {
      const BatchLogits both = mean_logits({t.data(), 2});
      const auto [mi_2, mis_2] = information(t[1], s, 1);
      put("T1SandT2S_mi", (mi_1 + mi_2) / 2), put("T1SandT2S_mis", (mis_1 + mis_2) / 2);
      put("T2_entropy", mean_entropy(t[1]));
      put_pair("2Tand1S", both, s, 2);
      put_pair("T1T2", t[0], t[1], 3);
      put("2Tand1T_f", label_agreement(both.predicted, t[0].predicted));
      if (t.size() == 3) {
        put_pair("3Tand1S", mean_logits(t), s, 4);
        put_pair("T1T2T3", both, t[2], 5);
      }
    }
  }
  teachers_ = teachers.size();
  ++batches_;
}

std::map<std::string, double> CodeMetrics::means() const {
  std::map<std::string, double> means;
  for (const auto& [key, sum] : sums_) means[key] = sum.batches > 0 ? sum.total / double(sum.batches) : kNan;
  return means;
}

std::map<std::string, double> code_metrics(const LogitSet& student, const std::vector<LogitSet>& teachers, uint64_t seed, ShortBatch short_batch,
                                           int64_t batch) {
  KD_CHECK(batch >= 1, "metrics by batches of {}", batch);
  const Tensor& all = student.logits;
  for (const LogitSet* set : {&student})
    KD_CHECK(set->logits.defined() && set->logits.rank() == 2, "metrics: {} is not f32 [N,C]", set->logits.describe(set->name.c_str()));
  for (const LogitSet& t : teachers)
    KD_INPUT(t.logits.shape() == all.shape(), "metrics: {} and {} differ in shape; both models must see the same images and classes",
             t.logits.describe(t.name.c_str()), all.describe(student.name.c_str()));
  const int64_t n = all.dim(0), c = all.dim(1);
  CodeMetrics metrics(seed);
  for (int64_t first = 0; first < n; first += batch) {
    const int64_t rows = std::min(batch, n - first);
    if (rows < batch && short_batch == ShortBatch::dropped) break;
    auto part = [&](const Tensor& logits) { return logits.slice(first * c, {rows, c}); };
    std::vector<Tensor> of_teachers;
    for (const LogitSet& t : teachers) of_teachers.push_back(part(t.logits));
    metrics.add(part(all), of_teachers);
  }
  return metrics.means();
}

}  // namespace kd
