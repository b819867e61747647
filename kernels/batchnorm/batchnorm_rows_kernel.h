// batchnorm_rows_kernel: the loops of batchnorm_rows.h on one instruction set V and one storage type T (float, or uint16_t for bf16). Included by the
// batchnorm_rows_<set>.cpp files only; see simd.h for what such a file may contain.
#pragma once
#include "kernels/batchnorm/batchnorm_rows.h"
#include "kernels/common/simd.h"

namespace kd::cpu::batchnorm {

// How many lanes of a vector are channels of the row: all, or the first few where the row ends.
struct Whole {};
struct Part {
  int lanes;
};
enum class Relu : unsigned char { none, plain, mask, sign };  // plain: forward, no mask; mask: written or read; sign: backward, computed again

template <class V>
struct Rows {
  using Reg = typename V::Reg;
  static constexpr int L = V::kLanes;
  // So many rows are read side by side: what is per channel is loaded once for them, and that many streams are in flight. Part of the order of the sums,
  // so the same for all sets.
  static constexpr int kRows = 4;

  // Cache lines of tensors are asked for so many bytes ahead, those to be written too: a store that misses waits for its line as a load does, and the
  // hardware alone does not keep enough lines under way. ms of one thread, cold (how: batchnorm_cpu.cpp), without any, with loads', with both, 131072x64 with
  // residual: forward f32 13.6, 13.9, 8.8 and bf16 6.6, 5.5, 4.9; backward f32 16.7, 16.2, 13.1 and bf16 8.4, 8.2, 7.1. Stores that bypass the cache gained 2
  // to 4 % in forward, made backward with a residual take twice as long, and leave nothing in it for who reads y.
  // Loads of f32 are left to the hardware, which follows them: asking cost an EPYC with AVX512_BF16 5 to 12 % (two threads, five alternating runs, 2026-11-30).
  static constexpr int64_t kLoadAhead = 3072, kStoreAhead = 1024;
  template <class T>
  static KD_INLINE void ask_for(const T* p) {
    if constexpr (sizeof(T) == 2) __builtin_prefetch(p + kLoadAhead / 2);
  }
  template <class T>
  static KD_INLINE Reg load(const T* p, Whole) {
    ask_for(p);
    return V::load(p);
  }
  template <class T>
  static KD_INLINE Reg load(const T* p, Part part) {
    ask_for(p);
    return V::load_part(p, part.lanes);
  }
  template <class T>
  static KD_INLINE void store(T* p, Reg r, Whole) {
    __builtin_prefetch(p + kStoreAhead / int64_t(sizeof(T)), 1);
    V::store(p, r);
  }
  template <class T>
  static KD_INLINE void store(T* p, Reg r, Part part) {
    __builtin_prefetch(p + kStoreAhead / int64_t(sizeof(T)), 1);
    V::store_part(p, r, part.lanes);
  }
  // 8 channels a byte. Lanes behind the channels load as 0 and so give 0 bits.
  static KD_INLINE int bytes(Whole) { return L / 8; }
  static KD_INLINE int bytes(Part part) { return (part.lanes + 7) / 8; }
  template <class Lanes>
  static KD_INLINE uint32_t load_bits(const uint8_t* p, Lanes lanes) {
    uint32_t bits = 0;
    for (int i = 0; i < bytes(lanes); ++i) bits |= uint32_t(p[i]) << (8 * i);
    return bits;
  }
  template <class Lanes>
  static KD_INLINE void store_bits(uint8_t* p, uint32_t bits, Lanes lanes) {
    for (int i = 0; i < bytes(lanes); ++i) p[i] = uint8_t(bits >> (8 * i));
  }

  // What ReLU sees, without a residual. Forward and backward both take it from here: the sign, computed twice, must come out the same. Subtracting first keeps
  // the digits when the mean is large.
  struct Normalise {
    Reg mean, scale, beta;
    template <class Args>
    KD_INLINE Normalise(const Args& a, int64_t channel) : mean(V::load(a.mean + channel)), scale(V::load(a.scale + channel)), beta(V::load(a.beta + channel)) {}
    KD_INLINE Reg operator()(Reg x) const { return V::fmadd(scale, V::sub(x, mean), beta); }
  };

