#include <cmath>
#include <type_traits>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace cpu {
namespace {

constexpr int64_t kBlockRows = 64;  // rows summed in f32 before they join the double sums; a block of 64 x 64 floats stays in L1
constexpr int kLanes = 32;          // channels handled together: two sums of 32 floats fit the vector registers

// Calls f(first channel, lanes) for a row's channels, kLanes at a time. The full count is a compile-time constant, which lets the compiler keep what f sums
// in registers and vectorize without a tail.
template <class F>
void for_lanes(int64_t c, F&& f) {
  int64_t channel = 0;
  for (; channel + kLanes <= c; channel += kLanes) f(channel, std::integral_constant<int, kLanes>{});
  if (channel < c) f(channel, int(c - channel));
}

// A thread's share of rows for a per-channel reduction. Shares depend on rows and the thread count only.
int64_t row_share(int64_t rows, int parts) { return ((rows + parts - 1) / parts + kBlockRows - 1) / kBlockRows * kBlockRows; }

// Two per-channel sums over all rows. accumulate(row, channel, lanes, first[kLanes], second[kLanes]) adds `lanes` channels of one row.
template <class Accumulate>
void reduce_rows(int64_t rows, int64_t c, std::vector<double>& first, std::vector<double>& second, Accumulate&& accumulate) {
  int parts = parallel_parts(rows * c, kParallelGrain);
  int64_t share = row_share(rows, parts);
  std::vector<double> sums(size_t(2 * parts * c));
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part) {
    double* a = sums.data() + int64_t(2 * part) * c;
    double* b = a + c;
    for (int64_t begin = part * share, stop = std::min(rows, begin + share); begin < stop; begin += kBlockRows) {
      int64_t end = std::min(stop, begin + kBlockRows);
      for_lanes(c, [&](int64_t channel, auto lanes) {
        float block_a[kLanes] = {}, block_b[kLanes] = {};
        for (int64_t row = begin; row < end; ++row) accumulate(row, channel, lanes, block_a, block_b);
        for (int i = 0; i < lanes; ++i) {
          a[channel + i] += double(block_a[i]);
          b[channel + i] += double(block_b[i]);
        }
      });
    }
  }
  first.assign(size_t(c), 0);
  second.assign(size_t(c), 0);
  for (int part = 0; part < parts; ++part)
    for (int64_t i = 0; i < c; ++i) {
      first[size_t(i)] += sums[size_t(2 * part * c + i)];
      second[size_t(i)] += sums[size_t((2 * part + 1) * c + i)];
    }
}

// gamma * rstd, the factor of x - mean. Forward and backward both take it from here: the ReLU's sign, computed twice, must come out the same.
std::vector<float> scale_of(const float* gamma, const float* rstd, int64_t c) {
  std::vector<float> scale(static_cast<size_t>(c));
  for (int64_t i = 0; i < c; ++i) scale[size_t(i)] = gamma[i] * rstd[i];
  return scale;
}

// What ReLU sees, without a residual. Subtracting first keeps the digits when the mean is large.
inline float normalised(float x, float mean, float scale, float beta) { return scale * (x - mean) + beta; }

