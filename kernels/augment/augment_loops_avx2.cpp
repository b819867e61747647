// The loops for AVX2. Products and sums of floating-point values are separate instructions wherever augment_pixel.h has two roundings.
#include "kernels/augment/augment_loops.h"

#if defined(KD_AUGMENT_AVX2)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace kd {
namespace {

__m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
__m256i load32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
__m256i both(__m128i v) { return _mm256_broadcastsi128_si256(v); }
int32_t word(const void* p) {
  int32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
void store_word(uint8_t* p, int32_t v) { std::memcpy(p, &v, 4); }

// Resize.

constexpr int kRowsAtOnce = 4;  // share the unpacking of the weights, and one packing of the results

// `rows` are four rows, which may be the same; likewise `out`. kOneGroup: no output has more than four taps, as when enlarging or shrinking by less than 1.5.
template <bool kOneGroup>
void across_four(const uint8_t* const (&rows)[kRowsAtOnce], const ResizeTable& table, Span2 columns, bool flip, uint8_t* const (&out)[kRowsAtOnce]) {
  constexpr char z = -1;  // a zero byte
  // Of 12 bytes, four pixels: channels of the first two as pairs of 16-bit values, then of the other two.
  const __m256i pairs = _mm256_setr_epi8(0, z, 3, z, 1, z, 4, z, 2, z, 5, z, z, z, z, z, 6, z, 9, z, 7, z, 10, z, 8, z, 11, z, z, z, z, z);
  const __m256i highs = _mm256_setr_epi8(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7);
  const __m256i lows = _mm256_add_epi8(highs, _mm256_set1_epi8(8)), half = _mm256_set1_epi32(1 << (pixel::kWeightBits - 1));
  // Copies of what does not change: as far as the compiler knows, a store of bytes may change a pointer that lies in memory.
  const uint8_t *const row0 = rows[0], *const row1 = rows[1], *const row2 = rows[2], *const row3 = rows[3];
  uint8_t *to0 = out[0], *to1 = out[1], *to2 = out[2], *to3 = out[3];
  const int32_t *const first = table.first.data(), *const count = table.count.data();
  const int16_t* const halves = table.halves.data();
  const int64_t n = columns.size(), stride = 2 * table.stride;
  for (int64_t i = 0; i < n; ++i, to0 += 3, to1 += 3, to2 += 3, to3 += 3) {
    const int64_t x = flip ? columns.end - 1 - i : columns.begin + i, groups = kOneGroup ? 1 : (count[x] + 3) / 4;
    int64_t at = int64_t(first[x]) * 3;
    const int16_t* weights = halves + x * stride;
    __m256i high[kRowsAtOnce], low[kRowsAtOnce];
    for (int r = 0; r < kRowsAtOnce; ++r) high[r] = low[r] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; ++g, at += 12, weights += 8) {
      const __m256i w = both(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)));
      const __m256i w_high = _mm256_shuffle_epi8(w, highs), w_low = _mm256_shuffle_epi8(w, lows);
      const __m256i v[kRowsAtOnce] = {both(load16(row0 + at)), both(load16(row1 + at)), both(load16(row2 + at)), both(load16(row3 + at))};
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const __m256i pixels = _mm256_shuffle_epi8(v[r], pairs);
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(pixels, w_high));
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(pixels, w_low));
      }
    }
    __m256i sum[kRowsAtOnce];
    for (int r = 0; r < kRowsAtOnce; ++r) sum[r] = _mm256_add_epi32(low[r], _mm256_slli_epi32(high[r], ResizeTable::kHalfBits));
    auto halves_added = [&](__m256i a, __m256i b) {
      const __m256i s = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
      return _mm256_srai_epi32(_mm256_add_epi32(s, half), pixel::kWeightBits);
    };
    const __m256i words = _mm256_packs_epi32(halves_added(sum[0], sum[1]), halves_added(sum[2], sum[3])), bytes = _mm256_packus_epi16(words, words);
    const __m128i even = _mm256_castsi256_si128(bytes), odd = _mm256_extracti128_si256(bytes, 1);
    const int32_t v0 = _mm_cvtsi128_si32(even), v1 = _mm_cvtsi128_si32(odd), v2 = _mm_extract_epi32(even, 1), v3 = _mm_extract_epi32(odd, 1);
    if (i + 1 < n) {  // the fourth byte is the next pixel's, which comes later
      store_word(to0, v0), store_word(to1, v1), store_word(to2, v2), store_word(to3, v3);
    } else {
      std::memcpy(to0, &v0, 3), std::memcpy(to1, &v1, 3), std::memcpy(to2, &v2, 3), std::memcpy(to3, &v3, 3);
    }
  }
}

