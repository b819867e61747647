#include <cmath>
#include <vector>

#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace cpu {
namespace {

constexpr int64_t kBlockRows = 64;  // rows summed in f32 before they join the double sums; a block of 64 x 64 floats stays in L1
constexpr int kLanes = 32;          // channels handled together: two sums of 32 floats fit the vector registers

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
      for (int64_t channel = 0; channel < c; channel += kLanes) {
        float block_a[kLanes] = {}, block_b[kLanes] = {};
        int lanes = int(std::min<int64_t>(kLanes, c - channel));
        if (lanes == kLanes)  // the constant lets the compiler keep the sums in registers
          for (int64_t row = begin; row < end; ++row) accumulate(row, channel, kLanes, block_a, block_b);
        else
          for (int64_t row = begin; row < end; ++row) accumulate(row, channel, lanes, block_a, block_b);
        for (int i = 0; i < lanes; ++i) {
          a[channel + i] += double(block_a[i]);
          b[channel + i] += double(block_b[i]);
        }
      }
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

// y = act(scale * (x - mean) + beta [+ residual]) row by row. Subtracting first keeps the digits when the mean is large.
template <class T>
void apply(const T* x, const T* residual, T* y, const float* mean, const float* scale, const float* beta, int64_t rows, int64_t c, Activation activation) {
  auto rows_of = [&](auto&& value) {
    parallel_ranges(
        rows,
        [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row)
            for (int64_t i = 0, at = row * c; i < c; ++i) y[at + i] = T(value(at + i, scale[i] * (float(x[at + i]) - mean[i]) + beta[i]));
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
    auto* x = static_cast<const T*>(args.x);
    const int64_t c = args.c, rows = args.rows;
    // Sums of x - row 0 lose nothing to a large common offset; row 0 is as good a guess of the mean as any that costs no pass.
    std::vector<float> origin(static_cast<size_t>(c));
    for (int64_t i = 0; i < c; ++i) origin[size_t(i)] = float(x[i]);
    std::vector<double> sum, square;
    reduce_rows(rows, c, sum, square, [&](int64_t row, int64_t channel, int lanes, float* a, float* b) {
      const T* from = x + row * c + channel;
      const float* zero_point = origin.data() + channel;
      for (int i = 0; i < lanes; ++i) {
        float d = float(from[i]) - zero_point[i];
        a[i] += d;
        b[i] += d * d;
      }
    });
    std::vector<float> scale(static_cast<size_t>(c));
    for (int64_t i = 0; i < c; ++i) {
      size_t k = size_t(i);
      double n = double(rows), offset = sum[k] / n, mean = double(origin[k]) + offset;
      double var = std::max(0.0, square[k] / n - offset * offset);
      double rstd = 1.0 / std::sqrt(var + double(args.eps)), m = double(args.momentum);
      args.mean[i] = float(mean);
      args.rstd[i] = float(rstd);
      double unbiased = rows > 1 ? var * n / (n - 1) : var;
      args.running_mean[i] = float((1 - m) * double(args.running_mean[i]) + m * mean);
      args.running_var[i] = float((1 - m) * double(args.running_var[i]) + m * unbiased);
      scale[k] = float(double(args.gamma[i]) * rstd);
    }
    apply(x, static_cast<const T*>(args.residual), static_cast<T*>(args.y), args.mean, scale.data(), args.beta, rows, c, args.activation);
  });
}

void batchnorm_infer(Stream, const BatchNormInferArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    std::vector<float> scale(static_cast<size_t>(args.c));
    for (int64_t i = 0; i < args.c; ++i) scale[size_t(i)] = float(double(args.gamma[i]) / std::sqrt(double(args.running_var[i]) + double(args.eps)));
    apply(static_cast<const T*>(args.x), static_cast<const T*>(args.residual), static_cast<T*>(args.y), args.running_mean, scale.data(), args.beta, args.rows,
          args.c, args.activation);
  });
}

namespace {

// ReLU and residual are template parameters: as run-time conditions they keep the compiler from vectorizing the bf16 loops, forward and
// backward at 32768x64 took 9.3 ms with them and take 1.3 without (kd_bench_kernels --filter batchnorm, 2 threads of an AMD EPYC, 2026-11-23).
template <class T, bool kRelu, bool kResidual>
void backward(const BatchNormBwdArgs& args) {
  auto *x = static_cast<const T*>(args.x), *y = static_cast<const T*>(args.y), *dy = static_cast<const T*>(args.dy);
  auto *dx = static_cast<T*>(args.dx), *dresidual = static_cast<T*>(args.dresidual);
  const int64_t c = args.c, rows = args.rows;
  auto masked = [=](int64_t at) {
    float dz = float(dy[at]);
    if constexpr (kRelu) dz = float(y[at]) > 0.f ? dz : 0.f;
    return dz;
  };
  std::vector<double> sum_dz, sum_dz_x;
  reduce_rows(rows, c, sum_dz, sum_dz_x, [&](int64_t row, int64_t channel, int lanes, float* a, float* b) {
    const int64_t at = row * c + channel;
    const float *mean = args.mean + channel, *rstd = args.rstd + channel;
    for (int i = 0; i < lanes; ++i) {
      float dz = masked(at + i);
      a[i] += dz;
      b[i] += dz * ((float(x[at + i]) - mean[i]) * rstd[i]);
    }
  });
  // dx = scale * (dz - mean_dz - (x - mean) * slope), per channel
  std::vector<float> per_channel(static_cast<size_t>(3 * c));
  float *scale = per_channel.data(), *slope = scale + c, *mean_dz = slope + c;
  for (int64_t i = 0; i < c; ++i) {
    size_t k = size_t(i);
    args.dbeta[i] += float(sum_dz[k]);
    args.dgamma[i] += float(sum_dz_x[k]);
    scale[i] = args.gamma[i] * args.rstd[i];
    slope[i] = float(sum_dz_x[k] / double(rows) * double(args.rstd[i]));
    mean_dz[i] = float(sum_dz[k] / double(rows));
  }
  parallel_ranges(
      rows,
      [=, mean = args.mean](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          for (int64_t i = 0, at = row * c; i < c; ++i) {
            float dz = masked(at + i);
            float d = scale[i] * ((dz - mean_dz[i]) - (float(x[at + i]) - mean[i]) * slope[i]);
            if constexpr (kResidual) dresidual[at + i] = T(dz);
            dx[at + i] = T(d);
          }
      },
      std::max<int64_t>(1, kParallelGrain / c));
}

}  // namespace

void batchnorm_bwd(Stream, const BatchNormBwdArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const bool relu = args.activation == Activation::relu, residual = args.dresidual != nullptr;
    if (relu)
      residual ? backward<T, true, true>(args) : backward<T, true, false>(args);
    else
      residual ? backward<T, false, true>(args) : backward<T, false, false>(args);
  });
}

}  // namespace cpu

void batchnorm_train(Stream stream, const BatchNormTrainArgs& args) { KD_DISPATCH(stream, batchnorm_train, args); }
void batchnorm_infer(Stream stream, const BatchNormInferArgs& args) { KD_DISPATCH(stream, batchnorm_infer, args); }
void batchnorm_bwd(Stream stream, const BatchNormBwdArgs& args) { KD_DISPATCH(stream, batchnorm_bwd, args); }

}  // namespace kd