// Mean, rstd and running statistics of a batch: BatchNormTrainArgs or BatchNormPoolTrainArgs.
template <class T, class Args>
void batch_statistics(const Args& args, int64_t rows) {
  auto* x = static_cast<const T*>(args.x);
  const int64_t c = args.c;
  // Sums of x - row 0 lose nothing to a large common offset; row 0 is as good a guess of the mean as any that costs no pass.
  std::vector<float> origin(static_cast<size_t>(c));
  std::vector<double> sum(static_cast<size_t>(c)), square(static_cast<size_t>(c));
  const ChannelSums& given = args.sums;
  if (given.partial) {
    std::copy(given.shift, given.shift + c, origin.begin());
    for (int64_t part = 0; part < given.parts; ++part)
      for (int64_t i = 0; i < c; ++i) {
        sum[size_t(i)] += double(given.partial[2 * part * c + i]);
        square[size_t(i)] += double(given.partial[(2 * part + 1) * c + i]);
      }
  } else {
    for (int64_t i = 0; i < c; ++i) origin[size_t(i)] = float(x[i]);
    reduce_rows(rows, c, sum, square, [&](int64_t row, int64_t channel, auto lanes, float* a, float* b) {
      const T* from = x + row * c + channel;
      const float* zero_point = origin.data() + channel;
      for (int i = 0; i < lanes; ++i) {
        float d = float(from[i]) - zero_point[i];
        a[i] += d;
        b[i] += d * d;
      }
    });
  }
  for (int64_t i = 0; i < c; ++i) {
    size_t k = size_t(i);
    double n = double(rows), offset = sum[k] / n, mean = double(origin[k]) + offset;
    double var = square[k] / n - offset * offset;
    if (var < 0) var = 0;  // not std::max, which would make 0 of a NaN
    double m = double(args.momentum), unbiased = rows > 1 ? var * n / (n - 1) : var;
    args.mean[i] = float(mean);
    args.rstd[i] = float(1.0 / std::sqrt(var + double(args.eps)));
    args.running_mean[i] = float((1 - m) * double(args.running_mean[i]) + m * mean);
    args.running_var[i] = float((1 - m) * double(args.running_var[i]) + m * unbiased);
  }
}

// Bit i: v[i] > 0.
inline uint8_t positive_of_8(const float* v) {
#if defined(__AVX__)  // one instruction that no loop is compiled to
  return uint8_t(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(v), _mm256_setzero_ps(), _CMP_GT_OQ)));
#else
  unsigned bits = 0;
  for (int i = 0; i < 8; ++i) bits |= unsigned(v[i] > 0.f) << i;
  return uint8_t(bits);
#endif
}

// y = act(scale * (x - mean) + beta [+ residual]) row by row.
template <class T>
void apply(const T* x, const T* residual, T* y, uint8_t* mask, const float* mean, const float* scale, const float* beta, int64_t rows, int64_t c,
           Activation activation) {
  const int64_t mask_bytes = (c + 7) / 8;
  auto rows_of = [&](auto&& value) {
    parallel_ranges(
        rows,
        [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            const int64_t at = row * c;
            if (!mask)
              for (int64_t i = 0; i < c; ++i) y[at + i] = T(value(at + i, normalised(float(x[at + i]), mean[i], scale[i], beta[i])));
            else
              for_lanes(c, [&](int64_t channel, auto lanes) {
                float v[kLanes] = {};
                for (int i = 0; i < lanes; ++i) {
                  const int64_t k = channel + i;
                  v[i] = value(at + k, normalised(float(x[at + k]), mean[k], scale[k], beta[k]));
                }
                for (int i = 0; i < lanes; ++i) y[at + channel + i] = T(v[i]);
                for (int i = 0; i < lanes; i += 8) mask[row * mask_bytes + (channel + i) / 8] = positive_of_8(v + i);
              });
          }
        },
        std::max<int64_t>(1, kParallelGrain / c));
  };
  bool relu = activation == Activation::relu;
  if (residual && relu)
    rows_of([&](int64_t i, float v) { return std::max(v + float(residual[i]), 0.f); });
  else if (residual)
    rows_of([&](int64_t i, float v) { return v + float(residual[i]); });
  else if (relu)
    rows_of([](int64_t, float v) { return std::max(v, 0.f); });
  else
    rows_of([](int64_t, float v) { return v; });
}

}  // namespace

void batchnorm_train(Stream, const BatchNormTrainArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    batch_statistics<T>(args, args.rows);
    apply(static_cast<const T*>(args.x), static_cast<const T*>(args.residual), static_cast<T*>(args.y), args.mask, args.mean,
          scale_of(args.gamma, args.rstd, args.c).data(), args.beta, args.rows, args.c, args.activation);
  });
}

