#include <limits>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/pool/pool.h"

namespace kd {
namespace cpu {

namespace {

// The places of a window that lie inside the image, along an axis.
struct Inside {
  int64_t begin, end;
  Inside(int64_t origin, int64_t window, int64_t size) : begin(std::max<int64_t>(0, -origin)), end(std::min(window, size - origin)) {}
};

template <class T, bool kArg>
void max_pool_row(const PoolShape& s, int64_t row, const T* x, T* y, uint8_t* arg) {
  const int64_t top = row % s.p() * s.stride - s.pad, c = s.c;
  const Inside rows(top, s.window, s.h);
  std::vector<float> best(static_cast<size_t>(c));
  std::vector<int> where(static_cast<size_t>(kArg ? c : 0));  // as wide as a float, for the vectorizer
  for (int64_t q = 0; q < s.q(); ++q) {
    const int64_t left = q * s.stride - s.pad, at = (row * s.q() + q) * c;
    const Inside columns(left, s.window, s.w);
    const T* corner = x + ((row / s.p() * s.h + top) * s.w + left) * c;
    std::fill(best.begin(), best.end(), -std::numeric_limits<float>::infinity());
    // The first place inside the image: nothing beats -inf where all of the window is -inf.
    std::fill(where.begin(), where.end(), int(rows.begin * s.window + columns.begin));
    for (int64_t r = rows.begin; r < rows.end; ++r)
      for (int64_t t = columns.begin; t < columns.end; ++t) {
        const T* from = corner + (r * s.w + t) * c;
        const int place = int(r * s.window + t);
        for (int64_t i = 0; i < c; ++i) {
          const float v = float(from[i]);
          const bool wins = (v > best[size_t(i)]) | (v != v);  // a NaN wins and stays, so that it is seen
          best[size_t(i)] = wins ? v : best[size_t(i)];
          if constexpr (kArg) where[size_t(i)] = wins ? place : where[size_t(i)];
        }
      }
    for (int64_t i = 0; i < c; ++i) y[at + i] = T(best[size_t(i)]);
    if constexpr (kArg) std::transform(where.begin(), where.end(), arg + at, [](int place) { return uint8_t(place); });
  }
}

}  // namespace

void max_pool_fwd(Stream, const MaxPoolFwdArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const PoolShape& s = args.shape;
    auto* x = static_cast<const T*>(args.x);
    auto* y = static_cast<T*>(args.y);
    parallel_for(s.n * s.p(), [&](int64_t row) { args.arg ? max_pool_row<T, true>(s, row, x, y, args.arg) : max_pool_row<T, false>(s, row, x, y, nullptr); });
  });
}

void max_pool_bwd(Stream, const MaxPoolBwdArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const PoolShape& s = args.shape;
    auto* dy = static_cast<const T*>(args.dy);
    auto* dx = static_cast<T*>(args.dx);
    const uint8_t* arg = args.arg;
    // Gathering: each input row looks at the windows that cover it, so rows are independent and every sum has one order.
    parallel_for(s.n * s.h, [&](int64_t row) {
      const int64_t n = row / s.h, h = row % s.h, c = s.c;
      std::vector<float> sum(static_cast<size_t>(c));
      for (int64_t w = 0; w < s.w; ++w) {
        std::fill(sum.begin(), sum.end(), 0.f);
        for (int64_t r = 0; r < s.window; ++r)
          for (int64_t t = 0; t < s.window; ++t) {
            int64_t top = h + s.pad - r, left = w + s.pad - t;
            if (top < 0 || left < 0 || top % s.stride || left % s.stride) continue;
            int64_t p = top / s.stride, q = left / s.stride;
            if (p >= s.p() || q >= s.q()) continue;
            const int64_t at = ((n * s.p() + p) * s.q() + q) * c;
            const auto place = uint8_t(r * s.window + t);
            for (int64_t i = 0; i < c; ++i) {
              const float g = float(dy[at + i]);  // read in any case: a load under a condition is not vectorized
              sum[size_t(i)] += arg[at + i] == place ? g : 0.f;
            }
          }
        for (int64_t i = 0; i < c; ++i) dx[(row * s.w + w) * c + i] = T(sum[size_t(i)]);
      }
    });
  });
}

void global_avg_pool_fwd(Stream, const GlobalAvgPoolArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto* x = static_cast<const T*>(args.in);
    auto* y = static_cast<T*>(args.out);
    parallel_for(args.n, [&](int64_t n) {
      std::vector<float> sum(static_cast<size_t>(args.c));
      for (int64_t i = 0; i < args.hw; ++i)
        for (int64_t c = 0; c < args.c; ++c) sum[size_t(c)] += float(x[(n * args.hw + i) * args.c + c]);
      for (int64_t c = 0; c < args.c; ++c) y[n * args.c + c] = T(sum[size_t(c)] / float(args.hw));
    });
  });
}

void global_avg_pool_bwd(Stream, const GlobalAvgPoolArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto* dy = static_cast<const T*>(args.in);
    auto* dx = static_cast<T*>(args.out);
    parallel_for(args.n, [&](int64_t n) {
      for (int64_t i = 0; i < args.hw; ++i)
        for (int64_t c = 0; c < args.c; ++c) dx[(n * args.hw + i) * args.c + c] = T(float(dy[n * args.c + c]) / float(args.hw));
    });
  });
}

}  // namespace cpu

// Each tensor once.
static profile::Work pool_work(const PoolShape& s, DType type, bool arg) {
  const int64_t outputs = s.n * s.p() * s.q() * s.c;
  return {fmt::format("{} n{}h{}w{}c{}", to_string(type), s.n, s.h, s.w, s.c), 0,
          double((s.n * s.h * s.w * s.c + outputs) * size_of(type) + (arg ? outputs : 0))};
}
static profile::Work work_of(const MaxPoolFwdArgs& a) { return pool_work(a.shape, a.type, a.arg); }
static profile::Work work_of(const MaxPoolBwdArgs& a) { return pool_work(a.shape, a.type, true); }
static profile::Work work_of(const GlobalAvgPoolArgs& a) {
  return {fmt::format("{} n{}hw{}c{}", to_string(a.type), a.n, a.hw, a.c), 0, double(a.n * (a.hw + 1) * a.c * size_of(a.type))};
}

KD_KERNEL(max_pool_fwd, MaxPoolFwdArgs)
KD_KERNEL(max_pool_bwd, MaxPoolBwdArgs)
KD_KERNEL(global_avg_pool_fwd, GlobalAvgPoolArgs)
KD_KERNEL(global_avg_pool_bwd, GlobalAvgPoolArgs)

}  // namespace kd
