// winograd_kernel: the stages of winograd.h on one instruction set V and, where memory is read or written, one storage type T (float, or uint16_t for bf16).
// Included by the winograd_<set>.cpp files only; see simd.h for what such a file may contain.
#pragma once
#include "kernels/common/simd.h"
#include "kernels/conv/winograd.h"

// g++ keeps an array in registers only where the loops over it are unrolled early, which this asks for. Emulated vectors have no registers; unrolled they would
// keep the compiler busy for minutes.
#ifndef KD_UNROLL
#define KD_PRAGMA(text) _Pragma(#text)
#define KD_UNROLL(n) KD_PRAGMA(GCC unroll n)
#endif

namespace kd::cpu::winograd {

template <class V>
struct Stages {
  using Reg = typename V::Reg;
  static constexpr int L = V::kLanes;
  static constexpr int kRows = L == 16 ? 14 : 6;  // 28 accumulators of 32 registers, 12 of 16
  static constexpr int kWidth = 2 * L;
  static constexpr int kGradientRows = L == 16 ? 8 : 6;  // wgrad: 16 output channels go 8+8 or 6+5+5

  // ---- the one-dimensional transforms of a form (winograd.h): what B^T, A^T, A, G and G^T do to one row or column
  struct Unit {
    static constexpr int kWindow = 6, kPoints = 6, kOut = 4, kStep = 4, kSteps = 4, kTaps = 6;
    static KD_INLINE void input(const Reg* d, Reg* t) {  // B^T d
      const Reg two = V::set1(2.f), four = V::set1(4.f), five = V::set1(5.f);
      const Reg a = V::fnmadd(four, d[2], d[4]), b = V::fnmadd(four, d[1], d[3]), c = V::sub(d[4], d[2]), e = V::sub(d[3], d[1]);
      t[0] = V::fmadd(four, d[0], V::fnmadd(five, d[2], d[4]));
      t[1] = V::add(a, b);
      t[2] = V::sub(a, b);
      t[3] = V::fmadd(two, e, c);
      t[4] = V::fnmadd(two, e, c);
      t[5] = V::fmadd(four, d[1], V::fnmadd(five, d[3], d[5]));
    }
    static KD_INLINE void output(const Reg* m, Reg* y) {  // A^T m
      const Reg s = V::add(m[1], m[2]), d = V::sub(m[1], m[2]), u = V::add(m[3], m[4]), v = V::sub(m[3], m[4]);
      y[0] = V::add(V::add(m[0], s), u);
      y[1] = V::fmadd(V::set1(2.f), v, d);
      y[2] = V::fmadd(V::set1(4.f), u, s);
      y[3] = V::add(V::fmadd(V::set1(8.f), v, d), m[5]);
    }
    static KD_INLINE void gradient(const Reg* y, Reg* t) {  // A y
      const Reg four = V::set1(4.f), two = V::set1(2.f);
      const Reg e = V::add(y[0], y[2]), o = V::add(y[1], y[3]), e4 = V::fmadd(four, y[2], y[0]), o4 = V::fmadd(four, y[3], y[1]);
      t[0] = y[0];
      t[1] = V::add(e, o);
      t[2] = V::sub(e, o);
      t[3] = V::fmadd(two, o4, e4);
      t[4] = V::fnmadd(two, o4, e4);
      t[5] = y[3];
    }
    static KD_INLINE void filter(const Reg* g, Reg* t) {  // G g
      const Reg sixth = V::set1(-1.f / 6), s = V::add(g[0], g[2]);
      const Reg q = V::fmadd(V::set1(1.f / 24), g[0], V::mul(V::set1(1.f / 6), g[2])), h = V::mul(V::set1(1.f / 12), g[1]);
      t[0] = V::mul(V::set1(0.25f), g[0]);
      t[1] = V::mul(sixth, V::add(s, g[1]));
      t[2] = V::mul(sixth, V::sub(s, g[1]));
      t[3] = V::add(q, h);
      t[4] = V::sub(q, h);
      t[5] = g[2];
    }
    static KD_INLINE void filter_back(const Reg* u, Reg* g) {  // G^T u
      const Reg s = V::add(u[1], u[2]), d = V::sub(u[2], u[1]), p = V::add(u[3], u[4]), m = V::sub(u[3], u[4]);
      const Reg sixth = V::set1(1.f / 6);
      g[0] = V::fmadd(V::set1(0.25f), u[0], V::fnmadd(sixth, s, V::mul(V::set1(1.f / 24), p)));
      g[1] = V::fmadd(V::set1(1.f / 12), m, V::mul(sixth, d));
      g[2] = V::fmadd(sixth, V::sub(p, s), u[5]);
    }
    // Pixels that `steps` outputs do not need, as those that make the points zero which they do not need either.
    static KD_INLINE void extend(Reg* d, int64_t steps) {
      if (steps == 1) d[3] = d[1];
      if (steps <= 2) d[4] = V::fmadd(V::set1(2.f), V::sub(d[3], d[1]), d[2]);
    }
    // Points from `first` on that are made of the same pixels.
    static constexpr int same_pixels(int first) { return first == 0 ? 1 : first < 5 ? 5 : 6; }
  };