void batchnorm_infer(Stream, const BatchNormInferArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    std::vector<float> scale(static_cast<size_t>(args.c));
    for (int64_t i = 0; i < args.c; ++i) scale[size_t(i)] = float(double(args.gamma[i]) / std::sqrt(double(args.running_var[i]) + double(args.eps)));
    apply(static_cast<const T*>(args.x), static_cast<const T*>(args.residual), static_cast<T*>(args.y), nullptr, args.running_mean, scale.data(), args.beta,
          args.rows, args.c, args.activation);
  });
}

namespace {

// Backward over rows, for BatchNormBwdArgs or BatchNormPoolBwdArgs. gradient(row, channel, lanes, room for `lanes` floats) gives a function of i = 0..lanes-1:
// what arrives behind the ReLU in channel + i.
// What differs between layers is in its type: as run-time conditions those keep the compiler from vectorizing the bf16 loops, forward and backward at
// 32768x64 took 9.3 ms with them and 1.3 without (kd_bench_kernels --filter batchnorm, 2 threads of an AMD EPYC, 2026-11-23).
template <class T, bool kResidual, class Args, class Gradient>
void backward(const Args& args, int64_t rows, T* dresidual, const float* scale, Gradient&& gradient) {
  auto* x = static_cast<const T*>(args.x);
  auto* dx = static_cast<T*>(args.dx);
  const int64_t c = args.c;
  std::vector<double> sum_dz, sum_dz_x;
  reduce_rows(rows, c, sum_dz, sum_dz_x, [&](int64_t row, int64_t channel, auto lanes, float* a, float* b) {
    const T* from = x + row * c + channel;
    const float *mean = args.mean + channel, *rstd = args.rstd + channel;
    float room[kLanes];
    const auto dz = gradient(row, channel, lanes, room);
    for (int i = 0; i < lanes; ++i) {
      const float g = dz(i);
      a[i] += g;
      b[i] += g * ((float(from[i]) - mean[i]) * rstd[i]);
    }
  });
  // dx = scale * (dz - mean_dz - (x - mean) * slope), per channel
  std::vector<float> per_channel(static_cast<size_t>(2 * c));
  float *slope = per_channel.data(), *mean_dz = slope + c;
  for (int64_t i = 0; i < c; ++i) {
    size_t k = size_t(i);
    args.dbeta[i] += float(sum_dz[k]);
    args.dgamma[i] += float(sum_dz_x[k]);
    slope[i] = float(sum_dz_x[k] / double(rows) * double(args.rstd[i]));
    mean_dz[i] = float(sum_dz[k] / double(rows));
  }
  parallel_ranges(
      rows,
      [=, mean = args.mean, &gradient](int64_t begin, int64_t end) {
        std::vector<float> room(static_cast<size_t>(c));
        for (int64_t row = begin; row < end; ++row) {
          const int64_t at = row * c;
          const auto dz = gradient(row, 0, int(c), room.data());
          for (int i = 0; i < int(c); ++i) {
            const float g = dz(i);
            const float d = scale[i] * ((g - mean_dz[i]) - (float(x[at + i]) - mean[i]) * slope[i]);
            if constexpr (kResidual) dresidual[at + i] = T(g);
            dx[at + i] = T(d);
          }
        }
      },
      std::max<int64_t>(1, kParallelGrain / c));
}

}  // namespace