void resize_across(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t width, const uint8_t* in_end, const ResizeTable& table, Span2 columns, bool flip,
                   uint8_t* out, int64_t out_stride) {
  // A group of taps reads 16 bytes, up to 13 of them past the row: rows that end so close to the end of the image are copied first.
  constexpr int64_t kPast = 16;
  thread_local std::vector<uint8_t> copies;
  const int64_t row_bytes = width * 3, copy_bytes = row_bytes + kPast;
  for (int64_t y = 0; y < rows; y += kRowsAtOnce) {
    const uint8_t* from[kRowsAtOnce];
    uint8_t* to[kRowsAtOnce];
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int64_t row = std::min(y + r, rows - 1);
      from[r] = in + row * in_stride, to[r] = out + row * out_stride;
      if (in_end - from[r] >= copy_bytes) continue;
      copies.resize(size_t(copy_bytes * kRowsAtOnce));
      from[r] = static_cast<const uint8_t*>(std::memcpy(&copies[size_t(copy_bytes * r)], from[r], size_t(row_bytes)));
    }
    (table.stride == 4 ? across_four<true> : across_four<false>)(from, table, columns, flip, to);
  }
}

void down_32(const uint8_t* in, int64_t n, const int16_t* weights, int32_t count, uint8_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i high[4], low[4];
  for (int k = 0; k < 4; ++k) high[k] = zero, low[k] = _mm256_set1_epi32(1 << (pixel::kWeightBits - 1));
  for (int32_t tap = 0; tap < count; tap += 2) {
    const __m256i a = load32(in + tap * n), b = tap + 1 < count ? load32(in + (tap + 1) * n) : zero;
    const int16_t* w = weights + tap / 4 * 8 + tap % 4;
    const __m256i w_high = _mm256_set1_epi32(word(w)), w_low = _mm256_set1_epi32(word(w + 4));
    const __m256i first = _mm256_unpacklo_epi8(a, b), second = _mm256_unpackhi_epi8(a, b);
    const __m256i v[4] = {_mm256_unpacklo_epi8(first, zero), _mm256_unpackhi_epi8(first, zero), _mm256_unpacklo_epi8(second, zero),
                          _mm256_unpackhi_epi8(second, zero)};
    for (int k = 0; k < 4; ++k) {
      high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(v[k], w_high));
      low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(v[k], w_low));
    }
  }
  auto value = [&](int k) { return _mm256_srai_epi32(_mm256_add_epi32(low[k], _mm256_slli_epi32(high[k], ResizeTable::kHalfBits)), pixel::kWeightBits); };
  const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(value(0), value(1)), _mm256_packs_epi32(value(2), value(3)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), bytes);
}

void resize_down_to(const uint8_t* in, int64_t n, const ResizeTable& table, int64_t i, uint8_t* out) {
  if (n < 32) return plain_loops().resize_down(in, n, table, {i, i + 1}, out, n);
  const int16_t* weights = table.halves_of(i);
  const int32_t count = table.count[size_t(i)];
  for (int64_t at = 0; at < n; at += 32) {
    const int64_t begin = std::min(at, n - 32);  // the last block overlaps the one before
    down_32(in + begin, n, weights, count, out + begin);
  }
}
void resize_down(const uint8_t* in, int64_t n, const ResizeTable& table, Span2 outputs, uint8_t* out, int64_t out_stride) {
  for (int64_t i = outputs.begin, origin = table.first[size_t(i)]; i < outputs.end; ++i, out += out_stride)
    resize_down_to(in + (table.first[size_t(i)] - origin) * n, n, table, i, out);
}

// Five pixels at a time, from byte -1 on, so that neither end is passed while six are left.
void mirror(const uint8_t* in, int64_t pixels, uint8_t* out) {
  const __m128i order = _mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0);
  int64_t left = pixels;
  for (; left >= 6; left -= 5, out += 15) _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_shuffle_epi8(load16(in + (left - 5) * 3 - 1), order));
  plain_loops().mirror(in, left, out);
}

