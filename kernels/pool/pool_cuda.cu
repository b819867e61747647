// pool on CUDA. max_pool and both averages' gradients: a thread makes eight channels of one output, so neighbouring threads read neighbouring addresses, and
// overlapping windows meet in L1. Backward gathers, as on the CPU: no two threads write one address. global_avg_pool_fwd: a warp sums 64 channels of one
// image, four rows at a time.
// bytes   each tensor once from DRAM (a max-pool window's rows overlap: up to window/stride times from L2)
// cost    H200, 2026-11-27: global_avg_pool 256x7x7x512 bf16, 13 MB: 6.1 us forward, 5.6 backward; with 2048 channels, 52 MB, 16 and 17 us, 79 and 74 % of the
//         copy bandwidth. max_pool_fwd 16x112x112x64 bf16 to 56x56, 34 MB: 12 us [P] at 3.03 TB/s
#include "kernels/common/eight.cuh"
#include "kernels/pool/pool.h"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kThreads = 256;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Max

// Sizes and the numbers of threads are 32-bit: a GPU takes five times as long to divide 64-bit integers, and these kernels divide to find their pixel.
__device__ int global_index() { return int(blockIdx.x * kThreads + threadIdx.x); }

// Which pixel and which eight of its channels a thread has; index counts eights.
struct Spot {
  int pixel, channel, count;
  __device__ Spot(int index, int c) {
    const int eights = (c + kEight - 1) / kEight;
    pixel = index / eights;
    channel = index % eights * kEight;
    count = min(kEight, c - channel);
  }
};

