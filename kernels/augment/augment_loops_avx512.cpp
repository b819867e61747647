// Compiled with AVX-512, VBMI and VNNI where the architecture is x86-64, whatever the build's own instruction set.
#include "kernels/augment/augment_loops_avx512.h"

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
#include "kernels/common/simd.h"

namespace kd::avx512 {
namespace {

__m512i load(const void* p) { return _mm512_loadu_si512(p); }
void store(void* p, __m512i v) { _mm512_storeu_si512(p, v); }
__m512i select(__m512i order, __m512i v) { return _mm512_permutexvar_epi8(order, v); }
uint64_t first_bits(int64_t n) { return n >= 64 ? ~uint64_t(0) : (uint64_t(1) << n) - 1; }

struct Order {  // which byte goes where
  alignas(64) uint8_t byte[64];
};
template <class F>
constexpr Order order_of(F&& f) {
  Order order{};
  for (int i = 0; i < 64; ++i) order.byte[i] = uint8_t(f(i));
  return order;
}
// Three vectors of 16 words, cut to 0..255, as 64 bytes: in every quarter four of each vector, and the last four again.
__m512i packed(__m512i a, __m512i b, __m512i c) { return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, c)); }
constexpr int place_in_packed(int vector, int i) { return i / 4 * 16 + vector * 4 + i % 4; }

// Resize.

constexpr Order kInOrder = order_of([](int i) { return i < 48 ? place_in_packed(i / 16, i % 16) : 0; });
constexpr Order kMirrored = order_of([](int i) {
  const int from = i < 48 ? (15 - i / 3) * 3 + i % 3 : 0;
  return place_in_packed(from / 16, from % 16);
});

constexpr int kHalf = 1 << 5;  // of a unit, in the first digit: kHalf * 65536 * 2 = 2^22
__m512i next_digit(__m512i sum) { return _mm512_slli_epi32(sum, 8); }
__m512i rounded(__m512i sum) { return _mm512_srai_epi32(sum, 22); }
// Sums over at most four taps.
__m512i weighted(__m512i v, __m512i w0, __m512i w1, __m512i w2) {
  const __m512i high = _mm512_dpbusd_epi32(_mm512_set1_epi32(kHalf), v, w0);
  return rounded(_mm512_dpbusd_epi32(next_digit(_mm512_dpbusd_epi32(next_digit(high), v, w1)), v, w2));
}
struct Sum {
  __m512i high = _mm512_set1_epi32(kHalf), middle = _mm512_setzero_si512(), low = _mm512_setzero_si512();

  void add(__m512i v, __m512i w0, __m512i w1, __m512i w2) {
    high = _mm512_dpbusd_epi32(high, v, w0), middle = _mm512_dpbusd_epi32(middle, v, w1), low = _mm512_dpbusd_epi32(low, v, w2);
  }
  __m512i value() const { return rounded(_mm512_add_epi32(next_digit(_mm512_add_epi32(next_digit(high), middle)), low)); }
};