  struct Wide {
    static constexpr int kWindow = 8, kPoints = 8, kOut = 6, kStep = 6, kSteps = 6, kTaps = 8;
    static KD_INLINE void input(const Reg* d, Reg* t) {
      const Reg quarter = V::set1(0.25f), half = V::set1(0.5f), two = V::set1(2.f), four = V::set1(4.f), five = V::set1(5.f);
      const Reg p = V::set1(4.25f), q = V::set1(5.25f), r = V::set1(1.25f), s = V::set1(2.5f);
      const Reg e1 = V::fnmadd(p, d[4], V::add(d[2], d[6])), o1 = V::fnmadd(p, d[3], V::add(d[1], d[5]));
      const Reg e2 = V::fmadd(four, d[2], V::fnmadd(five, d[4], d[6])), o2 = V::fmadd(half, d[5], V::fnmadd(s, d[3], V::mul(two, d[1])));
      const Reg e3 = V::fmadd(quarter, d[2], V::fnmadd(r, d[4], d[6])), o3 = V::fmadd(two, d[5], V::fnmadd(s, d[3], V::mul(half, d[1])));
      t[0] = V::fmadd(q, V::sub(d[2], d[4]), V::sub(d[6], d[0]));
      t[1] = V::add(e1, o1);
      t[2] = V::sub(e1, o1);
      t[3] = V::add(e2, o2);
      t[4] = V::sub(e2, o2);
      t[5] = V::add(e3, o3);
      t[6] = V::sub(e3, o3);
      t[7] = V::fmadd(q, V::sub(d[3], d[5]), V::sub(d[7], d[1]));
    }
    static KD_INLINE void output(const Reg* m, Reg* y) {
      const Reg s1 = V::add(m[1], m[2]), s2 = V::add(m[3], m[4]), s3 = V::add(m[5], m[6]);
      const Reg d1 = V::sub(m[1], m[2]), d2 = V::sub(m[3], m[4]), d3 = V::sub(m[5], m[6]);
      y[0] = V::add(V::add(m[0], s1), V::add(s2, s3));
      y[1] = V::fmadd(V::set1(2.f), d3, V::fmadd(V::set1(1.f / 2), d2, d1));
      y[2] = V::fmadd(V::set1(4.f), s3, V::fmadd(V::set1(1.f / 4), s2, s1));
      y[3] = V::fmadd(V::set1(8.f), d3, V::fmadd(V::set1(1.f / 8), d2, d1));
      y[4] = V::fmadd(V::set1(16.f), s3, V::fmadd(V::set1(1.f / 16), s2, s1));
      y[5] = V::add(V::fmadd(V::set1(32.f), d3, V::fmadd(V::set1(1.f / 32), d2, d1)), m[7]);
    }
    static KD_INLINE void gradient(const Reg* y, Reg* t) {
      const Reg e1 = V::add(V::add(y[0], y[2]), y[4]), o1 = V::add(V::add(y[1], y[3]), y[5]);
      const Reg quarter = V::set1(0.25f), four = V::set1(4.f);
      const Reg e2 = V::fmadd(quarter, V::fmadd(quarter, y[4], y[2]), y[0]), o2 = V::fmadd(quarter, V::fmadd(quarter, y[5], y[3]), y[1]);
      const Reg e3 = V::fmadd(four, V::fmadd(four, y[4], y[2]), y[0]), o3 = V::fmadd(four, V::fmadd(four, y[5], y[3]), y[1]);
      t[0] = y[0];
      t[1] = V::add(e1, o1);
      t[2] = V::sub(e1, o1);
      t[3] = V::fmadd(V::set1(0.5f), o2, e2);
      t[4] = V::fnmadd(V::set1(0.5f), o2, e2);
      t[5] = V::fmadd(V::set1(2.f), o3, e3);
      t[6] = V::fnmadd(V::set1(2.f), o3, e3);
      t[7] = y[5];
    }
    static KD_INLINE void filter(const Reg* g, Reg* t) {
      const Reg s = V::add(g[0], g[2]), ninths = V::set1(-2.f / 9);
      const Reg q2 = V::fmadd(V::set1(32.f / 45), g[0], V::mul(V::set1(8.f / 45), g[2])), h2 = V::mul(V::set1(16.f / 45), g[1]);
      const Reg q3 = V::fmadd(V::set1(1.f / 90), g[0], V::mul(V::set1(2.f / 45), g[2])), h3 = V::mul(V::set1(1.f / 45), g[1]);
      t[0] = V::sub(V::zero(), g[0]);
      t[1] = V::mul(ninths, V::add(s, g[1]));
      t[2] = V::mul(ninths, V::sub(s, g[1]));
      t[3] = V::add(q2, h2);
      t[4] = V::sub(q2, h2);
      t[5] = V::add(q3, h3);
      t[6] = V::sub(q3, h3);
      t[7] = g[2];
    }
    static KD_INLINE void filter_back(const Reg* u, Reg* g) {
      const Reg s1 = V::mul(V::set1(2.f / 9), V::add(u[1], u[2])), d1 = V::mul(V::set1(2.f / 9), V::sub(u[2], u[1]));
      const Reg s2 = V::add(u[3], u[4]), d2 = V::sub(u[3], u[4]), s3 = V::add(u[5], u[6]), d3 = V::sub(u[5], u[6]);
      g[0] = V::fmadd(V::set1(1.f / 90), s3, V::fmadd(V::set1(32.f / 45), s2, V::sub(V::sub(V::zero(), u[0]), s1)));
      g[1] = V::fmadd(V::set1(1.f / 45), d3, V::fmadd(V::set1(16.f / 45), d2, d1));
      g[2] = V::fmadd(V::set1(2.f / 45), s3, V::fmadd(V::set1(8.f / 45), s2, V::sub(u[7], s1)));
    }
    // The points that are needed have a polynomial of degree steps + 2; the others are zero where its coefficients, at every shift, make zero of the pixels.
    static KD_INLINE void extend(Reg* d, int64_t steps) {
      const Reg half = V::set1(0.5f), quarter = V::set1(0.25f), more = V::set1(1.25f);
      if (steps == 1) {  // x^3 - x
        d[3] = d[1];
        d[4] = d[2];
        d[5] = d[1];
        d[6] = d[2];
      } else if (steps == 2) {  // (x^3 - x)(x - 1/2)
        d[4] = V::fmadd(half, V::sub(d[3], d[1]), d[2]);
        d[5] = V::fmadd(half, V::sub(d[4], d[2]), d[3]);
        d[6] = V::fmadd(half, V::sub(d[5], d[3]), d[4]);
      } else if (steps == 3) {  // (x^3 - x)(x^2 - 1/4)
        d[5] = V::fnmadd(quarter, d[1], V::mul(more, d[3]));
        d[6] = V::fnmadd(quarter, d[2], V::mul(more, d[4]));
      } else if (steps == 4) {  // (x^3 - x)(x^2 - 1/4)(x - 2)
        const Reg two = V::set1(2.f), a = V::fmadd(half, d[1], V::fnmadd(quarter, d[2], V::mul(more, d[4])));
        d[6] = V::fmadd(two, V::fnmadd(more, d[3], d[5]), a);
      }
    }
  };

