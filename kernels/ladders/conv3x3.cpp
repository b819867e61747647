#include "kernels/ladders/conv3x3.h"

#include <algorithm>
#include <vector>

#include "kernels/common/simd.h"

namespace kd::ladder {
namespace {

#if defined(__AVX2__)
using V = simd::Avx2;
#else
using V = simd::Portable<8>;
#endif
constexpr int kRows = 6, kCols = 16, kVectors = kCols / V::kLanes;  // 12 sums of 8 floats and 3 operands fill the 16 registers of AVX2

// ---- 0: the definition. One multiplication after the other, each waiting for the sum before it.
void naive(const Conv3x3& s, const float* x, const float* w, float* y) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.h; ++p)
      for (int64_t q = 0; q < s.w; ++q)
        for (int64_t k = 0; k < s.k; ++k) {
          float sum = 0;
          for (int64_t r = 0; r < 3; ++r)
            for (int64_t t = 0; t < 3; ++t) {
              const int64_t i = p + r - 1, j = q + t - 1;
              if (i < 0 || i >= s.h || j < 0 || j >= s.w) continue;
              for (int64_t c = 0; c < s.c; ++c) sum += x[((n * s.h + i) * s.w + j) * s.c + c] * w[((k * 3 + r) * 3 + t) * s.c + c];
            }
          y[((n * s.h + p) * s.w + q) * s.k + k] = sum;
        }
}

// Filters as [9][c][k]: the output channels of one input channel side by side.
std::vector<float> taps_first(const Conv3x3& s, const float* w) {
  std::vector<float> out(size_t(s.w_size()));
  for (int64_t k = 0; k < s.k; ++k)
    for (int64_t tap = 0; tap < 9; ++tap)
      for (int64_t c = 0; c < s.c; ++c) out[size_t((tap * s.c + c) * s.k + k)] = w[(k * 9 + tap) * s.c + c];
  return out;
}

// ---- 1: the innermost loop runs over output channels. Its sums do not wait for each other, its memory is contiguous, and the compiler makes vectors of it.
void reordered(const Conv3x3& s, const float* x, const float* w, float* y) {
  const std::vector<float> taps = taps_first(s, w);
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.h; ++p)
      for (int64_t q = 0; q < s.w; ++q) {
        float* out = y + ((n * s.h + p) * s.w + q) * s.k;
        std::fill_n(out, s.k, 0.f);
        for (int64_t r = 0; r < 3; ++r)
          for (int64_t t = 0; t < 3; ++t) {
            const int64_t i = p + r - 1, j = q + t - 1;
            if (i < 0 || i >= s.h || j < 0 || j >= s.w) continue;
            const float* pixel = x + ((n * s.h + i) * s.w + j) * s.c;
            for (int64_t c = 0; c < s.c; ++c) {
              const float* row = taps.data() + ((r * 3 + t) * s.c + c) * s.k;
              for (int64_t k = 0; k < s.k; ++k) out[k] += pixel[c] * row[k];
            }
          }
      }
}

// An outer product kept in registers: kRows rows of a against kCols columns of b, for `depth` steps. a[row] points to `depth` floats, b is [depth][b_stride].
// 12 multiply-adds for 8 loads: the memory can keep up with the arithmetic.
KD_INLINE void multiply(const float* const* a, const float* b, int64_t b_stride, int64_t depth, V::Reg (&sum)[kRows][kVectors]) {
  for (int64_t d = 0; d < depth; ++d) {
    V::Reg col[kVectors];
    for (int v = 0; v < kVectors; ++v) col[v] = V::load(b + d * b_stride + v * V::kLanes);
    for (int row = 0; row < kRows; ++row) {
      const V::Reg value = V::set1(a[row][d]);
      for (int v = 0; v < kVectors; ++v) sum[row][v] = V::fmadd(value, col[v], sum[row][v]);
    }
  }
}