void batchnorm_bwd(Stream, const BatchNormBwdArgs& args) {
  KD_CHECK(args.activation == Activation::none || args.mask || !args.dresidual,
           "batchnorm_bwd: the sign of x alone does not tell where ReLU(v + residual) let through; it needs the mask");
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto *x = static_cast<const T*>(args.x), *dy = static_cast<const T*>(args.dy);
    auto* dresidual = static_cast<T*>(args.dresidual);
    const int64_t c = args.c, mask_bytes = (c + 7) / 8;
    const std::vector<float> scales = scale_of(args.gamma, args.rstd, c);
    const float* scale = scales.data();
    auto run = [&](auto&& gradient) {
      dresidual ? backward<T, true>(args, args.rows, dresidual, scale, gradient) : backward<T, false>(args, args.rows, dresidual, scale, gradient);
    };
    if (args.activation == Activation::none)
      run([=](int64_t row, int64_t channel, auto, float*) { return [from = dy + row * c + channel](int i) { return float(from[i]); }; });
    else if (args.mask)
      run([=, mask = args.mask](int64_t row, int64_t channel, auto lanes, float* dz) {
        const T* from = dy + row * c + channel;
        const uint8_t* bits = mask + row * mask_bytes + channel / 8;
        for (int begin = 0; begin < lanes; begin += kLanes) {
          const auto part = std::min<int>(kLanes, lanes - begin);
          uint32_t on[kLanes];
          for (int i = 0; i < part; i += 8)
            for (int k = 0; k < 8; ++k) on[i + k] = bits[(begin + i) / 8] & (1u << k);
          for (int i = 0; i < part; ++i) {
            const float g = float(from[begin + i]);
            dz[begin + i] = on[i] ? g : 0.f;
          }
        }
        return [dz](int i) { return dz[i]; };
      });
    else
      run([=, mean = args.mean, beta = args.beta](int64_t row, int64_t channel, auto, float*) {
        return [=, at = row * c + channel](int i) {
          const float g = float(dy[at + i]);
          return normalised(float(x[at + i]), mean[channel + i], scale[channel + i], beta[channel + i]) > 0.f ? g : 0.f;
        };
      });
  });
}

// The pooled form. Window (p,q) covers rows 2p-1..2p+1 and columns 2q-1..2q+1; place r*3+t of it is (2p-1+r, 2q-1+t). The centre is always inside.

void batchnorm_pool_train(Stream, const BatchNormPoolTrainArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto* x = static_cast<const T*>(args.x);
    auto* y = static_cast<T*>(args.y);
    uint8_t* arg = args.arg;
    const int64_t h = args.h, w = args.w, c = args.c, out_h = (h - 1) / 2 + 1, out_w = (w - 1) / 2 + 1;
    batch_statistics<T>(args, args.n * h * w);
    const std::vector<float> scale = scale_of(args.gamma, args.rstd, c);
    const float *mean = args.mean, *beta = args.beta, *a = scale.data();
    parallel_for(args.n * out_h, [=](int64_t out_row) {
      const int64_t n = out_row / out_h, p = out_row % out_h;
      for (int64_t q = 0; q < out_w; ++q)
        for_lanes(c, [&](int64_t channel, auto lanes) {
          // ReLU(v) of a window without a positive v is 0 everywhere, and its first place inside the image wins.
          float best[kLanes] = {};
          int where[kLanes];
          for (int i = 0; i < lanes; ++i) where[i] = (p == 0 ? 3 : 0) + (q == 0 ? 1 : 0);
          for (int64_t i = std::max<int64_t>(0, 2 * p - 1); i <= std::min(h - 1, 2 * p + 1); ++i)
            for (int64_t j = std::max<int64_t>(0, 2 * q - 1); j <= std::min(w - 1, 2 * q + 1); ++j) {
              const T* from = x + ((n * h + i) * w + j) * c + channel;
              const int place = int((i - 2 * p + 1) * 3 + (j - 2 * q + 1));
              for (int k = 0; k < lanes; ++k) {
                const float v = normalised(float(from[k]), mean[channel + k], a[channel + k], beta[channel + k]);
                const bool loses = v <= best[k];  // a NaN does not; the statistics have made the whole channel one
                best[k] = loses ? best[k] : v;
                where[k] = loses ? where[k] : place;
              }
            }
          const int64_t at = (out_row * out_w + q) * c + channel;
          for (int k = 0; k < lanes; ++k) y[at + k] = T(best[k]);
          for (int k = 0; k < lanes; ++k) arg[at + k] = uint8_t(where[k]);
        });
    });
  });
}