struct Shape32 {
  int h, w, c, p, q, window, stride, pad;
  int outputs, inputs;  // eights of y and of x
};

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads) max_pool_fwd_kernel(Shape32 s, const T* __restrict__ x, T* __restrict__ y, uint8_t* __restrict__ arg) {
  if (global_index() >= s.outputs) return;
  const Spot at(global_index(), s.c);
  const int row = at.pixel / s.q, n = row / s.p, top = (row - n * s.p) * s.stride - s.pad, left = (at.pixel - row * s.q) * s.stride - s.pad;
  const T* image = x + int64_t(n) * s.h * s.w * s.c + at.channel;
  float best[kEight];
  int where[kEight];
  // The first place inside the image: nothing beats -inf where all of the window is -inf.
  const int first = max(0, -top) * s.window + max(0, -left);
#pragma unroll
  for (int i = 0; i < kEight; ++i) best[i] = -INFINITY, where[i] = first;
  for (int r = max(0, -top); r < min(s.window, s.h - top); ++r)
    for (int t = max(0, -left); t < min(s.window, s.w - left); ++t) {
      const Eight<T> v = load_eight<kWhole>(image + (int64_t(top + r) * s.w + left + t) * s.c, at.count);
#pragma unroll
      for (int i = 0; i < kEight; ++i)
        if (v[i] > best[i] || v[i] != v[i]) best[i] = v[i], where[i] = r * s.window + t;  // a NaN wins and stays, so that it is seen
    }
  const int64_t to = int64_t(at.pixel) * s.c + at.channel;
  store_eight<kWhole>(y + to, best, at.count);
  if (arg) store_eight_bytes<kWhole>(arg + to, where, at.count);
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads) max_pool_bwd_kernel(Shape32 s, const T* __restrict__ dy, const uint8_t* __restrict__ arg, T* __restrict__ dx) {
  if (global_index() >= s.inputs) return;
  const Spot at(global_index(), s.c);
  const int row = at.pixel / s.w, n = row / s.h, h = row - n * s.h, w = at.pixel - row * s.w;
  // Output p covers rows p*stride - pad .. + window - 1.
  const int last_p = min(s.p - 1, (h + s.pad) / s.stride), last_q = min(s.q - 1, (w + s.pad) / s.stride);
  const int first_p = max(0, (h + s.pad - s.window + s.stride) / s.stride), first_q = max(0, (w + s.pad - s.window + s.stride) / s.stride);
  float sum[kEight] = {};
  for (int p = first_p; p <= last_p; ++p)
    for (int q = first_q; q <= last_q; ++q) {
      const int64_t from = int64_t((n * s.p + p) * s.q + q) * s.c + at.channel;
      const int place = (h + s.pad - p * s.stride) * s.window + (w + s.pad - q * s.stride);
      const Eight<T> g = load_eight<kWhole>(dy + from, at.count);
      const EightBytes winner = load_eight_bytes<kWhole>(arg + from, at.count);
#pragma unroll
      for (int i = 0; i < kEight; ++i)
        if (winner[i] == place) sum[i] += g[i];
    }
  store_eight<kWhole>(dx + int64_t(at.pixel) * s.c + at.channel, sum, at.count);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Average

constexpr int kColumns = 8, kRowsAtOnce = 32 / kColumns, kAhead = 4;  // a warp: 64 channels by four rows

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, 3) global_avg_pool_fwd_kernel(int n, int hw, int c, const T* __restrict__ x, T* __restrict__ y) {
  const int slabs = (c + kColumns * kEight - 1) / (kColumns * kEight), lane = int(threadIdx.x % 32), row = lane / kColumns;
  const int warp = global_index() / 32, image = warp / slabs;
  if (image >= n) return;
  const int channel = (warp % slabs * kColumns + lane % kColumns) * kEight, count = min(kEight, c - channel);
  const T* from = x + int64_t(image) * hw * c + channel;
  float sum[kEight] = {};
  if (count > 0)
    for_each_ahead<kAhead>(
        row, hw, kRowsAtOnce, [=](int64_t i) { return load_eight<kWhole>(from + i * c, count); },
        [&](int64_t, const Eight<T>& e) {
#pragma unroll
          for (int i = 0; i < kEight; ++i) sum[i] += e[i];
        });
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    for (int lanes = kColumns; lanes < 32; lanes *= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lanes);
    sum[i] /= float(hw);
  }
  if (row == 0 && count > 0) store_eight<kWhole>(y + int64_t(image) * c + channel, sum, count);
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads) global_avg_pool_bwd_kernel(int eights, int hw, int c, const T* __restrict__ dy, T* __restrict__ dx) {
  if (global_index() >= eights) return;
  const Spot at(global_index(), c);
  const Eight<T> g = load_eight<kWhole>(dy + int64_t(at.pixel / hw) * c + at.channel, at.count);
  const float share = 1.0f / float(hw);
  float v[kEight];
#pragma unroll
  for (int i = 0; i < kEight; ++i) v[i] = g[i] * share;
  store_eight<kWhole>(dx + int64_t(at.pixel) * c + at.channel, v, at.count);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

int64_t blocks_of(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

int64_t eights_of(int64_t pixels, int64_t c) {
  const int64_t eights = pixels * ((c + kEight - 1) / kEight);
  KD_CHECK(eights <= INT32_MAX - kThreads, "pooling of {} pixels with {} channels: too large", pixels, c);
  return eights;
}

// f(T{}, whole): the kernel's two template arguments.
template <class F>
void with_kernel(DType type, bool whole, F&& f) {
  with_float_type(type, [&](auto zero) { whole ? f(zero, std::true_type{}) : f(zero, std::false_type{}); });
}

Shape32 shape32(const PoolShape& s) {
  KD_CHECK(s.window <= 15, "max_pool with a window of {}: a byte cannot name its places", s.window);
  return {.h = int(s.h),
          .w = int(s.w),
          .c = int(s.c),
          .p = int(s.p()),
          .q = int(s.q()),
          .window = int(s.window),
          .stride = int(s.stride),
          .pad = int(s.pad),
          .outputs = int(eights_of(s.n * s.p() * s.q(), s.c)),
          .inputs = int(eights_of(s.n * s.h * s.w, s.c))};
}

}  // namespace

void max_pool_fwd(Stream stream, const MaxPoolFwdArgs& args) {
  const Shape32 shape = shape32(args.shape);
  with_kernel(args.type, is_whole(shape.c, {args.x, args.y, args.arg}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    simt::launch(max_pool_fwd_kernel<T, decltype(whole)::value>, blocks_of(shape.outputs), kThreads, 0, simt::stream_t(stream.handle), shape,
                 static_cast<const T*>(args.x), static_cast<T*>(args.y), args.arg);
  });
}

void max_pool_bwd(Stream stream, const MaxPoolBwdArgs& args) {
  const Shape32 shape = shape32(args.shape);
  with_kernel(args.type, is_whole(shape.c, {args.dy, args.dx, args.arg}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    simt::launch(max_pool_bwd_kernel<T, decltype(whole)::value>, blocks_of(shape.inputs), kThreads, 0, simt::stream_t(stream.handle), shape,
                 static_cast<const T*>(args.dy), args.arg, static_cast<T*>(args.dx));
  });
}

void global_avg_pool_fwd(Stream stream, const GlobalAvgPoolArgs& args) {
  with_kernel(args.type, is_whole(args.c, {args.in, args.out}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    eights_of(args.n * args.hw, args.c);
    const int64_t warps = args.n * ((args.c + kColumns * kEight - 1) / (kColumns * kEight));
    simt::launch(global_avg_pool_fwd_kernel<T, decltype(whole)::value>, blocks_of(32 * warps), kThreads, 0, simt::stream_t(stream.handle), args.n, args.hw,
                 args.c, static_cast<const T*>(args.in), static_cast<T*>(args.out));
  });
}

void global_avg_pool_bwd(Stream stream, const GlobalAvgPoolArgs& args) {
  with_kernel(args.type, is_whole(args.c, {args.in, args.out}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    const int64_t eights = eights_of(args.n * args.hw, args.c);
    simt::launch(global_avg_pool_bwd_kernel<T, decltype(whole)::value>, blocks_of(eights), kThreads, 0, simt::stream_t(stream.handle), eights, args.hw, args.c,
                 static_cast<const T*>(args.in), static_cast<T*>(args.out));
  });
}

}  // namespace KD_GPU
}  // namespace kd
