// metrics on CUDA. What needs exp or a sum over features is shared by the lanes of a warp, a row or a position each; attention maps have a block an image.
//   double     as on the CPU: an evaluation is measured once and its numbers are compared to many digits. Half the float rate on data-centre GPUs, far less on
//              others
//   counts     equal the CPU's: the same double operations in the same order (bilinear.h), a strict comparison, integers. A mask is a ballot, so a warp
//              counts 32 pixels of it with one popc, and no full-size map exists
//   order      lanes take every 32nd term, warps add up by butterflies, tables row after row: the same bits every run
//   bytes      logits once from DRAM, then 4 (pairs) to 9 (logits) times from L1; features once; a map is too small to matter
//   cost       H200, 2026-11-27: 10000 x 100 logits: 26 us (40 predicted), pairs 36 us (60). Slower than they should be: soft_joint 0.54 ms (0.2 predicted),
//              masks of two 7 x 7 maps at 224 px 2.7 us an image (0.5); both only run in an evaluation
#include <algorithm>

#include "kernels/common/accumulate.h"
#include "kernels/metrics/bilinear.h"
#include "kernels/metrics/metrics.h"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Warps and blocks

__device__ int lane() { return int(threadIdx.x % 32); }
__device__ int warp() { return int(threadIdx.x / 32); }

template <class T, class F>
__device__ T combine_lanes(T x, F combine) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}
__device__ double sum_lanes(double x) {
  return combine_lanes(x, [](double a, double b) { return a + b; });
}
template <class F>
__device__ double sum_over(int64_t n, F term) {
  double sum = 0;
  for (int64_t i = lane(); i < n; i += 32) sum += term(i);
  return sum_lanes(sum);
}
template <class T>
__device__ T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
__device__ T larger(T a, T b) {
  return b > a ? b : a;
}

int64_t blocks_of_warps(int64_t warps) { return (warps + kWarps - 1) / kWarps; }

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Logits: a warp a row

// ln softmax(x/tau), relative to the largest logit so that a common offset of 1e4 costs no digits. Every lane may ask for any class.
class LogSoftmax {
 public:
  __device__ LogSoftmax(const float* x, int64_t c, double tau) : x_(x), tau_(tau) {
    float top = x[0];
    for (int64_t i = lane(); i < c; i += 32) top = larger(top, x[i]);
    top_ = combine_lanes(top, larger<float>);
    log_sum_ = log(sum_over(c, [&](int64_t i) { return exp((x[i] - top_) / tau_); }));
  }
  __device__ double operator[](int64_t i) const { return (x_[i] - top_) / tau_ - log_sum_; }
  __device__ double of_largest() const { return -log_sum_; }
  __device__ double log_sum_exp() const { return top_ / tau_ + log_sum_; }

 private:
  const float* x_;
  double top_, tau_, log_sum_;
};

struct Place {
  float logit;
  int32_t at;  // -1: there is none
};
// The place behind `last`: the largest logit that is smaller, or equal and of a later class.
__device__ Place next_largest(const float* x, int64_t c, Place last) {
  const float none = -INFINITY;
  Place mine{none, INT32_MAX};
  for (int64_t i = lane(); i < c; i += 32)
    if (x[i] > mine.logit && (x[i] < last.logit || (x[i] == last.logit && i > last.at))) mine = {x[i], int32_t(i)};
  const float logit = combine_lanes(mine.logit, larger<float>);
  const int32_t at = combine_lanes(mine.logit == logit ? mine.at : INT32_MAX, smaller<int32_t>);
  return {logit, logit == none ? -1 : at};
}

