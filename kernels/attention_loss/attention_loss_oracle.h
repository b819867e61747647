// attention_loss_oracle: what attention_loss must compute, in double, a step at a time. It shares no arithmetic with the kernels: similarities are summed
// over references, never over their mean, and the gradient goes through the whole Jacobian of u/|u|. Used by the cases and the tests.
#pragma once
#include <cmath>
#include <vector>

#include "kernels/attention_loss/attention_loss.h"

namespace kd::oracle {

struct AttentionProblem {
  size_t n, positions, k;
  std::vector<double> f;  // [N,P,K]
  struct Reference {
    size_t k;
    std::vector<double> f;
  };
  std::vector<Reference> references;
  AttentionMode mode;
  double weight = 1;
};
struct AttentionAnswer {
  std::vector<double> values, df;
  double loss = 0;
};

inline std::vector<double> energy(const std::vector<double>& f, size_t image, size_t positions, size_t k) {
  std::vector<double> u(positions, 0.0);
  for (size_t p = 0; p < positions; ++p)
    for (size_t c = 0; c < k; ++c) u[p] += std::pow(f[(image * positions + p) * k + c], 2) / double(k);
  return u;
}
inline double norm(const std::vector<double>& u) {
  double squares = 0;
  for (double v : u) squares += v * v;
  return std::sqrt(squares);
}
inline std::vector<double> unit(std::vector<double> u) {
  const double length = norm(u);
  for (double& v : u) v = length == 0 ? 0 : v / length;
  return u;
}
inline double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

inline AttentionAnswer attention_loss(const AttentionProblem& problem) {
  const size_t P = problem.positions, K = problem.k;
  const double M = double(problem.references.size()), N = double(problem.n);
  AttentionAnswer answer{.values = {}, .df = std::vector<double>(problem.f.size(), 0.0)};
  for (size_t n = 0; n < problem.n; ++n) {
    const std::vector<double> u = energy(problem.f, n, P, K), a = unit(u);
    std::vector<std::vector<double>> seen;
    bool any = false;
    for (const auto& reference : problem.references) {
      seen.push_back(unit(energy(reference.f, n, P, reference.k)));
      any = any || norm(seen.back()) > 0;
    }
    if (norm(u) == 0 || !any) {
      answer.values.push_back(0);
      continue;
    }
    double value = 0;
    std::vector<double> da(P, 0.0);  // d value / d a
    if (problem.mode == AttentionMode::similarity) {
      for (const auto& b : seen) {
        value += dot(a, b) / M;
        for (size_t p = 0; p < P; ++p) da[p] += b[p] / M;
      }
    } else {
      for (size_t p = 0; p < P; ++p) {
        double mean = 0;
        for (const auto& b : seen) mean += b[p] / M;
        value += (a[p] - mean) * (a[p] - mean);
        da[p] = 2 * (a[p] - mean);
      }
    }
    answer.values.push_back(value);
    answer.loss += problem.weight * value / N;
    for (size_t q = 0; q < P; ++q) {
      double du = 0;
      for (size_t p = 0; p < P; ++p) du += da[p] * ((p == q ? 1 : 0) - a[p] * a[q]) / norm(u);
      for (size_t c = 0; c < K; ++c) {
        const size_t at = (n * P + q) * K + c;
        answer.df[at] = problem.weight / N * du * 2 * problem.f[at] / double(K);
      }
    }
  }
  return answer;
}

}  // namespace kd::oracle
