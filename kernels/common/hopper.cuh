// hopper: instructions that only compute capability 9.0 has (sm_90a) - wgmma, mbarrier, bulk copies, stmatrix - as functions that a kernel calls on the GPU and
// on the emulated device alike, like those of mma.cuh. What the emulated forms check: fragments, descriptors, addresses, byte counts, phases, and that data is
// waited for. What only a card can show: the ordering between the tensor cores, the copy engine and ordinary accesses (fences), and whether the PTX manual was
// read rightly. A kernel that uses them keeps everything in dynamic shared memory.
#pragma once
#include <algorithm>
#include <iterator>

#include "kernels/common/mma.cuh"

namespace kd {

// A matrix operand of wgmma in shared memory without swizzle (PTX ISA, "Matrix Descriptor Format"). It is made of core matrices of 8 rows x 16 bytes, which are
// 128 bytes in a row; `leading` and `stride` are the bytes from one core matrix to its neighbours. All are multiples of 16.
//   K-major: the rows are n    MN-major: the rows are k    both: `leading` leads to the next 8 of k, `stride` to the next 8 of n
struct MatrixView {
  uint32_t start, leading, stride;
};
KD_HOST_DEVICE constexpr uint64_t descriptor_of(MatrixView view) {
  return uint64_t(view.start >> 4 & 0x3fff) | uint64_t(view.leading >> 4 & 0x3fff) << 16 | uint64_t(view.stride >> 4 & 0x3fff) << 32;
}
constexpr MatrixView view_of(uint64_t descriptor) {
  return {uint32_t(descriptor & 0x3fff) << 4, uint32_t(descriptor >> 16 & 0x3fff) << 4, uint32_t(descriptor >> 32 & 0x3fff) << 4};
}
// Where element (k, n) of a bf16 operand is.
constexpr uint32_t k_major_address(MatrixView view, uint32_t k, uint32_t n) {
  return view.start + k / 8 * view.leading + n / 8 * view.stride + n % 8 * 16 + k % 8 * 2;
}
constexpr uint32_t mn_major_address(MatrixView view, uint32_t k, uint32_t n) {
  return view.start + k / 8 * view.leading + n / 8 * view.stride + k % 8 * 16 + n % 8 * 2;
}

namespace KD_GPU {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KD_HAS_HOPPER 1
#endif

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// wgmma: d += a b for the 128 threads of a warpgroup. a is 64x16: rows 16w..16w+15 are an A fragment of mma.cuh in warp w. b is 16xN in shared memory.
// d is 64xN: in lane 4g + t of warp w, d[4j..4j+1] = D(16w + g, 8j + 2t..), d[4j+2..4j+3] = D(16w + g + 8, 8j + 2t..).
// Products are in flight from where they stand to wgmma_wait. Until then the registers of a stay as they are and those of d are nobody's:
//   pin(d);  wgmma_begin();  products...;  wgmma_wait();  pin(d);

// The compiler knows nothing of products in flight. What it does to d before this line it has done at this line, and after likewise.
template <int N>
__device__ inline void pin([[maybe_unused]] float (&d)[N]) {
#if defined(KD_HAS_HOPPER)
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i]));
#endif
}
__device__ inline void wgmma_begin() {
#if defined(KD_HAS_HOPPER)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}
__device__ inline void wgmma_wait() {  // for all products
#if defined(KD_HAS_HOPPER)
  asm volatile("wgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}

#if !defined(__CUDACC__)
namespace detail {
template <int N>
void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t descriptor, uint32_t (*address)(MatrixView, uint32_t k, uint32_t n)) {
  const MatrixView view = view_of(descriptor);
  const auto* const shared = static_cast<const unsigned char*>(simt::detail::dynamic_shared());
  const int lane = int(threadIdx.x) % 32, t = lane % 4;
  double rows[2][16];  // of a: g and g + 8
  for (int part = 0; part < 4; ++part)
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = __shfl_sync(~0u, a[i], (lane & ~3) + part);
      const int k = 2 * part + i / 2 * 8;
      rows[i % 2][k] = double(low_bf16(pair)), rows[i % 2][k + 1] = double(high_bf16(pair));
    }
  for (int j = 0; j < N / 8; ++j)
    for (int odd = 0; odd < 2; ++odd) {
      double upper = double(d[4 * j + odd]), lower = double(d[4 * j + 2 + odd]);
      for (int k = 0; k < 16; ++k) {
        const double b = double(float(*reinterpret_cast<const bf16*>(shared + address(view, uint32_t(k), uint32_t(8 * j + 2 * t + odd)))));
        upper += rows[0][k] * b, lower += rows[1][k] * b;
      }
      d[4 * j + odd] = float(upper), d[4 * j + 2 + odd] = float(lower);
    }
}
}  // namespace detail
#endif

#define KD_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define KD_D16(i) KD_D4(i), KD_D4(i + 4), KD_D4(i + 8), KD_D4(i + 12)

// b is K-major.
__device__ inline void wgmma_m64n112k16(float (&d)[56], const uint32_t (&a)[4], uint64_t b) {
#if defined(KD_HAS_HOPPER)
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n112k16.f32.bf16.bf16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
      "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55},"
      " {%56,%57,%58,%59}, %60, 1, 1, 1, 0;"
      : KD_D16(0), KD_D16(16), KD_D16(32), KD_D4(48), KD_D4(52)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#elif defined(__CUDACC__)
  __trap();
#else
  detail::wgmma<112>(d, a, b, k_major_address);
#endif
}
// b is MN-major.
__device__ inline void wgmma_m64n32k16_mn(float (&d)[16], const uint32_t (&a)[4], uint64_t b) {
#if defined(KD_HAS_HOPPER)
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
      : KD_D16(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#elif defined(__CUDACC__)
  __trap();
#else
  detail::wgmma<32>(d, a, b, mn_major_address);
#endif
}
#undef KD_D4
#undef KD_D16

// Stores N matrices of 8x8 bf16 transposed: lane 4g + t brings the elements (g, 2t..2t+1) of each, lane 8i + j the address of column j of matrix i, 16 bytes at
// a multiple of 16. For N < 4 the addresses of lanes from 8N on are not used.
template <int N>
__device__ inline void stmatrix_trans(void* column, const uint32_t (&m)[N]) {
  static_assert(N == 2 || N == 4);
#if defined(KD_HAS_HOPPER)
  if constexpr (N == 4)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(column)), "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
                 : "memory");
  else
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(shared_address(column)), "r"(m[0]), "r"(m[1]) : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  const int g = int(threadIdx.x % 32) / 4, t = int(threadIdx.x % 4);
  for (int i = 0; i < N; ++i)
    for (int odd = 0; odd < 2; ++odd) reinterpret_cast<uint16_t*>(detail::matrix_row(column, i, 2 * t + odd))[g] = uint16_t(m[i] >> 16 * odd);
#endif
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Bulk copies and the barriers that count their bytes. A phase of a barrier ends when its one arrival has come and all bytes that were announced have.

// What this thread stored to shared memory so far, barriers included, is seen by the copy engine and the tensor cores after the next barrier of the block.
__device__ inline void fence_for_async() {
#if defined(KD_HAS_HOPPER)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#endif
}

#if !defined(__CUDACC__)
namespace detail {
struct BulkCopy {
  const void* barrier;
  char* to;
  const char* from;
  uint32_t bytes;
  void run() const {
    for (uint32_t at = 0; at < bytes; at += 16) store_words(to + at, load_words(from + at));
  }
};
// Copies started and not waited for, of all barriers of the block. ThreadSanitizer would take this list, and a copy made by who waits for it, for races between
// those who wait, so with it a copy is made at once.
#if defined(SIMT_TSAN)
inline void start_copy(const BulkCopy& copy) { copy.run(); }
inline void finish_copies(const void*) {}
inline void forget_copies(const void*) {}
#else
inline BulkCopy late_copies[64];
inline size_t late_copy_count = 0;
inline void start_copy(const BulkCopy& copy) {
  if (simt::schedule() % 2) return copy.run();
  if (late_copy_count == std::size(late_copies)) throw simt::Error("ByteBarrier: more copies under way than the emulation has room for");
  late_copies[late_copy_count++] = copy;
}
inline void forget_copies(const void* barrier) {
  const auto end = std::remove_if(late_copies, late_copies + late_copy_count, [=](const BulkCopy& copy) { return copy.barrier == barrier; });
  late_copy_count = size_t(end - late_copies);
}
inline void finish_copies(const void* barrier) {
  for (size_t i = 0; i < late_copy_count; ++i)
    if (late_copies[i].barrier == barrier) late_copies[i].run();
  forget_copies(barrier);
}
#endif
}  // namespace detail
#endif

class ByteBarrier {  // 8 bytes of shared memory
 public:
  __device__ void init() {
#if defined(KD_HAS_HOPPER)
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(this)) : "memory");
#elif defined(__CUDACC__)
    __trap();
#else
    phase_ = 0, arrived_ = 0, missing_ = 0;
    detail::forget_copies(this);  // of a block that failed
#endif
  }
  // The arrival, which announces `bytes`. Before the copies that bring them.
  __device__ void expect(uint32_t bytes) {
#if defined(KD_HAS_HOPPER)
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes) : "memory");
#elif defined(__CUDACC__)
    __trap();