  // F(4,2) of the pixels that two taps share: B^T d, A^T m, A y.
  static KD_INLINE void input5(const Reg* d, Reg* t) {
    const Reg two = V::set1(2.f), a = V::sub(d[3], d[2]), b = V::sub(d[3], d[1]);
    t[0] = V::fmadd(two, V::sub(d[0], d[2]), b);
    t[1] = V::fnmadd(two, d[1], a);
    t[2] = V::fmadd(two, V::sub(d[1], d[2]), a);
    t[3] = b;
    t[4] = V::fnmadd(two, b, V::sub(d[4], d[2]));
  }
  static KD_INLINE void output4(const Reg* m, Reg* y) {
    const Reg s = V::add(m[1], m[2]), d = V::sub(m[1], m[2]);
    y[0] = V::add(V::add(m[0], s), m[3]);
    y[1] = V::fmadd(V::set1(2.f), m[3], d);
    y[2] = V::fmadd(V::set1(4.f), m[3], s);
    y[3] = V::add(V::fmadd(V::set1(8.f), m[3], d), m[4]);
  }
  struct Strided {
    static constexpr int kWindow = 9, kPoints = 9, kOut = 4, kStep = 8, kSteps = 4, kTaps = 6;
    static KD_INLINE void input(const Reg* d, Reg* t) {
      const Reg even[5] = {d[0], d[2], d[4], d[6], d[8]};
KD_UNROLL(4)
      for (int i = 0; i < 4; ++i) t[i] = d[2 * i + 1];
      input5(even, t + 4);
    }
    static KD_INLINE void output(const Reg* m, Reg* y) {
      output4(m + 4, y);
KD_UNROLL(4)
      for (int i = 0; i < 4; ++i) y[i] = V::add(y[i], m[i]);
    }
    static KD_INLINE void gradient(const Reg* y, Reg* t) {
      const Reg e = V::add(y[0], y[2]), o = V::add(y[1], y[3]);
KD_UNROLL(4)
      for (int i = 0; i < 4; ++i) t[i] = y[i];
      t[4] = y[0];
      t[5] = V::add(e, o);
      t[6] = V::sub(e, o);
      t[7] = V::fmadd(V::set1(2.f), V::fmadd(V::set1(4.f), y[3], y[1]), V::fmadd(V::set1(4.f), y[2], y[0]));
      t[8] = y[3];
    }
    static KD_INLINE void filter(const Reg* g, Reg* t) {
      t[0] = g[1];
      t[1] = V::mul(V::set1(0.5f), g[0]);
      t[2] = V::mul(V::set1(-0.5f), V::add(g[0], g[2]));
      t[3] = V::mul(V::set1(1.f / 6), V::sub(g[2], g[0]));
      t[4] = V::mul(V::set1(1.f / 6), V::fmadd(V::set1(2.f), g[2], g[0]));
      t[5] = g[2];
    }
    static KD_INLINE void filter_back(const Reg* u, Reg* g) {
      const Reg half = V::set1(0.5f), sixth = V::set1(1.f / 6);
      g[0] = V::fmadd(half, V::sub(u[1], u[2]), V::mul(sixth, V::sub(u[4], u[3])));
      g[1] = u[0];
      g[2] = V::add(V::fnmadd(half, u[2], V::mul(sixth, V::fmadd(V::set1(2.f), u[4], u[3]))), u[5]);
    }
    static KD_INLINE void extend(Reg* d, int64_t steps) {
      if (steps == 1) d[4] = d[2];
      if (steps <= 2) d[6] = d[2];
    }
  };
  struct StridedBack {
    static constexpr int kWindow = 5, kPoints = 9, kOut = 8, kStep = 4, kSteps = 4, kTaps = 6;
    static KD_INLINE void input(const Reg* d, Reg* t) {
KD_UNROLL(4)
      for (int i = 0; i < 4; ++i) t[i] = d[i];
      input5(d, t + 4);
    }
    static KD_INLINE void output(const Reg* m, Reg* y) {
      Reg odd[4];
      output4(m + 4, odd);
KD_UNROLL(4)
      for (int i = 0; i < 4; ++i) y[2 * i] = m[i], y[2 * i + 1] = odd[i];
    }
    static KD_INLINE void extend(Reg* d, int64_t steps) {
      if (steps <= 2) d[3] = d[1];  // with one step d[1] and what follows lie outside and are zeros
    }
  };