__global__ void __launch_bounds__(kThreads) logit_records_kernel(MetricsLogitArgs args) {
  const int64_t n = int64_t(blockIdx.x) * kWarps + warp(), c = args.c;
  if (n >= args.n) return;
  const float* x = args.logits + n * c;
  LogitRecord& out = args.out[n];
  bool finite = true;
  for (int64_t i = lane(); i < c; i += 32) finite = finite && isfinite(x[i]);
  if (!__all_sync(kAllLanes, finite)) {
    if (lane() == 0) out = {{-1, -1, -1, -1, -1}, 0, 0, 0, 0};
    return;
  }
  Place place{INFINITY, -1};
  for (int32_t& top : out.top) {
    place = next_largest(x, c, place);
    if (lane() == 0) top = place.at;
  }
  const LogSoftmax log_p(x, c, 1);
  double entropy = 0, squares = 0;
  for (int64_t i = lane(); i < c; i += 32) {
    const double p = exp(log_p[i]);
    entropy -= p * log_p[i];
    squares += p * p;
  }
  entropy = sum_lanes(entropy), squares = sum_lanes(squares);
  if (lane() == 0) out.confidence = exp(log_p.of_largest()), out.entropy = entropy, out.log_sum_exp = log_p.log_sum_exp(), out.sum_squares = squares;
}

__global__ void __launch_bounds__(kThreads) pair_records_kernel(MetricsPairArgs args) {
  const int64_t n = int64_t(blockIdx.x) * kWarps + warp(), c = args.c;
  if (n >= args.n) return;
  const LogSoftmax log_p(args.a + n * c, c, args.tau), log_q(args.b + n * c, c, args.tau);
  double kl_ab = 0, kl_ba = 0, js = 0, tv = 0, squares = 0;
  for (int64_t i = lane(); i < c; i += 32) {
    const double lp = log_p[i], lq = log_q[i], p = exp(lp), q = exp(lq), m = 0.5 * (p + q), root = sqrt(p) - sqrt(q);
    kl_ab += p * (lp - lq);
    kl_ba += q * (lq - lp);
    if (m > 0) js += p * (lp - log(m)) + q * (lq - log(m));
    tv += fabs(p - q);
    squares += root * root;
  }
  for (double* sum : {&kl_ab, &kl_ba, &js, &tv, &squares}) *sum = sum_lanes(*sum);
  // Rounding can leave -1e-17 where the true value is 0.
  if (lane() == 0) args.out[n] = {larger(kl_ab, 0.0), larger(kl_ba, 0.0), larger(0.5 * js, 0.0), 0.5 * tv, sqrt(0.5 * squares)};
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Tables of pairs of classes

__global__ void __launch_bounds__(kThreads) joint_counts_kernel(MetricsJointCountsArgs args) {
  const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= args.n) return;
  const int64_t a = args.a[n], b = args.b[n];
  if (a >= 0 && a < args.c && b >= 0 && b < args.c) atomicAdd(reinterpret_cast<unsigned long long*>(args.counts + a * args.c + b), 1ull);
}

// p = softmax(a)/n and q = softmax(b), both [rows,c], for the rows from `first` on. blockIdx.y says which.
__global__ void __launch_bounds__(kThreads) probabilities_kernel(MetricsSoftJointArgs args, int64_t first, int64_t rows, double* p, double* q) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + warp(), c = args.c;
  if (row >= rows) return;
  const bool is_p = blockIdx.y == 0;
  const LogSoftmax log_p((is_p ? args.a : args.b) + (first + row) * c, c, 1);
  const double divisor = is_p ? double(args.n) : 1;
  for (int64_t i = lane(); i < c; i += 32) (is_p ? p : q)[row * c + i] = exp(log_p[i]) / divisor;
}

// joint = p^T q, or joint + p^T q, in tiles of 16 x 16 entries. A thread sums two of them, row after row; the rows' two tiles wait in shared memory.
constexpr int kTile = 16, kHalf = kTile / 2;