// Colours.

// 16 shuffles: shuffle k sees values from 16k on and yields the table's k-th sixteen XOR its (k-1)-th, so all that see a value leave its entry. Bytes with the
// top bit set give 0; the upper half of the values is flipped below, and subtractions saturate at -128, so that neither comes back.
void look_up(Canvas& image, const LookUp& table) {
  __m256i steps[16];
  for (int k = 0; k < 16; ++k) {
    const __m128i here = load16(&table[size_t(k) * 16]);
    steps[k] = both(k % 8 == 0 ? here : _mm_xor_si128(here, load16(&table[size_t(k - 1) * 16])));
  }
  uint8_t* p = image.data();
  for (uint8_t* end = p + image.pixels() * 3; p < end; p += 32) {
    __m256i lower = load32(p), upper = _mm256_xor_si256(lower, _mm256_set1_epi8(char(0x80)));
    __m256i found = _mm256_xor_si256(_mm256_shuffle_epi8(steps[0], lower), _mm256_shuffle_epi8(steps[8], upper));
    for (int k = 1; k < 8; ++k) {
      lower = _mm256_subs_epi8(lower, _mm256_set1_epi8(16)), upper = _mm256_subs_epi8(upper, _mm256_set1_epi8(16));
      found = _mm256_xor_si256(found, _mm256_xor_si256(_mm256_shuffle_epi8(steps[k], lower), _mm256_shuffle_epi8(steps[8 + k], upper)));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), found);
  }
}

// Eight pixels, four in each half.
__m256i load_pixels(const uint8_t* p) { return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(p)), load16(p + 12), 1); }
constexpr char kZ = -1;
__m256i channel_of(__m256i pixels, int c) {  // as eight 32-bit values
  const char a = char(c), b = char(c + 3), d = char(c + 6), e = char(c + 9);
  return _mm256_shuffle_epi8(pixels, both(_mm_setr_epi8(a, kZ, kZ, kZ, b, kZ, kZ, kZ, d, kZ, kZ, kZ, e, kZ, kZ, kZ)));
}
__m256i luma_of(__m256i pixels) {  // 38470 has 16 bits, so green counts twice with half of it
  const __m256i red_blue = _mm256_shuffle_epi8(pixels, both(_mm_setr_epi8(0, kZ, 2, kZ, 3, kZ, 5, kZ, 6, kZ, 8, kZ, 9, kZ, 11, kZ)));
  const __m256i green_twice = _mm256_shuffle_epi8(pixels, both(_mm_setr_epi8(1, kZ, 1, kZ, 4, kZ, 4, kZ, 7, kZ, 7, kZ, 10, kZ, 10, kZ)));
  const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(red_blue, _mm256_set1_epi32(7471 << 16 | 19595)),
                                       _mm256_madd_epi16(green_twice, _mm256_set1_epi32(19235 << 16 | 19235)));
  return _mm256_srli_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(32768)), 16);
}
// Eight 32-bit pixels to 24 bytes, and no more: the bytes behind them have not been read yet.
void store_pixels(uint8_t* p, __m256i rgb0) {
  const __m256i close = _mm256_shuffle_epi8(rgb0, both(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, kZ, kZ, kZ, kZ)));
  const __m256i closer = _mm256_permutevar8x32_epi32(close, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(closer));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 16), _mm256_extracti128_si256(closer, 1));
}

void color(Canvas& image, float factor) {
  const __m256 f = _mm256_set1_ps(factor);
  uint8_t* p = image.data();
  for (uint8_t* end = p + image.pixels() * 3; p < end; p += 24) {
    const __m256i pixels = load_pixels(p);
    const __m256 grey = _mm256_cvtepi32_ps(luma_of(pixels));
    auto blended = [&](int c) {
      const __m256 step = _mm256_mul_ps(f, _mm256_sub_ps(_mm256_cvtepi32_ps(channel_of(pixels, c)), grey));
      return _mm256_cvttps_epi32(_mm256_min_ps(_mm256_max_ps(_mm256_add_ps(grey, step), _mm256_setzero_ps()), _mm256_set1_ps(255.f)));
    };
    store_pixels(p, _mm256_or_si256(blended(0), _mm256_or_si256(_mm256_slli_epi32(blended(1), 8), _mm256_slli_epi32(blended(2), 16))));
  }
}