  // A tensor on its way to the points: the one that is convolved, or the gradient of the output.
  template <class Form>
  struct Input : Form {
    static constexpr int kSize = Form::kWindow;
    static KD_INLINE void transform(const Reg* d, Reg* t) { Form::input(d, t); }
  };
  template <class Form>
  struct Gradient : Form {
    static constexpr int kSize = Form::kOut, kStep = Form::kOut;
    static KD_INLINE void transform(const Reg* y, Reg* t) { Form::gradient(y, t); }
    static KD_INLINE void extend(Reg*, int64_t) {}  // outputs outside the tensor are zeros
    static constexpr int same_pixels(int) { return Form::kPoints; }
  };

  // ---- products: R tiles x N vectors of output channels in registers, over all input channels. `ahead`: floats to the same tiles of the next position, which
  // are asked for meanwhile, a line a step.
  template <int R, int N>
  static void tile(const float* v, int64_t v_block, int64_t channels, const float* u, float* m, bool add, int64_t ahead) {
    Reg sum[R][N];
KD_UNROLL(14)
    for (int r = 0; r < R; ++r)
KD_UNROLL(2)
      for (int n = 0; n < N; ++n) sum[r][n] = add ? V::load(m + (r * N + n) * L) : V::zero();
    for (int64_t c = 0; c < channels; c += 16, v += v_block)
KD_UNROLL(4)
      for (int i = 0; i < 16; ++i, u += N * L) {
        __builtin_prefetch(v + ahead + i * 16, 0, 2);
        Reg b[N];
KD_UNROLL(2)
        for (int n = 0; n < N; ++n) b[n] = V::load(u + n * L);
KD_UNROLL(14)
        for (int r = 0; r < R; ++r) {
          const Reg a = V::set1(v[r * 16 + i]);
KD_UNROLL(2)
          for (int n = 0; n < N; ++n) sum[r][n] = V::fmadd(a, b[n], sum[r][n]);
        }
      }
KD_UNROLL(14)
    for (int r = 0; r < R; ++r)
KD_UNROLL(2)
      for (int n = 0; n < N; ++n) V::store(m + (r * N + n) * L, sum[r][n]);
  }
  template <int R, int N>
  static KD_INLINE void tile_of(int64_t rows, const float* v, int64_t v_block, int64_t channels, const float* u, float* m, bool add, int64_t ahead) {
    if (rows == R) return tile<R, N>(v, v_block, channels, u, m, add, ahead);
    if constexpr (R > 1) tile_of<R - 1, N>(rows, v, v_block, channels, u, m, add, ahead);
  }
  template <int N>
  static void multiply_position(const TileBlock& v, int64_t position, int64_t in, int64_t in_count, const float* u, const TileBlock& m, bool add) {
    const float* from = v.data + position * v.position + in * v.capacity;
    float* to = m.data + position * m.position;
    // Groups of nearly equal size: 64 tiles are 9 of 6 and 2 of 5, not 10 of 6 and one of 4 that cannot fill the pipelines.
    const int64_t groups = (v.tiles + kRows - 1) / kRows;
    for (int64_t g = 0, t = 0; g < groups; ++g) {
      const int64_t rows = (v.tiles - t + groups - g - 1) / (groups - g);
      tile_of<kRows, N>(rows, from + t * 16, v.capacity * 16, in_count, u, to + t * N * L, add, v.position);
      t += rows;
    }
  }
  static void multiply(const TileBlock& v, int64_t position, int64_t in, int64_t in_count, const float* u, int64_t width, const TileBlock& m, bool add) {
    if (width == kWidth) return multiply_position<2>(v, position, in, in_count, u, m, add);
    if constexpr (L == 16) multiply_position<1>(v, position, in, in_count, u, m, add);
  }