void resize_across(const uint8_t* in, int64_t in_stride, int64_t rows, const AcrossBlocks& blocks, int64_t begin, int64_t end, bool flip, uint8_t* out,
                   int64_t out_stride) {
  constexpr int64_t kRowsAtOnce = 16;  // they share the loads of what a block is made of; 8 and 4 were slower
  const __m512i order = load(flip ? kMirrored.byte : kInOrder.byte);
  const int64_t groups = blocks.groups, vectors = kBlockVectors * groups;
  for (int64_t top = 0; top < rows; top += kRowsAtOnce, in += kRowsAtOnce * in_stride, out += kRowsAtOnce * out_stride) {
    const int64_t height = rows - top < kRowsAtOnce ? rows - top : kRowsAtOnce;
    for (int64_t b = begin / kBlockPixels; b * kBlockPixels < end; ++b) {
      const int64_t x = b * kBlockPixels, from = begin > x ? begin - x : 0, to = end - x < kBlockPixels ? end - x : kBlockPixels;
      const uint64_t mask = flip ? first_bits(3 * (16 - from)) & ~first_bits(3 * (16 - to)) : first_bits(3 * to) & ~first_bits(3 * from);
      uint8_t* first_out = out + (flip ? end - x - kBlockPixels : x - begin) * 3;
      const int32_t* at = blocks.at + b * vectors;
      const uint8_t* steps = blocks.steps + b * vectors * kStepBytes;
      // The next rows. So many rows side by side are no stream that the hardware would fetch by itself: a view's resize took a tenth longer.
      const auto prefetch = [&](int64_t y) { _mm_prefetch(reinterpret_cast<const char*>(in + at[0] + (y + kRowsAtOnce) * in_stride), _MM_HINT_T0); };
      if (groups == 1) {
        const auto part = [&](int vector, int i) { return load(steps + vector * kStepBytes + i * kVectorBytes); };
        const __m512i a[] = {part(0, 0), part(0, 1), part(0, 2), part(0, 3)}, g[] = {part(1, 0), part(1, 1), part(1, 2), part(1, 3)},
                      c[] = {part(2, 0), part(2, 1), part(2, 2), part(2, 3)};
        const uint8_t *in0 = in + at[0], *in1 = in + at[1], *in2 = in + at[2];
        for (int64_t y = 0; y < height; ++y) {
          prefetch(y);
          const auto values = [&](const uint8_t* row, const __m512i(&w)[4]) { return weighted(select(w[0], load(row + y * in_stride)), w[1], w[2], w[3]); };
          _mm512_mask_storeu_epi8(first_out + y * out_stride, mask, select(order, packed(values(in0, a), values(in1, g), values(in2, c))));
        }
        continue;
      }
      constexpr int kShare = 4;  // rows that share what is loaded of a step: row by row, loads were most of the time
      for (int64_t y = 0; y < height; y += kShare) {
        int64_t row[kShare];
        for (int64_t r = 0; r < kShare; ++r) row[r] = y + r < height ? y + r : height - 1, prefetch(row[r]);
        __m512i values[kBlockVectors][kShare];
        for (int64_t k = 0; k < kBlockVectors; ++k) {
          Sum sum[kShare];
          for (int64_t i = k * groups; i < (k + 1) * groups; ++i) {
            const uint8_t *step = steps + i * kStepBytes, *source = in + at[i];
            const __m512i bytes = load(step), w0 = load(step + kVectorBytes), w1 = load(step + 2 * kVectorBytes), w2 = load(step + 3 * kVectorBytes);
            for (int r = 0; r < kShare; ++r) sum[r].add(select(bytes, load(source + row[r] * in_stride)), w0, w1, w2);
          }
          for (int r = 0; r < kShare; ++r) values[k][r] = sum[r].value();
        }
        for (int r = 0; r < kShare; ++r)
          _mm512_mask_storeu_epi8(first_out + row[r] * out_stride, mask, select(order, packed(values[0][r], values[1][r], values[2][r])));
      }
    }
  }
}

// 64 values of four rows as 64 words of four taps. What `packed_again` undoes.
struct FourTaps {
  __m512i v[4];

  FourTaps(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d), ab2 = _mm512_unpackhi_epi8(a, b), cd2 = _mm512_unpackhi_epi8(c, d);
    v[0] = _mm512_unpacklo_epi16(ab, cd), v[1] = _mm512_unpackhi_epi16(ab, cd), v[2] = _mm512_unpacklo_epi16(ab2, cd2), v[3] = _mm512_unpackhi_epi16(ab2, cd2);
  }
};
__m512i packed_again(__m512i a, __m512i b, __m512i c, __m512i d) { return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)); }

