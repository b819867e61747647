// kd_loss_row: the arithmetic of kd_loss for one sample, the same on every backend.
//   T is the stored type, Real the type of the arithmetic, Team the threads that share a row: each takes every size()-th class.
//
// Softmax ignores a common shift, so a row needs its maximum subtracted and never its mean: z-score only changes the slope,
//   softmax((x - mean)/(sd + eps)/tau) = softmax((x - max) slope),  slope = 1/(tau (sd + eps));  without z-score slope = 1/tau.
// The student's gradient is then one formula for both. With h = q - p, whose sum is 0, and d = x - mean:
//   d kd / dx_j = tau^2 slope (h_j - ratio d_j),  ratio = (h.d)/((K-1) sd (sd + eps)) from the slope's own dependence on x, else 0.
#pragma once
#include <cmath>

#include "engine/base/rng.h"
#include "kernels/kd_loss/kd_loss.h"

namespace kd {

constexpr double kZscoreEps = 1e-7;

template <class T, class Real>
struct KdRow {
  const T* s;
  int32_t label;
  const T* teachers[kMaxTeachers];
  int n_teachers;
  T* ds;  // may be null
  int64_t k;
  Combine combine;
  Standardize standardize;
  Real hard_weight, soft_weight;  // of the gradient, 1/N included
  Real tau;
};
template <class Real>
struct KdRowLoss {
  Real ce, kd;
};

// One thread has the row to itself.
struct SoleThread {
  KD_HOST_DEVICE int64_t rank() const { return 0; }
  KD_HOST_DEVICE int64_t size() const { return 1; }
  template <class Real>
  KD_HOST_DEVICE Real sum(Real x) const {
    return x;
  }
  template <class Real>
  KD_HOST_DEVICE Real max(Real x) const {
    return x;
  }
};

template <class Real, class Team, class F>
KD_HOST_DEVICE Real sum_over(const Team& team, int64_t k, F&& f) {
  Real sum = 0;
  for (int64_t c = team.rank(); c < k; c += team.size()) sum += f(c);
  return team.sum(sum);
}
// Skips NaN, which then reaches the result through the sums.
template <class Real, class Team, class F>
KD_HOST_DEVICE Real max_over(const Team& team, int64_t k, F&& f) {
  Real top = -Real(HUGE_VAL);
  for (int64_t c = team.rank(); c < k; c += team.size())
    if (Real value = f(c); value > top) top = value;
  return team.max(top);
}

// softmax((x - max) slope) of a row of logits.
template <class T, class Real>
struct SoftRow {
  const T* x;
  Real max, slope, log_sum;
  Real offset, sd;  // z-score only: mean = max + offset

  KD_HOST_DEVICE Real logit(int64_t c) const { return (Real(x[c]) - max) * slope; }
  KD_HOST_DEVICE Real log_prob(int64_t c) const { return logit(c) - log_sum; }
  KD_HOST_DEVICE Real deviation(int64_t c) const { return Real(x[c]) - max - offset; }  // exactly 0 in a constant row
};

template <class Real, class Team, class T>
KD_HOST_DEVICE SoftRow<T, Real> soft_row(const Team& team, const T* x, int64_t k, Real tau, Standardize standardize) {
  SoftRow<T, Real> row{};
  row.x = x;
  row.max = max_over<Real>(team, k, [&](int64_t c) { return Real(x[c]); });
  row.slope = 1 / tau;
  if (standardize == Standardize::zscore) {
    row.offset = sum_over<Real>(team, k, [&](int64_t c) { return Real(x[c]) - row.max; }) / Real(k);
    Real squares = sum_over<Real>(team, k, [&](int64_t c) { return row.deviation(c) * row.deviation(c); });
    row.sd = k > 1 ? std::sqrt(squares / Real(k - 1)) : Real(0);
    row.slope = 1 / (tau * (row.sd + Real(kZscoreEps)));
  }
  row.log_sum = std::log(sum_over<Real>(team, k, [&](int64_t c) { return std::exp(row.logit(c)); }));
  return row;
}

// p (ln p - ln q); a class the teacher rules out costs nothing, however small q is.
template <class Real>
KD_HOST_DEVICE Real kl_term(Real p, Real log_p, Real log_q) {
  return p == 0 ? Real(0) : p * (log_p - log_q);
}

// What the teachers ask of the student, class by class.
template <class T, class Real>
class Target {
 public:
  template <class Team>
  KD_HOST_DEVICE Target(const Team& team, const KdRow<T, Real>& row)
      : n_(row.n_teachers), combine_(n_ == 1 ? Combine::mean_loss : row.combine) /* one teacher: all the same */, tau_(row.tau) {
    Real tau = combine_ == Combine::log_mean_prob ? Real(1) : tau_;
    for (int i = 0; i < n_; ++i) teachers_[i] = soft_row<Real>(team, row.teachers[i], row.k, tau, row.standardize);
    if (combine_ == Combine::mean_loss || combine_ == Combine::mean_probs) return;
    max_ = max_over<Real>(team, row.k, [&](int64_t c) { return combined_logit(c); });
    log_sum_ = std::log(sum_over<Real>(team, row.k, [&](int64_t c) { return std::exp(combined_logit(c) - max_); }));
  }

