// tiles: bf16 products on x86: vdpbf16ps lanes and AMX tile registers, real where the file is compiled for them, emulated everywhere.
//   A word is two bf16, the first in the low half. Both instructions take products of bf16 (exact in f32's 24 bits) into f32 sums by fused multiply-adds
//   that round to nearest even, take denormal inputs as zero and flush denormal results, whatever MXCSR says. Their order, from Intel's manual:
//   vdpbf16ps  sum = sum + a.high*b.high, then sum + a.low*b.low; two roundings
//   tdpbf16ps  per element of C, two sums from zero, of the low and of the high products, over the whole tile row; C = C + (low sum + high sum)
//   The emulation follows it to the letter. (AMD does not publish its order of rounding; it may differ in the last bit.)
// The rules of simd.h hold for who includes this.
#pragma once
#include "kernels/common/simd.h"

namespace kd::tiles {

using Word = uint32_t;

[[noreturn]] void fault(const char* what);  // an emulated tile instruction that the machine would refuse or that nobody can have meant

namespace detail {
KD_INLINE float flushed(float x) {  // a denormal becomes a zero of its sign
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  std::memcpy(&x, &bits, 4);
  return x;
}
KD_INLINE float low(Word w) {
  float x;
  w <<= 16;
  std::memcpy(&x, &w, 4);
  return flushed(x);
}
KD_INLINE float high(Word w) { return low(w >> 16); }
KD_INLINE float fma(float a, float b, float c) { return flushed(__builtin_fmaf(a, b, flushed(c))); }
}  // namespace detail

// f32 vectors with vcvtne2ps2bf16, which narrows two at once and takes denormals as zero too.
template <int N>
struct PortableNarrowing : simd::Portable<N> {
  using Base = simd::Portable<N>;
  static KD_INLINE void store_pair(uint16_t* p, typename Base::Reg low, typename Base::Reg high) {
    for (int i = 0; i < N; ++i) p[i] = Base::narrow(detail::flushed(low.v[i])), p[N + i] = Base::narrow(detail::flushed(high.v[i]));
  }
};
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
struct Narrowing : simd::Avx512 {
  static KD_INLINE void store_pair(uint16_t* p, Reg low, Reg high) {
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(p, reinterpret_cast<const __m512i&>(both));
  }
};
#endif

// vdpbf16ps, N lanes.
template <int N>
struct PortableDot {
  using Lanes = PortableNarrowing<N>;
  struct Words {
    Word v[N];
  };
  static KD_INLINE Words words(const Word* p) {
    Words r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
  }
  static KD_INLINE Words broadcast(const Word* p) {
    Words r;
    for (int i = 0; i < N; ++i) r.v[i] = *p;
    return r;
  }
  static KD_INLINE typename Lanes::Reg mac(const Words& a, const Words& b, typename Lanes::Reg sum) {
    for (int i = 0; i < N; ++i) {
      sum.v[i] = detail::fma(detail::high(a.v[i]), detail::high(b.v[i]), sum.v[i]);
      sum.v[i] = detail::fma(detail::low(a.v[i]), detail::low(b.v[i]), sum.v[i]);
    }
    return sum;
  }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
struct Dot {
  using Lanes = Narrowing;
  static KD_INLINE __m512i words(const Word* p) { return _mm512_loadu_si512(p); }
  static KD_INLINE __m512i broadcast(const Word* p) { return _mm512_set1_epi32(int(*p)); }
  static KD_INLINE __m512 mac(__m512i a, __m512i b, __m512 sum) { return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)); }
};
#endif

// What ldtilecfg reads. Eight tiles of at most 16 rows of 64 bytes.
struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(Config) == 64);