void resize_down(const uint8_t* in, int64_t n, const DownTaps& taps, int64_t begin, int64_t end, uint8_t* out, int64_t out_stride) {
  const int64_t groups = taps.groups, origin = taps.first[begin];
  const __mmask64 mask = first_bits(n);
  for (int64_t y = begin, next; y < end; y = next) {
    // Enlarged, several outputs see the same rows, which then are brought together once.
    for (next = y + 1; groups == 1 && next < end && taps.first[next] == taps.first[y] && taps.count[next] == taps.count[y];) ++next;
    const uint8_t* rows = in + (taps.first[y] - origin) * n;
    const int32_t count = taps.count[y];
    const auto four = [&](int64_t x, int64_t tap) {  // beyond the last tap any row will do: its weight is 0
      const auto row = [&](int64_t t) { return _mm512_maskz_loadu_epi8(mask, rows + (t < count ? t * n : 0) + x); };
      return FourTaps(row(tap), row(tap + 1), row(tap + 2), row(tap + 3));
    };
    for (int64_t start = 0; start < n; start += kVectorBytes) {
      const int64_t x = start + kVectorBytes <= n || n < kVectorBytes ? start : n - kVectorBytes;  // the last block overlaps the one before
      if (groups == 1) {
        const FourTaps t = four(x, 0);
        for (int64_t i = y; i < next; ++i) {
          const int32_t* w = taps.digits + i * kDigits;
          const __m512i w0 = _mm512_set1_epi32(w[0]), w1 = _mm512_set1_epi32(w[1]), w2 = _mm512_set1_epi32(w[2]);
          const __m512i a = weighted(t.v[0], w0, w1, w2), b = weighted(t.v[1], w0, w1, w2), c = weighted(t.v[2], w0, w1, w2), d = weighted(t.v[3], w0, w1, w2);
          _mm512_mask_storeu_epi8(out + (i - begin) * out_stride + x, mask, packed_again(a, b, c, d));
        }
        continue;
      }
      Sum sum[4];
      const int32_t* w = taps.digits + y * groups * kDigits;
      for (int64_t tap = 0; tap < count; tap += kGroup, w += kDigits) {
        const FourTaps t = four(x, tap);
        const __m512i w0 = _mm512_set1_epi32(w[0]), w1 = _mm512_set1_epi32(w[1]), w2 = _mm512_set1_epi32(w[2]);
        for (int k = 0; k < 4; ++k) sum[k].add(t.v[k], w0, w1, w2);
      }
      _mm512_mask_storeu_epi8(out + (y - begin) * out_stride + x, mask, packed_again(sum[0].value(), sum[1].value(), sum[2].value(), sum[3].value()));
    }
  }
}

// Colours.

struct Table {  // 256 bytes in four registers
  __m512i part[4];

  explicit Table(const uint8_t* values) : part{load(values), load(values + 64), load(values + 128), load(values + 192)} {}
};

void look_up(uint8_t* bytes, int64_t n, const uint8_t* values) {
  const Table t(values);
  for (uint8_t *p = bytes, *end = bytes + n; p < end; p += 64) {
    const __m512i v = load(p);  // seven bits choose within two registers, the eighth between the results
    const __m512i low = _mm512_permutex2var_epi8(t.part[0], v, t.part[1]), high = _mm512_permutex2var_epi8(t.part[2], v, t.part[3]);
    store(p, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(v), high));
  }
}

void look_up_rgb(uint8_t* bytes, int64_t n, const uint8_t* values) {
  const Table table[3] = {Table(values), Table(values + 256), Table(values + 512)};
  constexpr __mmask64 kThird = 0x9249249249249249u;  // bytes 0, 3, ... 63
  for (uint8_t *p = bytes, *end = bytes + n; p < end; p += 192)
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {  // 64 bytes begin with channel k
      const __m512i v = load(p + 64 * k);
      const Table &a = table[k], &b = table[(k + 1) % 3], &c = table[(k + 2) % 3];
      const auto half = [&](int i) {  // lanes of other channels stay as they are until their turn comes
        __m512i x = _mm512_mask2_permutex2var_epi8(a.part[i], v, kThird, a.part[i + 1]);
        x = _mm512_mask2_permutex2var_epi8(b.part[i], x, kThird << 1, b.part[i + 1]);
        return _mm512_mask2_permutex2var_epi8(c.part[i], x, kThird << 2 & ~(kThird | kThird << 1), c.part[i + 1]);
      };
      store(p + 64 * k, _mm512_mask_mov_epi8(half(0), _mm512_movepi8_mask(v), half(2)));
    }
}

