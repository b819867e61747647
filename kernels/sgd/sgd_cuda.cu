// sgd on CUDA: one launch over both segments. A pack is four weights: 16 bytes of w, v and g, 8 of w16 and g16. A thread takes kPacks packs, a block's width
// apart, and has loaded all of them before it stores the first. Which segment a pack belongs to is the same for all of a warp, but for one warp.
// Where a pointer is not aligned to its pack, or a pack would hold weights of both segments, packs are single weights.
// bytes   20 a weight with bf16 copies, 24 without
// cost    those bytes at the copy bandwidth: 56 us for ResNet-18 (97 % of it), 116 us for ResNet-50 (100 %) on an H200, 2026-11-27
#include "kernels/common/vec.cuh"
#include "kernels/sgd/sgd.h"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kThreads = 256, kPacks = 2, kPack = 4;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Kernel

template <int N>
struct Operands {
  Pack<float, N> w, v, g;
};

template <int N>
__device__ Operands<N> load(const SgdArgs& args, int64_t i) {
  Operands<N> in{load_pack<N>(args.w + i), load_pack<N>(args.v + i), {}};
  if (i < args.n16) {
    const Pack<bf16, N> g16 = load_pack<N>(args.g16 + i);
    for (int j = 0; j < N; ++j) in.g.v[j] = float(g16.v[j]);
  } else {
    in.g = load_pack<N>(args.g + i);
  }
  return in;
}

template <int N>
__device__ void update(const SgdArgs& args, float lr, int64_t i, Operands<N> in) {
  for (int j = 0; j < N; ++j) {
    in.v.v[j] = args.momentum * in.v.v[j] + (in.g.v[j] + args.weight_decay * in.w.v[j]);
    in.w.v[j] -= lr * in.v.v[j];
  }
  store_pack(args.v + i, in.v);
  store_pack(args.w + i, in.w);
  if (i < args.n16) {
    Pack<bf16, N> rounded;
    for (int j = 0; j < N; ++j) rounded.v[j] = bf16(in.w.v[j]);
    store_pack(args.w16 + i, rounded);
  } else {
    store_pack(args.g + i, Pack<float, N>{});
  }
}

template <int N>
__global__ void __launch_bounds__(kThreads) sgd_step_kernel(SgdArgs args) {
  const float lr = __ldg(args.lr);
  const int64_t packs = args.n / N, first = int64_t(blockIdx.x) * (kPacks * kThreads) + threadIdx.x;
  Operands<N> in[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k)
    if (first + k * kThreads < packs) in[k] = load<N>(args, (first + k * kThreads) * N);
#pragma unroll
  for (int k = 0; k < kPacks; ++k)
    if (first + k * kThreads < packs) update<N>(args, lr, (first + k * kThreads) * N, in[k]);
  const int64_t rest = packs * N + threadIdx.x;  // fewer than a pack
  if (blockIdx.x == 0 && rest < args.n) update<1>(args, lr, rest, load<1>(args, rest));
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launcher

template <int N>
void launch(Stream stream, const SgdArgs& args) {
  constexpr int64_t kTile = int64_t(N) * kPacks * kThreads;
  simt::launch(sgd_step_kernel<N>, (args.n + kTile - 1) / kTile, kThreads, 0, simt::stream_t(stream.handle), args);
}

}  // namespace

void sgd_step(Stream stream, const SgdArgs& args) {
  if (args.n == 0) return;
  const bool packs = is_aligned<kPack>(args.w) && is_aligned<kPack>(args.g) && is_aligned<kPack>(args.v) && is_aligned<kPack>(args.w16) &&
                     is_aligned<kPack>(args.g16) && args.n16 % kPack == 0;
  if (packs)
    launch<kPack>(stream, args);
  else
    launch<1>(stream, args);
}

}  // namespace KD_GPU
}  // namespace kd
