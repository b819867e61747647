// direct_kernel: the register tile of direct.h, written once and compiled per instruction set.
// One matrix product serves all three operators: sums[m][n] (+)= sum_k a[m][k] * b[k][n] over 32-bit words, where a word is one f32 or two bf16 that follow
// each other in the reduction (the first one in the low half). An arithmetic is a type with
//   Lanes      f32 vectors for sums and epilogue (simd.h)
//   kWord      elements of the reduction per word: 1 or 2
//   kRows      rows of the register tile; it is always 2 vectors wide
//   broadcast(p), words(p), mac(a, b, sum)
// Included by files that are compiled for one instruction set: see simd.h for what such a file must not do.
#pragma once
#include <utility>

#include "kernels/common/simd.h"

namespace kd::cpu::direct {

using Word = uint32_t;

// What becomes of finished sums: y = relu(sum + z + bias). z may be y.
struct Finish {
  const int64_t* at;  // [rows] the element of y and z where a row begins
  void* y;
  const void* z;      // or null
  const float* bias;  // or null
  bool relu;
  int64_t line = 0;  // elements from a row to the next where all rows of y follow each other; else 0
};

struct Block {
  const Word* a;
  int64_t a_line;  // words from a row to the next; where rows are adjacent, from a step to the next
  const Word* b;
  int64_t b_step, b_panel;  // words from a step to the next, from one tile's columns to the next one's
  int64_t steps, rows, cols;
  float* sums;  // may be null where both begin and finish are set
  int64_t sums_row, sums_panel;
  bool begin;            // from zero; otherwise from what sums hold
  const Finish* finish;  // null: the sums stay in `sums`
};

// Products of whole batches (direct_batch.cpp), for tiles: operands are tiles of 16 rows x 16 words, a row 64 bytes behind the last, so 1 KB each.
constexpr int64_t kTile = 256;   // words
constexpr int64_t kSums = 1024;  // floats of a 32 x 32 block of sums: tiles (rows 0-15, columns 0-15), (0-15, 16-31), (16-31, 0-15), (16-31, 16-31)

// One step of a reduction: where its tiles are, in words.
struct Step {
  int32_t a, a2;  // of rows 0-15 and 16-31
  int32_t b;      // of the filter: 16 rows x 32 columns
};
// 32 rows of a product, or 16: `count` of `steps`.
struct RowTile {
  const Step* steps;
  int64_t count, shift;  // shift: words to add to a and a2
  bool both, begin;      // both: rows 16-31 too; begin: from zero, otherwise from what its sums hold
};
struct BatchBlock {
  const Word* a;
  int64_t a_row;  // bytes from a row of a's tiles to the next
  const Word* b;
  const RowTile* tiles;
  int64_t count, cols;            // cols: 16 or 32
  float* sums;                    // kSums for each row tile; may be null where all begin and finish is set
  const Finish* finish;           // null: the sums stay. 32 places (Finish::at) for each row tile
  const char *ahead, *ahead_end;  // what the next call will read of b: fetched meanwhile, a line a step
};

// sums[32 x 32 block j] += the products of `runs`, for each pair j of b's tiles. Steps of a run follow each other in both operands.
struct Run {
  int32_t a, b, count;  // a, b: words to the first tiles
};
struct RunsBlock {
  const Word* a;
  int64_t a2;  // words to rows 16-31
  const Word* b;
  int64_t b2, pairs;  // words to columns 16-31; b's pairs of tiles are 2 * b2 apart
  const Run* runs;
  int64_t count;
  float* sums;
};

// What a file for one instruction set exports.
struct Kernels {
  int tile_cols, lanes;  // columns of b come in whole tiles; cols must be a multiple of lanes where there is a finish
  int word;              // elements per word
  int align_rows;        // that many rows at a time are read from a and written to sums: both must have them
  int align_steps;
  int lines_held;  // of a, in the first-level cache from step to step: one a row. 0: whole lines are read at once
  bool adjacent;           // weight gradients: a's rows are adjacent (a[step][row]); otherwise its steps are, as in the other operators
  int64_t block, longest;  // rows and steps of a block that suit the caches
  void (*enter)();         // by each thread around its calls
  void (*leave)();
  void (*multiply_f32)(const Block&);  // y and z are f32
  void (*multiply_bf16)(const Block&);
  void (*multiply_adjacent)(const Block&);                                                                        // no finish
  void (*transpose)(const Word* from, int64_t from_line, Word* to, int64_t to_line, int64_t rows, int64_t cols);  // null where adjacent