// 16 pixels, a word a pixel or a channel of a pixel. What is stored is 64 bytes, of which the last 16 are the next pixels', which come later, or padding.
constexpr uint64_t kLowBytes = 0x1111111111111111u;
constexpr Order kWordEach = order_of([](int i) { return i / 4 * 3 + i % 4; });                 // of pixels side by side
constexpr Order kSideBySide = order_of([](int i) { return i < 48 ? i / 3 * 4 + i % 3 : 0; });  // and back
constexpr Order kInterleaved = order_of([](int i) { return i < 48 ? place_in_packed(i % 3, i / 3) : 0; });

__m512i channel_of(__m512i pixels, int c) {
  return _mm512_maskz_permutexvar_epi8(kLowBytes, _mm512_add_epi8(load(kWordEach.byte), _mm512_set1_epi8(char(c))), pixels);
}
__m512 real(__m512i words) { return _mm512_cvtepi32_ps(words); }
// What packs as pixel::blend's bytes: packing cuts to 0..255 but takes what is no 32-bit integer for the least one, which is right for NaN and -infinity alone.
__m512i blended(__m512 degenerate, __m512 value, __m512 factor) {
  const __m512 x = _mm512_add_ps(degenerate, _mm512_mul_ps(factor, _mm512_sub_ps(value, degenerate)));
  return _mm512_cvttps_epi32(_mm512_min_ps(_mm512_set1_ps(255.f), x));
}

void color(uint8_t* bytes, int64_t n, float factor) {
  const __m512 f = _mm512_set1_ps(factor);
  __m512i v = load(bytes), next;
  for (uint8_t *p = bytes, *end = bytes + n; p < end; p += 48, v = next) {
    next = load(p + 48);
    const __m512 r = real(channel_of(v, 0)), g = real(channel_of(v, 1)), b = real(channel_of(v, 2));
    // Luma: all products and sums are multiples of 1/65536 below 256, which floats hold exactly.
    constexpr float kUnit = 1.f / 65536;
    __m512 grey = _mm512_fmadd_ps(r, _mm512_set1_ps(19595 * kUnit), _mm512_set1_ps(32768 * kUnit));
    grey = _mm512_fmadd_ps(b, _mm512_set1_ps(7471 * kUnit), _mm512_fmadd_ps(g, _mm512_set1_ps(38470 * kUnit), grey));
    grey = _mm512_roundscale_ps(grey, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    store(p, select(load(kInterleaved.byte), packed(blended(grey, r, f), blended(grey, g, f), blended(grey, b, f))));
  }
}

int64_t luma_sum(const uint8_t* p, int64_t pixels) {
  constexpr Order kRgbg = order_of([](int i) { return i / 4 * 3 + (i % 4 == 3 ? 1 : i % 4); });  // 38470 is too much for one signed digit of two: 19235 twice
  const auto factors = [](int r, int g, int b) { return _mm512_set1_epi32((r & 255) | (g & 255) << 8 | (b & 255) << 16 | (g & 255) << 24); };
  const __m512i high = factors(77, 75, 29), low = factors(19595 - 77 * 256, 19235 - 75 * 256, 7471 - 29 * 256);
  constexpr int64_t kRun = 16 << 20;  // pixels whose sums fit 32 bits a lane
  int64_t total = 0;
  for (int64_t left = pixels; left > 0; left -= kRun) {
    __m512i sum = _mm512_setzero_si512();
    const int64_t run = left < kRun ? left : kRun;
    for (int64_t i = 0; i < run; i += 16, p += 48) {
      const __m512i v = select(load(kRgbg.byte), load(p));
      const __m512i luma = _mm512_srli_epi32(_mm512_dpbusd_epi32(next_digit(_mm512_dpbusd_epi32(_mm512_set1_epi32(128), v, high)), v, low), 16);
      sum = _mm512_mask_add_epi32(sum, __mmask16(first_bits(run - i)), sum, luma);
    }
    total += _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_srli_epi64(sum, 32), _mm512_and_si512(sum, _mm512_set1_epi64(0xffffffff))));
  }
  return total;
}