  // ---- products of wgrad: R output channels x N vectors of input channels in registers, over all tiles, a line of `ahead` asked for with each
  template <int R, int N>
  static void outer(const float* x, int64_t x_block, const float* dy, int64_t tiles, float* du, int64_t du_block, bool add, const float* ahead) {
    Reg sum[R][N];
KD_UNROLL(8)
    for (int r = 0; r < R; ++r)
KD_UNROLL(2)
      for (int n = 0; n < N; ++n) {
        sum[r][n] = V::zero();
        __builtin_prefetch(du + n * L / 16 * du_block + r * 16 + n * L % 16, 1);
      }
KD_UNROLL(4)
    for (int64_t t = 0; t < tiles; ++t) {
      __builtin_prefetch(ahead + t * 16, 0, 2);
      Reg b[N];
KD_UNROLL(2)
      for (int n = 0; n < N; ++n) b[n] = V::load(x + t * 16 + n * L / 16 * x_block + n * L % 16);
KD_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        const Reg a = V::set1(dy[t * 16 + r]);
KD_UNROLL(2)
        for (int n = 0; n < N; ++n) sum[r][n] = V::fmadd(a, b[n], sum[r][n]);
      }
    }
KD_UNROLL(8)
    for (int r = 0; r < R; ++r)
KD_UNROLL(2)
      for (int n = 0; n < N; ++n) {
        float* to = du + n * L / 16 * du_block + r * 16 + n * L % 16;
        V::store(to, add ? V::add(V::load(to), sum[r][n]) : sum[r][n]);
      }
  }
  template <int N>
  static KD_INLINE void outer16(const float* x, int64_t x_block, const float* dy, int64_t tiles, float* du, int64_t du_block, bool add, const float* ahead,
                                int64_t ahead_block) {
    outer<kGradientRows, N>(x, x_block, dy, tiles, du, du_block, add, ahead);
    if constexpr (L == 16) {
      outer<8, N>(x, x_block, dy + 8, tiles, du + 8 * 16, du_block, add, ahead + ahead_block);
    } else {
      outer<5, N>(x, x_block, dy + 6, tiles, du + 6 * 16, du_block, add, ahead + ahead_block);
      outer<5, N>(x, x_block, dy + 11, tiles, du + 11 * 16, du_block, add, ahead + ahead_block);
    }
  }
  static void accumulate(const TileBlock& x, const TileBlock& dy, int64_t position, int64_t in, int64_t in_blocks, int64_t out, int64_t out_blocks, float* du,
                         int64_t du_row, int64_t du_block, bool add) {
    const int64_t x_block = x.capacity * 16, dy_block = dy.capacity * 16;
    const float* from_x = x.data + position * x.position + in * x_block;
    const float* from_dy = dy.data + position * dy.position + out * dy_block;
    for (int64_t o = 0; o < out_blocks; ++o) {
      // What the next position will read of x is asked for with the first block of outputs, of dy with the others.
      const float* next = o ? from_dy + dy.position : from_x + x.position;
      const int64_t next_block = o ? dy_block : x_block;
      for (int64_t i = 0; i < in_blocks;) {
        float* to = du + o * du_row + i * du_block;
        if (L == 16 && i + 1 == in_blocks) {
          outer16<1>(from_x + i * x_block, x_block, from_dy + o * dy_block, x.tiles, to, du_block, add, next, next_block);
          i += 1;
        } else {
          outer16<2>(from_x + i * x_block, x_block, from_dy + o * dy_block, x.tiles, to, du_block, add, next, next_block);
          i += 2 * L / 16;
        }
      }
    }
  }
};

template <class V, class T>
struct Transforms : Stages<V> {
  using S = Stages<V>;
  using Reg = typename V::Reg;
  static constexpr int L = V::kLanes;

  // Addresses of the Size x Size pixels of a window that begins at (h0, w0); pixels outside the tensor are read from `zeros`.
  template <int Size>
  static KD_INLINE void window(const Tiling& s, const T* image, int64_t h0, int64_t w0, const T* zeros, const T** at) {
    const bool inside = h0 >= 0 && h0 + Size <= s.h && w0 >= 0 && w0 + Size <= s.w;
    int64_t offset = (h0 * s.w + w0) * s.c;
    for (int i = 0; i < Size; ++i, offset += (s.w - Size) * s.c)
      for (int j = 0; j < Size; ++j, offset += s.c)
        at[i * Size + j] = inside || (h0 + i >= 0 && h0 + i < s.h && w0 + j >= 0 && w0 + j < s.w) ? image + offset : zeros;
  }

