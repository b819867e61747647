// simd: f32 vectors of one instruction set, so that a kernel is written once and compiled per set.
//   Avx2        8 lanes, 16 registers
//   Avx512     16 lanes, 32 registers
//   Portable<N> N lanes in plain C++: the same operations in the same order, so its results have the bits of the set it stands for. It lets every machine
//               test the blocking of a set it does not have; it is too slow to be chosen.
// Storage is f32, or bf16 passed as uint16_t: widening is exact, narrowing rounds to nearest even (NaN stays NaN in hardware and here: see narrow()).
// load_part and store_part touch the first n < kLanes elements only; the other lanes load as 0. A Mask has a truth value a lane, in bits() lane 0 lowest.
//
// A file that is compiled for a set beyond the build's own must not emit code that the linker could share with the rest of the program: an inline function
// of <algorithm> compiled there with AVX-512 may replace everybody's. So kernels templated on these types include this header and <cstdint> only, and all
// they define is a template of the set or static. tests/kernels/isa_symbols_test.py looks at the objects.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

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
  using Mask = uint32_t;
  static KD_INLINE Mask greater(Reg a, Reg b) {  // false where the two do not compare
    Mask m = 0;
    for (int i = 0; i < N; ++i) m |= Mask(a.v[i] > b.v[i]) << i;
    return m;
  }
  static KD_INLINE Mask greater_or_nan(Reg a, Reg b) {  // true also where a is NaN
    Mask m = 0;
    for (int i = 0; i < N; ++i) m |= Mask((a.v[i] > b.v[i]) | (a.v[i] != a.v[i])) << i;
    return m;
  }
  static KD_INLINE Mask equal(Reg a, Reg b) {
    Mask m = 0;
    for (int i = 0; i < N; ++i) m |= Mask(a.v[i] == b.v[i]) << i;
    return m;
  }
  static KD_INLINE uint32_t bits(Mask m) { return m; }
  static KD_INLINE Mask mask_of(uint32_t bits) { return bits; }
  static KD_INLINE Reg keep(Mask m, Reg a) { return select(m, a, zero()); }  // a or 0
  static KD_INLINE Reg select(Mask m, Reg a, Reg b) {                        // a or b
    for (int i = 0; i < N; ++i) a.v[i] = m >> i & 1 ? a.v[i] : b.v[i];
    return a;
  }
  static KD_INLINE Reg load_bytes(const uint8_t* p) {
    Reg r;
    for (int i = 0; i < N; ++i) r.v[i] = float(p[i]);
    return r;
  }
  static KD_INLINE void store_bytes(uint8_t* p, Reg r) {  // whole numbers from 0 to 255
    for (int i = 0; i < N; ++i) p[i] = uint8_t(int32_t(r.v[i]));
  }
  template <class T>
  static KD_INLINE Reg load_part(const T* p, int n) {
    T room[N] = {};
    for (int i = 0; i < n; ++i) room[i] = p[i];
    return load(room);
  }
  template <class T>
  static KD_INLINE void store_part(T* p, Reg r, int n) {
    T room[N];
    store(room, r);
    for (int i = 0; i < n; ++i) p[i] = room[i];
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
  static KD_INLINE void store_pair(uint16_t* p, Reg low, Reg high) { store(p, low), store(p + 8, high); }
  static KD_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static KD_INLINE Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static KD_INLINE Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static KD_INLINE Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static KD_INLINE Reg fmadd(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static KD_INLINE Reg fnmadd(Reg a, Reg b, Reg c) { return _mm256_fnmadd_ps(a, b, c); }
  using Mask = __m256;
  static KD_INLINE Mask greater(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  static KD_INLINE Mask greater_or_nan(Reg a, Reg b) { return _mm256_or_ps(greater(a, b), _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
  static KD_INLINE Mask equal(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static KD_INLINE uint32_t bits(Mask m) { return uint32_t(_mm256_movemask_ps(m)); }
  static KD_INLINE Mask mask_of(uint32_t bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), lane), lane));
  }
  static KD_INLINE Reg keep(Mask m, Reg a) { return _mm256_and_ps(m, a); }
  static KD_INLINE Reg select(Mask m, Reg a, Reg b) { return _mm256_blendv_ps(b, a, m); }
  static KD_INLINE Reg load_bytes(const uint8_t* p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))); }
  static KD_INLINE void store_bytes(uint8_t* p, Reg r) {
    const __m256i words = _mm256_cvttps_epi32(r);
    const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(halves, halves));
  }
  template <class T>
  static KD_INLINE Reg load_part(const T* p, int n) {
    T room[kLanes] = {};
    for (int i = 0; i < n; ++i) room[i] = p[i];
    return load(room);
  }
  template <class T>
  static KD_INLINE void store_part(T* p, Reg r, int n) {
    T room[kLanes];
    store(room, r);
    for (int i = 0; i < n; ++i) p[i] = room[i];
  }
};
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
struct Avx512 {
  static constexpr int kLanes = 16;
  using Reg = __m512;
  static KD_INLINE Reg set1(float x) { return _mm512_set1_ps(x); }
  static KD_INLINE Reg zero() { return _mm512_setzero_ps(); }
  static KD_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static KD_INLINE Reg load(const uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static KD_INLINE void store(float* p, Reg r) { _mm512_storeu_ps(p, r); }
  static KD_INLINE void store(uint16_t* p, Reg r) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(r)); }
  static KD_INLINE void store_pair(uint16_t* p, Reg low, Reg high) { store(p, low), store(p + 16, high); }
  static KD_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static KD_INLINE Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static KD_INLINE Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static KD_INLINE Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static KD_INLINE Reg fmadd(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static KD_INLINE Reg fnmadd(Reg a, Reg b, Reg c) { return _mm512_fnmadd_ps(a, b, c); }
  using Mask = __mmask16;
  static KD_INLINE Mask greater(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static KD_INLINE Mask greater_or_nan(Reg a, Reg b) { return Mask(greater(a, b) | _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q)); }
  static KD_INLINE Mask equal(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static KD_INLINE uint32_t bits(Mask m) { return m; }
  static KD_INLINE Mask mask_of(uint32_t bits) { return Mask(bits); }
  static KD_INLINE Reg keep(Mask m, Reg a) { return _mm512_maskz_mov_ps(m, a); }
  static KD_INLINE Reg select(Mask m, Reg a, Reg b) { return _mm512_mask_mov_ps(b, m, a); }
  static KD_INLINE Reg load_bytes(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
  static KD_INLINE void store_bytes(uint8_t* p, Reg r) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(r))); }
  static KD_INLINE Mask first(int n) { return Mask((1u << n) - 1); }
  static KD_INLINE Reg load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static KD_INLINE Reg load_part(const uint16_t* p, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static KD_INLINE void store_part(float* p, Reg r, int n) { _mm512_mask_storeu_ps(p, first(n), r); }
  static KD_INLINE void store_part(uint16_t* p, Reg r, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow(r)); }

 private:
  // One shuffle that moves 16-bit words, where an extension and a shift would be two instructions, a shift and a truncation three.
  static KD_INLINE Reg widen(__m256i halves) {
    const __m512i to_top = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, to_top, _mm512_castsi256_si512(halves)));
  }
  static KD_INLINE __m256i narrow(Reg r) {
    const __m512i from_top =
        _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    const __m512i bits = _mm512_castps_si512(r), up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_mask_add_epi32(up, _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000)), up, _mm512_set1_epi32(1));
    const __m512i whole = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(r, r, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(from_top, whole));
  }
};
#endif

// ---- 16 x 16 words, for every set: `Set` only names whose code it is (see above).
typedef uint32_t Words __attribute__((vector_size(64)));

// Bit d of the row's index changes places with bit d of the lane's: lanes of two rows become the first's and the second's.
template <class Set, int d, size_t... l>
KD_INLINE void exchange(Words& first, Words& second, std::index_sequence<l...>) {
  const Words a = first, b = second;
  first = __builtin_shufflevector(a, b, (l & d ? 16 + l - d : l)...), second = __builtin_shufflevector(a, b, (l & d ? 16 + l : l + d)...);
}
template <class Set, int d>
KD_INLINE void exchange_rows(Words (&v)[16]) {
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r)
    if (!(r & d)) exchange<Set, d>(v[r], v[r + d], std::make_index_sequence<16>());
}
// v[j][i] = v[i][j]
template <class Set>
KD_INLINE void transpose_16(Words (&v)[16]) {
  exchange_rows<Set, 8>(v), exchange_rows<Set, 4>(v), exchange_rows<Set, 2>(v), exchange_rows<Set, 1>(v);
}

}  // namespace kd::simd
