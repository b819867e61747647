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
        const auto first = V::load(finished + m * 32);
        if (columns > 16)
          finish_pair<V, T>(*t.finish, at, panel * 32, first, V::load(finished + m * 32 + 16));
        else
          finish_vector<V, T>(*t.finish, at, panel * 32, first);
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

// to[j][i] = from[i][j]; rows and cols are multiples of 16.
template <class Tiles>
void transpose_words(const Word* from, int64_t from_line, Word* to, int64_t to_line, int64_t rows, int64_t cols) {
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t j = 0; j < cols; j += 16) {
      Words v[16];
      for (int r = 0; r < 16; ++r) std::memcpy(&v[r], from + (i + r) * from_line + j, 64);
      simd::transpose_16<Tiles>(v);
      for (int r = 0; r < 16; ++r) std::memcpy(to + (j + r) * to_line + i, &v[r], 64);
    }
}

// ---- whole batches (direct_batch.cpp) ------------------------------------------------------------------------------------------------

template <class Tiles>
void pack_images(const uint16_t* from, int64_t image, int64_t blocks, Word* to, int64_t to_block) {
  for (int64_t n = 0; n < 16; ++n)
    for (int64_t i = 0; i < blocks; ++i) {
      Words v;
      std::memcpy(&v, from + n * image + i * 32, 64);
      std::memcpy(to + i * to_block + n * 16, &v, 64);
    }
}
template <class Tiles>
void pack_pairs(const uint16_t* from, int64_t image, int64_t pairs, int64_t blocks, Word* to, int64_t to_half) {
  for (int64_t n = 0; n < pairs; ++n)
    for (int64_t i = 0; i < blocks; ++i) {
      Words low, high;
      interleave<Tiles>(from + 2 * n * image + i * 32, from + (2 * n + 1) * image + i * 32, low, high);
      std::memcpy(to + 2 * i * to_half + n * 16, &low, 64);
      std::memcpy(to + (2 * i + 1) * to_half + n * 16, &high, 64);
    }
}
template <class Tiles>
void pack_turned(const uint16_t* from, const uint16_t* from2, int64_t image, int64_t pairs, int64_t blocks, Word* to, int64_t to_half) {
  for (int64_t i = 0; i < blocks; ++i) {
    Words low[16], high[16];
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n) {
      const uint16_t* at = n < pairs ? from + 2 * n * image : from2 ? from2 + 2 * (n - pairs) * image : nullptr;
      if (at)
        interleave<Tiles>(at + i * 32, at + image + i * 32, low[n], high[n]);
      else
        low[n] = Words{}, high[n] = Words{};
    }
    simd::transpose_16<Tiles>(low);
    simd::transpose_16<Tiles>(high);
    for (int n = 0; n < 16; ++n) {
      std::memcpy(to + 2 * i * to_half + n * 16, &low[n], 64);
      std::memcpy(to + (2 * i + 1) * to_half + n * 16, &high[n], 64);
    }
  }
}

// Finished sums on their way into y. The vector units do that while the tile unit works on the next ones.
template <class V>
struct Leaving {
  const float* sums = nullptr;
  const int64_t* at = nullptr;
  int64_t rows = 0, next = 0;

  template <bool kCols2>
  KD_INLINE void two_rows(const Finish& f) {
    for (int i = 0; i < 2 && next < rows; ++i, ++next) {
      const float* row = sums + next / 16 * 512 + next % 16 * 16;
      if constexpr (kCols2)
        finish_pair<V, uint16_t>(f, at[next], 0, V::load(row), V::load(row + 256));
      else
        finish_vector<V, uint16_t>(f, at[next], 0, V::load(row));
    }
  }
};

template <class Tiles, class V, bool kRows2, bool kCols2>
KD_INLINE void batch_product(const BatchBlock& block, const RowTile& t, const float* from, float* to, Leaving<V>& leaving, const char*& ahead) {
  if (from) {
    Tiles::template load<0>(from, 64);
    if constexpr (kCols2) Tiles::template load<1>(from + 256, 64);
    if constexpr (kRows2) Tiles::template load<2>(from + 512, 64);
    if constexpr (kRows2 && kCols2) Tiles::template load<3>(from + 768, 64);
  } else {
    Tiles::template zero<0>();
    if constexpr (kCols2) Tiles::template zero<1>();
    if constexpr (kRows2) Tiles::template zero<2>();
    if constexpr (kRows2 && kCols2) Tiles::template zero<3>();
  }
  const Word *a = block.a + t.shift, *b = block.b;
  for (const Step *step = t.steps, *end = step + t.count; step != end; ++step) {
    Tiles::template load<4>(a + step->a, block.a_row);
    Tiles::template load<6>(b + step->b, 128);
    Tiles::template dot<0, 4, 6>();
    if constexpr (kCols2) Tiles::template load<7>(b + step->b + 16, 128), Tiles::template dot<1, 4, 7>();
    if constexpr (kRows2) Tiles::template load<5>(a + step->a2, block.a_row), Tiles::template dot<2, 5, 6>();
    if constexpr (kRows2 && kCols2) Tiles::template dot<3, 5, 7>();
    if (leaving.next < leaving.rows) leaving.template two_rows<kCols2>(*block.finish);
    if (ahead < block.ahead_end) __builtin_prefetch(ahead, 0, 2), ahead += 64;
  }
  Tiles::template store<0>(to, 64);
  if constexpr (kCols2) Tiles::template store<1>(to + 256, 64);
  if constexpr (kRows2) Tiles::template store<2>(to + 512, 64);
  if constexpr (kRows2 && kCols2) Tiles::template store<3>(to + 768, 64);
}