  // op.rows<R>(row, channel, lanes) for every vector of rows [begin, end), kRows rows at a time and the rest one by one.
  template <int R, class Op>
  static KD_INLINE void across(const Op& op, int64_t row, int64_t c) {
    int64_t channel = 0;
    for (; channel + L <= c; channel += L) op.template rows<R>(row, channel, Whole{});
    if (channel < c) op.template rows<R>(row, channel, Part{int(c - channel)});
  }
  template <class Op>
  static KD_INLINE void each(const Op& op, int64_t begin, int64_t end, int64_t c) {
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) across<kRows>(op, row, c);
    for (; row < end; ++row) across<1>(op, row, c);
  }

  // The sums are kept in memory, which is L1, between groups of rows and in registers within one.
  static KD_INLINE void add_to(float* sum, Reg r) { V::store(sum, V::add(V::load(sum), r)); }

  template <class T>
  struct Sums {
    const T* x;
    const float* origin;
    int64_t c;
    float *sum, *square;
    template <int R, class Lanes>
    KD_INLINE void rows(int64_t row, int64_t channel, Lanes lanes) const {
      const Reg zero_point = V::load(origin + channel);
      Reg a = V::zero(), b = V::zero();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Reg d = V::sub(load(x + (row + r) * c + channel, lanes), zero_point);
        a = V::add(a, d);
        b = V::fmadd(d, d, b);
      }
      add_to(sum + channel, a);
      add_to(square + channel, b);
    }
  };
  template <class T>
  static void sums(const void* x, const float* origin, int64_t begin, int64_t end, int64_t c, float* sum, float* square) {
    each(Sums<T>{static_cast<const T*>(x), origin, c, sum, square}, begin, end, c);
  }

  template <class T, bool kResidual, Relu kRelu>
  struct Apply {
    const Forward& f;
    template <int R, class Lanes>
    KD_INLINE void rows(int64_t row, int64_t channel, Lanes lanes) const {
      const Normalise normalise(f, channel);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const int64_t at = (row + r) * f.c + channel;
        Reg v = normalise(load(static_cast<const T*>(f.x) + at, lanes));
        if constexpr (kResidual) v = V::add(v, load(static_cast<const T*>(f.residual) + at, lanes));
        if constexpr (kRelu == Relu::mask) store_bits(f.mask + (row + r) * ((f.c + 7) / 8) + channel / 8, V::bits(V::greater(v, V::zero())), lanes);
        if constexpr (kRelu != Relu::none) v = V::max(V::zero(), v);  // in this order a NaN stays one
        store(static_cast<T*>(f.y) + at, v, lanes);
      }
    }
  };
  template <class T, bool kResidual>
  static KD_INLINE void apply_of(const Forward& f, int64_t begin, int64_t end) {
    if (!f.relu) return each(Apply<T, kResidual, Relu::none>{f}, begin, end, f.c);
    if (f.mask) return each(Apply<T, kResidual, Relu::mask>{f}, begin, end, f.c);
    each(Apply<T, kResidual, Relu::plain>{f}, begin, end, f.c);
  }
  template <class T>
  static void apply(const Forward& f, int64_t begin, int64_t end) {
    f.residual ? apply_of<T, true>(f, begin, end) : apply_of<T, false>(f, begin, end);
  }

  // dz: dy where the ReLU let through, else 0. D: dy's type.
  template <class D, Relu kRelu, class Lanes>
  static KD_INLINE Reg gradient(const Backward& b, const Normalise& normalise, int64_t row, int64_t channel, Reg x, Lanes lanes) {
    const Reg dy = load(static_cast<const D*>(b.dy) + (row - b.dy_row) * b.c + channel, lanes);
    if constexpr (kRelu == Relu::mask) return V::keep(V::mask_of(load_bits(b.mask + row * ((b.c + 7) / 8) + channel / 8, lanes)), dy);
    if constexpr (kRelu == Relu::sign) return V::keep(V::greater(normalise(x), V::zero()), dy);
    return dy;
  }

  template <class T, class D, Relu kRelu>
  struct GradientSums {
    const Backward& b;
    float *sum, *product;
    template <int R, class Lanes>
    KD_INLINE void rows(int64_t row, int64_t channel, Lanes lanes) const {
      const Normalise normalise(b, channel);
      Reg first = V::zero(), second = V::zero();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Reg x = load(static_cast<const T*>(b.x) + (row + r) * b.c + channel, lanes);
        const Reg dz = gradient<D, kRelu>(b, normalise, row + r, channel, x, lanes);
        first = V::add(first, dz);
        second = V::fmadd(dz, V::sub(x, normalise.mean), second);
      }
      add_to(sum + channel, first);
      add_to(product + channel, second);
    }
  };
  template <class T>
  static void gradient_sums(const Backward& b, int64_t begin, int64_t end, float* sum, float* product) {
    if (!b.relu) return each(GradientSums<T, T, Relu::none>{b, sum, product}, begin, end, b.c);
    if (b.mask) return each(GradientSums<T, T, Relu::mask>{b, sum, product}, begin, end, b.c);
    each(GradientSums<T, T, Relu::sign>{b, sum, product}, begin, end, b.c);
  }
  template <class T>
  static void unpooled_sums(const Backward& b, int64_t begin, int64_t end, float* sum, float* product) {
    each(GradientSums<T, float, Relu::sign>{b, sum, product}, begin, end, b.c);
  }

  template <class T, class D, bool kResidual, Relu kRelu>
  struct GradientApply {
    const Backward& b;
    template <int R, class Lanes>
    KD_INLINE void rows(int64_t row, int64_t channel, Lanes lanes) const {
      const Normalise normalise(b, channel);
      const Reg slope = V::load(b.slope + channel), mean_dz = V::load(b.mean_dz + channel);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const int64_t at = (row + r) * b.c + channel;
        const Reg x = load(static_cast<const T*>(b.x) + at, lanes), dz = gradient<D, kRelu>(b, normalise, row + r, channel, x, lanes);
        if constexpr (kResidual) store(static_cast<T*>(b.dresidual) + at, dz, lanes);
        const Reg centred = V::fnmadd(V::sub(x, normalise.mean), slope, V::sub(dz, mean_dz));
        store(static_cast<T*>(b.dx) + at, V::mul(normalise.scale, centred), lanes);
      }
    }
  };
  template <class T, bool kResidual>
  static KD_INLINE void gradient_apply_of(const Backward& b, int64_t begin, int64_t end) {
    if (!b.relu) return each(GradientApply<T, T, kResidual, Relu::none>{b}, begin, end, b.c);
    if (b.mask) return each(GradientApply<T, T, kResidual, Relu::mask>{b}, begin, end, b.c);
    if constexpr (!kResidual) each(GradientApply<T, T, kResidual, Relu::sign>{b}, begin, end, b.c);  // x alone does not tell the sign of a sum
  }
  template <class T>
  static void gradient_apply(const Backward& b, int64_t begin, int64_t end) {
    b.dresidual ? gradient_apply_of<T, true>(b, begin, end) : gradient_apply_of<T, false>(b, begin, end);
  }
  template <class T>
  static void unpooled_apply(const Backward& b, int64_t begin, int64_t end) {
    each(GradientApply<T, float, false, Relu::sign>{b}, begin, end, b.c);
  }

  // ---- the pooled form
  template <class T, class Lanes>
  static KD_INLINE void pool_window(const Pool& f, int64_t out_row, int64_t q, int64_t channel, Lanes lanes) {
    const int64_t n = out_row / f.out_h, p = out_row % f.out_h;
    const int64_t top = p == 0, bottom = 2 * p + 1 < f.h ? 3 : 2, left = q == 0, right = 2 * q + 1 < f.w ? 3 : 2;  // places inside the image
    const int64_t corner = ((n * f.h + 2 * p - 1) * f.w + 2 * q - 1) * f.c + channel;
    const Normalise normalise(f, channel);
    // ReLU(v) of a window without a positive v is 0 everywhere, and its first place inside the image wins.
    Reg best = V::zero(), where = V::set1(float(top * 3 + left));
    for (int64_t r = top; r < bottom; ++r)
      for (int64_t t = left; t < right; ++t) {
        const Reg v = normalise(load(static_cast<const T*>(f.x) + (corner + (r * f.w + t) * f.c), lanes));
        const auto wins = V::greater_or_nan(v, best);
        best = V::select(wins, v, best);
        where = V::select(wins, V::set1(float(r * 3 + t)), where);
      }
    const int64_t at = (out_row * f.out_w + q) * f.c + channel;
    store(static_cast<T*>(f.y) + at, best, lanes);
    store_places(f.arg + at, where, lanes);
  }
  static KD_INLINE void store_places(uint8_t* p, Reg where, Whole) { V::store_bytes(p, where); }
  static KD_INLINE void store_places(uint8_t* p, Reg where, Part part) {
    uint8_t room[L];
    V::store_bytes(room, where);
    for (int i = 0; i < part.lanes; ++i) p[i] = room[i];
  }
  static KD_INLINE Reg load_places(const uint8_t* p, Whole) { return V::load_bytes(p); }
  static KD_INLINE Reg load_places(const uint8_t* p, Part part) {
    uint8_t room[L] = {};
    for (int i = 0; i < part.lanes; ++i) room[i] = p[i];
    return V::load_bytes(room);
  }
  template <class T>
  static void pool(const Pool& f, int64_t out_row) {
    for (int64_t q = 0; q < f.out_w; ++q) {
      int64_t channel = 0;
      for (; channel + L <= f.c; channel += L) pool_window<T>(f, out_row, q, channel, Whole{});
      if (channel < f.c) pool_window<T>(f, out_row, q, channel, Part{int(f.c - channel)});
    }
  }

  // The windows that a pixel lies in, and its place there: an even row is in one, an odd one in two (the last may be in one), and so for columns.
  struct Windows {
    int64_t at[4];  // index of channel 0 in dy and arg
    float place[4];
  };
  template <class T, int kCount, class Lanes>
  static KD_INLINE void unpool_pixel(const Unpool& b, const Windows& windows, int64_t channel, float* dz, Lanes lanes) {
    Reg sum = V::zero();
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      const int64_t at = windows.at[i] + channel;
      const auto won = V::equal(load_places(b.arg + at, lanes), V::set1(windows.place[i]));
      sum = V::add(sum, V::keep(won, load(static_cast<const T*>(b.dy) + at, lanes)));
    }
    store(dz + channel, sum, lanes);
  }
  template <class T, int kCount>
  static KD_INLINE void unpool_across(const Unpool& b, const Windows& windows, float* dz) {
    int64_t channel = 0;
    for (; channel + L <= b.c; channel += L) unpool_pixel<T, kCount>(b, windows, channel, dz, Whole{});
    if (channel < b.c) unpool_pixel<T, kCount>(b, windows, channel, dz, Part{int(b.c - channel)});
  }
  template <class T>
  static void unpool(const Unpool& b, int64_t begin, int64_t end, float* dz) {
    for (int64_t pixel = begin; pixel < end; ++pixel, dz += b.c) {
      const int64_t row = pixel / b.w, j = pixel % b.w, n = row / b.h, i = row % b.h;
      Windows windows;
      int count = 0;
      for (int64_t p = i / 2; p <= (i + 1) / 2 && p < b.out_h; ++p)
        for (int64_t q = j / 2; q <= (j + 1) / 2 && q < b.out_w; ++q, ++count) {
          windows.at[count] = ((n * b.out_h + p) * b.out_w + q) * b.c;
          windows.place[count] = float((i - 2 * p + 1) * 3 + (j - 2 * q + 1));
        }
      if (count == 1)
        unpool_across<T, 1>(b, windows, dz);
      else if (count == 2)
        unpool_across<T, 2>(b, windows, dz);
      else
        unpool_across<T, 4>(b, windows, dz);
    }
  }
};

template <class V>
constexpr Kernels kernels_of() {
  using R = Rows<V>;
  return {.sums = {R::template sums<float>, R::template sums<uint16_t>},
          .apply = {R::template apply<float>, R::template apply<uint16_t>},
          .gradient_sums = {R::template gradient_sums<float>, R::template gradient_sums<uint16_t>},
          .gradient_apply = {R::template gradient_apply<float>, R::template gradient_apply<uint16_t>},
          .pool = {R::template pool<float>, R::template pool<uint16_t>},
          .unpool = {R::template unpool<float>, R::template unpool<uint16_t>},
          .unpooled_sums = {R::template unpooled_sums<float>, R::template unpooled_sums<uint16_t>},
          .unpooled_apply = {R::template unpooled_apply<float>, R::template unpooled_apply<uint16_t>}};
}

}  // namespace kd::cpu::batchnorm