#else
    if (arrived_) throw simt::Error("ByteBarrier: a second arrival in one phase");
    arrived_ = 1;
    add(int32_t(bytes));
#endif
  }
  // Until phase `parity` (0, 1, 0, ... from init) has ended. Emulated, nobody else runs meanwhile, so a wait for copies that are not started never ends: the
  // thread that starts them must be ordered before, by a barrier of the block.
  __device__ void wait(uint32_t parity) {
#if defined(KD_HAS_HOPPER)
    uint32_t done;
    do
      asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                   : "=r"(done)
                   : "r"(shared_address(this)), "r"(parity)
                   : "memory");
    while (!done);
#elif defined(__CUDACC__)
    __trap();
#else
    if (phase_ == parity) throw simt::Error("ByteBarrier: waits for bytes whose copies nobody has started");
    detail::finish_copies(this);
#endif
  }
  // Copies `bytes` from global to shared memory; all three are multiples of 16. The barrier counts them.
  __device__ void copy(void* to, const void* from, uint32_t bytes) {
#if defined(KD_HAS_HOPPER)
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from), "r"(bytes),
                 "r"(shared_address(this))
                 : "memory");
#elif defined(__CUDACC__)
    __trap();
#else
    if (bytes == 0 || bytes % 16 != 0) throw simt::Error("ByteBarrier: a bulk copy of a size that is not a multiple of 16");
    detail::start_copy({this, static_cast<char*>(to), static_cast<const char*>(from), bytes});
    add(-int32_t(bytes));
#endif
  }

 private:
#if defined(__CUDACC__)
  uint64_t word_;
#else
  void add(int32_t bytes) {
    missing_ += bytes;
    if (arrived_ && missing_ == 0) phase_ ^= 1, arrived_ = 0;
  }
  uint16_t phase_, arrived_;
  int32_t missing_;
#endif
};
static_assert(sizeof(ByteBarrier) == 8);

}  // namespace KD_GPU
}  // namespace kd
