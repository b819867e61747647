// Forward and backward are two passes over the rows, sums and then what they are needed for; the loops are those of batchnorm_rows.h, per instruction set.
// Here: rows split between threads, sums finished in double, what is per channel. Bytes: batchnorm.h's, x (and dy) twice, each result once.
//
// Measured: best of two alternating runs, ms cold (p10) of kd_bench_kernels --filter 'batchnorm:(fwd|bwd)', one thread of an Intel Xeon with AMX, 2026-11-27,
// whose triad was 13.2 GB/s; before: plain loops compiled for x86-64-v3.
//                              f32 before  now   GB/s   bf16 before  now   GB/s
//   fwd 131072x64 relu                9.2   7.1   14.2          8.3   3.9   12.9
//   fwd 131072x64 add relu           12.2   9.6   14.2          9.3   5.0   13.7
//   fwd  32768x128 add relu           6.7   4.8   14.1          4.9   2.5   13.9
//   bwd 131072x64 relu               16.4  11.5   14.6         13.0   6.2   13.6
//   bwd 131072x64 add relu           22.3  14.3   14.2         14.2   7.5   13.5
//   bwd  32768x128 add relu          11.9   7.1   14.4          7.8   3.7   13.7
//   pool n16h112w112c64, both ways   81.0  31.3    9.7         74.6  25.1    6.3
// Two threads at 131072x64, another process running: 16 to 24 GB/s in bf16 (before: 6 to 11), 18 to 23 in f32 (10 to 19), beside a triad of 21 to 25.
#include <cmath>
#include <vector>