  // Null where a word is one f32. Filters, 32 elements of the reduction x 16 columns: columns are 32 values each and `line` apart; and 2 elements x 32
  // columns, an element a row.
  void (*pack_columns)(const float* from, int64_t line, Word* to);
  void (*pack_rows)(const float* first, const float* second, Word* to);
  // Null where the registers are no tiles. `image`: elements from an image to the next. Blocks are of 32 channels.
  void (*multiply_batch)(const BatchBlock&);
  void (*multiply_runs)(const RunsBlock&);
  // 16 images' pixel to a tile per block, to_block words apart: rows are images, words are pairs of channels.
  void (*pack_images)(const uint16_t* from, int64_t image, int64_t blocks, Word* to, int64_t to_block);
  // 2 * `pairs` images' pixel: rows are pairs of images, words a channel of both. 16 channels to_half words apart.
  void (*pack_pairs)(const uint16_t* from, int64_t image, int64_t pairs, int64_t blocks, Word* to, int64_t to_half);
  // The same turned around: rows are channels, words are pairs of images, 16 in all: `pairs` of `from`, the others of from2 (null: zeros).
  void (*pack_turned)(const uint16_t* from, const uint16_t* from2, int64_t image, int64_t pairs, int64_t blocks, Word* to, int64_t to_half);
};

template <class V, class T>
KD_INLINE void finish_vector(const Finish& f, int64_t at, int64_t column, typename V::Reg sum) {
  if (f.z) sum = V::add(sum, V::load(static_cast<const T*>(f.z) + at + column));
  if (f.bias) sum = V::add(sum, V::load(f.bias + column));
  if (f.relu) sum = V::max(V::zero(), sum);  // in this order a NaN stays one
  V::store(static_cast<T*>(f.y) + at + column, sum);
}

// Two vectors that are neighbours in a row: bf16 is narrowed and stored as one.
template <class V, class T>
KD_INLINE void finish_pair(const Finish& f, int64_t at, int64_t column, typename V::Reg low, typename V::Reg high) {
  constexpr int L = V::kLanes;
  if (f.z) {
    const auto* z = static_cast<const T*>(f.z) + at + column;
    low = V::add(low, V::load(z)), high = V::add(high, V::load(z + L));
  }
  if (f.bias) low = V::add(low, V::load(f.bias + column)), high = V::add(high, V::load(f.bias + column + L));
  if (f.relu) low = V::max(V::zero(), low), high = V::max(V::zero(), high);
  T* y = static_cast<T*>(f.y) + at + column;
  if constexpr (sizeof(T) == 2)
    V::store_pair(y, low, high);
  else
    V::store(y, low), V::store(y + L, high);
}

// What will be written, added and read is asked for ahead: a store that misses waits for its line as a load does. Where y is written in whole rows, a tile asks
// for its share of the rows below, a line with each step, so that memory and arithmetic go on at the same time; elsewhere for its own lines of y when it
// begins.
struct Ask {
  const char* at;
  int64_t stride, steps;  // bytes from one step to the next; 0: the same line again and again, which costs nothing
};
struct Ahead {
  Ask asks[3];  // all steps of a tile between them
  bool rows;    // the rows below are among them
};
template <class T, int M>
KD_INLINE void ask_for_tile(const Finish& f, int64_t row, int64_t column, int64_t columns) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(T));
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
    for (int64_t i = column; i < column + columns; i += kLine) {
      __builtin_prefetch(static_cast<T*>(f.y) + f.at[row + m] + i, 1);
      if (f.z) __builtin_prefetch(static_cast<const T*>(f.z) + f.at[row + m] + i);
    }
}

// A tile's sums on their way out. Without a bias zeros are added and without ReLU the largest of -inf is taken: a row is too short to ask.
template <class V, class T, bool kAdd, int M>
KD_INLINE void finish_tile(const Finish& f, int64_t row, int64_t column, const typename V::Reg (&sum)[M][2]) {
  constexpr int L = V::kLanes;
  const int64_t* at = f.at + row;
  T* y = static_cast<T*>(f.y) + column;
  const T* z = kAdd ? static_cast<const T*>(f.z) + column : nullptr;
  const typename V::Reg least = f.relu ? V::zero() : V::set1(-__builtin_inff());
  const typename V::Reg bias0 = f.bias ? V::load(f.bias + column) : V::zero(), bias1 = f.bias ? V::load(f.bias + column + L) : V::zero();
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    typename V::Reg low = sum[m][0], high = sum[m][1];
    if constexpr (kAdd) low = V::add(low, V::load(z + at[m])), high = V::add(high, V::load(z + at[m] + L));
    low = V::max(least, V::add(low, bias0)), high = V::max(least, V::add(high, bias1));  // in this order a NaN stays one
    if constexpr (sizeof(T) == 2)
      V::store_pair(y + at[m], low, high);
    else
      V::store(y + at[m], low), V::store(y + at[m] + L, high);
  }
}