int64_t luma_sum(const Canvas& image) {
  constexpr int64_t kRun = 8 << 20;  // pixels whose sums fit 32 bits a lane
  const int64_t n = image.pixels(), whole = n / 8 * 8;
  const uint8_t* p = image.data();
  int64_t total = 0;
  for (int64_t begin = 0; begin < whole; begin += kRun) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = begin; i < std::min(whole, begin + kRun); i += 8) sum = _mm256_add_epi32(sum, luma_of(load_pixels(p + i * 3)));
    uint32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sum);
    for (uint32_t lane : lanes) total += lane;
  }
  for (int64_t i = whole; i < n; ++i) total += pixel::luma(p[3 * i], p[3 * i + 1], p[3 * i + 2]);
  return total;
}

Extremes extremes(const Canvas& image) {
  const uint8_t* p = image.data();
  const int64_t n = image.pixels() * 3, whole = n / 96 * 96;
  __m256i low[3], high[3];
  for (int k = 0; k < 3; ++k) low[k] = _mm256_set1_epi8(char(255)), high[k] = _mm256_setzero_si256();
  for (int64_t i = 0; i < whole; i += 96)
    for (int k = 0; k < 3; ++k) {
      const __m256i v = load32(p + i + 32 * k);
      low[k] = _mm256_min_epu8(low[k], v), high[k] = _mm256_max_epu8(high[k], v);
    }
  uint8_t lows[96], highs[96];
  for (int k = 0; k < 3; ++k) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lows + 32 * k), low[k]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(highs + 32 * k), high[k]);
  }
  Extremes e{.low = {255, 255, 255}, .high = {0, 0, 0}};
  for (int i = 0; i < 96; ++i) e.low[i % 3] = std::min(e.low[i % 3], lows[i]), e.high[i % 3] = std::max(e.high[i % 3], highs[i]);
  for (int64_t i = whole; i < n; ++i) e.low[i % 3] = std::min(e.low[i % 3], p[i]), e.high[i % 3] = std::max(e.high[i % 3], p[i]);
  return e;
}

// Geometry. A pixel is written as four bytes; the fourth is the next pixel's, which comes later, or padding.

int32_t as_word(const Rgb& fill) { return fill.r | fill.g << 8 | fill.b << 16; }

void turn_nearest(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const FixedAffine& m = call.turn_nearest;
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), fill = _mm256_set1_epi32(as_word(call.fill));
  const __m256i width = _mm256_set1_epi32(int32_t(image.w)), height = _mm256_set1_epi32(int32_t(image.h)), before = _mm256_set1_epi32(-1);
  auto inside = [&](__m256i v, __m256i n) { return _mm256_and_si256(_mm256_cmpgt_epi32(v, before), _mm256_cmpgt_epi32(n, v)); };
  const auto* pixels = reinterpret_cast<const int*>(image.data());
  uint8_t* row = out.data();
  for (int64_t y = 0; y < image.h; ++y, row += image.w * 3) {
    __m256i source_x = _mm256_add_epi32(_mm256_set1_epi32(m.c + int32_t(y) * m.b), _mm256_mullo_epi32(lanes, _mm256_set1_epi32(m.a)));
    __m256i source_y = _mm256_add_epi32(_mm256_set1_epi32(m.f + int32_t(y) * m.e), _mm256_mullo_epi32(lanes, _mm256_set1_epi32(m.d)));
    const __m256i step_x = _mm256_set1_epi32(int32_t(uint32_t(m.a) * 8)), step_y = _mm256_set1_epi32(int32_t(uint32_t(m.d) * 8));
    for (int64_t x = 0; x < image.w; x += 8) {
      const __m256i sx = _mm256_srai_epi32(source_x, 16), sy = _mm256_srai_epi32(source_y, 16);
      const __m256i at = _mm256_add_epi32(_mm256_mullo_epi32(sy, width), sx), byte = _mm256_add_epi32(at, _mm256_add_epi32(at, at));
      store_pixels(row + x * 3, _mm256_mask_i32gather_epi32(fill, pixels, byte, _mm256_and_si256(inside(sx, width), inside(sy, height)), 1));
      source_x = _mm256_add_epi32(source_x, step_x), source_y = _mm256_add_epi32(source_y, step_y);
    }
  }
}