// Three rows of three values are added by products with 1, and 5 in the middle.
void sharpness(const uint8_t* in, int64_t h, int64_t w, float factor, uint8_t* out) {
  const int64_t n = w * 3;
  const auto copied = [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) out[i] = in[i];
  };
  if (h < 3 || w < 3) return copied(0, h * n);
  constexpr Order kThree = order_of([](int i) { return i / 4 + i % 4 * 3; });
  const __m512i order = load(kThree.byte), ones = _mm512_set1_epi32(0x010101), five = _mm512_set1_epi32(0x010501);
  const __m512 f = _mm512_set1_ps(factor);
  copied(0, n);
  for (int64_t y = 1; y + 1 < h; ++y) {
    copied(y * n, y * n + 3);
    for (int64_t x = 3; x < n - 3; x += 48) {
      const uint8_t* p = in + y * n + x;
      const auto values = [&](const uint8_t* here) {
        __m512i sum = _mm512_dpbusd_epi32(_mm512_set1_epi32(6), select(order, load(here - 3 - n)), ones);
        sum = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, select(order, load(here - 3 + n)), ones), select(order, load(here - 3)), five);
        const __m512i smooth = _mm512_mulhi_epu16(sum, _mm512_set1_epi32(5042));  // sum / 13: 5042/65536 is right up to 13 * 255 + 6
        return blended(real(smooth), real(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(here)))), f);
      };
      store(out + y * n + x, select(load(kInOrder.byte), packed(values(p), values(p + 16), values(p + 32))));
    }
    copied((y + 1) * n - 3, (y + 1) * n);
  }
  copied((h - 1) * n, h * n);
}

// Geometry.

struct Lanes {  // 16 doubles
  __m512d low, high;
};
Lanes real_lanes(__m512i v) { return {_mm512_cvtepi32_pd(_mm512_castsi512_si256(v)), _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(v, 1))}; }
Lanes all(double v) { return {_mm512_set1_pd(v), _mm512_set1_pd(v)}; }
Lanes plus(Lanes a, Lanes b) { return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)}; }
Lanes minus(Lanes a, Lanes b) { return {_mm512_sub_pd(a.low, b.low), _mm512_sub_pd(a.high, b.high)}; }
Lanes times(Lanes a, Lanes b) { return {_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)}; }
__m512i truncated(Lanes v) { return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvttpd_epi32(v.low)), _mm512_cvttpd_epi32(v.high), 1); }
Lanes floor(Lanes v) {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  return {_mm512_roundscale_pd(v.low, kDown), _mm512_roundscale_pd(v.high, kDown)};
}
__mmask16 within(Lanes v, int64_t n) {
  const __m512d zero = _mm512_setzero_pd(), end = _mm512_set1_pd(double(n));
  const auto half = [&](__m512d x) { return unsigned(_mm512_cmp_pd_mask(x, zero, _CMP_NLT_UQ) & _mm512_cmp_pd_mask(x, end, _CMP_NGE_UQ)); };
  return __mmask16(half(v.low) | half(v.high) << 8);
}
Lanes counted(int64_t first) {  // first + 1/2, first + 3/2 ...
  const __m512d eight = _mm512_setr_pd(.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5);
  return {_mm512_add_pd(_mm512_set1_pd(double(first)), eight), _mm512_add_pd(_mm512_set1_pd(double(first + 8)), eight)};
}

struct Places {  // pixel::Between
  __m512i i;
  Lanes t;

