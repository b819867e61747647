// mma: what compute capability 8.0 brought for matrix products - mma.sync, ldmatrix, cp.async - as functions that a kernel calls on the GPU and on the
// emulated device alike. Emulated, lanes exchange their fragments by shuffles. An asynchronous copy happens as late as a GPU may do it, when it is waited for,
// or under schedules with an odd number as early, at once: both a missing wait and memory that is still being read are seen.
// Blocks are one-dimensional; all 32 lanes of a warp call these functions together.
//
// Fragments of m16n8k16, lane = 4 g + t (PTX ISA, "Matrix Fragments for mma.m16n8k16"); the lower half of a word is the element with the lower index:
//   A 16x16   a[0] = A(g, 2t..2t+1)   a[1] = A(g+8, 2t..2t+1)   a[2] = A(g, 2t+8..2t+9)   a[3] = A(g+8, 2t+8..2t+9)
//   B 16x8    b[0] = B(2t..2t+1, g)   b[1] = B(2t+8..2t+9, g)
//   D 16x8    d[0..1] = D(g, 2t..2t+1)   d[2..3] = D(g+8, 2t..2t+1)
#pragma once
#include "engine/base/bf16.h"
#include "kernels/common/vec.cuh"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {

// Two bf16 in a word.
KD_HOST_DEVICE inline float low_bf16(uint32_t pair) { return kd::detail::float_of(pair << 16); }
KD_HOST_DEVICE inline float high_bf16(uint32_t pair) { return kd::detail::float_of(pair & 0xffff0000u); }
__device__ inline uint32_t pack_bf16(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return uint32_t(bf16(low).bits) | uint32_t(bf16(high).bits) << 16;
#endif
}
// The larger ones of two pairs; a NaN wins.
__device__ inline uint32_t max_bf16(uint32_t x, uint32_t y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t larger;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(larger) : "r"(x), "r"(y));
  return larger;
#else
  const auto pick = [](float a, float b) { return a != a || a > b ? a : b; };
  return pack_bf16(pick(low_bf16(x), low_bf16(y)), pick(high_bf16(x), high_bf16(y)));
#endif
}

// Such words from and to memory of any type, at a multiple of their size.
template <int N>
__device__ inline void store_words(void* to, const Pack<uint32_t, N>& words) {
  *static_cast<Pack<uint32_t, N>*>(to) = words;
}
__device__ inline Pack<uint32_t, 4> load_words(const void* from) { return *static_cast<const Pack<uint32_t, 4>*>(from); }

// The address that instructions for shared memory take. Emulated: counted from the block's dynamic shared memory.
__device__ inline uint32_t shared_address(const void* shared) {
#if defined(__CUDACC__)
  return uint32_t(__cvta_generic_to_shared(shared));
#else
  return uint32_t(static_cast<const char*>(shared) - static_cast<const char*>(simt::detail::dynamic_shared()));
#endif
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define KD_HAS_MMA 1
#endif

// d += a b.
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(KD_HAS_MMA)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDACC__)
  __trap();
#else
  // Row g of A is spread over the lanes 4g..4g+3, column n of B over 4n..4n+3; each of them holds four of the sixteen k. The order and the width of the
  // GPU's sums are not documented; here a sum is rounded once.
  const int lane = int(threadIdx.x % 32), row = lane & ~3, column = lane % 4 * 8;
  const auto both = [](uint32_t low, uint32_t high) { return uint64_t(high) << 32 | low; };
  const auto dot = [](uint64_t x, uint64_t y) {
    double sum = 0;
    for (int shift = 0; shift < 64; shift += 16)
      sum += double(kd::detail::float_of(uint32_t(x >> shift) << 16)) * double(kd::detail::float_of(uint32_t(y >> shift) << 16));
    return sum;
  };
  double sum[4] = {d[0], d[1], d[2], d[3]};
  for (int part = 0; part < 4; ++part) {
    const uint64_t upper = __shfl_sync(~0u, both(a[0], a[2]), row + part), lower = __shfl_sync(~0u, both(a[1], a[3]), row + part);
    const uint64_t left = __shfl_sync(~0u, both(b[0], b[1]), column + part), right = __shfl_sync(~0u, both(b[0], b[1]), column + 4 + part);
    sum[0] += dot(upper, left), sum[1] += dot(upper, right), sum[2] += dot(lower, left), sum[3] += dot(lower, right);
  }
  for (int i = 0; i < 4; ++i) d[i] = float(sum[i]);
