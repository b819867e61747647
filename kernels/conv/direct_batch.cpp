// direct_batch: direct.h's sums on tiles, where a batch is a multiple of 16 images. A tile's 16 rows are 16 images at one pixel, so
//   - a tap that falls into the padding is left out for the whole tile: no product with a zero halo (4x4 images, 3x3 filter: 1.44 times fewer)
//   - every pixel is copied into tiles once, in the order of x, whatever the filter's size; a tap only moves the address
//   - a tile is 1 KB in a row, which the caches' prefetchers follow; gathered windows with rows a line apart took 1.5 to 3 times longer (direct.amx before)
// fprop, dgrad   A thread has some images and a strip of rows. It keeps the rows of x that are in use as tiles [row][column][32 channels][16 images] in a ring
//                in its second-level cache, and for some rows of y at once, per 32 channels of y, walks the reduction in chunks whose filter stays in the
//                first-level cache. 32 rows of a product are two groups of 16 images, or two neighbouring pixels where there is one group.
// wgrad          The reduction runs over pixels and images. A tile of x has pairs of images as words, channels as columns; of dy, channels as rows. 32 images
//                are a step; with 16 a step is two neighbouring pixels, and columns of zeros stand to the left and right of x. A thread has a chunk of dw, some
//                hundred KB of sums in its second-level cache, and a range of images and rows.
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/base/memory.h"
#include "kernels/common/parallel.h"
#include "kernels/conv/direct_pass.h"

namespace kd::cpu::direct {
namespace {

constexpr int64_t kGroup = 16;              // images of a tile
constexpr int64_t kChunkSteps = 12;         // 24 KB of filter: half of the first-level cache
constexpr int64_t kBlockRows = 1024;        // of a product: what a pass over the filter is worth
constexpr int64_t kRingBytes = 1200 << 10;  // of x in tiles
constexpr int64_t kInPlaceBytes = 256 << 10, kSmallFilterBytes = 36 << 10;

const uint16_t* bits(const void* p) { return static_cast<const uint16_t*>(p); }

// A share of the channels of y for some row tiles: [chunk][most_tiles], `count` of them in use, each chunk's steps in those that `first_step` bounds.
struct Panels {
  const Kernels& kernels;
  const Pass& pass;
  const Word* packed;
  const Output& out;
  int64_t steps, chunks, most_tiles;

  int64_t first_step(int64_t chunk) const { return ceil_div(chunk * steps, chunks); }
  void multiply(const Word* a, int64_t a_row, const RowTile* tiles, int64_t count, const int64_t* at, float* sums, int64_t first_panel,
                int64_t end_panel) const {
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      const int64_t channel = panel * 32;
      const Finish finish{.at = at,
                          .y = static_cast<bf16*>(out.y) + channel,
                          .z = out.z ? static_cast<const bf16*>(out.z) + channel : nullptr,
                          .bias = out.bias ? out.bias + channel : nullptr,
                          .relu = out.relu};
      const Word* filter = packed + pass.packed + panel * pass.steps * 32;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const bool last = chunk + 1 == chunks;
        const int64_t next = last ? 0 : chunk + 1, next_words = last && panel + 1 == end_panel ? 0 : (first_step(next + 1) - first_step(next)) * 16 * 32;
        const Word* ahead = filter + last * pass.steps * 32 + first_step(next) * 16 * 32;
        kernels.multiply_batch({.a = a,
                                .a_row = a_row,
                                .b = filter,
                                .tiles = tiles + chunk * most_tiles,
                                .count = count,
                                .cols = std::min<int64_t>(32, pass.out_c - channel),
                                .sums = sums,
                                .finish = last ? &finish : nullptr,
                                .ahead = reinterpret_cast<const char*>(ahead),
                                .ahead_end = reinterpret_cast<const char*>(ahead + next_words)});
      }
    }
  }
};

// A 1x1 filter with stride 1: x is its own tiles, rows a pixel apart.
bool in_place(const Pass& pass) {
  return pass.r * pass.s == 1 && pass.step == 1 && pass.dh == 0 && pass.dw == 0 && pass.rows == pass.h && pass.cols == pass.w && pass.out_step == 1;
}