  explicit Places(Lanes position) {
    const Lanes shifted = minus(position, all(.5)), left = floor(shifted);
    i = truncated(left), t = minus(shifted, left);
  }
};
// pixel::linear of two, pixel::cubic of four. Of pixels, sums and differences are formed as integers, with the same result.
KD_INLINE Lanes interpolated(const __m512i (&v)[2], Lanes t) { return plus(real_lanes(v[0]), times(real_lanes(_mm512_sub_epi32(v[1], v[0])), t)); }
KD_INLINE Lanes interpolated(const Lanes (&v)[2], Lanes t) { return plus(v[0], times(minus(v[1], v[0]), t)); }
KD_INLINE Lanes interpolated(const __m512i (&v)[4], Lanes t) {
  const __m512i one = _mm512_sub_epi32(v[2], v[0]), drop = _mm512_sub_epi32(v[0], v[1]), last = _mm512_sub_epi32(v[2], v[3]);
  const __m512i both = _mm512_add_epi32(drop, last), two = _mm512_add_epi32(drop, both), three = _mm512_sub_epi32(_mm512_setzero_si512(), both);
  return plus(real_lanes(v[1]), times(t, plus(real_lanes(one), times(t, plus(real_lanes(two), times(t, real_lanes(three)))))));
}
KD_INLINE Lanes interpolated(const Lanes (&v)[4], Lanes t) {
  const Lanes drop = minus(v[0], v[1]), one = minus(v[2], v[0]), two = minus(plus(plus(drop, drop), v[2]), v[3]);
  const Lanes three = plus(minus(minus(v[1], v[0]), v[2]), v[3]);
  return plus(v[1], times(t, plus(one, times(t, plus(two, times(t, three))))));
}

int64_t clamped(int64_t v, int64_t low, int64_t high) { return v < low ? low : v > high ? high : v; }
__m512i clamped(__m512i v, int64_t high) { return _mm512_min_epi32(_mm512_max_epi32(v, _mm512_setzero_si512()), _mm512_set1_epi32(int(high))); }
int lane_0(__m512i v) { return _mm_cvtsi128_si32(_mm512_castsi512_si128(v)); }
int lane_15(__m512i v) { return _mm_extract_epi32(_mm512_extracti32x4_epi32(v, 3), 3); }
struct Range {
  int first, last;
};
Range range_of(__m512i v, __mmask16 lanes) { return {_mm512_mask_reduce_min_epi32(lanes, v), _mm512_mask_reduce_max_epi32(lanes, v)}; }
// The bytes of pixels x - low of a row that begins with pixel low, a pixel a word. Right while all pixels lie within 21.
__m512i bytes_of(__m512i x, int64_t low) {
  const __m512i from = _mm512_sub_epi32(x, _mm512_set1_epi32(int(low))), byte = _mm512_add_epi32(from, _mm512_add_epi32(from, from));
  const __m512i four_times = _mm512_shuffle_epi8(byte, _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0));
  return _mm512_add_epi8(four_times, _mm512_set1_epi32(0x03020100));
}
__m512i channel_of_words(__m512i words, int c) {
  return _mm512_maskz_shuffle_epi8(kLowBytes, words, _mm512_add_epi8(_mm512_set4_epi32(12, 8, 4, 0), _mm512_set1_epi8(char(c))));
}
__m512i filled(__m512i words, __mmask16 inside, uint32_t fill, int c) {
  return _mm512_mask_mov_epi32(_mm512_set1_epi32(int(fill >> (8 * c) & 255)), inside, words);
}

// A block of 16 outputs comes from a line through few rows: each row is permuted for all of them, and those that come from it take it. As many rows for every
// block, so that the loop over them ends when expected: with just the rows that a block needs, rotations by 11 degrees took 5 % longer.
int64_t rows_of_block(double slope, int64_t h) {
  const int64_t rows = int64_t(15 * (slope < 0 ? -slope : slope)) + 2;
  return rows < h ? rows : h;
}