#endif
}

#if !defined(__CUDACC__)
namespace detail {
// Where row `row` of matrix `matrix` begins: every lane brings the address of the row that has its number.
inline unsigned char* matrix_row(const void* mine, int matrix, int row) {
  if (reinterpret_cast<uintptr_t>(mine) % 16 != 0) throw simt::Error("ldmatrix or stmatrix: the address of a row is not a multiple of 16");
  return reinterpret_cast<unsigned char*>(__shfl_sync(~0u, reinterpret_cast<unsigned long>(mine), 8 * matrix + row));
}
}  // namespace detail
#endif

// Loads N matrices of 8x8 bf16 from shared memory: lane 8i + j gives the address of row j of matrix i, 16 bytes at a multiple of 16. Lane 4g + t receives the
// elements (g, 2t..2t+1) of each; transposed, (2t..2t+1, g). For N < 4 the addresses of lanes from 8N on are not used.
template <int N>
__device__ inline void ldmatrix(uint32_t (&m)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4);
#if defined(KD_HAS_MMA)
  if constexpr (N == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(shared_address(row)));
  else if constexpr (N == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(m[0]), "=r"(m[1]) : "r"(shared_address(row)));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(m[0]) : "r"(shared_address(row)));
#elif defined(__CUDACC__)
  __trap();
#else
  const int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
  for (int i = 0; i < N; ++i) m[i] = *reinterpret_cast<const uint32_t*>(detail::matrix_row(row, i, g) + 4 * t);
#endif
}
template <int N>
__device__ inline void ldmatrix_trans(uint32_t (&m)[N], const void* row) {
  static_assert(N == 1 || N == 2 || N == 4);
#if defined(KD_HAS_MMA)
  if constexpr (N == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row)));
  else if constexpr (N == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(m[0]), "=r"(m[1]) : "r"(shared_address(row)));
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(m[0]) : "r"(shared_address(row)));
#elif defined(__CUDACC__)
  __trap();
#else
  const int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
  for (int i = 0; i < N; ++i) {
    const uint32_t low = reinterpret_cast<const uint16_t*>(detail::matrix_row(row, i, 2 * t))[g];
    const uint32_t high = reinterpret_cast<const uint16_t*>(detail::matrix_row(row, i, 2 * t + 1))[g];
    m[i] = low | high << 16;
  }
#endif
}

// A thread's asynchronous copies from global to shared memory, in groups. What a group brought may be read by its thread after wait(), by others after a
// barrier as well.
class AsyncCopies {
 public:
  // 16 bytes, both addresses multiples of 16.
  __device__ void copy16(void* to, const void* from) {
#if defined(KD_HAS_MMA)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
#elif defined(__CUDACC__)
    __trap();
#else
    if (simt::schedule() % 2) return store_words(to, load_words(from));
    if (copies_ == kMost) throw simt::Error("AsyncCopies: more copies under way than the emulation has room for");
    to_[copies_] = to, from_[copies_] = from, group_[copies_++] = groups_;
#endif
  }
  __device__ void end_group() {
#if defined(KD_HAS_MMA)
    asm volatile("cp.async.commit_group;" ::: "memory");
#elif defined(__CUDACC__)
    __trap();
#else
    ++groups_;
#endif
  }
  // Until at most the `kLeft` newest groups are under way.
  template <int kLeft>
  __device__ void wait() {
#if defined(KD_HAS_MMA)
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#elif defined(__CUDACC__)
    __trap();
#else
    int kept = 0;
    for (int i = 0; i < copies_; ++i) {
      if (group_[i] < groups_ - kLeft)
        store_words(to_[i], load_words(from_[i]));
      else
        to_[kept] = to_[i], from_[kept] = from_[i], group_[kept++] = group_[i];
    }
    copies_ = kept;
#endif
  }

#if !defined(__CUDACC__)
 private:
  static constexpr int kMost = 64;
  void* to_[kMost];
  const void* from_[kMost];
  int group_[kMost], copies_ = 0, groups_ = 0;
#endif
};

}  // namespace KD_GPU
}  // namespace kd