template <class Arithmetic, int M, bool kAdjacent, class T>
void register_tile(const Block& t, int64_t row, int64_t panel, const Ahead& ahead) {
  using V = typename Arithmetic::Lanes;
  constexpr int L = V::kLanes;
  float* sums = t.sums + panel * t.sums_panel + row * t.sums_row;
  typename V::Reg sum[M][2];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    sum[m][0] = t.begin ? V::zero() : V::load(sums + m * t.sums_row);
    sum[m][1] = t.begin ? V::zero() : V::load(sums + m * t.sums_row + L);
  }
  const int64_t column = panel * 2 * L;
  if (t.finish && !ahead.rows) ask_for_tile<T, M>(*t.finish, row, column, 2 * L);
  // Rows a line apart in groups of three: base, base + line, base + 2 line are x86 addresses, so 14 rows need 6 registers.
  constexpr int kGroups = kAdjacent ? 1 : (M + 2) / 3;
  const int64_t line = t.a_line;
  const Word* a[kGroups];
  for (int g = 0; g < kGroups; ++g) a[g] = t.a + (kAdjacent ? row : (row + 3 * g) * line);
  const Word* b = t.b + panel * t.b_panel;
  for (const Ask& ask : ahead.asks) {
    const char* next = ask.at;
#pragma GCC unroll 2
    for (int64_t k = 0; k < ask.steps; ++k) {
      __builtin_prefetch(next);
      next += ask.stride;
      const auto b0 = Arithmetic::words(b), b1 = Arithmetic::words(b + L);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) {
        const auto x = Arithmetic::broadcast(kAdjacent ? a[0] + m : a[m / 3] + (m % 3) * line);
        sum[m][0] = Arithmetic::mac(x, b0, sum[m][0]);
        sum[m][1] = Arithmetic::mac(x, b1, sum[m][1]);
      }
#pragma GCC unroll 16
      for (int g = 0; g < kGroups; ++g) a[g] += kAdjacent ? line : 1;
      b += t.b_step;
    }
  }
  if (!t.finish) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      V::store(sums + m * t.sums_row, sum[m][0]);
      V::store(sums + m * t.sums_row + L, sum[m][1]);
    }
  } else if (column + L < t.cols) {
    t.finish->z ? finish_tile<V, T, true, M>(*t.finish, row, column, sum) : finish_tile<V, T, false, M>(*t.finish, row, column, sum);
  } else {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) finish_vector<V, T>(*t.finish, t.finish->at[row + m], column, sum[m][0]);
  }
}

template <class Arithmetic, int M, bool kAdjacent, class T>
KD_INLINE void register_tile_of(int64_t rows, const Block& t, int64_t row, int64_t panel, const Ahead& ahead) {
  if constexpr (M == 1) {
    register_tile<Arithmetic, 1, kAdjacent, T>(t, row, panel, ahead);
  } else {
    if (rows == M) return register_tile<Arithmetic, M, kAdjacent, T>(t, row, panel, ahead);
    register_tile_of<Arithmetic, M - 1, kAdjacent, T>(rows, t, row, panel, ahead);
  }
}

