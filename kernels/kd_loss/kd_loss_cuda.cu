// kd_loss on the GPU: one team of threads for every row, running kd_loss_row.h in float.
//   teams   a warp up to kWarpClasses classes, else a block with up to 4 classes a thread. A training batch has fewer rows than a GPU has multiprocessors
//           times warps, so a row's chain of reductions is what takes the time, not the bytes: more threads a row shorten it, and its rows stay in L1,
//           from where each pass reads them again. Registers instead of L1 would save 30 cycles a pass and need the number of classes at compile time.
//   order   a thread takes every size()-th class; a warp's sums are xor butterflies, which give every lane the same bits; a block's are its warps' in order
//   float   is enough: each row's maximum is subtracted first, exactly for logits of like size, what a sum then adds up is at most 1, and the divergence is
//           summed in a form that forgives (kd_loss_row.h). Largest errors of the cases, emulated: ce 6e-8, ds 7e-7, kd 1.8e-6 of the largest value
//   bytes   4 (M+2) N K: 128 x 100, two teachers: 0.2 MB; 256 x 1000, three teachers: 5 MB, 1.3 us at 4.08 TB/s
//   cost    latency. H200, 2026-11-27, kd_loss and kd_loss_sums together: three teachers, 128 x 100 12.5 us (mean_logits 13.1), 256 x 1000 22 us, where 4 to 6
//           had been predicted. In a step without teachers 4.5 us and 4.0
#include <algorithm>

#include "kernels/kd_loss/kd_loss_row.h"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kWarpClasses = 256;                          // up to 8 a lane
constexpr int kRowsPerBlock = 4;                           // a warp each
constexpr int kThreadClasses = 4, kMaxBlockThreads = 256;  // where a row has a block
constexpr int kSumThreads = 128;
static_assert(kSumThreads <= kMaxBlockThreads);

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Teams

template <class T, class F>
__device__ T combine_lanes(T x, F combine) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x = combine(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

struct WarpTeam {
  __device__ int64_t rank() const { return threadIdx.x % 32; }
  __device__ int64_t size() const { return 32; }
  template <class T, class F>
  __device__ T combine(T x, F f) const {
    return combine_lanes(x, f);
  }
};

struct BlockTeam {
  __device__ int64_t rank() const { return threadIdx.x; }
  __device__ int64_t size() const { return blockDim.x; }
  template <class T, class F>
  __device__ T combine(T x, F f) const {
    SIMT_SHARED(of_warp, T[kMaxBlockThreads / 32]);
    x = combine_lanes(x, f);
    __syncthreads();  // everybody has read what the last call left here
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) x = f(x, of_warp[warp]);
    return x;
  }
};

// What kd_loss_row asks of a team.
template <class Threads>
struct Team : Threads {
  template <class T>
  __device__ T sum(T x) const {
    return this->combine(x, [](T a, T b) { return a + b; });
  }
  template <class T>
  __device__ T max(T x) const {
    return this->combine(x, [](T a, T b) { return a > b ? a : b; });
  }
  __device__ int32_t min(int32_t x) const {
    return this->combine(x, [](int32_t a, int32_t b) { return a < b ? a : b; });
  }
};

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Kernels

template <class Threads>
__device__ void one_row(const KdLossArgs& args, float* work, int64_t n) {
  const Team<Threads> team;
  const KdRowLoss<float> loss = kd_loss_row<float>(team, kd_row(args, n, work + n * args.k));
  if (team.rank() == 0) args.records[n] = to_record(loss);
}

// The parameters stay where they are, in constant memory (__grid_constant__): a copy of the teachers' addresses would be one of local memory.
__global__ void __launch_bounds__(kRowsPerBlock * 32) kd_loss_warp_kernel(const __grid_constant__ KdLossArgs args, float* work) {
  const int64_t n = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / 32;
  if (n < args.n) one_row<WarpTeam>(args, work, n);
}
__global__ void __launch_bounds__(kMaxBlockThreads) kd_loss_block_kernel(const __grid_constant__ KdLossArgs args, float* work) {
  one_row<BlockTeam>(args, work, blockIdx.x);
}

__global__ void __launch_bounds__(kSumThreads) kd_loss_sums_kernel(const KdLossSumsArgs args) {
  KdSums mine;
  for (int64_t n = threadIdx.x; n < args.n; n += kSumThreads) add_to(mine, sums_of(args.records[n], args));
  const Team<BlockTeam> team;
  const KdSums batch{.loss = team.sum(mine.loss),
                     .ce = team.sum(mine.ce),
                     .kd = team.sum(mine.kd),
                     .images = args.n,
                     .right = team.sum(mine.right),
                     .agree = team.sum(mine.agree)};
  if (threadIdx.x != 0) return;
  *args.loss = float(batch.loss / double(args.n));
  if (args.sums) add_to(*args.sums, batch);
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

void kd_loss(Stream stream, const KdLossArgs& args) {
  const auto queue = simt::stream_t(stream.handle);
  // A row works in its part of ds, or where nobody wants that, of a scratch matrix.
  const auto scratch = args.ds ? nullptr : Storage::allocate(args.n * args.k * int64_t(sizeof(float)), stream.device);
  float* work = args.ds ? args.ds : reinterpret_cast<float*>(scratch->data());
  if (args.k <= kWarpClasses) {
    simt::launch(kd_loss_warp_kernel, (args.n + kRowsPerBlock - 1) / kRowsPerBlock, kRowsPerBlock * 32, 0, queue, args, work);
  } else {
    constexpr int64_t kWarpsShare = 32 * kThreadClasses;
    const int64_t warps = std::min<int64_t>((args.k + kWarpsShare - 1) / kWarpsShare, kMaxBlockThreads / 32);
    simt::launch(kd_loss_block_kernel, args.n, unsigned(32 * warps), 0, queue, args, work);
  }
}

void kd_loss_sums(Stream stream, const KdLossSumsArgs& args) { simt::launch(kd_loss_sums_kernel, 1, kSumThreads, 0, simt::stream_t(stream.handle), args); }

}  // namespace KD_GPU
}  // namespace kd
