#include <limits>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/pool/pool.h"

namespace kd {
namespace cpu {

void max_pool_fwd(Stream, const MaxPoolFwdArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const PoolShape& s = args.shape;
    auto* x = static_cast<const T*>(args.x);
    auto* y = static_cast<T*>(args.y);
    parallel_for(s.n * s.p(), [&](int64_t row) {
      const int64_t n = row / s.p(), p = row % s.p(), c = s.c;
      std::vector<float> best(static_cast<size_t>(c));
      std::vector<int> where(static_cast<size_t>(c));  // as wide as a float, for the vectorizer
      for (int64_t q = 0; q < s.q(); ++q) {
        std::fill(best.begin(), best.end(), -std::numeric_limits<float>::infinity());
        // The first place inside the image: nothing beats -inf where all of the window is -inf.
        std::fill(where.begin(), where.end(), int(std::max<int64_t>(0, s.pad - p * s.stride) * s.window + std::max<int64_t>(0, s.pad - q * s.stride)));
        for (int64_t r = 0; r < s.window; ++r)
          for (int64_t t = 0; t < s.window; ++t) {
            int64_t h = p * s.stride + r - s.pad, w = q * s.stride + t - s.pad;
            if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
            const T* from = x + ((n * s.h + h) * s.w + w) * c;
            const int place = int(r * s.window + t);
            for (int64_t i = 0; i < c; ++i) {
              float v = float(from[i]);
              bool wins = (v > best[size_t(i)]) | (v != v);  // a NaN wins and stays, so that it is seen
              best[size_t(i)] = wins ? v : best[size_t(i)];
              where[size_t(i)] = wins ? place : where[size_t(i)];
            }
          }
        const int64_t at = (row * s.q() + q) * c;
        for (int64_t i = 0; i < c; ++i) y[at + i] = T(best[size_t(i)]);
        if (args.arg) std::transform(where.begin(), where.end(), args.arg + at, [](int place) { return uint8_t(place); });
      }
    });
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