void run_in_place(const Kernels& kernels, const Pass& pass, const bf16* x, const Word* packed, const Output& out) {
  const int64_t steps = pass.c / 32, chunks = ceil_div(steps, kChunkSteps), panels = ceil_div(pass.out_c, 32), positions = pass.positions();
  const int64_t wanted = std::clamp<int64_t>(kInPlaceBytes / (2 * pass.c) / 32 * 32, 64, kBlockRows);
  const int64_t block = round_up(ceil_div(positions, ceil_div(positions, wanted)), 32), blocks = ceil_div(positions, block), most_tiles = block / 32;
  const int64_t most = omp_get_max_threads() == 1 ? 1 : 2 * omp_get_max_threads(), shares = std::clamp<int64_t>(ceil_div(most, blocks), 1, panels);
  const int threads = int(std::min<int64_t>(omp_get_max_threads(), blocks * shares));
  // Where all of the filter stays in the first-level cache, few rows at a time: y is written in whole rows, which the prefetchers follow.
  const int64_t together = steps * panels * 2048 <= kSmallFilterBytes ? 2 : most_tiles;
  const int64_t sum_words = chunks > 1 ? most_tiles * kSums : 0;
  auto scratch = Storage::allocate(4 * std::max<int64_t>(1, threads * sum_words), Device::cpu);
  const Panels all{kernels, pass, packed, out, steps, chunks, most_tiles};
  std::vector<Step> list;
  for (int64_t step = 0; step < steps; ++step) list.push_back({int32_t(step * 16), int32_t(step * 16 + 16 * pass.c / 2), int32_t(step * 16 * 32)});

#pragma omp parallel num_threads(threads)
  {
    auto* sums = reinterpret_cast<float*>(scratch->data()) + omp_get_thread_num() * sum_words;
    std::vector<RowTile> tiles(size_t(chunks * most_tiles));
    std::vector<int64_t> at(static_cast<size_t>(block));
    kernels.enter();
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < blocks * shares; ++item) {
      const int64_t first = item / shares * block, rows = std::min(block, positions - first), count = ceil_div(rows, 32), share = item % shares;
      for (int64_t i = 0; i < count; ++i)
        for (int64_t c = 0; c < chunks; ++c)
          tiles[size_t(c * most_tiles + i)] = {list.data() + all.first_step(c), all.first_step(c + 1) - all.first_step(c), 16 * i * pass.c, i * 32 + 16 < rows,
                                               c == 0};
      for (int64_t i = 0; i < rows; ++i) at[size_t(i)] = (first + i) * pass.out_c;
      for (int64_t i = 0; i < count; i += together)
        all.multiply(reinterpret_cast<const Word*>(x + first * pass.c), 2 * pass.c, tiles.data() + i, std::min(together, count - i), at.data() + 32 * i,
                     sums + i * kSums, panels * share / shares, panels * (share + 1) / shares);
    }
    kernels.leave();
  }
}

}  // namespace

bool fits_batch(const Kernels& kernels, const Pass& pass, DType type) {
  return kernels.multiply_batch && type == DType::bf16 && pass.n % kGroup == 0 && pass.c % 32 == 0;
}

