// simd: f32 vectors of one instruction set, so that a kernel is written once and compiled per set.
//   Avx2        8 lanes, 16 registers
//   Avx512     16 lanes, 32 registers
//   Portable<N> N lanes in plain C++: the same operations in the same order, so its results have the bits of the set it stands for. It lets every machine
//               test the blocking of a set it does not have; it is too slow to be chosen.
// Storage is f32, or bf16 passed as uint16_t: widening is exact, narrowing rounds to nearest even (NaN stays NaN in hardware and here: see narrow()).
//
// A file that is compiled for a set beyond the build's own must not emit code that the linker could share with the rest of the program: an inline function
// of <algorithm> compiled there with AVX-512 may replace everybody's. So kernels templated on these types include this header and <cstdint> only, and all
// they define is a template of the set or static. tests/kernels/isa_symbols_test.py looks at the objects.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define KD_INLINE inline __attribute__((always_inline))

namespace kd::simd {

template <int N>
struct Portable {
  static constexpr int kLanes = N;
  struct Reg {
    float v[N];
  };
  static KD_INLINE Reg set1(float x) {
    Reg r;
    for (int i = 0; i < N; ++i) r.v[i] = x;
    return r;
  }
  static KD_INLINE Reg zero() { return set1(0.f); }
  static KD_INLINE Reg load(const float* p) {
    Reg r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static KD_INLINE Reg load(const uint16_t* p) {
    Reg r;
    for (int i = 0; i < N; ++i) {
      const uint32_t bits = uint32_t(p[i]) << 16;
      std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }
  static KD_INLINE void store(float* p, Reg r) { std::memcpy(p, r.v, sizeof r.v); }
  static KD_INLINE void store(uint16_t* p, Reg r) {
    for (int i = 0; i < N; ++i) p[i] = narrow(r.v[i]);
  }
  static KD_INLINE void store_pair(uint16_t* p, Reg low, Reg high) { store(p, low), store(p + N, high); }
  static KD_INLINE Reg add(Reg a, Reg b) {
    for (int i = 0; i < N; ++i) a.v[i] += b.v[i];
    return a;
  }
  static KD_INLINE Reg sub(Reg a, Reg b) {
    for (int i = 0; i < N; ++i) a.v[i] -= b.v[i];
    return a;
  }
  static KD_INLINE Reg mul(Reg a, Reg b) {
    for (int i = 0; i < N; ++i) a.v[i] *= b.v[i];
    return a;
  }
  static KD_INLINE Reg max(Reg a, Reg b) {  // as vmaxps: b where the two do not compare
    for (int i = 0; i < N; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  static KD_INLINE Reg fmadd(Reg a, Reg b, Reg c) {  // a*b + c, rounded once
    for (int i = 0; i < N; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
  }
  static KD_INLINE Reg fnmadd(Reg a, Reg b, Reg c) {  // c - a*b, rounded once
    for (int i = 0; i < N; ++i) c.v[i] = __builtin_fmaf(-a.v[i], b.v[i], c.v[i]);
    return c;
  }
  static KD_INLINE uint16_t narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  }
};

#if defined(__AVX2__)
struct Avx2 {
  static constexpr int kLanes = 8;
  using Reg = __m256;
  static KD_INLINE Reg set1(float x) { return _mm256_set1_ps(x); }
  static KD_INLINE Reg zero() { return _mm256_setzero_ps(); }
  static KD_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static KD_INLINE Reg load(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static KD_INLINE void store(float* p, Reg r) { _mm256_storeu_ps(p, r); }
  static KD_INLINE void store(uint16_t* p, Reg r) {
    const __m256i bits = _mm256_castps_si256(r), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(r, r, _CMP_UNORD_Q)), half = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(half, half), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static KD_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static KD_INLINE Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static KD_INLINE Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static KD_INLINE Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static KD_INLINE Reg fmadd(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static KD_INLINE Reg fnmadd(Reg a, Reg b, Reg c) { return _mm256_fnmadd_ps(a, b, c); }
};
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
struct Avx512 {
  static constexpr int kLanes = 16;
  using Reg = __m512;
  static KD_INLINE Reg set1(float x) { return _mm512_set1_ps(x); }
  static KD_INLINE Reg zero() { return _mm512_setzero_ps(); }
  static KD_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static KD_INLINE Reg load(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static KD_INLINE void store(float* p, Reg r) { _mm512_storeu_ps(p, r); }
  static KD_INLINE void store(uint16_t* p, Reg r) {
    const __m512i bits = _mm512_castps_si512(r), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(r, r, _CMP_UNORD_Q), quiet)));
  }
  static KD_INLINE void store_pair(uint16_t* p, Reg low, Reg high) { store(p, low), store(p + 16, high); }
  static KD_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static KD_INLINE Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static KD_INLINE Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static KD_INLINE Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static KD_INLINE Reg fmadd(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static KD_INLINE Reg fnmadd(Reg a, Reg b, Reg c) { return _mm512_fnmadd_ps(a, b, c); }
};
#endif

}  // namespace kd::simd