// ---- 2: six pixels and sixteen output channels at a time, their sums in registers until they are done. A pixel in the padding is a row of zeros.
void registers(const Conv3x3& s, const float* x, const float* w, float* y) {
  const std::vector<float> taps = taps_first(s, w), zeros(size_t(s.c));
  const int64_t pixels = s.n * s.h * s.w;
  for (int64_t k = 0; k < s.k; k += kCols)
    for (int64_t first = 0; first < pixels; first += kRows) {
      V::Reg sum[kRows][kVectors];
      for (auto& row : sum)
        for (auto& v : row) v = V::zero();
      for (int64_t tap = 0; tap < 9; ++tap) {
        const float* rows[kRows];
        for (int64_t row = 0; row < kRows; ++row) {
          const int64_t at = std::min(first + row, pixels - 1);  // rows beyond the end repeat the last pixel and are not stored
          const int64_t n = at / (s.h * s.w), i = at / s.w % s.h + tap / 3 - 1, j = at % s.w + tap % 3 - 1;
          rows[row] = i < 0 || i >= s.h || j < 0 || j >= s.w ? zeros.data() : x + ((n * s.h + i) * s.w + j) * s.c;
        }
        multiply(rows, taps.data() + tap * s.c * s.k + k, s.k, s.c, sum);
      }
      for (int64_t row = 0; row < std::min<int64_t>(kRows, pixels - first); ++row)
        for (int v = 0; v < kVectors; ++v) V::store(y + (first + row) * s.k + k + v * V::kLanes, sum[row][v]);
    }
}

// ---- 3 and 4: fewer multiplications. Winograd's F(m x m, 3 x 3) makes m x m outputs of a window of (m+2) x (m+2) pixels with (m+2)^2 multiplications per
// channel instead of 9 m^2: 16 for 36 with m = 2, 36 for 144 with m = 4.
//   Y = A^T [ (G g G^T) .* (B^T d B) ] A
// Summed over input channels, the product in the middle is one matrix product per position of the window: [tiles x c] times [c x k].
template <int M>
struct Matrices;
template <>
struct Matrices<2> {
  static constexpr float bt[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
  static constexpr float g[4][3] = {{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}};
  static constexpr float at[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
};
template <>
struct Matrices<4> {
  static constexpr float bt[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
                                     {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}};
  static constexpr float g[6][3] = {
      {1.f / 4, 0, 0}, {-1.f / 6, -1.f / 6, -1.f / 6}, {-1.f / 6, 1.f / 6, -1.f / 6}, {1.f / 24, 1.f / 12, 1.f / 6}, {1.f / 24, -1.f / 12, 1.f / 6}, {0, 0, 1}};
  static constexpr float at[4][6] = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}};
};

// out = L in L^T, for V::kLanes channels at a time.
template <int Rows, int Inner>
KD_INLINE void sandwich(const float (&l)[Rows][Inner], const V::Reg (&in)[Inner][Inner], V::Reg (&out)[Rows][Rows]) {
  V::Reg half[Rows][Inner];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Inner; ++j) {
      half[i][j] = V::zero();
      for (int a = 0; a < Inner; ++a)
        if (l[i][a] != 0) half[i][j] = V::fmadd(V::set1(l[i][a]), in[a][j], half[i][j]);
    }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Rows; ++j) {
      out[i][j] = V::zero();
      for (int a = 0; a < Inner; ++a)
        if (l[j][a] != 0) out[i][j] = V::fmadd(V::set1(l[j][a]), half[i][a], out[i][j]);
    }
}

