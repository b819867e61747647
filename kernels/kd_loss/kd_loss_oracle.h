// kd_loss_oracle: what kd_loss must compute, in double, a step at a time over whole vectors. It shares no arithmetic with kd_loss_row.h:
// rows are standardized explicitly, mean_loss is literally a mean of losses, and the gradient is the chain of the textbook
// vector-Jacobian products of log-softmax, division by tau and standardization. Used by the cases and the tests.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/kd_loss/kd_loss.h"

namespace kd::oracle {

using Row = std::vector<double>;

struct KdProblem {
  size_t n, k;
  Row s;  // [N,K]
  std::vector<int32_t> labels;
  std::vector<Row> teachers;  // [N,K] each
  Combine combine = Combine::mean_loss;
  Standardize standardize = Standardize::none;
  double alpha = 1, soft_weight = 0, tau = 1;
};
struct KdAnswer {
  Row ce, kd, right, agree, ds;  // [N] each; ds [N,K]
};

inline Row row_of(const Row& matrix, size_t n, size_t k) { return {matrix.begin() + std::ptrdiff_t(n * k), matrix.begin() + std::ptrdiff_t((n + 1) * k)}; }

inline Row divided(Row x, double by) {
  for (double& v : x) v /= by;
  return x;
}

inline Row log_softmax(Row x) {
  double top = *std::max_element(x.begin(), x.end()), sum = 0;
  for (double v : x) sum += std::exp(v - top);
  for (double& v : x) v = v - top - std::log(sum);
  return x;
}

// y = log_softmax(x), dy -> dx
inline Row log_softmax_bwd(const Row& y, const Row& dy) {
  double sum = 0;
  for (double g : dy) sum += g;
  Row dx(y.size());
  for (size_t c = 0; c < y.size(); ++c) dx[c] = dy[c] - std::exp(y[c]) * sum;
  return dx;
}

struct Moments {
  double mean = 0, sd = 0;
};
inline Moments moments(const Row& x) {
  Moments m;
  for (double v : x) m.mean += v / double(x.size());
  for (double v : x) m.sd += (v - m.mean) * (v - m.mean);
  m.sd = x.size() > 1 ? std::sqrt(m.sd / double(x.size() - 1)) : 0;
  if (std::all_of(x.begin(), x.end(), [&](double v) { return v == x[0]; })) m = {x[0], 0};  // whatever the sums above rounded to
  return m;
}

inline Row standardized(Row x) {
  Moments m = moments(x);
  for (double& v : x) v = (v - m.mean) / (m.sd + 1e-7);
  return x;
}

// du -> dx through u = (x - mean)/(sd + eps). d mean/dx_j = 1/K, d sd/dx_j = (x_j - mean)/((K-1) sd).
inline Row standardized_bwd(const Row& x, const Row& du) {
  Moments m = moments(x);
  const double scale = m.sd + 1e-7;
  Row dx(x.size(), 0.0);
  if (m.sd == 0) return dx;
  double dmean = 0, dsd = 0;
  for (size_t c = 0; c < x.size(); ++c) {
    dmean -= du[c] / scale;
    dsd -= du[c] * (x[c] - m.mean) / (scale * scale);
  }
  for (size_t c = 0; c < x.size(); ++c) dx[c] = du[c] / scale + dmean / double(x.size()) + dsd * (x[c] - m.mean) / (double(x.size() - 1) * m.sd);
  return dx;
}

inline double kl(const Row& log_p, const Row& log_q) {
  double sum = 0;
  for (size_t c = 0; c < log_p.size(); ++c)
    if (std::exp(log_p[c]) > 0) sum += std::exp(log_p[c]) * (log_p[c] - log_q[c]);
  return sum;
}

inline Row mean_of(const std::vector<Row>& rows) {
  Row mean(rows[0].size(), 0.0);
  for (const Row& row : rows)
    for (size_t c = 0; c < row.size(); ++c) mean[c] += row[c] / double(rows.size());
  return mean;
}

// ln of the mean of e^row
inline Row log_mean_exp(const std::vector<Row>& rows) {
  Row out(rows[0].size());
  for (size_t c = 0; c < out.size(); ++c) {
    double top = rows[0][c], sum = 0;
    for (const Row& row : rows) top = std::max(top, row[c]);
    for (const Row& row : rows) sum += std::exp(row[c] - top);
    out[c] = top + std::log(sum / double(rows.size()));
  }
  return out;
}

// ln p for each distribution whose divergence from the student is averaged: M of them for mean_loss, else one.
inline std::vector<Row> log_targets(const std::vector<Row>& logits, Combine combine, double tau) {
  std::vector<Row> at_one, at_tau;
  for (const Row& t : logits) {
    at_one.push_back(log_softmax(t));
    at_tau.push_back(log_softmax(divided(t, tau)));
  }
  switch (combine) {
    case Combine::mean_loss: return at_tau;
    case Combine::mean_probs: return {log_mean_exp(at_tau)};
    case Combine::mean_logits: return {log_softmax(divided(mean_of(logits), tau))};
    case Combine::log_mean_prob: return {log_softmax(divided(log_mean_exp(at_one), tau))};
  }
  KD_FAIL("no such combine");
}

inline size_t first_largest(const Row& x) { return size_t(std::max_element(x.begin(), x.end()) - x.begin()); }

inline KdAnswer kd_loss(const KdProblem& problem) {
  const double tau = problem.tau, batch = double(problem.n);
  const bool zscore = problem.standardize == Standardize::zscore;
  KdAnswer answer;
  for (size_t n = 0; n < problem.n; ++n) {
    const Row s = row_of(problem.s, n, problem.k), log_hard = log_softmax(s);
    const size_t label = size_t(problem.labels[n]);
    Row dlog(problem.k, 0.0);  // d ce / d ln softmax(s)
    dlog[label] = -1;
    const Row dce = log_softmax_bwd(log_hard, dlog);
    answer.ce.push_back(-log_hard[label]);
    answer.right.push_back(first_largest(s) == label);
    if (problem.teachers.empty()) {
      answer.kd.push_back(0);
      answer.agree.push_back(0);
      for (double g : dce) answer.ds.push_back(g / batch);
      continue;
    }

    Row summed(problem.k, 0.0);
    for (const Row& t : problem.teachers)
      for (size_t c = 0; c < problem.k; ++c) summed[c] += t[n * problem.k + c];
    answer.agree.push_back(first_largest(s) == first_largest(summed));

    std::vector<Row> logits;
    for (const Row& t : problem.teachers) logits.push_back(zscore ? standardized(row_of(t, n, problem.k)) : row_of(t, n, problem.k));
    const Row log_q = log_softmax(divided(zscore ? standardized(s) : s, tau));
    const std::vector<Row> targets = log_targets(logits, problem.combine, tau);
    double kd = 0;
    Row dlog_q(problem.k, 0.0);
    for (const Row& log_p : targets) {
      kd += tau * tau * kl(log_p, log_q) / double(targets.size());
      for (size_t c = 0; c < problem.k; ++c) dlog_q[c] -= tau * tau * std::exp(log_p[c]) / double(targets.size());
    }
    const Row du = divided(log_softmax_bwd(log_q, dlog_q), tau), dkd = zscore ? standardized_bwd(s, du) : du;
    answer.kd.push_back(kd);
    for (size_t c = 0; c < problem.k; ++c) answer.ds.push_back((problem.alpha * dce[c] + problem.soft_weight * dkd[c]) / batch);
  }
  return answer;
}

inline double mean(const Row& x) {
  double sum = 0;
  for (double v : x) sum += v;
  return sum / double(x.size());
}

// The loss that training minimises.
inline double total(const KdProblem& problem) {
  const KdAnswer answer = kd_loss(problem);
  return problem.teachers.empty() ? mean(answer.ce) : problem.alpha * mean(answer.ce) + problem.soft_weight * mean(answer.kd);
}

}  // namespace kd::oracle
