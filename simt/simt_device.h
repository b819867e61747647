// simt_device: CUDA's device language for the host compiler. Included by simt.h and only by it; the executor behind it is simt.cpp.
// Reference: CUDA C++ Programming Guide, chapter "C++ Language Extensions", and the CUDA Math API, "Single Precision Intrinsics" and "Integer Intrinsics".
// Left out because one source could not mean the same on both sides, or because nothing here can stand in for it: __activemask, cooperative groups, inline
// PTX, tensor cores, asynchronous copies, device-side cudaMalloc and launches.
#pragma once
#include <math.h>  // expf, fmaf, isnan ... in the global namespace, where device code expects them

#include <bit>
#include <climits>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static_assert(false, "write SIMT_SHARED(name, type), or SIMT_DYNAMIC_SHARED(type, name): one variable per block needs the executor");

#if defined(__SANITIZE_THREAD__)
#define SIMT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#endif

// Of the thread that is running. Kernels only read them (nvcc sees to that).
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

// Where a barrier or a warp function stands in the kernel, for the report when threads wait for each other in vain.
#define SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace simt {
inline namespace emulated {
namespace detail {

enum class BlockOp : unsigned char { sync, count, all, any };
enum class WarpOp : unsigned char { sync, idx, up, down, bfly, ballot, any, all, match };
enum class Scope : unsigned char { block, device };

int block_barrier(BlockOp, int predicate, const char* file, int line);
uint64_t warp_exchange(WarpOp, unsigned mask, uint64_t value, int lane_argument, int width, const char* file, int line);
void fence(Scope);
bool is_ordered(
    const void*);  // whether an atomic of the calling thread at this address comes after a fence that covers it; the executor remembers it for the next

template <class T, class... U>
concept OneOf = (... || std::is_same_v<T, U>);
template <class T>
concept WarpValue = OneOf<T, int, unsigned, long, unsigned long, long long, unsigned long long, float, double>;

template <WarpValue T>
uint64_t to_bits(T value) {
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<uint32_t>(value);
  else
    return std::bit_cast<uint64_t>(value);
}
template <WarpValue T>
T from_bits(uint64_t bits) {
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<T>(uint32_t(bits));
  else
    return std::bit_cast<T>(bits);
}

// *at = next(*at); returns what was there. All CUDA threads share one OS thread, so this needs no atomic instruction, except for ThreadSanitizer to know
// what is meant. CUDA's atomics are relaxed: what publishes other memory is a fence before them.
template <class T, class F>
T atomic_update(T* at, F next) {
#if defined(SIMT_TSAN)
  T before, after;
  __atomic_load(at, &before, __ATOMIC_RELAXED);
  do after = next(before);
  while (!(is_ordered(at) ? __atomic_compare_exchange(at, &before, &after, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
                          : __atomic_compare_exchange(at, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)));
  return before;
#else
  const T before = *at;
  *at = next(before);
  return before;
#endif
}

template <class To, class From>
To bits_as(From value) {
  return std::bit_cast<To>(value);
}
}  // namespace detail
}  // namespace emulated
}  // namespace simt

// Barriers and fences.
inline void __syncthreads(SIMT_HERE) { simt::detail::block_barrier(simt::detail::BlockOp::sync, 0, file, line); }
inline int __syncthreads_count(int predicate, SIMT_HERE) { return simt::detail::block_barrier(simt::detail::BlockOp::count, predicate, file, line); }
inline int __syncthreads_and(int predicate, SIMT_HERE) { return simt::detail::block_barrier(simt::detail::BlockOp::all, predicate, file, line); }
inline int __syncthreads_or(int predicate, SIMT_HERE) { return simt::detail::block_barrier(simt::detail::BlockOp::any, predicate, file, line); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) { simt::detail::warp_exchange(simt::detail::WarpOp::sync, mask, 0, 0, 32, file, line); }
inline void __threadfence_block() { simt::detail::fence(simt::detail::Scope::block); }
inline void __threadfence() { simt::detail::fence(simt::detail::Scope::device); }
inline void __threadfence_system() { simt::detail::fence(simt::detail::Scope::device); }

// Warp functions. A lane that reads one which does not take part gets all bits set (undefined on the GPU).
template <simt::detail::WarpValue T>
T __shfl_sync(unsigned mask, T value, int source_lane, int width = 32, SIMT_HERE) {
  namespace d = simt::detail;
  return d::from_bits<T>(d::warp_exchange(d::WarpOp::idx, mask, d::to_bits(value), source_lane, width, file, line));
}
template <simt::detail::WarpValue T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
  namespace d = simt::detail;
  return d::from_bits<T>(d::warp_exchange(d::WarpOp::up, mask, d::to_bits(value), int(delta), width, file, line));
}
template <simt::detail::WarpValue T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
  namespace d = simt::detail;
  return d::from_bits<T>(d::warp_exchange(d::WarpOp::down, mask, d::to_bits(value), int(delta), width, file, line));
}
template <simt::detail::WarpValue T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, SIMT_HERE) {
  namespace d = simt::detail;
  return d::from_bits<T>(d::warp_exchange(d::WarpOp::bfly, mask, d::to_bits(value), lane_mask, width, file, line));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return unsigned(simt::detail::warp_exchange(simt::detail::WarpOp::ballot, mask, predicate != 0, 0, 32, file, line));
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return int(simt::detail::warp_exchange(simt::detail::WarpOp::any, mask, predicate != 0, 0, 32, file, line));
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return int(simt::detail::warp_exchange(simt::detail::WarpOp::all, mask, predicate != 0, 0, 32, file, line));
}
template <simt::detail::WarpValue T>
unsigned __match_any_sync(unsigned mask, T value, SIMT_HERE) {
  namespace d = simt::detail;
  return unsigned(d::warp_exchange(d::WarpOp::match, mask, d::to_bits(value), 0, 32, file, line));
}
#undef SIMT_HERE