void run_batch(const Kernels& kernels, const Pass& pass, const bf16* x, const Word* packed, const Output& out) {
  if (in_place(pass)) return run_in_place(kernels, pass, x, packed, out);
  const int64_t channel_blocks = pass.c / 32, groups = pass.n / kGroup, panels = ceil_div(pass.out_c, 32);
  // Whether all columns of x are in use, or one for each of y.
  const bool all_columns = pass.s > 1;
  const int64_t columns = all_columns ? pass.w : pass.cols;
  const int64_t together = std::min(groups, std::max<int64_t>(2, round_up(ceil_div(kBlockRows, kGroup * pass.rows * pass.cols), 2)));  // groups of an item
  const int64_t row_words = columns * channel_blocks * together * kTile;
  int64_t block = std::clamp<int64_t>(ceil_div(kBlockRows, kGroup * together * pass.cols), 1, pass.rows);
  while (block > 1 && 4 * row_words * ((block - 1) * pass.step + pass.r) > kRingBytes) --block;
  block = ceil_div(pass.rows, ceil_div(pass.rows, block));
  const int64_t ring = std::min(pass.h, (block - 1) * pass.step + pass.r), blocks = ceil_div(pass.rows, block);

  // Few images: threads share rows, then channels of y; both make them copy some of x twice.
  const int64_t most = omp_get_max_threads() == 1 ? 1 : 2 * omp_get_max_threads(), sets = ceil_div(groups, together);
  const int64_t strips = std::clamp<int64_t>(ceil_div(most, sets), 1, blocks), shares = std::clamp<int64_t>(ceil_div(most, sets * strips), 1, panels);
  const int64_t items = sets * strips * shares;
  const int threads = int(std::min<int64_t>(omp_get_max_threads(), items));

  const int64_t steps = pass.r * pass.s * channel_blocks, chunks = ceil_div(steps, kChunkSteps);
  const int64_t most_tiles = block * (together > 1 ? pass.cols * ceil_div(together, 2) : ceil_div(pass.cols, 2));
  const int64_t x_words = kTile + ring * row_words, sum_words = chunks > 1 ? most_tiles * kSums : 0;
  auto scratch = Storage::allocate(4 * threads * (x_words + sum_words), Device::cpu);
  const int64_t image = pass.h * pass.w * pass.c, out_image = pass.out_h * pass.out_w * pass.out_c;
  const Panels all{kernels, pass, packed, out, steps, chunks, most_tiles};

#pragma omp parallel num_threads(threads)
  {
    Word* zeros = reinterpret_cast<Word*>(scratch->data()) + omp_get_thread_num() * (x_words + sum_words);  // a tile, then the ring
    auto* sums = reinterpret_cast<float*>(zeros + x_words);
    std::memset(zeros, 0, 4 * kTile);
    std::vector<Step> list;
    std::vector<RowTile> tiles(size_t(chunks * most_tiles));
    std::vector<int64_t> at(size_t(32 * most_tiles));
    list.reserve(size_t(most_tiles * steps));  // pointers into it stay
    const auto place = [&](int64_t h, int64_t column) { return kTile + (h % ring) * row_words + column * channel_blocks * together * kTile; };
    kernels.enter();
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t set = item / (strips * shares), strip = item / shares % strips, share = item % shares;
      const int64_t first_group = set * together, item_groups = std::min(together, groups - first_group);
      const int64_t first_panel = panels * share / shares, end_panel = panels * (share + 1) / shares;
      int64_t packed_rows = 0;  // of x; those before are in the ring or were not needed
      for (int64_t b = blocks * strip / strips; b < blocks * (strip + 1) / strips; ++b) {
        const int64_t first_row = b * block, rows = std::min(block, pass.rows - first_row);
        for (int64_t p = first_row; p < first_row + rows; ++p)
          for (int64_t h = std::max(packed_rows, p * pass.step + pass.dh); h < std::min(pass.h, p * pass.step + pass.dh + pass.r); ++h) {
            for (int64_t column = 0; column < columns; ++column) {
              const int64_t w = all_columns ? column : column * pass.step + pass.dw;
              if (w < 0 || w >= pass.w) continue;
              for (int64_t g = 0; g < item_groups; ++g)
                kernels.pack_images(bits(x) + (first_group + g) * kGroup * image + (h * pass.w + w) * pass.c, image, channel_blocks,
                                    zeros + place(h, column) + g * kTile, together * kTile);
            }
            packed_rows = h + 1;
          }

        // Where the tap (i, j) of position (p, q) has its first tile; 0 in the padding.
        const auto tap = [&](int64_t p, int64_t q, int64_t i, int64_t j) -> int64_t {
          const int64_t h = p * pass.step + pass.dh + i, w = q * pass.step + pass.dw + j;
          return q >= pass.cols || h < 0 || h >= pass.h || w < 0 || w >= pass.w ? 0 : place(h, all_columns ? w : q);
        };
        list.clear();
        int64_t count = 0;
        for (int64_t p = first_row; p < first_row + rows; ++p)
          for (int64_t q = 0; q<pass.cols; q += item_groups> 1 ? 1 : 2) {
            const bool neighbours = item_groups == 1 && q + 1 < pass.cols;
            const size_t first_step = list.size();
            int64_t chunk = 0;
            const auto close = [&](int64_t until) {  // the chunks before `until` have all their steps
              for (; chunk < until; ++chunk) {
                RowTile& t = tiles[size_t(chunk * most_tiles + count)];
                const RowTile* before = chunk > 0 ? &tiles[size_t((chunk - 1) * most_tiles + count)] : nullptr;
                const Step* from = before ? before->steps + before->count : list.data() + first_step;
                t = {from, list.data() + list.size() - from, 0, neighbours || item_groups > 1, from == list.data() + first_step};
              }
            };
            for (int64_t i = 0; i < pass.r; ++i)
              for (int64_t j = 0; j < pass.s; ++j) {
                const int64_t a = tap(p, q, i, j), other = neighbours ? tap(p, q + 1, i, j) : 0;
                for (int64_t c = 0; c < channel_blocks; ++c) {
                  const int64_t step = (i * pass.s + j) * channel_blocks + c, shift = c * together * kTile;
                  close(step * chunks / steps);
                  if (a == 0 && other == 0) continue;
                  const int64_t a2 = neighbours ? other : a == 0 ? 0 : a + kTile;
                  list.push_back({int32_t(a ? a + shift : 0), int32_t(neighbours ? (a2 ? a2 + shift : 0) : a2 + shift), int32_t(step * 16 * 32)});
                }
              }
            close(chunks);
            const int64_t pixel = ((p * pass.out_step + pass.out_row) * pass.out_w + q * pass.out_step + pass.out_col) * pass.out_c;
            for (int64_t g = 0; g < item_groups; g += 2, ++count) {
              for (int64_t c = 0; g > 0 && c < chunks; ++c) tiles[size_t(c * most_tiles + count)] = tiles[size_t(c * most_tiles + count - g / 2)];
              for (int64_t c = 0; c < chunks; ++c) {
                RowTile& t = tiles[size_t(c * most_tiles + count)];
                t.shift = g * kTile, t.both = neighbours || g + 1 < item_groups;
              }
              for (int64_t n = 0; n < 32; ++n) {
                const int64_t to = neighbours ? n % kGroup : n;
                at[size_t(32 * count + n)] =
                    ((first_group + g) * kGroup + to) * out_image + pixel + (neighbours && n >= kGroup ? pass.out_step * pass.out_c : 0);
              }
            }
          }

        all.multiply(zeros, 64, tiles.data(), count, at.data(), sums, first_panel, end_panel);
      }
    }
    kernels.leave();
  }
}

