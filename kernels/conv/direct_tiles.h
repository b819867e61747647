// direct_tiles: the register tile of direct_kernel.h on AMX: 32 rows x 32 columns of sums in tiles 0-3, a in 4 and 5, b in 6 and 7; a step of the loop is
// 16 words of the reduction. The packed filter is already what a B tile wants (16 steps x 16 columns of words), gathered windows are A tiles.
#pragma once
#include "kernels/common/tiles.h"
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {

template <class Tiles, bool kRows2, bool kCols2>
KD_INLINE void tile_product(const Word* a, int64_t a_line, const Word* b, int64_t b_step, int64_t steps, const float* from, float* to, int64_t from_row,
                            int64_t to_row) {
  if (from) {
    Tiles::template load<0>(from, 4 * from_row);
    if constexpr (kCols2) Tiles::template load<1>(from + 16, 4 * from_row);
    if constexpr (kRows2) Tiles::template load<2>(from + 16 * from_row, 4 * from_row);
    if constexpr (kRows2 && kCols2) Tiles::template load<3>(from + 16 * from_row + 16, 4 * from_row);
  } else {
    Tiles::template zero<0>();
    if constexpr (kCols2) Tiles::template zero<1>();
    if constexpr (kRows2) Tiles::template zero<2>();
    if constexpr (kRows2 && kCols2) Tiles::template zero<3>();
  }
  for (int64_t k = 0; k < steps; k += 16) {
    Tiles::template load<4>(a + k, 4 * a_line);
    Tiles::template load<6>(b + k * b_step, 4 * b_step);
    Tiles::template dot<0, 4, 6>();
    if constexpr (kCols2) Tiles::template load<7>(b + k * b_step + 16, 4 * b_step), Tiles::template dot<1, 4, 7>();
    if constexpr (kRows2) Tiles::template load<5>(a + 16 * a_line + k, 4 * a_line), Tiles::template dot<2, 5, 6>();
    if constexpr (kRows2 && kCols2) Tiles::template dot<3, 5, 7>();
  }
  Tiles::template store<0>(to, 4 * to_row);
  if constexpr (kCols2) Tiles::template store<1>(to + 16, 4 * to_row);
  if constexpr (kRows2) Tiles::template store<2>(to + 16 * to_row, 4 * to_row);
  if constexpr (kRows2 && kCols2) Tiles::template store<3>(to + 16 * to_row + 16, 4 * to_row);
}

template <class Tiles, class V, class T>
void multiply_tiles(const Block& t) {
  alignas(64) float finished[32 * 32];
  for (int64_t panel = 0; panel * 32 < t.cols; ++panel) {
    const Word* b = t.b + panel * t.b_panel;
    const int64_t columns = t.cols - panel * 32;
    for (int64_t row = 0; row < t.rows; row += 32) {
      const int64_t rows = t.rows - row;
      const Word* a = t.a + row * t.a_line;
      float* sums = t.sums + panel * t.sums_panel + row * t.sums_row;
      float* to = t.finish ? finished : sums;
      const float* from = t.begin ? nullptr : sums;
      const int64_t to_row = t.finish ? 32 : t.sums_row;
      if (rows > 16)
        columns > 16 ? tile_product<Tiles, true, true>(a, t.a_line, b, t.b_step, t.steps, from, to, t.sums_row, to_row)
                     : tile_product<Tiles, true, false>(a, t.a_line, b, t.b_step, t.steps, from, to, t.sums_row, to_row);
      else
        columns > 16 ? tile_product<Tiles, false, true>(a, t.a_line, b, t.b_step, t.steps, from, to, t.sums_row, to_row)
                     : tile_product<Tiles, false, false>(a, t.a_line, b, t.b_step, t.steps, from, to, t.sums_row, to_row);
      if (!t.finish) continue;
      for (int64_t m = 0; m < (rows < 32 ? rows : 32); ++m) {
        const int64_t at = t.finish->at[row + m];
        finish_vector<V, T>(*t.finish, at, panel * 32, V::load(finished + m * 32));
        if (columns > 16) finish_vector<V, T>(*t.finish, at, panel * 32 + 16, V::load(finished + m * 32 + 16));
      }
    }
  }
}

template <class Tiles>
void enter_tiles() {
  tiles::Config config;
  for (int i = 0; i < 8; ++i) config.rows[i] = 16, config.row_bytes[i] = 64;
  Tiles::configure(config);
}
template <class Tiles>
void leave_tiles() {
  Tiles::release();
}

// to[j][i] = from[i][j]; rows and cols are multiples of 16. In four rounds, bit d of the row's index changes places with bit d of the lane's.
template <class Tiles>
void transpose_words(const Word* from, int64_t from_line, Word* to, int64_t to_line, int64_t rows, int64_t cols) {
  typedef Word Lanes __attribute__((vector_size(64)));
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t j = 0; j < cols; j += 16) {
      Lanes v[16];
      for (int r = 0; r < 16; ++r) std::memcpy(&v[r], from + (i + r) * from_line + j, 64);
#pragma GCC unroll 4
      for (int d = 8; d > 0; d /= 2) {
        Lanes low, high;  // which of 32 lanes of two rows become the first's and the second's
#pragma GCC unroll 16
        for (int l = 0; l < 16; ++l) low[l] = Word(l & d ? 16 + l - d : l), high[l] = Word(l & d ? 16 + l : l + d);
#pragma GCC unroll 16
        for (int r = 0; r < 16; ++r) {
          if (r & d) continue;
          const Lanes a = v[r], b = v[r + d];
          v[r] = __builtin_shuffle(a, b, low), v[r + d] = __builtin_shuffle(a, b, high);
        }
      }
      for (int r = 0; r < 16; ++r) std::memcpy(to + (j + r) * to_line + i, &v[r], 64);
    }
}

template <class Tiles, class V>
inline constexpr Kernels kTileKernels{.tile_cols = 32,
                                      .lanes = 16,
                                      .word = 2,
                                      .align_rows = 16,
                                      .align_steps = 16,
                                      .adjacent = false,
                                      .block = 128,
                                      .longest = 256,
                                      .enter = enter_tiles<Tiles>,
                                      .leave = leave_tiles<Tiles>,
                                      .multiply_f32 = multiply_tiles<Tiles, V, float>,
                                      .multiply_bf16 = multiply_tiles<Tiles, V, uint16_t>,
                                      .multiply_adjacent = nullptr,
                                      .transpose = transpose_words<Tiles>};

}  // namespace kd::cpu::direct