  // The rows of a transformed window, from `first` on, as many at once as there are registers for. A row needs some of the window's pixels only; what the
  // compiler sees unused it leaves out. The first rows ask for the pixels below. kShort: the tile has fewer steps than a whole one.
  template <class A, bool kShort, int first>
  static KD_INLINE void points_by_rows(const T* const* at, int64_t c, int64_t steps_h, int64_t steps_w, Rows rows, float* to, int64_t position, const T* below,
                               int64_t below_row, int64_t below_pixel) {
    constexpr int kSize = A::kSize, kPoints = A::kPoints, kStep = A::kStep, kRoom = (L == 16 ? 24 : 12) / kSize, kSame = A::same_pixels(first) - first;
    constexpr int kCount = kSame < kRoom ? kSame : kRoom;
    if (rows.begin < first + kCount && first < rows.end) {
      Reg half[kCount][kSize];
KD_UNROLL(9)
      for (int j = 0; j < kSize; ++j) {
        Reg d[kSize], column[kPoints];
KD_UNROLL(9)
        for (int i = 0; i < kSize; ++i) d[i] = V::load(at[i * kSize + j] + c);
        if (first == 0 && j < kStep)
KD_UNROLL(8)
          for (int i = 0; i < kStep; ++i) __builtin_prefetch(below + i * below_row + j * below_pixel + c, 0, 2);
        if constexpr (kShort) A::extend(d, steps_h);
        A::transform(d, column);
KD_UNROLL(6)
        for (int i = 0; i < kCount; ++i) half[i][j] = column[first + i];
      }
KD_UNROLL(6)
      for (int i = 0; i < kCount; ++i) {
        if (first + i < rows.begin || first + i >= rows.end) continue;
        Reg row[kPoints];
        if constexpr (kShort) A::extend(half[i], steps_w);
        A::transform(half[i], row);
KD_UNROLL(9)
        for (int j = 0; j < kPoints; ++j) V::store(to + ((first + i) * kPoints + j) * position, row[j]);
      }
    }
    if constexpr (first + kCount < kPoints)
      points_by_rows<A, kShort, first + kCount>(at, c, steps_h, steps_w, rows, to, position, below, below_row, below_pixel);
  }