// Columns outside: one panel of b stays in the first-level cache for all rows. Where all of b is small it is read again for each few rows instead, so that
// y is written in whole rows, which the prefetcher follows and Ahead covers. A step of a tile of 14 rows takes as long as 128 bytes of b from the second or
// third level, so for it nearly every b is small; 6 rows go by faster.
// Rows are shared evenly, so that no tile is nearly empty.
// Measured: 1x1 in place, two threads, GFLOP/s; AMD EPYC with AVX512_BF16 (f32 peak 233, bf16 466), n = 16, best of 40 on three sets of tensors, 2026-11-30:
// before, with y and the residual (in the place of y; the last three none) asked for; now, with the rows of a below as well, as many blocks for every thread,
// and no chunks of the reduction where b is small; and oneDNN 2.6.3.
//              64@56   128@28  256@14   512@7   256@56  512@28  1024@14
//              -> 256  -> 512  -> 1024  -> 2048  -> 64  -> 128   -> 256
//   f32  before  189    209      218     192      166     211      203
//        now     213    223      223     221      223     229      202
//        oneDNN  159    182      205     215      190     220      229
//   bf16 before  359    400      434     392      320     400      431
//        now     389    428      449     457      434     455      463
//        oneDNN  395    424      411     402      341     417      444
// What a tile reads of a was left to the hardware, which follows one stream and not 14 rows. The epilogue, written without questions to the row (finish_tile),
// gained 1 %.
template <class Arithmetic, bool kAdjacent, class T>
void multiply(const Block& t) {
  constexpr int kCols = 2 * Arithmetic::Lanes::kLanes;
  const int64_t parts = (t.rows + Arithmetic::kRows - 1) / Arithmetic::kRows, panels = (t.cols + kCols - 1) / kCols;
  const bool rows_outside = t.finish && t.steps * panels * kCols <= (Arithmetic::kRows > 8 ? 1 << 20 : 1 << 15);
  const auto first_row = [&](int64_t part) { return t.rows * part / parts; };
  const auto tile = [&](int64_t row, int64_t end, int64_t panel, const Ahead& ahead) {
    register_tile_of<Arithmetic, Arithmetic::kRows, kAdjacent, T>(end - row, t, row, panel, ahead);
  };
  const Ahead nothing{{{reinterpret_cast<const char*>(t.b), 0, t.steps}, {}, {}}, false};
  if (!rows_outside) {
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t part = 0; part < parts; ++part) tile(first_row(part), first_row(part + 1), panel, nothing);
    return;
  }
  const Finish& f = *t.finish;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t row = first_row(part), end = first_row(part + 1), rows = end - row, below = f.at[row] + rows * f.line;
    // A panel's share of so many rows below, in bytes: of y, of z where that is another tensor, and of a where its rows follow each other.
    const bool more = end + rows <= t.rows;
    const int64_t y = more ? rows * f.line * int64_t(sizeof(T)) / panels : 0, z = f.z && f.z != f.y ? y : 0;
    const int64_t a = more && t.a_line == t.steps ? rows * t.a_line * 4 / panels : 0;
    Ahead ahead = nothing;
    if (y + a > 0) {
      const int64_t y_steps = t.steps * y / (y + z + a) & ~1, z_steps = t.steps * z / (y + z + a) & ~1, a_steps = t.steps - y_steps - z_steps;
      const auto ask = [&](const void* from, int64_t bytes, int64_t steps) {
        return Ask{static_cast<const char*>(from), steps > 0 ? (bytes + steps - 1) / steps : 0, steps};
      };
      ahead = {{ask(static_cast<const T*>(f.y) + below, y, y_steps), ask(static_cast<const T*>(f.z) + (z ? below : 0), z, z_steps),
                ask(t.a + end * t.a_line, a, a_steps)},
               y > 0};
    }
    for (int64_t panel = 0; panel < panels; ++panel) {
      tile(row, end, panel, ahead);
      ahead.asks[0].at += y, ahead.asks[1].at += z, ahead.asks[2].at += a;
    }
  }
}

// ---- filters of two bf16 a word

using simd::Words;
typedef uint16_t Halves __attribute__((vector_size(64)));

// 32 elements of two rows, to words of both: the first 16 columns, the second.
template <class Set, size_t... l>
KD_INLINE void interleave(const Halves& a, const Halves& b, Words& low, Words& high, std::index_sequence<l...>) {
  const Halves x = __builtin_shufflevector(a, b, (l / 2 + l % 2 * 32)...), y = __builtin_shufflevector(a, b, (16 + l / 2 + l % 2 * 32)...);
  std::memcpy(&low, &x, 64), std::memcpy(&high, &y, 64);
}
template <class Set>
KD_INLINE void interleave(const uint16_t* first, const uint16_t* second, Words& low, Words& high) {
  Halves a, b;
  std::memcpy(&a, first, 64), std::memcpy(&b, second, 64);
  interleave<Set>(a, b, low, high, std::make_index_sequence<32>());
}

