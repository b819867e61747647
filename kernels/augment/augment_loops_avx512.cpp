// Compiled with AVX-512, VBMI and VNNI where the architecture is x86-64, whatever the build's own instruction set.
#include "kernels/augment/augment_loops_avx512.h"

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
#include <immintrin.h>

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
  constexpr int64_t kRowsAtOnce = 8;  // they share the loads of what a block is made of, and stay in L1
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
      if (groups == 1) {
        const auto part = [&](int vector, int i) { return load(steps + vector * kStepBytes + i * kVectorBytes); };
        const __m512i a[] = {part(0, 0), part(0, 1), part(0, 2), part(0, 3)}, g[] = {part(1, 0), part(1, 1), part(1, 2), part(1, 3)},
                      c[] = {part(2, 0), part(2, 1), part(2, 2), part(2, 3)};
        const uint8_t *in0 = in + at[0], *in1 = in + at[1], *in2 = in + at[2];
        for (int64_t y = 0; y < height; ++y) {
          const auto values = [&](const uint8_t* row, const __m512i(&w)[4]) { return weighted(select(w[0], load(row + y * in_stride)), w[1], w[2], w[3]); };
          _mm512_mask_storeu_epi8(first_out + y * out_stride, mask, select(order, packed(values(in0, a), values(in1, g), values(in2, c))));
        }
        continue;
      }
      for (int64_t y = 0; y < height; ++y) {
        const uint8_t* row = in + y * in_stride;
        const auto values = [&](int vector) {
          Sum sum;
          for (int64_t i = vector * groups; i < (vector + 1) * groups; ++i) {
            const uint8_t* step = steps + i * kStepBytes;
            sum.add(select(load(step), load(row + at[i])), load(step + kVectorBytes), load(step + 2 * kVectorBytes), load(step + 3 * kVectorBytes));
          }
          return sum.value();
        };
        _mm512_mask_storeu_epi8(first_out + y * out_stride, mask, select(order, packed(values(0), values(1), values(2))));
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

constexpr Loops kLoops{resize_across, resize_down, look_up, look_up_rgb};

}  // namespace

constinit const Loops* const loops = &kLoops;

}  // namespace kd::avx512
#else
namespace kd::avx512 {
constinit const Loops* const loops = nullptr;
}
#endif