template <int M>
void winograd(const Conv3x3& s, const float* x, const float* w, float* y) {
  constexpr int kWindow = M + 2, kPositions = kWindow * kWindow;
  constexpr int64_t kTiles = 8 * kRows;  // at a time: what they need stays in cache
  const int64_t down = (s.h + M - 1) / M, across = (s.w + M - 1) / M, tiles = s.n * down * across;
  const std::vector<float> zeros(size_t(std::max(s.c, s.k)));
  // u[position][c][k] = G g G^T
  std::vector<float> u(size_t(kPositions * s.c * s.k)), v(size_t(kPositions * kTiles * s.c)), m(size_t(kPositions * kTiles * s.k));
  for (int64_t k = 0; k < s.k; ++k)
    for (int64_t c = 0; c < s.c; ++c)
      for (int i = 0; i < kWindow; ++i)
        for (int j = 0; j < kWindow; ++j) {
          float sum = 0;
          for (int r = 0; r < 3; ++r)
            for (int t = 0; t < 3; ++t) sum += Matrices<M>::g[i][r] * Matrices<M>::g[j][t] * w[((k * 3 + r) * 3 + t) * s.c + c];
          u[size_t(((i * kWindow + j) * s.c + c) * s.k + k)] = sum;
        }

  for (int64_t first = 0; first < tiles; first += kTiles) {
    const int64_t count = std::min(kTiles, tiles - first);
    // v[position][tile][c] = B^T d B
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t at = first + tile, n = at / (down * across), top = at / across % down * M - 1, left = at % across * M - 1;
      for (int64_t c = 0; c < s.c; c += V::kLanes) {
        V::Reg d[kWindow][kWindow], out[kWindow][kWindow];
        for (int i = 0; i < kWindow; ++i)
          for (int j = 0; j < kWindow; ++j) {
            const int64_t row = top + i, col = left + j;
            const bool inside = row >= 0 && row < s.h && col >= 0 && col < s.w;
            d[i][j] = V::load(inside ? x + ((n * s.h + row) * s.w + col) * s.c + c : zeros.data());
          }
        sandwich(Matrices<M>::bt, d, out);
        for (int i = 0; i < kWindow; ++i)
          for (int j = 0; j < kWindow; ++j) V::store(v.data() + ((i * kWindow + j) * kTiles + tile) * s.c + c, out[i][j]);
      }
    }
    // m[position] = v[position] u[position]
    for (int position = 0; position < kPositions; ++position)
      for (int64_t k = 0; k < s.k; k += kCols)
        for (int64_t tile = 0; tile < count; tile += kRows) {
          V::Reg sum[kRows][kVectors];
          const float* rows[kRows];
          for (int64_t row = 0; row < kRows; ++row) {
            rows[row] = v.data() + (position * kTiles + tile + row) * s.c;  // rows beyond `count` hold an earlier block's numbers, and are not used
            for (int lane = 0; lane < kVectors; ++lane) sum[row][lane] = V::zero();
          }
          multiply(rows, u.data() + position * s.c * s.k + k, s.k, s.c, sum);
          for (int64_t row = 0; row < kRows; ++row)
            for (int lane = 0; lane < kVectors; ++lane) V::store(m.data() + (position * kTiles + tile + row) * s.k + k + lane * V::kLanes, sum[row][lane]);
        }
    // y = A^T m A
    for (int64_t tile = 0; tile < count; ++tile) {
      const int64_t at = first + tile, n = at / (down * across), top = at / across % down * M, left = at % across * M;
      for (int64_t k = 0; k < s.k; k += V::kLanes) {
        V::Reg in[kWindow][kWindow], out[M][M];
        for (int i = 0; i < kWindow; ++i)
          for (int j = 0; j < kWindow; ++j) in[i][j] = V::load(m.data() + ((i * kWindow + j) * kTiles + tile) * s.k + k);
        sandwich(Matrices<M>::at, in, out);
        for (int64_t i = 0; i < std::min<int64_t>(M, s.h - top); ++i)
          for (int64_t j = 0; j < std::min<int64_t>(M, s.w - left); ++j) V::store(y + ((n * s.h + top + i) * s.w + left + j) * s.k + k, out[i][j]);
      }
    }
  }
}

}  // namespace

std::span<const Step> conv3x3_steps() {
  static constexpr Step steps[] = {
      {"naive", "the definition", naive},
      {"reordered", "output channels innermost: contiguous, independent, vectors by the compiler", reordered},
      {"registers", "6 pixels x 16 channels of sums stay in registers", registers},
      {"winograd 2x2", "16 multiplications instead of 36", winograd<2>},
      {"winograd 4x4", "36 multiplications instead of 144", winograd<4>},
  };
  return steps;
}

}  // namespace kd::ladder