#include "engine/base/device.h"
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/batchnorm/batchnorm_rows.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace cpu {
namespace {

using batchnorm::Backward;
using batchnorm::Forward;
using batchnorm::padded;

constexpr int64_t kBlockRows = 64;         // rows summed in f32 before they join the double sums
constexpr int64_t kBlockBytes = 64 << 10;  // of x, about, before the next block of rows in the passes that apply

const batchnorm::Kernels& kernels() {
  static const batchnorm::Kernels& chosen = cpu_isa() >= CpuIsa::avx512 && batchnorm::avx512_kernels ? *batchnorm::avx512_kernels
                                            : cpu_isa() >= CpuIsa::avx2 && batchnorm::avx2_kernels   ? *batchnorm::avx2_kernels
                                                                                                     : *batchnorm::portable8_kernels;
  return chosen;
}

int index_of(DType type) {
  KD_CHECK(type == DType::f32 || type == DType::bf16, "batchnorm: {} where f32 or bf16 is wanted", to_string(type));
  return type == DType::bf16;
}

// One f32 a channel, with zeros up to what kernels read.
class Channels {
 public:
  explicit Channels(int64_t c) : values_(size_t(padded(c))) {}
  Channels(const float* from, int64_t c) : Channels(c) { std::copy(from, from + c, values_.begin()); }
  float& operator[](int64_t i) { return values_[size_t(i)]; }
  float* data() { return values_.data(); }
  const float* data() const { return values_.data(); }

 private:
  std::vector<float> values_;
};

// A thread's share of rows for a per-channel reduction. Shares depend on rows and the thread count only.
int64_t row_share(int64_t rows, int parts) { return ((rows + parts - 1) / parts + kBlockRows - 1) / kBlockRows * kBlockRows; }

// Two per-channel sums over all rows. add(begin, end, first, second) adds those of at most kBlockRows rows.
template <class Add>
void reduce_rows(int64_t rows, int64_t c, std::vector<double>& first, std::vector<double>& second, Add&& add) {
  int parts = parallel_parts(rows * c, kParallelGrain);
  int64_t share = row_share(rows, parts);
  std::vector<double> sums(size_t(2 * parts * c));
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int part = 0; part < parts; ++part) {
    double* a = sums.data() + int64_t(2 * part) * c;
    double* b = a + c;
    std::vector<float> block(size_t(2 * padded(c)));
    float *block_a = block.data(), *block_b = block_a + padded(c);
    for (int64_t begin = part * share, stop = std::min(rows, begin + share); begin < stop; begin += kBlockRows) {
      std::fill(block.begin(), block.end(), 0.f);
      add(begin, std::min(stop, begin + kBlockRows), block_a, block_b);
      for (int64_t i = 0; i < c; ++i) {
        a[i] += double(block_a[i]);
        b[i] += double(block_b[i]);
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

// f(begin, end) for all rows, a block at a time and the last block first: what a pass over all rows has just read last is still in the cache.
template <class F>
void rows_backwards(int64_t rows, int64_t c, int64_t block, F&& f) {
  parallel_ranges(
      rows,
      [&](int64_t begin, int64_t end) {
        for (int64_t last = end; last > begin; last -= block) f(std::max(begin, last - block), last);
      },
      std::max<int64_t>(1, kParallelGrain / c));
}
int64_t block_rows(int64_t c, DType type) { return std::max<int64_t>(1, kBlockBytes / (c * size_of(type))); }

// gamma * rstd, the factor of x - mean. Forward and backward both take it from here: the ReLU's sign, computed twice, must come out the same.
Channels scale_of(const float* gamma, const float* rstd, int64_t c) {
  Channels scale(c);
  for (int64_t i = 0; i < c; ++i) scale[i] = gamma[i] * rstd[i];
  return scale;
}

// Mean, rstd and running statistics of a batch: BatchNormTrainArgs or BatchNormPoolTrainArgs.
template <class Args>
void batch_statistics(const Args& args, int64_t rows) {
  const int64_t c = args.c;
  // Sums of x - row 0 lose nothing to a large common offset; row 0 is as good a guess of the mean as any that costs no pass.
  Channels origin(c);
  std::vector<double> sum(static_cast<size_t>(c)), square(static_cast<size_t>(c));
  const ChannelSums& given = args.sums;
  if (given.partial) {
    std::copy(given.shift, given.shift + c, origin.data());
    for (int64_t part = 0; part < given.parts; ++part)
      for (int64_t i = 0; i < c; ++i) {
        sum[size_t(i)] += double(given.partial[2 * part * c + i]);
        square[size_t(i)] += double(given.partial[(2 * part + 1) * c + i]);
      }
  } else {
    with_float_type(args.type, [&](auto zero) {
      for (int64_t i = 0; i < c; ++i) origin[i] = float(static_cast<const decltype(zero)*>(args.x)[i]);
    });
    reduce_rows(rows, c, sum, square, [&, add = kernels().sums[index_of(args.type)]](int64_t begin, int64_t end, float* a, float* b) {
      add(args.x, origin.data(), begin, end, c, a, b);
    });
  }
  for (int64_t i = 0; i < c; ++i) {
    size_t k = size_t(i);
    double n = double(rows), offset = sum[k] / n, mean = double(origin[i]) + offset;
    double var = square[k] / n - offset * offset;
    if (var < 0) var = 0;  // not std::max, which would make 0 of a NaN
    double m = double(args.momentum), unbiased = rows > 1 ? var * n / (n - 1) : var;
    args.mean[i] = float(mean);
    args.rstd[i] = float(1.0 / std::sqrt(var + double(args.eps)));
    args.running_mean[i] = float((1 - m) * double(args.running_mean[i]) + m * mean);
    args.running_var[i] = float((1 - m) * double(args.running_var[i]) + m * unbiased);
  }
}

}  // namespace

void batchnorm_train(Stream, const BatchNormTrainArgs& args) {
  batch_statistics(args, args.rows);
  const Channels mean(args.mean, args.c), beta(args.beta, args.c), scale = scale_of(args.gamma, args.rstd, args.c);
  const Forward f{.x = args.x,
                  .residual = args.residual,
                  .y = args.y,
                  .mask = args.mask,
                  .mean = mean.data(),
                  .scale = scale.data(),
                  .beta = beta.data(),
                  .c = args.c,
                  .relu = args.activation == Activation::relu};
  rows_backwards(args.rows, args.c, block_rows(args.c, args.type),
                 [&, run = kernels().apply[index_of(args.type)]](int64_t begin, int64_t end) { run(f, begin, end); });
}

namespace {

// Backward over rows, for BatchNormBwdArgs or BatchNormPoolBwdArgs: `b` lacks what is per channel. sums(b, begin, end, first, second) and
// apply(b, begin, end) are gradient_sums and gradient_apply, or do as these do, over at most kBlockRows rows and block_rows.
template <class Args, class Sums, class Apply>
void backward(const Args& args, int64_t rows, Backward b, int64_t block, Sums&& sums, Apply&& apply) {
  const int64_t c = args.c;
  const Channels mean(args.mean, c), beta(args.beta, c), scale = scale_of(args.gamma, args.rstd, c);
  b.mean = mean.data(), b.beta = beta.data(), b.scale = scale.data(), b.c = c;
  std::vector<double> sum_dz, sum_product;
  reduce_rows(rows, c, sum_dz, sum_product, [&](int64_t begin, int64_t end, float* first, float* second) { sums(b, begin, end, first, second); });
  Channels slope(c), mean_dz(c);
  for (int64_t i = 0; i < c; ++i) {
    const double rstd = double(args.rstd[i]), n = double(rows), sum_dz_xhat = sum_product[size_t(i)] * rstd;
    args.dbeta[i] += float(sum_dz[size_t(i)]);
    args.dgamma[i] += float(sum_dz_xhat);
    slope[i] = float(sum_dz_xhat / n * rstd);
    mean_dz[i] = float(sum_dz[size_t(i)] / n);
  }
  b.slope = slope.data(), b.mean_dz = mean_dz.data();
  rows_backwards(rows, c, block, [&](int64_t begin, int64_t end) { apply(b, begin, end); });
}

}  // namespace

void batchnorm_bwd(Stream, const BatchNormBwdArgs& args) {
  KD_CHECK(args.activation == Activation::none || args.mask || !args.dresidual,
           "batchnorm_bwd: the sign of x alone does not tell where ReLU(v + residual) let through; it needs the mask");
  const int type = index_of(args.type);
  const Backward b{.x = args.x, .dy = args.dy, .mask = args.mask, .dx = args.dx, .dresidual = args.dresidual, .relu = args.activation == Activation::relu};
  backward(args, args.rows, b, block_rows(args.c, args.type), kernels().gradient_sums[type], kernels().gradient_apply[type]);
}

void batchnorm_pool_train(Stream, const BatchNormPoolTrainArgs& args) {
  const int64_t c = args.c, out_h = (args.h - 1) / 2 + 1, out_w = (args.w - 1) / 2 + 1;
  batch_statistics(args, args.n * args.h * args.w);
  const Channels mean(args.mean, c), beta(args.beta, c), scale = scale_of(args.gamma, args.rstd, c);
  const batchnorm::Pool f{.x = args.x,
                          .y = args.y,
                          .arg = args.arg,
                          .mean = mean.data(),
                          .scale = scale.data(),
                          .beta = beta.data(),
                          .h = args.h,
                          .w = args.w,
                          .c = c,
                          .out_h = out_h,
                          .out_w = out_w};
  parallel_for(args.n * out_h, [&, run = kernels().pool[index_of(args.type)]](int64_t out_row) { run(f, out_row); });
}

void batchnorm_pool_bwd(Stream, const BatchNormPoolBwdArgs& args) {
  const int type = index_of(args.type);
  const batchnorm::Kernels& k = kernels();
  const batchnorm::Unpool unpool{
      .dy = args.dy, .arg = args.arg, .h = args.h, .w = args.w, .c = args.c, .out_h = (args.h - 1) / 2 + 1, .out_w = (args.w - 1) / 2 + 1};
  // Both passes gather dz of a block of pixels from the windows that they lie in, into a cache's worth of room.
  const auto with_dz = [&](Backward b, int64_t begin, int64_t end, auto&& f) {
    static thread_local std::vector<float> room;
    room.resize(size_t(kBlockRows * args.c));
    k.unpool[type](unpool, begin, end, room.data());
    b.dy = room.data(), b.dy_row = begin;
    f(b);
  };
  backward(
      args, args.n * args.h * args.w, {.x = args.x, .dx = args.dx, .relu = true}, kBlockRows,
      [&](const Backward& b, int64_t begin, int64_t end, float* first, float* second) {
        with_dz(b, begin, end, [&](const Backward& with) { k.unpooled_sums[type](with, begin, end, first, second); });
      },
      [&](const Backward& b, int64_t begin, int64_t end) { with_dz(b, begin, end, [&](const Backward& with) { k.unpooled_apply[type](with, begin, end); }); });
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
static profile::Work work_of(const BatchNormTrainArgs& a) {
  return norm_work(a.type, a.rows, a.c, 2 + (a.residual ? 1 : 0) + (a.sums.partial ? 0 : 1), a.mask);
}
static profile::Work work_of(const BatchNormBwdArgs& a) { return norm_work(a.type, a.rows, a.c, a.dresidual ? 6 : 5, a.mask); }

KD_KERNEL(batchnorm_train, BatchNormTrainArgs)
KD_KERNEL(batchnorm_bwd, BatchNormBwdArgs)
KD_KERNEL(batchnorm_pool_train, BatchNormPoolTrainArgs)
KD_KERNEL(batchnorm_pool_bwd, BatchNormPoolBwdArgs)
KD_KERNEL(batchnorm_fold, BatchNormFoldArgs)

}  // namespace kd
