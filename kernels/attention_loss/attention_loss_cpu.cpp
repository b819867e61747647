#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_loss/attention_loss.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace cpu {
namespace {

// Eight sums, which the vectorizer takes as one: a single one would have to be added up in the order of the channels.
template <class T>
double sum_of_squares(const T* x, int64_t k) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {}, sum = 0;
  int64_t c = 0;
  for (; c + kLanes <= k; c += kLanes)
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += double(float(x[c + i])) * double(float(x[c + i]));
  for (; c < k; ++c) sum += double(float(x[c])) * double(float(x[c]));
  for (double lane : lanes) sum += lane;
  return sum;
}

// a of image n, and |u|; a map without energy stays 0.
template <class T>
double unit_energy(const AttentionMap& map, int64_t n, std::vector<double>& a) {
  const int64_t positions = int64_t(a.size());
  const T* f = static_cast<const T*>(map.data) + n * positions * map.k;
  double squares = 0;
  for (int64_t p = 0; p < positions; ++p) {
    const double u = sum_of_squares(f + p * map.k, map.k) / double(map.k);
    a[size_t(p)] = u;
    squares += u * u;
  }
  const double norm = std::sqrt(squares);
  if (norm != 0)
    for (double& u : a) u /= norm;
  return norm;
}

}  // namespace

void attention_loss(Stream, const AttentionLossArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    parallel_for(args.n, [&](int64_t n) {
      thread_local std::vector<double> a, m;
      const size_t positions = size_t(args.positions);
      a.resize(positions);
      m.assign(positions, 0);
      for (int i = 0; i < args.n_references; ++i) {
        unit_energy<T>(args.references[i], n, a);
        for (size_t p = 0; p < positions; ++p) m[p] += a[p] / double(args.n_references);
      }
      const double norm = unit_energy<T>(args.trained, n, a);
      double s = 0, distance = 0, of_m = 0;
      for (size_t p = 0; p < positions; ++p) {
        s += a[p] * m[p];
        distance += (a[p] - m[p]) * (a[p] - m[p]);
        of_m += m[p] * m[p];
      }
      const bool nothing = norm == 0 || of_m == 0, similarity = args.mode == AttentionMode::similarity;
      args.values[n] = nothing ? 0.f : float(similarity ? s : distance);
      if (!args.df) return;
      const int64_t k = args.trained.k;
      const double gain = nothing ? 0 : (similarity ? 2 : -4) * double(args.weight) / (double(args.n) * double(k) * norm);
      const T* f = static_cast<const T*>(args.trained.data) + n * args.positions * k;
      T* df = static_cast<T*>(args.df) + n * args.positions * k;
      for (int64_t p = 0; p < args.positions; ++p) {
        const float factor = float(gain * (m[size_t(p)] - s * a[size_t(p)]));
        for (int64_t c = p * k; c < (p + 1) * k; ++c) df[c] = T(factor * float(f[c]));
      }
    });
  });
}

void attention_loss_sums(Stream, const AttentionLossSumsArgs& args) {
  double sum = 0;
  for (int64_t n = 0; n < args.n; ++n) sum += double(args.values[n]);
  *args.loss = float(double(args.weight) * sum / double(args.n));
  if (args.loss_sum) *args.loss_sum += double(args.weight) * sum;
  if (args.value_sum) *args.value_sum += sum;
}

}  // namespace cpu

KD_KERNEL(attention_loss, AttentionLossArgs)
KD_KERNEL(attention_loss_sums, AttentionLossSumsArgs)

}  // namespace kd
