// attention_loss on the GPU: a block an image, since one number of it, |u|, needs all of its positions; a warp takes every kWarps-th position, its lanes
// eight channels each.
//   order   channels within a lane in float, lanes by xor butterflies, positions within a warp and then warps in order: the same bits every run
//   double  for everything a position has one number of: 49 numbers an image cost nothing, and m_p - s a_p is a difference of like numbers
//   bytes   F and F_i once from DRAM; F a second time for df, from L2, where an image's 50 to 200 KB still lie
//   cost    H200, 2026-11-27: F 128x7x7x512 and two F_i of 2048 channels, bf16, 64 MB, with attention_loss_sums: 40 us, 39 % of the copy bandwidth (27
//           predicted at 3.03 TB/s), a 250th of the step
#include "kernels/attention_loss/attention_loss.h"
#include "kernels/common/eight.cuh"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ int lane() { return int(threadIdx.x % 32); }
__device__ int warp() { return int(threadIdx.x / 32); }

// Every thread's answer: the sum over the block's warps, in order, of what their first lanes have.
__device__ double sum_of_warps(double mine) {
  SIMT_SHARED(of_warp, double[kWarps]);
  __syncthreads();  // everybody has read what the last call left here
  if (lane() == 0) of_warp[warp()] = mine;
  __syncthreads();
  double sum = 0;
  for (double one : of_warp) sum += one;
  return sum;
}

__device__ float sum_of_lanes(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// u of an image into `energy`, position p by the first lane of warp p % kWarps, which alone reads it again. Returns |u|.
template <class T, bool kWhole>
__device__ double energy_of(const AttentionMap& map, int64_t positions, double* energy) {
  const int k = int(map.k);
  const T* image = static_cast<const T*>(map.data) + int64_t(blockIdx.x) * positions * k;
  const double share = 1.0 / k;
  double squares = 0;
  for (int64_t p = warp(); p < positions; p += kWarps) {
    float sum = 0;
    for (int c = lane() * kEight; c < k; c += 32 * kEight) {
      const Eight<T> f = load_eight<kWhole>(image + p * k + c, min(kEight, k - c));
#pragma unroll
      for (int i = 0; i < kEight; ++i) sum += f[i] * f[i];
    }
    const double u = double(sum_of_lanes(sum)) * share;
    if (lane() == 0) energy[p] = u;
    squares += u * u;
  }
  return sqrt(sum_of_warps(squares));
}

// work: double [N,2,P]
template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads) attention_loss_kernel(const __grid_constant__ AttentionLossArgs args, double* work) {
  double *a = work + int64_t(blockIdx.x) * 2 * args.positions, *m = a + args.positions;
  const bool first = lane() == 0;
  for (int i = 0; i < args.n_references; ++i) {
    const double of_reference = energy_of<T, kWhole>(args.references[i], args.positions, a),
                 share = of_reference == 0 ? 0 : 1 / (of_reference * args.n_references);
    if (first)
      for (int64_t p = warp(); p < args.positions; p += kWarps) m[p] = i == 0 ? a[p] * share : m[p] + a[p] * share;
  }
  const double norm = energy_of<T, kWhole>(args.trained, args.positions, a), per_norm = norm == 0 ? 0 : 1 / norm;
  double s = 0, distance = 0, of_m = 0;
  if (first)
    for (int64_t p = warp(); p < args.positions; p += kWarps) {
      a[p] *= per_norm;
      s += a[p] * m[p];
      distance += (a[p] - m[p]) * (a[p] - m[p]);
      of_m += m[p] * m[p];
    }
  s = sum_of_warps(s), distance = sum_of_warps(distance), of_m = sum_of_warps(of_m);
  const bool nothing = norm == 0 || of_m == 0, similarity = args.mode == AttentionMode::similarity;
  if (threadIdx.x == 0) args.values[blockIdx.x] = nothing ? 0.f : float(similarity ? s : distance);
  if (!args.df) return;

  const int k = int(args.trained.k);
  const double gain = nothing ? 0 : (similarity ? 2 : -4) * double(args.weight) * per_norm / (double(args.n) * k);
  const int64_t image = int64_t(blockIdx.x) * args.positions * k;
  const T* f = static_cast<const T*>(args.trained.data) + image;
  T* df = static_cast<T*>(args.df) + image;
  for (int64_t p = warp(); p < args.positions; p += kWarps) {
    const float factor = __shfl_sync(kAllLanes, first ? float(gain * (m[p] - s * a[p])) : 0.f, 0);
    for (int c = lane() * kEight; c < k; c += 32 * kEight) {
      const int count = min(kEight, k - c);
      const Eight<T> x = load_eight<kWhole>(f + p * k + c, count);
      float v[kEight];
#pragma unroll
      for (int i = 0; i < kEight; ++i) v[i] = factor * x[i];
      store_eight<kWhole>(df + p * k + c, v, count);
    }
  }
}

__global__ void __launch_bounds__(kThreads) attention_loss_sums_kernel(const AttentionLossSumsArgs args) {
  double sum = 0;
  for (int64_t n = threadIdx.x; n < args.n; n += kThreads) sum += double(args.values[n]);
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
  sum = sum_of_warps(sum);
  if (threadIdx.x != 0) return;
  *args.loss = float(double(args.weight) * sum / double(args.n));
  if (args.loss_sum) *args.loss_sum += double(args.weight) * sum;
  if (args.value_sum) *args.value_sum += sum;
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

void attention_loss(Stream stream, const AttentionLossArgs& args) {
  bool whole = is_whole(args.trained.k, {args.trained.data, args.df});
  for (int i = 0; i < args.n_references; ++i) whole = whole && is_whole(args.references[i].k, {args.references[i].data});
  const auto work = Storage::allocate(args.n * 2 * args.positions * int64_t(sizeof(double)), stream.device);
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto launch = [&](auto kernel) { simt::launch(kernel, args.n, kThreads, 0, simt::stream_t(stream.handle), args, reinterpret_cast<double*>(work->data())); };
    whole ? launch(attention_loss_kernel<T, true>) : launch(attention_loss_kernel<T, false>);
  });
}

void attention_loss_sums(Stream stream, const AttentionLossSumsArgs& args) {
  simt::launch(attention_loss_sums_kernel, 1, kThreads, 0, simt::stream_t(stream.handle), args);
}

}  // namespace KD_GPU
}  // namespace kd