__global__ void __launch_bounds__(kTile* kHalf)
    soft_joint_kernel(const double* p, const double* q, double* joint, int64_t rows, int64_t c, Accumulate accumulate) {
  SIMT_SHARED(tile_p, double[kTile][kTile]);
  SIMT_SHARED(tile_q, double[kTile][kTile]);
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int64_t i = int64_t(blockIdx.y) * kTile, j = int64_t(blockIdx.x) * kTile + x;
  double upper = 0, lower = 0;
  for (int64_t first = 0; first < rows; first += kTile) {
    for (int r = y; r < kTile; r += kHalf) {
      const int64_t row = first + r;
      tile_p[r][x] = row < rows && i + x < c ? p[row * c + i + x] : 0;
      tile_q[r][x] = row < rows && j < c ? q[row * c + j] : 0;
    }
    __syncthreads();
    for (int r = 0; r < kTile; ++r) upper += tile_p[r][y] * tile_q[r][x], lower += tile_p[r][y + kHalf] * tile_q[r][x];
    __syncthreads();
  }
  auto put = [&](int64_t row, double sum) {
    if (row < c && j < c) joint[row * c + j] = accumulate == Accumulate::yes ? joint[row * c + j] + sum : sum;
  };
  put(i + y, upper);
  put(i + y + kHalf, lower);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Maps from features: a warp a position

// One image a block: the classes' weights become one direction, which all positions use.
__global__ void __launch_bounds__(kThreads) class_map_kernel(MetricsClassMapArgs args) {
  SIMT_DYNAMIC_SHARED(double, direction);  // [K]
  const int64_t n = blockIdx.x, k = args.k, positions = args.h * args.w;
  const float* alpha = args.alpha + n * args.c;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    double sum = 0;
    for (int64_t c = 0; c < args.c; ++c)
      if (alpha[c] != 0) sum += double(alpha[c]) * args.weight[c * k + i];
    direction[i] = sum;
  }
  const double offset = sum_over(args.c, [&](int64_t c) { return double(alpha[c]) * args.bias[c]; });
  __syncthreads();
  for (int64_t at = n * positions + warp(); at < (n + 1) * positions; at += kWarps) {
    const float* f = args.features + at * k;
    const double sum = sum_over(k, [&](int64_t i) { return direction[i] * f[i]; });
    if (lane() == 0) args.map[at] = float(offset + sum);
  }
}