// The channels of a pixel side by side.
__m128i channels(const uint8_t* p) { return _mm_cvtepu8_epi32(_mm_cvtsi32_si128(word(p))); }
__m256d real(__m128i v) { return _mm256_cvtepi32_pd(v); }
__m256d plus(__m256d a, __m256d b) { return _mm256_add_pd(a, b); }
__m256d minus(__m256d a, __m256d b) { return _mm256_sub_pd(a, b); }
__m256d times(__m256d a, __m256d b) { return _mm256_mul_pd(a, b); }
int32_t truncated(__m256d v) {
  const __m128i words = _mm_packs_epi32(_mm256_cvttpd_epi32(v), _mm_setzero_si128());
  return _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
}

// pixel::linear and pixel::cubic. Of pixels, sums and differences are whole numbers, the same whether they are formed as integers or as doubles.
__m256d linear(__m128i v1, __m128i v2, __m256d t) { return plus(real(v1), times(real(_mm_sub_epi32(v2, v1)), t)); }
__m256d linear(__m256d v1, __m256d v2, __m256d t) { return plus(v1, times(minus(v2, v1), t)); }
__m256d cubic(__m128i v1, __m128i v2, __m128i v3, __m128i v4, __m256d t) {
  const __m128i one = _mm_sub_epi32(v3, v1), drop = _mm_sub_epi32(v1, v2), last = _mm_sub_epi32(v3, v4);
  const __m128i two = _mm_add_epi32(_mm_add_epi32(drop, drop), last), three = _mm_sub_epi32(_mm_setzero_si128(), _mm_add_epi32(drop, last));
  return plus(real(v2), times(t, plus(real(one), times(t, plus(real(two), times(t, real(three)))))));
}
__m256d cubic(__m256d v1, __m256d v2, __m256d v3, __m256d v4, __m256d t) {
  const __m256d drop = minus(v1, v2), one = minus(v3, v1), two = minus(plus(plus(drop, drop), v3), v4), three = plus(minus(minus(v2, v1), v3), v4);
  return plus(v2, times(t, plus(one, times(t, plus(two, times(t, three))))));
}

struct Line {  // pixels of a row or column
  const uint8_t* pixels;
  int n;
  int64_t stride;  // bytes

  const uint8_t* at(int i) const { return pixels + std::clamp(i, 0, n - 1) * stride; }
};
template <bool kCubic>
__m256d between(const Line& line, int i, __m256d t) {
  if constexpr (kCubic) {
    if (i >= 1 && i + 2 < line.n) {
      const uint8_t* p = line.pixels + i * line.stride;
      return cubic(channels(p - line.stride), channels(p), channels(p + line.stride), channels(p + 2 * line.stride), t);
    }
    return cubic(channels(line.at(i - 1)), channels(line.at(i)), channels(line.at(i + 1)), channels(line.at(i + 2)), t);
  } else {
    return linear(channels(line.at(i)), channels(line.at(i + 1)), t);
  }
}

template <bool kCubic>
void turn_by(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const auto h = int(image.h), w = int(image.w);
  const pixel::Affine m = pixel::about_centre(call.turn, h, w);
  const int32_t fill = as_word(call.fill);
  uint8_t* to = out.data();
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x, to += 3) {
      const double from_x = m.x(x + 0.5, y + 0.5), from_y = m.y(x + 0.5, y + 0.5);
      if (from_x < 0 || from_x >= w || from_y < 0 || from_y >= h) {
        store_word(to, fill);
        continue;
      }
      const pixel::Between across(from_x), down(from_y);
      const __m256d t_x = _mm256_set1_pd(across.t), t_y = _mm256_set1_pd(down.t);
      auto row = [&](int i) { return between<kCubic>({image.data() + std::clamp(i, 0, h - 1) * int64_t(w) * 3, w, 3}, across.i, t_x); };
      if constexpr (kCubic)
        store_word(to, truncated(cubic(row(down.i - 1), row(down.i), row(down.i + 1), row(down.i + 2), t_y)));
      else
        store_word(to, truncated(linear(row(down.i), row(down.i + 1), t_y)));
    }
}
void turn(const Canvas& image, const PreparedOp& call, Canvas& out) { (call.resample == Resample::bicubic ? turn_by<true> : turn_by<false>)(image, call, out); }

