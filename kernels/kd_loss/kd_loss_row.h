// kd_loss_row: the arithmetic of kd_loss for one sample, the same on every backend.
//   T is the stored type, Real the type of the arithmetic, Team the threads that share a row: each takes every size()-th class.
//
// Softmax ignores a common shift, so a row needs its maximum subtracted and never its mean: z-score only changes the slope,
//   softmax((x - mean)/(sd + eps)/tau) = softmax((x - max) slope),  slope = 1/(tau (sd + eps));  without z-score slope = 1/tau.
// The divergence is added up as sum p ln(p/q) - p + q, of which no term is negative: an error d in ln sum e^x, say of p, changes p by p d and the sum by
// kl d, where it would change sum p ln(p/q) by d. In float that makes 5.6e-7 of an error of 6.1e-6 (kd_loss:f32:4x1000:t3:mean_logits:zscore, emulated).
// The student's gradient is then one formula for both. With h = q - p, whose sum is 0, and d = x - mean:
//   d kd / dx_j = tau^2 slope (h_j - ratio d_j),  ratio = (h.d)/((K-1) sd (sd + eps)) from the slope's own dependence on x, else 0.
#pragma once
#include <cmath>

#include "kernels/kd_loss/kd_loss.h"

namespace kd {

constexpr double kZscoreEps = 1e-7;

template <class T, class Real>
struct KdRow {
  const T* s;
  int32_t label;
  const T* const* teachers;
  int n_teachers;
  T* ds;          // may be null
  int64_t first;  // where the row begins in s, each teacher and ds
  int64_t k;
  Real* work;  // [K] for this row alone, may be its part of ds; not needed without teachers
  Combine combine;
  Standardize standardize;
  Real hard_weight, soft_weight;  // of the gradient, 1/N included
  Real tau;
};
template <class Real>
struct KdRowLoss {
  Real ce, kd;
  bool right, agree;
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
  KD_HOST_DEVICE int32_t min(int32_t x) const { return x; }
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

// The largest value and the first class that has it; class k where there is none but NaN and -infinity.
template <class Real>
struct Top {
  Real value;
  int32_t at;
};
template <class Real, class Team, class F>
KD_HOST_DEVICE Top<Real> top_over(const Team& team, int64_t k, F&& f) {
  Top<Real> mine{-Real(HUGE_VAL), int32_t(k)};
  for (int64_t c = team.rank(); c < k; c += team.size())
    if (Real value = f(c); value > mine.value) mine = {value, int32_t(c)};
  const Real value = team.max(mine.value);
  return {value, team.min(mine.value == value ? mine.at : int32_t(k))};
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
KD_HOST_DEVICE SoftRow<T, Real> soft_row(const Team& team, const T* x, Real max, int64_t k, Real tau, Standardize standardize) {
  SoftRow<T, Real> row{};
  row.x = x;
  row.max = max;
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

template <class Real, class Team, class T>
KD_HOST_DEVICE SoftRow<T, Real> soft_row(const Team& team, const T* x, int64_t k, Real tau, Standardize standardize) {
  return soft_row<Real>(team, x, max_over<Real>(team, k, [&](int64_t c) { return Real(x[c]); }), k, tau, standardize);
}

// p (ln p - ln q); a class the teacher rules out costs nothing, however small q is.
template <class Real>
KD_HOST_DEVICE Real kl_term(Real p, Real log_p, Real log_q) {
  return p == 0 ? Real(0) : p * (log_p - log_q);
}

// ln(e^a + e^b)
template <class Real>
KD_HOST_DEVICE Real log_add(Real a, Real b) {
  const Real top = a > b ? a : b, other = a > b ? b : a;
  if (top == -Real(HUGE_VAL)) return top;  // both 0; -inf - -inf would be NaN
  return top + std::log1p(std::exp(other - top));
}

// Adds up in row.work what the teachers ask for: probabilities (mean_loss, mean_probs), the logits of one teacher (mean_logits), or through logarithms
// the probabilities at temperature 1 (log_mean_prob), since one that underflows there may count at tau. Returns this thread's part of mean_loss's
// divergences, 0 for the others. In all passes over work a thread sees its own classes only, so none has to wait for another.
template <class Real, class Team, class T>
KD_HOST_DEVICE Real add_teachers(const Team& team, const KdRow<T, Real>& row, Combine combine, const SoftRow<T, Real>& student) {
  Real kl = 0;
  for (int i = 0; i < row.n_teachers; ++i) {
    const SoftRow<T, Real> teacher =
        soft_row<Real>(team, row.teachers[i] + row.first, row.k, combine == Combine::log_mean_prob ? Real(1) : row.tau, row.standardize);
    for (int64_t c = team.rank(); c < row.k; c += team.size()) {
      const Real log_p = teacher.log_prob(c);
      Real term = log_p;
      if (combine == Combine::mean_logits) term = teacher.logit(c);
      if (combine == Combine::mean_loss || combine == Combine::mean_probs) term = std::exp(log_p);
      if (combine == Combine::mean_loss) kl += kl_term(term, log_p, student.log_prob(c));
      if (i > 0) term = combine == Combine::log_mean_prob ? log_add(row.work[c], term) : row.work[c] + term;
      row.work[c] = term;
    }
  }
  return kl / Real(row.n_teachers);
}

template <class Real, class Team, class T>
KD_HOST_DEVICE KdRowLoss<Real> kd_loss_row(const Team& team, const KdRow<T, Real>& row) {
  const T* s = row.s + row.first;
  T* ds = row.ds ? row.ds + row.first : nullptr;
  const Top<Real> said = top_over<Real>(team, row.k, [&](int64_t c) { return Real(s[c]); });
  const SoftRow<T, Real> hard = soft_row<Real>(team, s, said.value, row.k, Real(1), Standardize::none);
  KdRowLoss<Real> loss{.ce = hard.log_sum - hard.logit(row.label), .kd = 0, .right = said.at == row.label, .agree = false};
  auto hard_gradient = [&](int64_t c) { return row.hard_weight * (std::exp(hard.log_prob(c)) - Real(c == row.label ? 1 : 0)); };
  if (row.n_teachers == 0) {
    if (ds)
      for (int64_t c = team.rank(); c < row.k; c += team.size()) ds[c] = T(hard_gradient(c));
    return loss;
  }

  // In double on every backend: the exact sum, so that all of them see the same ties.
  const Top<double> taught = top_over<double>(team, row.k, [&](int64_t c) {
    double sum = 0;
    for (int i = 0; i < row.n_teachers; ++i) sum += double(row.teachers[i][row.first + c]);
    return sum;
  });
  loss.agree = said.at < row.k && said.at == taught.at;

  const Combine combine = row.n_teachers == 1 ? Combine::mean_loss : row.combine;  // one teacher: all the same
  const bool one_logit = combine == Combine::mean_logits || combine == Combine::log_mean_prob;
  const SoftRow<T, Real> soft = soft_row<Real>(team, s, said.value, row.k, row.tau, row.standardize);
  Real kl = add_teachers(team, row, combine, soft), h_dot_d = 0;
  const Real share = 1 / Real(row.n_teachers);
  SoftRow<Real, Real> target{};
  if (one_logit)
    target =
        soft_row<Real>(team, static_cast<const Real*>(row.work), row.k, combine == Combine::mean_logits ? Real(row.n_teachers) : row.tau, Standardize::none);
  for (int64_t c = team.rank(); c < row.k; c += team.size()) {
    const Real log_q = soft.log_prob(c), log_p = one_logit ? target.log_prob(c) : Real(0), p = one_logit ? std::exp(log_p) : row.work[c] * share;
    if (combine != Combine::mean_loss) kl += kl_term(p, one_logit ? log_p : std::log(p), log_q);
    const Real h = std::exp(log_q) - p;
    kl += h;  // in exact arithmetic h adds up to 0; here, see above
    h_dot_d += h * soft.deviation(c);
    row.work[c] = h;
  }
  loss.kd = row.tau * row.tau * team.sum(kl);
  if (!ds) return loss;

  Real gain = row.soft_weight * row.tau * row.tau * soft.slope, ratio = 0;
  if (row.standardize == Standardize::zscore) {
    ratio = team.sum(h_dot_d) / (Real(row.k - 1) * soft.sd * (soft.sd + Real(kZscoreEps)));
    if (soft.sd == 0) gain = ratio = 0;  // a constant row: no derivative there, 0 by definition
  }
  for (int64_t c = team.rank(); c < row.k; c += team.size()) ds[c] = T(hard_gradient(c) + gain * (row.work[c] - ratio * soft.deviation(c)));
  return loss;
}

// Sample n of a batch.
template <class Real>
KD_HOST_DEVICE KdRow<float, Real> kd_row(const KdLossArgs& args, int64_t n, Real* work) {
  return {.s = args.s,
          .label = args.labels[n],
          .teachers = args.teachers,
          .n_teachers = args.n_teachers,
          .ds = args.ds,
          .first = n * args.k,
          .k = args.k,
          .work = work,
          .combine = args.combine,
          .standardize = args.standardize,
          .hard_weight = (args.n_teachers == 0 ? Real(1) : Real(args.alpha)) / Real(args.n),
          .soft_weight = Real(args.soft_weight) / Real(args.n),
          .tau = Real(args.tau)};
}

template <class Real>
KD_HOST_DEVICE KdRecord to_record(const KdRowLoss<Real>& loss) {
  return {.ce = float(loss.ce), .kd = float(loss.kd), .right = loss.right, .agree = loss.agree};
}

// What one sample adds to the sums.
KD_HOST_DEVICE inline KdSums sums_of(const KdRecord& r, const KdLossSumsArgs& args) {
  return {.loss = double(args.hard_weight) * double(r.ce) + double(args.soft_weight) * double(r.kd),
          .ce = double(r.ce),
          .kd = double(r.kd),
          .images = 1,
          .right = r.right,
          .agree = r.agree};
}
KD_HOST_DEVICE inline void add_to(KdSums& sums, const KdSums& more) {
  sums.loss += more.loss, sums.ce += more.ce, sums.kd += more.kd, sums.attention += more.attention;
  sums.images += more.images, sums.right += more.right, sums.agree += more.agree;
}

}  // namespace kd