  struct Class {
    Real p, kl;  // probability; its share of the divergence from q, without tau^2
  };
  KD_HOST_DEVICE Class at(int64_t c, Real log_q) const {
    if (combine_ == Combine::mean_logits || combine_ == Combine::log_mean_prob) {
      Real log_p = combined_logit(c) - max_ - log_sum_, p = std::exp(log_p);
      return {p, kl_term(p, log_p, log_q)};
    }
    Real p = 0, kl = 0;
    for (int i = 0; i < n_; ++i) {
      Real log_p = teachers_[i].log_prob(c), p_i = std::exp(log_p);
      p += p_i;
      kl += kl_term(p_i, log_p, log_q);
    }
    p /= Real(n_);
    return {p, combine_ == Combine::mean_loss ? kl / Real(n_) : kl_term(p, std::log(p), log_q)};
  }

 private:
  // One logit from all teachers, already divided by tau. Recomputed where needed rather than stored: no scratch row.
  KD_HOST_DEVICE Real combined_logit(int64_t c) const {
    Real sum = 0;
    if (combine_ == Combine::mean_logits) {
      for (int i = 0; i < n_; ++i) sum += teachers_[i].logit(c);
      return sum / Real(n_);
    }
    // ln of a mean of probabilities through their logarithms: a probability may underflow at temperature 1 and still count at tau.
    Real top = -Real(HUGE_VAL);
    for (int i = 0; i < n_; ++i)
      if (Real log_p = teachers_[i].log_prob(c); log_p > top) top = log_p;
    for (int i = 0; i < n_; ++i) sum += std::exp(teachers_[i].log_prob(c) - top);
    return (top + std::log(sum / Real(n_))) / tau_;
  }

  SoftRow<T, Real> teachers_[kMaxTeachers];
  int n_;
  Combine combine_;
  Real tau_, max_ = 0, log_sum_ = 0;
};

template <class Real, class Team, class T>
KD_HOST_DEVICE KdRowLoss<Real> kd_loss_row(const Team& team, const KdRow<T, Real>& row) {
  const SoftRow<T, Real> hard = soft_row<Real>(team, row.s, row.k, Real(1), Standardize::none);
  KdRowLoss<Real> loss{hard.log_sum - hard.logit(row.label), 0};
  auto hard_gradient = [&](int64_t c) { return row.hard_weight * (std::exp(hard.log_prob(c)) - Real(c == row.label ? 1 : 0)); };
  if (row.n_teachers == 0) {
    if (row.ds)
      for (int64_t c = team.rank(); c < row.k; c += team.size()) row.ds[c] = T(hard_gradient(c));
    return loss;
  }

  const SoftRow<T, Real> soft = soft_row<Real>(team, row.s, row.k, row.tau, row.standardize);
  const Target<T, Real> target(team, row);
  Real kl = 0, h_dot_d = 0;
  for (int64_t c = team.rank(); c < row.k; c += team.size()) {
    Real log_q = soft.log_prob(c);
    auto [p, share] = target.at(c, log_q);
    Real h = std::exp(log_q) - p;
    kl += share;
    h_dot_d += h * soft.deviation(c);
    if (row.ds) row.ds[c] = T(h);  // until the loop below
  }
  loss.kd = row.tau * row.tau * team.sum(kl);
  if (!row.ds) return loss;

  Real gain = row.soft_weight * row.tau * row.tau * soft.slope, ratio = 0;
  if (row.standardize == Standardize::zscore) {
    ratio = team.sum(h_dot_d) / (Real(row.k - 1) * soft.sd * (soft.sd + Real(kZscoreEps)));
    if (soft.sd == 0) gain = ratio = 0;  // a constant row: no derivative there, 0 by definition
  }
  for (int64_t c = team.rank(); c < row.k; c += team.size()) row.ds[c] = T(hard_gradient(c) + gain * (Real(row.ds[c]) - ratio * soft.deviation(c)));
  return loss;
}

// Sample n of a batch.
template <class Real>
KD_HOST_DEVICE KdRow<float, Real> kd_row(const KdLossArgs& args, int64_t n) {
  KdRow<float, Real> row{.s = args.s + n * args.k,
                         .label = args.labels[n],
                         .teachers = {},
                         .n_teachers = args.n_teachers,
                         .ds = args.ds ? args.ds + n * args.k : nullptr,
                         .k = args.k,
                         .combine = args.combine,
                         .standardize = args.standardize,
                         .hard_weight = (args.n_teachers == 0 ? Real(1) : Real(args.alpha)) / Real(args.n),
                         .soft_weight = Real(args.soft_weight) / Real(args.n),
                         .tau = Real(args.tau)};
  for (int i = 0; i < args.n_teachers; ++i) row.teachers[i] = args.teachers[i] + n * args.k;
  return row;
}

}  // namespace kd