__global__ void __launch_bounds__(kThreads) energy_map_kernel(MetricsEnergyMapArgs args) {
  const int64_t at = int64_t(blockIdx.x) * kWarps + warp();
  if (at >= args.n * args.h * args.w) return;
  const float* f = args.features + at * args.k;
  const double sum = sum_over(args.k, [&](int64_t i) { return double(f[i]) * f[i]; });
  if (lane() == 0) args.map[at] = float(sum / double(args.k));
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Full-size maps: a block an image

// A map as it looks at px x px. It stays in L1; what is worth keeping is where each row and column reads, which costs a division.
struct Upsampled {
  const float* map;
  int64_t w;
  const Tap *rows, *columns;  // [px] each, in shared memory

  __device__ double operator()(int y, int x) const {
    const Tap row = rows[y], column = columns[x];
    const float *above = map + row.low * w, *below = map + row.high * w;
    return blend(blend(above[column.low], above[column.high], column.weight), blend(below[column.low], below[column.high], column.weight), row.weight);
  }
};

// Fills taps[2 px], the rows' before the columns'. The block must meet before it reads them.
__device__ void fill_taps(Tap* taps, int64_t h, int64_t w, int px) {
  for (int i = int(threadIdx.x); i < px; i += kThreads) taps[i] = bilinear_tap(i, h, px), taps[px + i] = bilinear_tap(i, w, px);
}

// f(y, x) for this thread's pixels, 32 in a row for each warp. All lanes of a warp make the same number of calls; f(y, x) with x >= px is none of the image.
template <class F>
__device__ void each_pixel(int px, F f) {
  for (int y = warp(); y < px; y += kWarps)
    for (int x = lane(); x - lane() < px; x += 32) f(y, x);
}

struct Extremes {
  double min, max;
};
// Over the whole image, for every thread of the block. NaN is skipped.
__device__ Extremes extremes_of(const Upsampled& image, int px) {
  SIMT_SHARED(of_warp, Extremes[kWarps]);
  Extremes all{INFINITY, -INFINITY};
  each_pixel(px, [&](int y, int x) {
    if (x >= px) return;
    const double v = image(y, x);
    all = {smaller(all.min, v), larger(all.max, v)};
  });
  all = {combine_lanes(all.min, smaller<double>), combine_lanes(all.max, larger<double>)};
  __syncthreads();  // everybody has read what the last call left here
  if (lane() == 0) of_warp[warp()] = all;
  __syncthreads();
  for (const Extremes& w : of_warp) all = {smaller(all.min, w.min), larger(all.max, w.max)};
  return all;
}

__global__ void __launch_bounds__(kThreads) upsample_kernel(MetricsUpsampleArgs args) {
  SIMT_DYNAMIC_SHARED(Tap, taps);  // [2][px]
  const int px = int(args.px);
  const int64_t n = blockIdx.x;
  fill_taps(taps, args.h, args.w, px);
  __syncthreads();
  const Upsampled image{args.map + n * args.h * args.w, args.w, taps, taps + px};
  double shift = 0, divisor = 1;
  if (args.scale == MapScale::unit) {
    const Extremes e = extremes_of(image, px);
    shift = e.min, divisor = unit_range(e.min, e.max);
  }
  float* out = args.out + n * px * px;
  each_pixel(px, [&](int y, int x) {
    if (x < px) out[int64_t(y) * px + x] = float((image(y, x) - shift) / divisor);
  });
}

// Lane m of each warp counts mask m, two more what lies in all masks and in any.
constexpr int kAllMasks = kMaxMasks, kAnyMask = kMaxMasks + 1, kCounters = kMaxMasks + 2;

__global__ void __launch_bounds__(kThreads) mask_counts_kernel(const __grid_constant__ MetricsMaskArgs args) {
  SIMT_DYNAMIC_SHARED(Tap, taps);  // [models][2][px]
  SIMT_SHARED(cut, double[kMaxThresholds][kMaxMasks]);
  SIMT_SHARED(counts, unsigned[kMaxThresholds][kCounters]);
  const int px = int(args.px), masks = args.models + (args.truth ? 1 : 0);
  const int64_t n = blockIdx.x;
  auto image = [&](int m) {
    const MetricsMaskArgs::Map& map = args.maps[m];
    return Upsampled{map.data + n * map.h * map.w, map.w, taps + int64_t(2 * m) * px, taps + int64_t(2 * m + 1) * px};
  };

  if (threadIdx.x < kCounters)
    for (int t = 0; t < args.cuts; ++t) counts[t][threadIdx.x] = 0;
  bool finite = true;
  for (int m = 0; m < args.models; ++m) {
    const MetricsMaskArgs::Map& map = args.maps[m];
    fill_taps(taps + int64_t(2 * m) * px, map.h, map.w, px);
    for (int64_t i = threadIdx.x; i < map.h * map.w; i += kThreads) finite = finite && isfinite(image(m).map[i]);
  }
  finite = __syncthreads_and(finite);
  for (int m = 0; m < args.models; ++m) {
    const Extremes e = extremes_of(image(m), px);
    if (int(threadIdx.x) < args.cuts) cut[threadIdx.x][m] = mask_cut(e.min, e.max, args.thresholds[threadIdx.x]);
  }
  __syncthreads();

  unsigned mine[kMaxThresholds] = {};
  each_pixel(px, [&](int y, int x) {
    double value[kMaxMasks] = {};  // of the truth: 1 inside, cut at 0
    if (x < px) {
#pragma unroll
      for (int m = 0; m < kMaxMasks; ++m)
        if (m < masks) value[m] = m < args.models ? image(m)(y, x) : args.truth[(n * px + y) * px + x] != 0;
    }
#pragma unroll
    for (int t = 0; t < kMaxThresholds; ++t) {  // constant bounds keep `mine` and `value` in registers
      if (t >= args.cuts) break;
      unsigned all = kAllLanes, any = 0;
#pragma unroll
      for (int m = 0; m < kMaxMasks; ++m) {
        if (m >= masks) break;
        const unsigned mask = __ballot_sync(kAllLanes, x < px && value[m] > (m < args.models ? cut[t][m] : 0));
        all &= mask, any |= mask;
        if (lane() == m) mine[t] += unsigned(__popc(mask));
      }
      if (lane() == kAllMasks) mine[t] += unsigned(__popc(all));
      if (lane() == kAnyMask) mine[t] += unsigned(__popc(any));
    }
  });
#pragma unroll
  for (int t = 0; t < kMaxThresholds; ++t)
    if (t < args.cuts && lane() < kCounters) atomicAdd(&counts[t][lane()], mine[t]);
  __syncthreads();
  const int t = int(threadIdx.x);
  if (t >= args.cuts) return;
  MaskCounts out{finite ? int64_t(counts[t][kAllMasks]) : -1, finite ? int64_t(counts[t][kAnyMask]) : -1, {}};
  for (int m = 0; m < kMaxMasks; ++m) out.area[m] = counts[t][m];
  args.out[n * args.cuts + t] = out;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

void metrics_logit_records(Stream stream, const MetricsLogitArgs& args) {
  simt::launch(logit_records_kernel, blocks_of_warps(args.n), kThreads, 0, simt::stream_t(stream.handle), args);
}

void metrics_pair_records(Stream stream, const MetricsPairArgs& args) {
  simt::launch(pair_records_kernel, blocks_of_warps(args.n), kThreads, 0, simt::stream_t(stream.handle), args);
}

void metrics_joint_counts(Stream stream, const MetricsJointCountsArgs& args) {
  fill_bytes(args.counts, stream.device, 0, args.c * args.c * int64_t(sizeof(int64_t)));
  if (args.n > 0) simt::launch(joint_counts_kernel, (args.n + kThreads - 1) / kThreads, kThreads, 0, simt::stream_t(stream.handle), args);
}

void metrics_soft_joint(Stream stream, const MetricsSoftJointArgs& args) {
  constexpr int64_t kRows = 1024;  // 16 MB of probabilities at 1000 classes
  const int64_t c = args.c, block = std::min(kRows, args.n);
  const unsigned tiles = unsigned((c + kTile - 1) / kTile);
  const auto scratch = Storage::allocate(2 * block * c * int64_t(sizeof(double)), stream.device);
  double *p = reinterpret_cast<double*>(scratch->data()), *q = p + block * c;
  const auto queue = simt::stream_t(stream.handle);
  for (int64_t first = 0; first < args.n; first += kRows) {
    const int64_t rows = std::min(kRows, args.n - first);
    simt::launch(probabilities_kernel, dim3(unsigned(blocks_of_warps(rows)), 2), kThreads, 0, queue, args, first, rows, p, q);
    simt::launch(soft_joint_kernel, dim3(tiles, tiles), dim3(kTile, kHalf), 0, queue, p, q, args.joint, rows, c, first == 0 ? Accumulate::no : Accumulate::yes);
  }
}

void metrics_class_map(Stream stream, const MetricsClassMapArgs& args) {
  simt::launch(class_map_kernel, args.n, kThreads, size_t(args.k) * sizeof(double), simt::stream_t(stream.handle), args);
}

void metrics_energy_map(Stream stream, const MetricsEnergyMapArgs& args) {
  simt::launch(energy_map_kernel, blocks_of_warps(args.n * args.h * args.w), kThreads, 0, simt::stream_t(stream.handle), args);
}

void metrics_upsample(Stream stream, const MetricsUpsampleArgs& args) {
  simt::launch(upsample_kernel, args.n, kThreads, 2 * size_t(args.px) * sizeof(Tap), simt::stream_t(stream.handle), args);
}

void metrics_mask_counts(Stream stream, const MetricsMaskArgs& args) {
  const int masks = args.models + (args.truth ? 1 : 0);
  KD_CHECK(args.models >= 1 && masks <= kMaxMasks, "mask_counts: {} masks where 1 to {} are possible", masks, kMaxMasks);
  KD_CHECK(args.cuts >= 1 && args.cuts <= kMaxThresholds, "mask_counts: {} thresholds where 1 to {} are possible", args.cuts, kMaxThresholds);
  simt::launch(mask_counts_kernel, args.n, kThreads, 2 * size_t(args.models) * size_t(args.px) * sizeof(Tap), simt::stream_t(stream.handle), args);
}

}  // namespace KD_GPU
}  // namespace kd