  // The same, all columns first: they go through the first-level cache, and every pixel is read once. Of a window of 36 points that is as fast, but for threads
  // that want some of the rows (wgrad of 256@8 10 % slower); of larger ones only two or three rows fit into registers, and this is faster (F(6x6,3x3) at 64@32
  // 14.2 to 13.2 ms, stride 2 up to 8 %).
  template <class A, bool kShort>
  static KD_INLINE void points_by_columns(const T* const* at, int64_t c, int64_t steps_h, int64_t steps_w, Rows rows, float* to, int64_t position,
                                          const T* below, int64_t below_row, int64_t below_pixel) {
    constexpr int kSize = A::kSize, kPoints = A::kPoints, kStep = A::kStep;
    alignas(64) float half[kPoints][kSize][L];
    for (int j = 0; j < kSize; ++j) {
      Reg d[kSize], column[kPoints];
KD_UNROLL(9)
      for (int i = 0; i < kSize; ++i) d[i] = V::load(at[i * kSize + j] + c);
      if (j < kStep)
KD_UNROLL(8)
        for (int i = 0; i < kStep; ++i) __builtin_prefetch(below + i * below_row + j * below_pixel + c, 0, 2);
      if constexpr (kShort) A::extend(d, steps_h);
      A::transform(d, column);
KD_UNROLL(9)
      for (int i = 0; i < kPoints; ++i) V::store(half[i][j], column[i]);
    }
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      Reg d[kSize], row[kPoints];
KD_UNROLL(9)
      for (int j = 0; j < kSize; ++j) d[j] = V::load(half[i][j]);
      if constexpr (kShort) A::extend(d, steps_w);
      A::transform(d, row);
KD_UNROLL(9)
      for (int j = 0; j < kPoints; ++j) V::store(to + (i * kPoints + j) * position, row[j]);
    }
  }

  template <class A>
  static void forward(const Tiling& s, const void* x, const void* zeros, const TileBlock& v, Rows rows) {
    const int64_t per_image = s.tiles_h * s.tiles_w;
    for (int64_t t = 0; t < v.tiles; ++t) {
      const int64_t n = v.tile[t] / per_image, th = v.tile[t] % per_image / s.tiles_w, tw = v.tile[t] % s.tiles_w;
      const int64_t steps_h = th + 1 < s.tiles_h ? A::kSteps : s.last_h, steps_w = tw + 1 < s.tiles_w ? A::kSteps : s.last_w;
      const T* at[A::kSize * A::kSize];
      window<A::kSize>(s, static_cast<const T*>(x) + n * s.h * s.w * s.c, A::kStep * th - s.pad, A::kStep * tw - s.pad, static_cast<const T*>(zeros), at);
      // The pixels that the tile below will read first (behind the last row: the next image's) are asked for now: a window's rows lie too far apart for the
      // hardware to follow.
      const T* below = static_cast<const T*>(x) + ((n * s.h + A::kStep * th + A::kSize - s.pad) * s.w + A::kStep * tw) * s.c;
      for (int64_t c = 0; c < s.c; c += L) {
        float* to = v.data + (c / 16 * v.capacity + t) * 16 + c % 16;
        const bool is_short = steps_h < A::kSteps || steps_w < A::kSteps;
        const auto transform = [&](auto kShort) {
          if constexpr (A::kPoints > 6)
            points_by_columns<A, kShort>(at, c, steps_h, steps_w, rows, to, v.position, below, s.w * s.c, s.c);
          else
            points_by_rows<A, kShort, 0>(at, c, steps_h, steps_w, rows, to, v.position, below, s.w * s.c, s.c);
        };
        is_short ? transform(std::true_type{}) : transform(std::false_type{});
      }
    }
  }
  template <class Form>
  static constexpr auto input = forward<typename S::template Input<Form>>;
  template <class Form>
  static constexpr auto gradient = forward<typename S::template Gradient<Form>>;

  template <class Form>
  static void output(const Tiling& s, const TileBlock& m, int64_t channel, int64_t width, const OutputArgs& args) {
    args.sum ? output_of<Form, true>(s, m, channel, width, args) : output_of<Form, false>(s, m, channel, width, args);
  }
  template <class Form, bool kSums>
  static KD_INLINE void output_of(const Tiling& s, const TileBlock& m, int64_t channel, int64_t width, const OutputArgs& args) {
    constexpr int kPoints = Form::kPoints, kOut = Form::kOut;
    const int64_t per_image = s.tiles_h * s.tiles_w;
    for (int64_t t = 0; t < m.tiles; ++t) {
      const int64_t n = m.tile[t] / per_image, h0 = m.tile[t] % per_image / s.tiles_w * kOut, w0 = m.tile[t] % s.tiles_w * kOut;
      const int rows = int(s.h - h0 < kOut ? s.h - h0 : kOut), columns = int(s.w - w0 < kOut ? s.w - w0 : kOut);
      for (int64_t c = 0; c < width; c += L) {
        const float* from = m.data + t * width + c;
        Reg half[kOut][kPoints];
        for (int j = 0; j < kPoints; ++j) {
          Reg d[kPoints], column[kOut];
KD_UNROLL(9)
          for (int i = 0; i < kPoints; ++i) d[i] = V::load(from + (i * kPoints + j) * m.position);
          Form::output(d, column);
KD_UNROLL(8)
          for (int i = 0; i < kOut; ++i) half[i][j] = column[i];
        }
        const Reg bias = args.bias ? V::load(args.bias + channel + c) : V::zero();
        Reg shift, sum = V::zero(), square = V::zero();  // of this tile
        if constexpr (kSums) shift = V::load(args.shift + channel + c);
        for (int i = 0; i < rows; ++i) {
          Reg row[kOut];
          Form::output(half[i], row);
          const int64_t at = ((n * s.h + h0 + i) * s.w + w0) * s.c + channel + c;
          T* y = static_cast<T*>(args.y) + at;
KD_UNROLL(8)
          for (int j = 0; j < kOut; ++j) {
            if (j >= columns) break;
            __builtin_prefetch(y + (kOut * s.w + j) * s.c, 1);  // what the tile below writes: a store that misses waits for its line as a load does
            Reg r = row[j];
            if (args.z) {
              const T* z = static_cast<const T*>(args.z) + at + j * s.c;
              __builtin_prefetch(z + kOut * s.w * s.c);
              r = V::add(r, V::load(z));
            }
            r = V::add(r, bias);
            if (args.relu) r = V::max(V::zero(), r);  // in this order a NaN stays
            V::store(y + j * s.c, r);
            if constexpr (kSums) {
              const Reg d = V::sub(r, shift);
              sum = V::add(sum, d), square = V::fmadd(d, d, square);
            }
          }
        }
        if constexpr (kSums) {
          V::store(args.sum + channel + c, V::add(V::load(args.sum + channel + c), sum));
          V::store(args.square + channel + c, V::add(V::load(args.square + channel + c), square));
        }
      }
    }
  }

  template <class Form>
  static void pack(const void* filter, int64_t c, bool dgrad, int64_t first, int64_t in_count, int64_t out, int64_t width, float* u) {
    const T* w = static_cast<const T*>(filter);
    const int64_t line = 9 * c, tap_step = dgrad ? -c : c;
    // Where 16 x 16 channels begin at the first tap, as 16 lines of 16 elements. fprop: lines are output channels; dgrad: input ones, and the filter is turned.
    const auto block = [&](int64_t in, int64_t o) { return dgrad ? w + (first + in) * line + 8 * c + out + o : w + (out + o) * line + first + in; };
    for (int64_t in = 0; in < in_count; in += 16)
      for (int64_t o = 0; o < width; o += 16) {
        const T* from = block(in, o);
        const T* next = o + 16 < width ? block(in, o + 16) : in + 16 < in_count ? block(in + 16, 0) : from;
        float g[9][16][16];  // [tap][in][out]
        for (int tap = 0; tap < 9; ++tap) {
          for (int a = 0; a < 16; ++a)
            for (int l = 0; l < 16; l += L) V::store(&g[tap][a][l], V::load(from + a * line + tap * tap_step + l));
          if (dgrad) continue;
          simd::Words row[16];
          std::memcpy(row, g[tap], sizeof row);
          simd::transpose_16<V>(row);
          std::memcpy(g[tap], row, sizeof row);
        }
        for (int i = 0; i < 16; ++i) {
          for (int tap = 0; tap < 9; ++tap) __builtin_prefetch(next + i * line + tap * tap_step, 0, 2);  // 144 places, each a line or less: no stream to the hardware
          for (int l = 0; l < 16; l += L) {
            constexpr int kTaps = Form::kTaps;
            Reg half[kTaps][3];
            for (int s = 0; s < 3; ++s) {
              const Reg tap[3] = {V::load(&g[s][i][l]), V::load(&g[3 + s][i][l]), V::load(&g[6 + s][i][l])};
              Reg column[kTaps];
              Form::filter(tap, column);
              for (int r = 0; r < kTaps; ++r) half[r][s] = column[r];
            }
            for (int r = 0; r < kTaps; ++r) {
              Reg row[kTaps];
              Form::filter(half[r], row);
              for (int s = 0; s < kTaps; ++s) V::store(u + (r * kTaps + s) * filter_position(in_count, width) + (in + i) * width + o + l, row[s]);
            }
          }
        }
      }
  }

  template <class Form>
  static void finish(const float* du, void* gradient_of_w, int64_t c, int64_t out, int64_t in, bool add) {
    constexpr int kTaps = Form::kTaps;
    T* dw = static_cast<T*>(gradient_of_w);
    for (int o = 0; o < 16; ++o)
      for (int l = 0; l < 16; l += L) {
        Reg half[3][kTaps];
        for (int j = 0; j < kTaps; ++j) {
          Reg d[kTaps], column[3];
          for (int i = 0; i < kTaps; ++i) d[i] = V::load(du + (i * kTaps + j) * kDuPosition + o * 16 + l);
          Form::filter_back(d, column);
          for (int i = 0; i < 3; ++i) half[i][j] = column[i];
        }
        for (int i = 0; i < 3; ++i) {
          Reg row[3];
          Form::filter_back(half[i], row);
          for (int j = 0; j < 3; ++j) {
            T* to = dw + ((out + o) * 9 + i * 3 + j) * c + in + l;
            V::store(to, add ? V::add(V::load(to), row[j]) : row[j]);
          }
        }
      }
  }
};