void turn_nearest(const uint8_t* in, int64_t h, int64_t w, const Fixed& m, uint32_t fill, uint8_t* out) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), width = _mm512_set1_epi32(int(w)),
                height = _mm512_set1_epi32(int(h));
  const __m512i across = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(m.a)), down = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(m.d)),
                one = _mm512_set1_epi32(1);
  const int32_t step_x = m.a, step_y = m.d;
  const int64_t rows = rows_of_block(step_y / 65536.0, h), left = step_x < 0 ? 15 * step_x : 0, up = step_y < 0 ? 15 * step_y : 0;
  for (int64_t y = 0; y < h; ++y) {
    int64_t from_x = m.c + y * m.b, from_y = m.f + y * m.e;
    for (int64_t x = 0; x < w; x += 16, from_x += 16 * step_x, from_y += 16 * step_y) {
      const __m512i sx = _mm512_srai_epi32(_mm512_add_epi32(_mm512_set1_epi32(int(from_x)), across), 16);
      const __m512i sy = _mm512_srai_epi32(_mm512_add_epi32(_mm512_set1_epi32(int(from_y)), down), 16);
      const __mmask16 inside = _mm512_cmplt_epu32_mask(sx, width) & _mm512_cmplt_epu32_mask(sy, height);
      const int64_t low = clamped((from_x + left) >> 16, 0, w - 1), top = clamped((from_y + up) >> 16, 0, h - rows);
      const __m512i bytes = bytes_of(sx, low);
      const uint8_t* row = in + (top * w + low) * 3;
      __m512i words = _mm512_set1_epi32(int(fill)), number = _mm512_set1_epi32(int(top));
      for (int64_t r = 0; r < rows; ++r, row += w * 3, number = _mm512_add_epi32(number, one))
        words = _mm512_mask_mov_epi32(words, _mm512_mask_cmpeq_epi32_mask(inside, sy, number), select(bytes, load(row)));
      store(out + (y * w + x) * 3, select(load(kSideBySide.byte), words));
    }
  }
}

template <int kTaps>
void turn_by(const uint8_t* in, int64_t h, int64_t w, const Line (&m)[2], uint32_t fill, uint8_t* out) {
  constexpr int kBefore = kTaps / 2 - 1;
  const auto rows = int(rows_of_block(m[1].x, INT32_MAX) + kTaps - 1);
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; x += 16) {
      const auto source = [&](const Line& l) { return plus(plus(times(all(l.x), counted(x)), all(l.y * (double(y) + .5))), all(l.offset)); };
      const Lanes from_x = source(m[0]), from_y = source(m[1]);
      const __mmask16 inside = within(from_x, w) & within(from_y, h);
      uint8_t* to = out + (y * w + x) * 3;
      if (!inside) {
        store(to, select(load(kSideBySide.byte), _mm512_set1_epi32(int(fill))));
        continue;
      }
      const Places across(from_x), down(from_y);
      const int x0 = lane_0(across.i), x1 = lane_15(across.i);
      const int64_t low = clamped((x0 < x1 ? x0 : x1) - kBefore, 0, w - 1);
      __m512i bytes[kTaps], words[kTaps][kTaps];
      for (int k = 0; k < kTaps; ++k) bytes[k] = bytes_of(clamped(_mm512_add_epi32(across.i, _mm512_set1_epi32(k - kBefore)), w - 1), low);
      for (int q = 0; q < kTaps; ++q)
        for (int k = 0; k < kTaps; ++k) words[q][k] = _mm512_setzero_si512();
      const int y0 = lane_0(down.i), y1 = lane_15(down.i), first = (y0 < y1 ? y0 : y1) - kBefore;
      for (int r = first; r < first + rows; ++r) {
        const __m512i row = load(in + (clamped(r, 0, h - 1) * w + low) * 3);
        __m512i columns[kTaps];
        for (int k = 0; k < kTaps; ++k) columns[k] = select(bytes[k], row);
        for (int q = 0; q < kTaps; ++q) {  // row r is number q of those whose first is r - q
          const __mmask16 here = _mm512_cmpeq_epi32_mask(down.i, _mm512_set1_epi32(r - q + kBefore));
          for (int k = 0; k < kTaps; ++k) words[q][k] = _mm512_mask_mov_epi32(words[q][k], here, columns[k]);
        }
      }
      const auto channel = [&](int c) {
        Lanes between[kTaps];
        for (int q = 0; q < kTaps; ++q) {
          __m512i v[kTaps];
          for (int k = 0; k < kTaps; ++k) v[k] = channel_of_words(words[q][k], c);
          between[q] = interpolated(v, across.t);
        }
        return filled(truncated(interpolated(between, down.t)), inside, fill, c);
      };
      store(to, select(load(kInterleaved.byte), packed(channel(0), channel(1), channel(2))));
    }
}
void turn(const uint8_t* in, int64_t h, int64_t w, const Line (&m)[2], bool cubic, uint32_t fill, uint8_t* out) {
  (cubic ? turn_by<4> : turn_by<2>)(in, h, w, m, fill, out);
}

