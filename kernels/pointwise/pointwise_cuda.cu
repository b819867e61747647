// pointwise on CUDA. A thread takes kPacks packs of elements, a block's width apart so that each request of a warp is one run of bytes, and has loaded all of
// them before it stores the first: out may be an input, so the compiler cannot move a load over a store by itself. Blocks do not loop: with nothing to set
// up, a second tile is cheaper as another block. A pack is 16 bytes of the widest operand, or one element where a pointer is not aligned to its pack.
// bytes   as pointwise.h says
// cost    those bytes at the copy bandwidth where they are many (308 MB: 72 us, 105 %), else the launch, 2 to 2.5 us (H200, 2026-11-27)
#include "kernels/common/vec.cuh"
#include "kernels/pointwise/pointwise.h"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kThreads = 256, kPacks = 2;

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Operations: `load` reads the N elements from i on, `finish` computes and writes them.

template <class T>
struct Add {
  static constexpr int kPack = kPackSize<T>;
  const T *a, *b;
  T* out;

  template <int N>
  struct Operands {
    Pack<T, N> a, b;
  };
  template <int N>
  __device__ Operands<N> load(int64_t i) const {
    return {load_pack<N>(a + i), load_pack<N>(b + i)};
  }
  template <int N>
  __device__ void finish(int64_t i, const Operands<N>& in) const {
    Pack<T, N> sum;
    for (int j = 0; j < N; ++j) sum.v[j] = T(float(in.a.v[j]) + float(in.b.v[j]));
    store_pack(out + i, sum);
  }
  bool aligned() const { return is_aligned<kPack>(a) && is_aligned<kPack>(b) && is_aligned<kPack>(out); }
};

template <class T>
struct Scale {
  static constexpr int kPack = kPackSize<T>;
  const T* a;
  T* out;
  float factor;
  const float* by;

  template <int N>
  using Operands = Pack<T, N>;
  template <int N>
  __device__ Operands<N> load(int64_t i) const {
    return load_pack<N>(a + i);
  }
  template <int N>
  __device__ void finish(int64_t i, const Operands<N>& in) const {
    const float f = by ? factor * __ldg(by) : factor;
    Pack<T, N> scaled;
    for (int j = 0; j < N; ++j) scaled.v[j] = T(float(in.v[j]) * f);
    store_pack(out + i, scaled);
  }
  bool aligned() const { return is_aligned<kPack>(a) && is_aligned<kPack>(out); }
};

template <class From, class To>
struct Cast {
  static constexpr int kPack = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const From* a;
  To* out;

  template <int N>
  using Operands = Pack<From, N>;
  template <int N>
  __device__ Operands<N> load(int64_t i) const {
    return load_pack<N>(a + i);
  }
  template <int N>
  __device__ void finish(int64_t i, const Operands<N>& in) const {
    Pack<To, N> converted;
    for (int j = 0; j < N; ++j) converted.v[j] = To(float(in.v[j]));
    store_pack(out + i, converted);
  }
  bool aligned() const { return is_aligned<kPack>(a) && is_aligned<kPack>(out); }
};

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Kernel

template <int N, class Operation>
__global__ void __launch_bounds__(kThreads) pointwise_kernel(Operation operation, int64_t n) {
  const int64_t packs = n / N, first = int64_t(blockIdx.x) * (kPacks * kThreads) + threadIdx.x;
  typename Operation::template Operands<N> in[kPacks];
#pragma unroll
  for (int k = 0; k < kPacks; ++k)
    if (first + k * kThreads < packs) in[k] = operation.template load<N>((first + k * kThreads) * N);
#pragma unroll
  for (int k = 0; k < kPacks; ++k)
    if (first + k * kThreads < packs) operation.template finish<N>((first + k * kThreads) * N, in[k]);
  const int64_t rest = packs * N + threadIdx.x;  // fewer than a pack
  if (blockIdx.x == 0 && rest < n) operation.template finish<1>(rest, operation.template load<1>(rest));
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

template <int N, class Operation>
void launch(Stream stream, const Operation& operation, int64_t n) {
  constexpr int64_t kTile = int64_t(N) * kPacks * kThreads;
  simt::launch(pointwise_kernel<N, Operation>, (n + kTile - 1) / kTile, kThreads, 0, simt::stream_t(stream.handle), operation, n);
}
template <class Operation>
void run(Stream stream, const Operation& operation, int64_t n) {
  if (n == 0) return;
  if (operation.aligned())
    launch<Operation::kPack>(stream, operation, n);
  else
    launch<1>(stream, operation, n);
}

}  // namespace

void pointwise_add(Stream stream, const PointwiseAddArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    run(stream, Add<T>{static_cast<const T*>(args.a), static_cast<const T*>(args.b), static_cast<T*>(args.out)}, args.n);
  });
}

void pointwise_scale(Stream stream, const PointwiseScaleArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    run(stream, Scale<T>{static_cast<const T*>(args.a), static_cast<T*>(args.out), args.factor, args.by}, args.n);
  });
}

void pointwise_cast(Stream stream, const PointwiseCastArgs& args) {
  with_float_type(args.from, [&](auto zero_from) {
    with_float_type(args.to, [&](auto zero_to) {
      using From = decltype(zero_from);
      using To = decltype(zero_to);
      run(stream, Cast<From, To>{static_cast<const From*>(args.a), static_cast<To*>(args.out)}, args.n);
    });
  });
}

}  // namespace KD_GPU
}  // namespace kd