template <class Tiles, class V, bool kCols2>
KD_INLINE void multiply_row_tiles(const BatchBlock& block) {
  alignas(64) float finished[2][kSums];
  Leaving<V> leaving;
  const char* ahead = block.ahead;
  for (int64_t i = 0; i < block.count; ++i) {
    const RowTile& t = block.tiles[i];
    float* sums = block.sums + i * kSums;
    float* to = block.finish ? finished[i % 2] : sums;
    const float* from = t.begin ? nullptr : sums;
    if (t.both)
      batch_product<Tiles, V, true, kCols2>(block, t, from, to, leaving, ahead);
    else
      batch_product<Tiles, V, false, kCols2>(block, t, from, to, leaving, ahead);
    if (!block.finish) continue;
    while (leaving.next < leaving.rows) leaving.template two_rows<kCols2>(*block.finish);
    leaving = {to, block.finish->at + 32 * i, t.both ? 32 : 16, 0};
  }
  while (leaving.next < leaving.rows) leaving.template two_rows<kCols2>(*block.finish);
}
template <class Tiles, class V>
void multiply_batch(const BatchBlock& block) {
  block.cols > 16 ? multiply_row_tiles<Tiles, V, true>(block) : multiply_row_tiles<Tiles, V, false>(block);
}

template <class Tiles>
void multiply_runs(const RunsBlock& block) {
  for (int64_t j = 0; j < block.pairs; ++j) {
    const Word* b_tiles = block.b + 2 * j * block.b2;
    float* sums = block.sums + j * kSums;
    Tiles::template load<0>(sums, 64);
    Tiles::template load<1>(sums + 256, 64);
    Tiles::template load<2>(sums + 512, 64);
    Tiles::template load<3>(sums + 768, 64);
    for (const Run *run = block.runs, *end = run + block.count; run != end; ++run) {
      const Word *a = block.a + run->a, *b = b_tiles + run->b;
      for (int32_t i = 0; i < run->count; ++i, a += kTile, b += kTile) {
        Tiles::template load<4>(a, 64);
        Tiles::template load<6>(b, 64);
        Tiles::template dot<0, 4, 6>();
        Tiles::template load<7>(b + block.b2, 64);
        Tiles::template dot<1, 4, 7>();
        Tiles::template load<5>(a + block.a2, 64);
        Tiles::template dot<2, 5, 6>();
        Tiles::template dot<3, 5, 7>();
      }
    }
    Tiles::template store<0>(sums, 64);
    Tiles::template store<1>(sums + 256, 64);
    Tiles::template store<2>(sums + 512, 64);
    Tiles::template store<3>(sums + 768, 64);
  }
}

template <class Tiles, class V>
inline constexpr Kernels kTileKernels{.tile_cols = 32,
                                      .lanes = 16,
                                      .word = 2,
                                      .align_rows = 16,
                                      .align_steps = 16,
                                      .lines_held = 0,
                                      .adjacent = false,
                                      .block = 128,
                                      .longest = 256,
                                      .enter = enter_tiles<Tiles>,
                                      .leave = leave_tiles<Tiles>,
                                      .multiply_f32 = multiply_tiles<Tiles, V, float>,
                                      .multiply_bf16 = multiply_tiles<Tiles, V, uint16_t>,
                                      .multiply_adjacent = nullptr,
                                      .transpose = transpose_words<Tiles>,
                                      .pack_columns = pack_columns<Tiles, V>,
                                      .pack_rows = pack_rows<Tiles, V>,
                                      .multiply_batch = multiply_batch<Tiles, V>,
                                      .multiply_runs = multiply_runs<Tiles>,
                                      .pack_images = pack_images<Tiles>,
                                      .pack_pairs = pack_pairs<Tiles>,
                                      .pack_turned = pack_turned<Tiles>};

}  // namespace kd::cpu::direct