void batchnorm_pool_bwd(Stream, const BatchNormPoolBwdArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto *x = static_cast<const T*>(args.x), *dy = static_cast<const T*>(args.dy);
    const int64_t h = args.h, w = args.w, c = args.c, out_h = (h - 1) / 2 + 1, out_w = (w - 1) / 2 + 1;
    const std::vector<float> scales = scale_of(args.gamma, args.rstd, c);
    const float* scale = scales.data();
    // Gathering: an even row lies in one window, an odd one in two, so a pixel asks at most four windows whether it won.
    auto gradient = [=, arg = args.arg, mean = args.mean, beta = args.beta](int64_t pixel, int64_t channel, auto lanes, float* dz) {
      const int64_t row = pixel / w, j = pixel % w, n = row / h, i = row % h;
      for (int k = 0; k < lanes; ++k) dz[k] = 0.f;
      for (int64_t p = i / 2; p <= std::min(out_h - 1, (i + 1) / 2); ++p)
        for (int64_t q = j / 2; q <= std::min(out_w - 1, (j + 1) / 2); ++q) {
          const auto place = uint8_t((i - 2 * p + 1) * 3 + (j - 2 * q + 1));
          const int64_t at = ((n * out_h + p) * out_w + q) * c + channel;
          for (int k = 0; k < lanes; ++k) {
            const float g = float(dy[at + k]);
            dz[k] += arg[at + k] == place ? g : 0.f;
          }
        }
      const T* from = x + pixel * c + channel;
      for (int k = 0; k < lanes; ++k) dz[k] = normalised(float(from[k]), mean[channel + k], scale[channel + k], beta[channel + k]) > 0.f ? dz[k] : 0.f;
      return [dz](int k) { return dz[k]; };
    };
    backward<T, false>(args, args.n * h * w, static_cast<T*>(nullptr), scale, gradient);
  });
}

void batchnorm_fold(Stream, const BatchNormFoldArgs& args) {
  with_float_type(args.filter_type, [&](auto filter_zero) {
    with_float_type(args.bias_type, [&](auto bias_zero) {
      using F = decltype(filter_zero);
      using B = decltype(bias_zero);
      parallel_for(args.k, [&](int64_t k) {
        const double scale = double(args.gamma[k]) / std::sqrt(double(args.running_var[k]) + double(args.eps));
        static_cast<B*>(args.out_bias)[k] = B(float(double(args.beta[k]) - double(args.running_mean[k]) * scale));
        const float* from = args.filter + k * args.per_filter;
        F* to = static_cast<F*>(args.out_filter) + k * args.per_filter;
        for (int64_t i = 0; i < args.per_filter; ++i) to[i] = F(from[i] * float(scale));
      });
    });
  });
}

}  // namespace cpu

// What the header says is moved: `tensors` passes over [rows, c].
static profile::Work norm_work(DType type, int64_t rows, int64_t c, int64_t tensors, bool mask) {
  const double bytes = double(tensors * rows * c * size_of(type) + (mask ? rows * ((c + 7) / 8) : 0));
  return {fmt::format("{} {}x{}", to_string(type), rows, c), 0, bytes};
}
static profile::Work work_of(const BatchNormTrainArgs& a) { return norm_work(a.type, a.rows, a.c, a.residual ? 4 : 3, a.mask); }
static profile::Work work_of(const BatchNormInferArgs& a) { return norm_work(a.type, a.rows, a.c, a.residual ? 3 : 2, false); }
static profile::Work work_of(const BatchNormBwdArgs& a) { return norm_work(a.type, a.rows, a.c, a.dresidual ? 6 : 5, a.mask); }

KD_KERNEL(batchnorm_train, BatchNormTrainArgs)
KD_KERNEL(batchnorm_infer, BatchNormInferArgs)
KD_KERNEL(batchnorm_bwd, BatchNormBwdArgs)
KD_KERNEL(batchnorm_pool_train, BatchNormPoolTrainArgs)
KD_KERNEL(batchnorm_pool_bwd, BatchNormPoolBwdArgs)
KD_KERNEL(batchnorm_fold, BatchNormFoldArgs)

}  // namespace kd