template <int kTaps, bool kAlongX>
void slide_by(const uint8_t* in, int64_t h, int64_t w, double slope, double offset, uint32_t fill, uint8_t* out) {
  constexpr int kBefore = kTaps / 2 - 1;
  const int64_t n = kAlongX ? w : h;
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; x += 16) {
      const Lanes columns = counted(x), row = all(double(y) + .5);
      const Lanes from = plus(plus(kAlongX ? columns : row, times(all(slope), kAlongX ? row : columns)), all(offset));
      const __mmask16 inside = within(from, n);
      uint8_t* to = out + (y * w + x) * 3;
      if (!inside) {
        store(to, select(load(kSideBySide.byte), _mm512_set1_epi32(int(fill))));
        continue;
      }
      const Places at(from);
      __m512i words[kTaps];
      if constexpr (kAlongX) {
        const int64_t low = clamped(int64_t(lane_0(at.i)) - kBefore, 0, w - 1);
        const __m512i pixels = load(in + (y * w + low) * 3);
        for (int k = 0; k < kTaps; ++k) words[k] = select(bytes_of(clamped(_mm512_add_epi32(at.i, _mm512_set1_epi32(k - kBefore)), w - 1), low), pixels);
      } else {
        const Range rows = range_of(at.i, inside);
        for (int k = 0; k < kTaps; ++k) words[k] = _mm512_setzero_si512();
        for (int r = rows.first - kBefore; r <= rows.last + kTaps - 1 - kBefore; ++r) {
          const __m512i pixels = select(load(kWordEach.byte), load(in + (clamped(r, 0, h - 1) * w + x) * 3));
          for (int k = 0; k < kTaps; ++k) words[k] = _mm512_mask_mov_epi32(words[k], _mm512_cmpeq_epi32_mask(at.i, _mm512_set1_epi32(r - k + kBefore)), pixels);
        }
      }
      const auto channel = [&](int c) {
        __m512i v[kTaps];
        for (int k = 0; k < kTaps; ++k) v[k] = channel_of_words(words[k], c);
        return filled(truncated(interpolated(v, at.t)), inside, fill, c);
      };
      store(to, select(load(kInterleaved.byte), packed(channel(0), channel(1), channel(2))));
    }
}
void slide(const uint8_t* in, int64_t h, int64_t w, double slope, double offset, bool along_x, bool cubic, uint32_t fill, uint8_t* out) {
  const auto by = along_x ? cubic ? slide_by<4, true> : slide_by<2, true> : cubic ? slide_by<4, false> : slide_by<2, false>;
  by(in, h, w, slope, offset, fill, out);
}

constexpr Loops kLoops{resize_across, resize_down, look_up, look_up_rgb, color, luma_sum, sharpness, turn_nearest, turn, slide};

}  // namespace

constinit const Loops* const loops = &kLoops;

}  // namespace kd::avx512
#else
namespace kd::avx512 {
constinit const Loops* const loops = nullptr;
}
#endif