template <class F>
static constexpr bool describes(Form form) {
  return F::kPoints == kAxes[form].points && F::kOut == kAxes[form].out && F::kSteps == kAxes[form].steps && F::kTaps == kAxes[form].taps;
}

template <class V>
static constexpr Kernels kernels_of() {
  using S = Stages<V>;
  using Unit = typename S::Unit;
  using Wide = typename S::Wide;
  using Strided = typename S::Strided;
  using Back = typename S::StridedBack;
  using F = Transforms<V, float>;
  using B = Transforms<V, uint16_t>;
  static_assert(describes<Unit>(unit) && describes<Wide>(wide) && describes<Strided>(strided) && describes<Back>(strided_back));
  return {.width = S::kWidth,
          .input = {{F::template input<Unit>, B::template input<Unit>},
                    {F::template input<Wide>, B::template input<Wide>},
                    {F::template input<Strided>, B::template input<Strided>},
                    {F::template input<Back>, B::template input<Back>}},
          .gradient = {{F::template gradient<Unit>, B::template gradient<Unit>},
                       {F::template gradient<Wide>, B::template gradient<Wide>},
                       {F::template gradient<Strided>, B::template gradient<Strided>}},
          .output = {{F::template output<Unit>, B::template output<Unit>},
                     {F::template output<Wide>, B::template output<Wide>},
                     {F::template output<Strided>, B::template output<Strided>},
                     {F::template output<Back>, B::template output<Back>}},
          .pack = {{F::template pack<Unit>, B::template pack<Unit>},
                   {F::template pack<Wide>, B::template pack<Wide>},
                   {F::template pack<Strided>, B::template pack<Strided>},
                   {F::template pack<Strided>, B::template pack<Strided>}},
          .finish = {{F::template finish<Unit>, B::template finish<Unit>},
                     {F::template finish<Wide>, B::template finish<Wide>},
                     {F::template finish<Strided>, B::template finish<Strided>}},
          .multiply = S::multiply,
          .accumulate = S::accumulate};
}

}  // namespace kd::cpu::winograd
