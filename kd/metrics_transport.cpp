// Transport of one distribution over the classes into another. All samples share the costs, so the kernels exp(-cost/epsilon) are made once, and samples
// meet them in blocks: an iteration is two products of a kernel and a block.
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "kd/metrics.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace {

using Matrix = std::vector<double>;  // [C,C], symmetric
constexpr size_t kSamples = 16;      // of a block: a row of a product then stays in registers
using Row = std::array<double, kSamples>;
using Columns = std::vector<Row>;  // [C], a number for each class and sample

constexpr int kCoarser = 7, kCoarserIterations = 10;
constexpr double kMostEpsilons = 500;  // largest cost over epsilon: kernels stay above 1e-217, where nothing that is added up can underflow together

// f(i, row i of matrix x in) for each i.
template <class F>
void multiply(const Matrix& matrix, const Columns& in, F&& f) {
  const size_t c = in.size();
  for (size_t i = 0; i < c; ++i) {
    const double* m = &matrix[i * c];
    Row sum{};
    for (size_t j = 0; j < c; ++j) {
      const double* x = in[j].data();
#pragma omp simd  // or GCC 12 keeps the sums in memory: 8 times slower
      for (size_t s = 0; s < kSamples; ++s) sum[s] += m[j] * x[s];
    }
    f(i, sum);
  }
}

// softmax of one row of logits in each column; columns beyond the last sample repeat it.
Columns probabilities(const Tensor& logits, std::span<const int64_t> samples) {
  const int64_t c = logits.dim(1);
  Columns p(static_cast<size_t>(c));
  for (size_t s = 0; s < kSamples; ++s) {
    const float* x = logits.data<float>() + samples[std::min(s, samples.size() - 1)] * c;
    const double top = *std::max_element(x, x + c);
    double sum = 0;
    for (int64_t i = 0; i < c; ++i) sum += p[size_t(i)][s] = std::exp(x[i] - top);
    for (Row& row : p) row[s] /= sum;
  }
  return p;
}

struct Transport {
  Matrix cost;
  std::vector<Matrix> kernels;  // from the coarsest to the finest
  Matrix priced;                // finest kernel x cost, entry by entry
  int iterations;               // with the finest kernel

  Transport(const Tensor& costs, const SinkhornOptions& options) : cost(costs.data<float>(), costs.data<float>() + costs.elements()) {
    const double mean = std::accumulate(cost.begin(), cost.end(), 0.0) / double(cost.size()), most = *std::max_element(cost.begin(), cost.end());
    // Where everything is free, any kernel will do.
    const double epsilon = most > 0 ? std::max(options.epsilon * mean, most / kMostEpsilons) : 1;
    const int coarser = std::min(kCoarser, (options.iterations - 1) / kCoarserIterations);
    iterations = options.iterations - coarser * kCoarserIterations;
    for (int half = coarser; half >= 0; --half) {
      kernels.emplace_back();
      for (double x : cost) kernels.back().push_back(std::exp(-x / std::ldexp(epsilon, half)));
    }
    for (size_t i = 0; i < cost.size(); ++i) priced.push_back(cost[i] * kernels.back()[i]);
  }

  // Of each column of `a` into that of `b`: what the plan u_i kernel_ij v_j costs.
  Row operator()(Columns a, Columns b) const {
    const size_t c = a.size();
    Columns u(c), v(c);
    for (Row& row : v) row.fill(1);
    auto update = [](const Matrix& kernel, Columns& scaling, const Columns& margin, const Columns& other) {
      multiply(kernel, other, [&](size_t i, const Row& sum) {
        for (size_t s = 0; s < kSamples; ++s) scaling[i][s] = margin[i][s] > 0 ? margin[i][s] / sum[s] : 0;
      });
    };
    for (const Matrix& kernel : kernels) {
      const bool finest = &kernel == &kernels.back();
      for (int t = 0; t < (finest ? iterations : kCoarserIterations); ++t) update(kernel, u, a, v), update(kernel, v, b, u);
      if (finest) break;
      // Half the epsilon leaves the potential, epsilon ln v, as it is where v becomes its square. The scale of v is free: the largest is 1.
      Row top{};
      for (const Row& row : v)
        for (size_t s = 0; s < kSamples; ++s) top[s] = std::max(top[s], row[s]);
      for (Row& row : v)
        for (size_t s = 0; s < kSamples; ++s) row[s] = row[s] / top[s] * (row[s] / top[s]);
    }

    // The plan's margins are near a and b. Shrink the rows and columns that hold too much; what a and b then miss moves in proportion.
    const Matrix& kernel = kernels.back();
    auto shrink = [&](Columns& scaling, const Columns& margin, const Columns& other) {
      multiply(kernel, other, [&](size_t i, const Row& sum) {
        for (size_t s = 0; s < kSamples; ++s)
          if (const double has = scaling[i][s] * sum[s]; has > margin[i][s]) scaling[i][s] *= margin[i][s] / has;
      });
    };
    auto subtract = [&](Columns& margin, const Columns& scaling, const Columns& other) {
      multiply(kernel, other, [&](size_t i, const Row& sum) {
        for (size_t s = 0; s < kSamples; ++s) margin[i][s] = std::max(0.0, margin[i][s] - scaling[i][s] * sum[s]);
      });
    };
    shrink(u, a, v), shrink(v, b, u);
    subtract(a, u, v), subtract(b, v, u);
    Row total{}, missing{}, moved{};
    multiply(priced, v, [&](size_t i, const Row& sum) {
      for (size_t s = 0; s < kSamples; ++s) total[s] += u[i][s] * sum[s];
    });
    multiply(cost, b, [&](size_t i, const Row& sum) {
      for (size_t s = 0; s < kSamples; ++s) moved[s] += a[i][s] * sum[s], missing[s] += a[i][s];
    });
    for (size_t s = 0; s < kSamples; ++s)
      if (missing[s] > 0) total[s] += moved[s] / missing[s];
    return total;
  }
};