// Atomics, for the types that CUDA has them for. All return the value from before.
template <simt::detail::OneOf<int, unsigned, unsigned long long, float, double> T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) -> T {
    if constexpr (std::is_same_v<T, int>)
      return int(unsigned(x) + unsigned(value));  // wraps round, which int's own + must not
    else
      return x + value;
  });
}
template <simt::detail::OneOf<int, unsigned> T>
T atomicSub(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return T(unsigned(x) - unsigned(value)); });
}
template <simt::detail::OneOf<int, unsigned, unsigned long long, float> T>
T atomicExch(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T) { return value; });
}
template <simt::detail::OneOf<int, unsigned, long long, unsigned long long> T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return x < value ? x : value; });
}
template <simt::detail::OneOf<int, unsigned, long long, unsigned long long> T>
T atomicMax(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return x > value ? x : value; });
}
template <simt::detail::OneOf<int, unsigned, unsigned long long> T>
T atomicAnd(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return x & value; });
}
template <simt::detail::OneOf<int, unsigned, unsigned long long> T>
T atomicOr(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return x | value; });
}
template <simt::detail::OneOf<int, unsigned, unsigned long long> T>
T atomicXor(T* at, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return x ^ value; });
}
template <simt::detail::OneOf<unsigned short, int, unsigned, unsigned long long> T>
T atomicCAS(T* at, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return simt::detail::atomic_update(at, [=](T x) { return x == expected ? value : x; });
}
inline unsigned atomicInc(unsigned* at, unsigned last) {
  return simt::detail::atomic_update(at, [=](unsigned x) { return x >= last ? 0 : x + 1; });
}
inline unsigned atomicDec(unsigned* at, unsigned last) {
  return simt::detail::atomic_update(at, [=](unsigned x) { return x == 0 || x > last ? last : x - 1; });
}

// Loads and stores with cache hints, which mean nothing here.
template <class T>
T __ldg(const T* at) {
  return *at;
}
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
T __ldcg(const T* at) {
  return *at;
}
template <class T>
void __stcs(T* at, std::type_identity_t<T> value) {
  *at = value;
}
template <class T>
void __stcg(T* at, std::type_identity_t<T> value) {
  *at = value;
}

// Bits.
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __clzll(long long x) { return std::countl_zero((unsigned long long)(x)); }
inline unsigned long long __brevll(unsigned long long x) {
  x = ((x >> 1) & 0x5555555555555555u) | ((x & 0x5555555555555555u) << 1);
  x = ((x >> 2) & 0x3333333333333333u) | ((x & 0x3333333333333333u) << 2);
  x = ((x >> 4) & 0x0f0f0f0f0f0f0f0fu) | ((x & 0x0f0f0f0f0f0f0f0fu) << 4);
  return __builtin_bswap64(x);
}
inline unsigned __brev(unsigned x) { return unsigned(__brevll(x) >> 32); }
inline int __mulhi(int a, int b) { return int(((long long)a * b) >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(((unsigned long long)a * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ using wide = unsigned __int128;
  return (unsigned long long)((wide(a) * b) >> 64);
}
inline int __mul24(int a, int b) { return int(unsigned(int(unsigned(a) << 8) >> 8) * unsigned(int(unsigned(b) << 8) >> 8)); }
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
// Byte n of the result is the byte of y:x that bits 0..2 of nibble n select; with bit 3 set, 0xff or 0 by that byte's top bit (PTX prmt).
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int n = 0; n < 4; ++n) {
    const unsigned nibble = selector >> (4 * n) & 15u;
    const unsigned byte = unsigned(bytes >> (8 * (nibble & 7u))) & 0xffu;
    result |= (nibble & 8u ? (byte & 0x80u ? 0xffu : 0u) : byte) << (8 * n);
  }
  return result;
}

// Arithmetic. The fast functions are the exact ones here: compare with tolerances. The __f.._rn and __d.._rn forms are never fused into a*b+c by nvcc; here
// that holds because kernels are compiled with -ffp-contract=off.
extern "C" {  // glibc declares some of these names, without exporting them
inline float __expf(float x) noexcept { return expf(x); }
inline float __exp10f(float x) noexcept { return powf(10.0f, x); }
inline float __logf(float x) noexcept { return logf(x); }
inline float __log2f(float x) noexcept { return log2f(x); }
inline float __log10f(float x) noexcept { return log10f(x); }
inline float __powf(float x, float y) noexcept { return powf(x, y); }
inline float __sinf(float x) noexcept { return sinf(x); }
inline float __cosf(float x) noexcept { return cosf(x); }
inline float rsqrtf(float x) noexcept { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) noexcept { return 1.0 / sqrt(x); }
}
inline float __fdividef(float a, float b) { return a / b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }  // NaN becomes 0
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
// Float to integer saturates, NaN becomes 0, as on the GPU; a C++ cast out of range is undefined.
inline int __float2int_rn(float x) { return x >= 2147483648.0f ? INT_MAX : x <= -2147483648.0f ? INT_MIN : x == x ? int(nearbyintf(x)) : 0; }
inline int __float2int_rz(float x) { return x >= 2147483648.0f ? INT_MAX : x <= -2147483648.0f ? INT_MIN : x == x ? int(x) : 0; }
inline int __float2int_rd(float x) { return __float2int_rz(floorf(x)); }
inline int __float2int_ru(float x) { return __float2int_rz(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return x >= 4294967296.0f ? UINT_MAX : x > 0.0f ? unsigned(nearbyintf(x)) : 0; }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

#define SIMT_MIN_MAX(T)                            \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }  // of a NaN and a number: the number
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