template <bool kCubic>
void slide_by(const Canvas& image, const PreparedOp& call, Canvas& out) {
  const bool along_x = call.op == PixelOp::shear_x || call.op == PixelOp::translate_x;
  const auto h = int(image.h), w = int(image.w), n = along_x ? w : h;
  const int32_t fill = as_word(call.fill);
  uint8_t* to = out.data();
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x, to += 3) {
      const double from = along_x ? pixel::mapped_position(x, y, call.line) : pixel::mapped_position(y, x, call.line);
      if (from < 0 || from >= n) {
        store_word(to, fill);
        continue;
      }
      const pixel::Between at(from);
      const Line line{image.data() + int64_t(along_x ? y * w : x) * 3, n, along_x ? 3 : 3 * w};
      store_word(to, truncated(between<kCubic>(line, at.i, _mm256_set1_pd(at.t))));
    }
}
void slide(const Canvas& image, const PreparedOp& call, Canvas& out) {
  (call.resample == Resample::bicubic ? slide_by<true> : slide_by<false>)(image, call, out);
}

// Quotients without divisions: q = a * (1/b), corrected by the remainder once, which an fma forms exactly. Where a mean or deviation is so odd that some
// value of 256 comes out otherwise, the table is looked up.
struct Quotient {
  __m256 divisor, reciprocal;
  __m256 of(__m256 a) const {
    const __m256 q = _mm256_mul_ps(a, reciprocal);
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(divisor, q, a), reciprocal, q);
  }
};
struct NormaliseEight {  // values whose channels follow each other, from `first` on
  Quotient by_255, by_std;
  __m256 mean;

  NormaliseEight(const std::array<float, 3>& means, const std::array<float, 3>& stds, int first) {
    float m[8], d[8], r[8];
    for (int i = 0; i < 8; ++i) m[i] = means[size_t(first + i) % 3], d[i] = stds[size_t(first + i) % 3], r[i] = 1.f / d[i];
    by_255 = {_mm256_set1_ps(255.f), _mm256_set1_ps(1.f / 255.f)};
    by_std = {_mm256_loadu_ps(d), _mm256_loadu_ps(r)};
    mean = _mm256_loadu_ps(m);
  }
  __m256 of(__m256i values) const { return by_std.of(_mm256_sub_ps(by_255.of(_mm256_cvtepi32_ps(values)), mean)); }
};

struct Normaliser {  // of 24 values
  NormaliseEight part[3];
  explicit Normaliser(const Normalisation& n) : part{{n.mean, n.std, 0}, {n.mean, n.std, 8}, {n.mean, n.std, 16}} {}
};

bool computes(const Normalisation& normalisation) {
  const Normaliser normaliser(normalisation);
  for (int v = 0; v < 256; ++v)
    for (int k = 0; k < 3; ++k) {
      float got[8];
      _mm256_storeu_ps(got, normaliser.part[k].of(_mm256_set1_epi32(v)));
      for (int i = 0; i < 8; ++i)
        if (std::memcmp(&got[i], &normalisation.table[size_t(8 * k + i) % 3][size_t(v)], sizeof(float)) != 0) return false;
    }
  return true;
}

void normalise(const Canvas& image, const Normalisation& normalisation, float* out) {
  if (!normalisation.computed) return plain_loops().normalise(image, normalisation, out);
  const Normaliser normaliser(normalisation);
  const uint8_t* p = image.data();
  const int64_t n = image.pixels() * 3, whole = n / 24 * 24;
  for (int64_t i = 0; i < whole; i += 24)
    for (int k = 0; k < 3; ++k)
      _mm256_storeu_ps(out + i + 8 * k, normaliser.part[k].of(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + i + 8 * k)))));
  for (int64_t i = whole; i < n; ++i) out[i] = normalisation.table[size_t(i % 3)][p[i]];
}

}  // namespace

const AugmentLoops& avx2_loops() {
  static const AugmentLoops loops{
      resize_across, resize_down, mirror,   look_up,  plain_loops().look_up_rgb, color, luma_sum, extremes, plain_loops().sharpness, turn_nearest,
      turn,          slide,       computes, normalise};
  return loops;
}

}  // namespace kd
#endif