void check(const LogitSet& set) {
  KD_CHECK(set.logits.defined() && set.logits.rank() == 2 && set.logits.dtype() == DType::f32, "class transport: {} is not f32 [N,C]",
           set.logits.describe(set.name.c_str()));
  KD_INPUT(set.logits.elements() > 0, "class transport: {} is empty: there is nothing to measure", set.logits.describe(set.name.c_str()));
}

void check_finite(const Tensor& logits, std::span<const int64_t> samples, const std::string& name) {
  for (int64_t i : samples) {
    const float* x = logits.data<float>() + i * logits.dim(1);
    KD_INPUT(std::all_of(x, x + logits.dim(1), [](float v) { return std::isfinite(v); }),
             "class transport: row {} of {} holds NaN or infinity; the model diverged or the file is damaged", i, logits.describe(name.c_str()));
  }
}

}  // namespace

Tensor class_cost(std::span<const Tensor> fc_weights) {
  KD_CHECK(!fc_weights.empty(), "class cost of no classifiers");
  Tensor cost;
  std::vector<double> sum;
  for (const Tensor& anywhere : fc_weights) {
    KD_CHECK(anywhere.defined() && anywhere.rank() == 2 && anywhere.dtype() == DType::f32 && anywhere.elements() > 0, "class cost: {} is not f32 [C,K]",
             anywhere.describe("fc_weight"));
    const Tensor weight = anywhere.to(Device::cpu);
    const int64_t c = weight.dim(0), k = weight.dim(1);
    if (!cost.defined()) cost = Tensor::empty({c, c}, DType::f32), sum.resize(size_t(c * c));
    KD_INPUT(cost.dim(0) == c, "class cost: a classifier {} beside one of {} classes", anywhere.describe("fc_weight"), cost.dim(0));
    std::vector<double> unit(weight.data<float>(), weight.data<float>() + c * k);
    for (int64_t i = 0; i < c; ++i) {
      double* row = &unit[size_t(i * k)];
      const double norm = std::sqrt(std::inner_product(row, row + k, row, 0.0));
      KD_INPUT(norm > 0 && std::isfinite(norm), "class cost: row {} of {} has the norm {}: it points nowhere", i, anywhere.describe("fc_weight"), norm);
      for (int64_t j = 0; j < k; ++j) row[j] /= norm;
    }
    parallel_for(c, [&](int64_t i) {
      for (int64_t j = 0; j < c; ++j)
        if (j != i) sum[size_t(i * c + j)] += std::max(0.0, 1 - std::inner_product(&unit[size_t(i * k)], &unit[size_t(i * k)] + k, &unit[size_t(j * k)], 0.0));
    });
  }
  for (size_t i = 0; i < sum.size(); ++i) cost.data<float>()[i] = float(sum[i] / double(fc_weights.size()));
  return cost;
}

double wasserstein_classes(const LogitSet& a, const LogitSet& b, const Tensor& cost_anywhere, const SinkhornOptions& options) {
  check(a), check(b);
  KD_INPUT(a.logits.shape() == b.logits.shape(), "class transport: {} and {} differ in shape; both models must see the same images and classes",
           a.logits.describe(a.name.c_str()), b.logits.describe(b.name.c_str()));
  const int64_t n = a.logits.dim(0), c = a.logits.dim(1);
  KD_CHECK(cost_anywhere.defined() && cost_anywhere.dtype() == DType::f32 && cost_anywhere.shape() == (Shape{c, c}), "class transport: {} for {} classes",
           cost_anywhere.describe("cost"), c);
  KD_CHECK(options.epsilon > 0 && options.iterations >= 1 && options.max_samples >= 0, "class transport: epsilon {}, {} iterations, at most {} samples",
           options.epsilon, options.iterations, options.max_samples);
  const Tensor cost = cost_anywhere.to(Device::cpu), logits_a = a.logits.to(Device::cpu), logits_b = b.logits.to(Device::cpu);
  for (int64_t i = 0; i < c; ++i)
    for (int64_t j = 0; j < c; ++j) {
      const float there = cost.data<float>()[i * c + j], back = cost.data<float>()[j * c + i];
      KD_INPUT(there >= 0 && std::isfinite(there) && there == back && (i != j || there == 0),
               "class transport: it costs {} from class {} to class {} and {} back: a finite cost, the same both ways and 0 from a class to itself is needed",
               there, i, j, back);
    }
  const Transport transport(cost, options);

  std::vector<int64_t> samples(static_cast<size_t>(options.max_samples > 0 ? std::min(n, options.max_samples) : n));
  const int64_t used = int64_t(samples.size());
  for (int64_t i = 0; i < used; ++i) samples[size_t(i)] = i * n / used;
  check_finite(logits_a, samples, a.name), check_finite(logits_b, samples, b.name);
  const int64_t blocks = (used + int64_t(kSamples) - 1) / int64_t(kSamples);
  std::vector<double> totals(static_cast<size_t>(blocks));
  parallel_for(blocks, [&](int64_t block) {
    const auto some = std::span(samples).subspan(size_t(block) * kSamples, std::min(kSamples, samples.size() - size_t(block) * kSamples));
    const Row each = transport(probabilities(logits_a, some), probabilities(logits_b, some));
    totals[size_t(block)] = std::accumulate(each.begin(), each.begin() + int64_t(some.size()), 0.0);
  });
  return std::accumulate(totals.begin(), totals.end(), 0.0) / double(used);
}

}  // namespace kd