bool fits_batch_wgrad(const Kernels& kernels, const ConvWgradArgs& args) {
  return kernels.multiply_runs && args.type == DType::bf16 && args.shape.n % kGroup == 0 && args.shape.c % 32 == 0 && args.shape.k % 32 == 0;
}

void wgrad_batch(const Kernels& kernels, const ConvWgradArgs& args) {
  constexpr int64_t kSumsBytes = 1200 << 10, kMostK = 256, kRunSteps = 20, kPartialBytes = 8 << 20;
  const ConvShape& s = args.shape;
  const int64_t taps = s.r * s.s, p_rows = s.p(), q_cols = s.q();
  const int64_t images = s.n % (2 * kGroup) == 0 ? 2 * kGroup : kGroup, sets = s.n / images, pairs = images / 2, pixels = 16 / pairs;  // pixels of a step
  const int64_t steps = ceil_div(q_cols, pixels), q_padded = steps * pixels;
  // Columns of x by their place modulo the stride, so that neighbouring outputs read neighbouring columns; padding included.
  const int64_t phases = std::min(s.stride, s.s), per_phase = q_padded + (s.s - 1) / s.stride;

  // Chunks of dw: k x c, all taps.
  const int64_t k_chunks = ceil_div(s.k, kMostK), chunk_k = round_up(ceil_div(s.k, k_chunks), 32);
  const int64_t most_c = std::max<int64_t>(32, kSumsBytes / (4 * taps * chunk_k) / 32 * 32);
  const int64_t c_chunks = ceil_div(s.c, most_c), chunk_c = round_up(ceil_div(s.c, c_chunks), 32), chunks = k_chunks * c_chunks;
  const int64_t column_words = pairs * 16, half_words = phases * per_phase * column_words, row_words = chunk_c / 16 * half_words;
  const int64_t block = std::clamp<int64_t>(16 / steps, 1, p_rows), blocks = ceil_div(p_rows, block), units = sets * blocks;
  const int64_t ring = std::min(s.h, (block - 1) * s.stride + s.r), dy_half = block * steps * kTile;
  const int64_t sums_size = taps * chunk_k * chunk_c, dw_bytes = 4 * taps * s.k * s.c;
  const int64_t parts = std::clamp<int64_t>(std::min(16 / chunks, kPartialBytes / dw_bytes), 1, units);

  const int64_t x_words = ring * row_words, dy_words = chunk_k / 16 * dy_half, items = chunks * parts;
  const int threads = int(std::min<int64_t>(omp_get_max_threads(), items));
  auto scratch = Storage::allocate(4 * threads * (x_words + dy_words), Device::cpu), partial = Storage::allocate(4 * items * sums_size, Device::cpu);
  auto* all_sums = reinterpret_cast<float*>(partial->data());
  const int64_t image = s.h * s.w * s.c, dy_image = p_rows * q_cols * s.k;

#pragma omp parallel num_threads(threads)
  {
    Word* x = reinterpret_cast<Word*>(scratch->data()) + omp_get_thread_num() * (x_words + dy_words);
    Word* dy = x + x_words;
    std::vector<Run> runs;
    kernels.enter();
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t part = item % parts, chunk = item / parts, k = chunk / c_chunks * chunk_k, c = chunk % c_chunks * chunk_c;
      const int64_t k_size = std::min(chunk_k, s.k - k), c_size = std::min(chunk_c, s.c - c);
      float* sums = all_sums + item * sums_size;
      if (k_size <= 0 || c_size <= 0) continue;
      std::memset(sums, 0, size_t(4 * sums_size));
      int64_t set = -1, packed_rows = 0;
      for (int64_t unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
        const int64_t first_row = unit % blocks * block, rows = std::min(block, p_rows - first_row);
        if (unit / blocks != set) set = unit / blocks, packed_rows = 0;
        for (int64_t p = first_row; p < first_row + rows; ++p) {
          for (int64_t h = std::max(packed_rows, p * s.stride - s.pad); h < std::min(s.h, p * s.stride - s.pad + s.r); ++h) {
            Word* row = x + h % ring * row_words;
            for (int64_t phase = 0; phase < phases; ++phase)
              for (int64_t i = 0; i < per_phase; ++i) {
                const int64_t w = i * s.stride + phase - s.pad;
                Word* to = row + (phase * per_phase + i) * column_words;
                if (w < 0 || w >= s.w)
                  for (int64_t half = 0; half < c_size / 16; ++half) std::memset(to + half * half_words, 0, size_t(4 * column_words));
                else
                  kernels.pack_pairs(bits(args.x) + set * images * image + (h * s.w + w) * s.c + c, image, pairs, c_size / 32, to, half_words);
              }
            packed_rows = h + 1;
          }
          for (int64_t step = 0; step < steps; ++step) {
            const uint16_t* from = bits(args.dy) + set * images * dy_image + (p * q_cols + step * pixels) * s.k + k;
            const bool second = pixels == 2 && step * 2 + 1 < q_cols;
            kernels.pack_turned(from, second ? from + s.k : nullptr, dy_image, pairs, k_size / 32, dy + ((p - first_row) * steps + step) * kTile, dy_half);
          }
        }
        // dy's tiles of 32 channels and of a piece of the block stay in the first-level cache while all taps and channels of x pass by.
        const int64_t pieces = rows > 1 ? 1 : ceil_div(steps, kRunSteps);
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const int64_t begin = steps * piece / pieces, count = steps * (piece + 1) / pieces - begin;
          for (int64_t k2 = 0; k2 < k_size / 32; ++k2)
            for (int64_t i = 0; i < s.r; ++i)
              for (int64_t j = 0; j < s.s; ++j) {
                runs.clear();
                for (int64_t p = first_row; p < first_row + rows; ++p) {
                  const int64_t h = p * s.stride - s.pad + i;
                  if (h < 0 || h >= s.h) continue;
                  runs.push_back({int32_t(((p - first_row) * steps + begin) * kTile),
                                  int32_t(h % ring * row_words + (j % s.stride * per_phase + j / s.stride) * column_words + begin * kTile), int32_t(count)});
                }
                if (runs.empty()) continue;
                kernels.multiply_runs({.a = dy + 2 * k2 * dy_half,
                                       .a2 = dy_half,
                                       .b = x,
                                       .b2 = half_words,
                                       .pairs = c_size / 32,
                                       .runs = runs.data(),
                                       .count = int64_t(runs.size()),
                                       .sums = sums + ((k2 * s.r + i) * s.s + j) * (chunk_c / 32) * kSums});
              }
        }
      }
    }
    kernels.leave();
  }
  with_float_type(args.dw_type, [&](auto zero) {
    using W = decltype(zero);
    auto* dw = static_cast<W*>(args.dw);
    const bool adds = args.accumulate == Accumulate::yes;
    parallel_for(s.k, [&](int64_t k) {
      const int64_t in_chunk = k % chunk_k;
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t c = 0; c < s.c; c += 16) {
          const int64_t chunk = k / chunk_k * c_chunks + c / chunk_c, c_in_chunk = c % chunk_c;
          const float* from = all_sums + chunk * parts * sums_size + ((in_chunk / 32 * taps + tap) * (chunk_c / 32) + c_in_chunk / 32) * kSums +
                              (in_chunk % 32 / 16 * 2 + c_in_chunk % 32 / 16) * kTile + in_chunk % 16 * 16;
          float sum[16] = {};
          for (int64_t part = 0; part < parts; ++part)
            for (int64_t l = 0; l < 16; ++l) sum[l] += from[part * sums_size + l];
          W* to = dw + (k * taps + tap) * s.c + c;
          for (int64_t l = 0; l < 16; ++l) to[l] = W(adds ? float(to[l]) + sum[l] : sum[l]);
        }
    });
  });
}

}  // namespace kd::cpu::direct