template <class V>
KD_INLINE void narrow_32(const float* from, Words& to) {
  alignas(64) uint16_t halves[32];
  V::store_pair(halves, V::load(from), V::load(from + 16));
  std::memcpy(&to, halves, 64);
}
template <class Set, class V>
void pack_columns(const float* from, int64_t line, Word* to) {
  Words v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) narrow_32<V>(from + i * line, v[i]);
  simd::transpose_16<Set>(v);
  for (int i = 0; i < 16; ++i) std::memcpy(to + i * 32, &v[i], 64);
}
template <class Set, class V>
void pack_rows(const float* first, const float* second, Word* to) {
  Words a, b, low, high;
  narrow_32<V>(first, a), narrow_32<V>(second, b);
  interleave<Set>(reinterpret_cast<const uint16_t*>(&a), reinterpret_cast<const uint16_t*>(&b), low, high);
  std::memcpy(to, &low, 64), std::memcpy(to + 16, &high, 64);
}

template <class Arithmetic, bool kPairs = Arithmetic::kWord == 2>
struct FilterPackers {
  static constexpr decltype(Kernels::pack_columns) columns = nullptr;
  static constexpr decltype(Kernels::pack_rows) rows = nullptr;
};
template <class Arithmetic>
struct FilterPackers<Arithmetic, true> {
  static constexpr decltype(Kernels::pack_columns) columns = pack_columns<Arithmetic, typename Arithmetic::Lanes>;
  static constexpr decltype(Kernels::pack_rows) rows = pack_rows<Arithmetic, typename Arithmetic::Lanes>;
};

template <class Arithmetic>
void nothing() {}

template <class Arithmetic>
inline constexpr Kernels kVectorKernels{.tile_cols = 2 * Arithmetic::Lanes::kLanes,
                                        .lanes = Arithmetic::Lanes::kLanes,
                                        .word = Arithmetic::kWord,
                                        .align_rows = 1,
                                        .align_steps = 1,
                                        .lines_held = Arithmetic::kRows,
                                        .adjacent = true,
                                        .block = Arithmetic::kBlock,
                                        .longest = Arithmetic::kLongest,
                                        .enter = nothing<Arithmetic>,
                                        .leave = nothing<Arithmetic>,
                                        .multiply_f32 = multiply<Arithmetic, false, float>,
                                        .multiply_bf16 = multiply<Arithmetic, false, uint16_t>,
                                        .multiply_adjacent = multiply<Arithmetic, true, float>,
                                        .transpose = nullptr,
                                        .pack_columns = FilterPackers<Arithmetic>::columns,
                                        .pack_rows = FilterPackers<Arithmetic>::rows,
                                        .multiply_batch = nullptr,
                                        .multiply_runs = nullptr,
                                        .pack_images = nullptr,
                                        .pack_pairs = nullptr,
                                        .pack_turned = nullptr};

// f32 FMA on the vectors of V.
template <class V, int kTileRows, int64_t kBlockRows, int64_t kLongestRun>
struct Fma {
  using Lanes = V;
  static constexpr int kWord = 1, kRows = kTileRows;
  static constexpr int64_t kBlock = kBlockRows, kLongest = kLongestRun;
  static KD_INLINE typename V::Reg broadcast(const Word* p) {
    float x;
    std::memcpy(&x, p, 4);
    return V::set1(x);
  }
  static KD_INLINE typename V::Reg words(const Word* p) { return V::load(reinterpret_cast<const float*>(p)); }
  static KD_INLINE typename V::Reg mac(typename V::Reg a, typename V::Reg b, typename V::Reg sum) { return V::fmadd(a, b, sum); }
};

// vdpbf16ps: Dot of tiles.h.
template <class Dot, int kTileRows, int64_t kBlockRows, int64_t kLongestRun>
struct Pairs : Dot {
  static constexpr int kWord = 2, kRows = kTileRows;
  static constexpr int64_t kBlock = kBlockRows, kLongest = kLongestRun;
};

// Null where the compiler or the architecture cannot build them. Data, not functions: asking must not run code of a set that the machine may lack.
extern const Kernels* const kernels_avx2;
extern const Kernels* const kernels_avx512;
extern const Kernels* const kernels_avx512_bf16;
extern const Kernels* const kernels_amx;
// The same templates on emulated instruction sets: always there.
extern const Kernels* const emulated_avx2;
extern const Kernels* const emulated_avx512;
extern const Kernels* const emulated_avx512_bf16;
extern const Kernels* const emulated_amx;

}  // namespace kd::cpu::direct