// Tile registers of a thread. `Use` keeps instances apart and makes this a template.
template <class Use>
struct PortableTiles {
  struct State {
    Config config;
    bool configured = false;
    alignas(64) unsigned char tile[8][16][64];
  };
  static State& state() {
    static thread_local State s;
    return s;
  }
  static void configure(const Config& config) {
    if (config.palette != 1 || config.start_row != 0) fault("ldtilecfg: palette 1 and start row 0 are the only ones that exist");
    for (int i = 0; i < 16; ++i) {
      const int rows = config.rows[i], bytes = config.row_bytes[i];
      if (rows > 16 || bytes > 64 || (rows == 0) != (bytes == 0) || (i >= 8 && rows))
        fault("ldtilecfg: a tile has at most 16 rows of 64 bytes, and there are eight");
    }
    State& s = state();
    s.config = config, s.configured = true;
    std::memset(s.tile, 0, sizeof s.tile);
  }
  static void release() { state().configured = false; }
  static void check(int tile) {
    if (!state().configured) fault("a tile instruction before ldtilecfg in this thread");
    if (state().config.rows[tile] == 0) fault("a tile that is not configured");
  }
  template <int T>
  static void zero() {
    check(T);
    std::memset(state().tile[T], 0, sizeof state().tile[T]);
  }
  template <int T>
  static void load(const void* from, int64_t stride_bytes) {
    check(T);
    State& s = state();
    std::memset(s.tile[T], 0, sizeof s.tile[T]);
    for (int i = 0; i < s.config.rows[T]; ++i) std::memcpy(s.tile[T][i], static_cast<const char*>(from) + i * stride_bytes, s.config.row_bytes[T]);
  }
  template <int T>
  static void store(void* to, int64_t stride_bytes) {
    check(T);
    State& s = state();
    for (int i = 0; i < s.config.rows[T]; ++i) std::memcpy(static_cast<char*>(to) + i * stride_bytes, s.tile[T][i], s.config.row_bytes[T]);
  }
  // C += A * B: A rows x pairs, B pairs x columns of pairs.
  template <int C, int A, int B>
  static void dot() {
    static_assert(C != A && C != B && A != B, "tdpbf16ps takes three different tiles");
    check(C), check(A), check(B);
    State& s = state();
    const int rows = s.config.rows[C], columns = s.config.row_bytes[C] / 4, pairs = s.config.row_bytes[A] / 4;
    if (s.config.rows[A] != rows || s.config.rows[B] != pairs || s.config.row_bytes[B] != s.config.row_bytes[C])
      fault("tdpbf16ps: C is m x n, A m x k and B k x n pairs");
    const auto word = [&](int tile, int row, int column) {
      Word w;
      std::memcpy(&w, s.tile[tile][row] + 4 * column, 4);
      return w;
    };
    for (int m = 0; m < rows; ++m)
      for (int n = 0; n < columns; ++n) {
        float low = 0, high = 0, sum;
        for (int k = 0; k < pairs; ++k) {
          const Word a = word(A, m, k), b = word(B, k, n);
          low = detail::fma(detail::low(a), detail::low(b), low);
          high = detail::fma(detail::high(a), detail::high(b), high);
        }
        std::memcpy(&sum, s.tile[C][m] + 4 * n, 4);
        sum = detail::flushed(detail::flushed(sum) + detail::flushed(low + high));
        std::memcpy(s.tile[C][m] + 4 * n, &sum, 4);
      }
  }
};

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
// In assembly: g++'s intrinsics spell the register from their argument's text and cannot take a template's. (AT&T order: destination last.)
struct Amx {
  static KD_INLINE void configure(const Config& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
  static KD_INLINE void release() { asm volatile("tilerelease"); }
  template <int T>
  static KD_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  static KD_INLINE void load(const void* from, int64_t stride_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride_bytes), "i"(T) : "memory");
  }
  template <int T>
  static KD_INLINE void store(void* to, int64_t stride_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride_bytes), "i"(T) : "memory");
  }
  template <int C, int A, int B>
  static KD_INLINE void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
#endif

}  // namespace kd::tiles
