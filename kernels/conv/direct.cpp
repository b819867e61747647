#include "kernels/conv/direct.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/memory.h"
#include "kernels/common/parallel.h"
#include "kernels/conv/direct_pass.h"

namespace kd::cpu {
namespace direct {
namespace {

std::vector<Pass> passes_of(const Kernels& kernels, const ConvProblem& problem) {
  const ConvShape& s = problem.shape;
  std::vector<Pass> passes;
  if (problem.op != ConvOp::dgrad) {
    passes.push_back({.n = s.n,
                      .h = s.h,
                      .w = s.w,
                      .c = s.c,
                      .rows = s.p(),
                      .cols = s.q(),
                      .step = s.stride,
                      .dh = -s.pad,
                      .dw = -s.pad,
                      .r = s.r,
                      .s = s.s,
                      .out_h = s.p(),
                      .out_w = s.q(),
                      .out_c = s.k});
  } else {
    // dx[h] = sum of dy[(h + pad - r) / stride] over the r that divide. For h = p*stride + a these are r = first, first + stride, ... last; the last one reads
    // dy[p + (a + pad - last) / stride], and each smaller one the next row.
    struct Axis {
      int64_t count, taps, last, offset;
    };
    const auto axis = [&](int64_t a, int64_t size, int64_t filter) {
      const int64_t first = (a + s.pad) % s.stride, taps = first < filter ? (filter - 1 - first) / s.stride + 1 : 0, last = first + (taps - 1) * s.stride;
      return Axis{ceil_div(size - a, s.stride), taps, last, (a + s.pad - last) / s.stride};
    };
    for (int64_t a = 0; a < std::min(s.stride, s.h); ++a)
      for (int64_t b = 0; b < std::min(s.stride, s.w); ++b) {
        const Axis v = axis(a, s.h, s.r), u = axis(b, s.w, s.s);
        passes.push_back({.n = s.n,
                          .h = s.p(),
                          .w = s.q(),
                          .c = s.k,
                          .rows = v.count,
                          .cols = u.count,
                          .step = 1,
                          .dh = v.offset,
                          .dw = u.offset,
                          .r = v.taps,
                          .s = u.taps,
                          .out_h = s.h,
                          .out_w = s.w,
                          .out_c = s.c,
                          .out_step = s.stride,
                          .out_row = a,
                          .out_col = b,
                          .filter_r = v.last,
                          .filter_s = u.last,
                          .filter_step = -s.stride});
      }
  }
  int64_t words = 0;
  for (Pass& pass : passes) {
    pass.steps = round_up(ceil_div(pass.window(), kernels.word), kernels.align_steps);
    pass.packed = words;
    words += pass.steps * round_up(pass.out_c, kernels.tile_cols);
  }
  return passes;
}

int64_t packed_bytes(const Kernels& kernels, const ConvProblem& problem) {
  const auto passes = passes_of(kernels, problem);
  const Pass& last = passes.back();
  return 4 * (last.packed + last.steps * round_up(last.out_c, kernels.tile_cols));
}

// Packed: [pass][out channel / tile][step][tile] words, zeros where there is no tap or channel.
template <class Element, class W>
void pack(const Kernels& kernels, const ConvProblem& problem, const W* w, Element* packed) {
  const ConvShape& s = problem.shape;
  const bool turned = problem.op == ConvOp::dgrad;
  const int64_t filter = s.r * s.s * s.c, out_line = turned ? 1 : filter, in_line = turned ? filter : 1, word = kernels.word, tile = kernels.tile_cols;
  for (const Pass& pass : passes_of(kernels, problem))
    parallel_for(ceil_div(pass.out_c, tile), [&](int64_t panel) {
      Element* to = packed + (pass.packed + panel * pass.steps * tile) * word;
      const int64_t channels = std::min(tile, pass.out_c - panel * tile);
      const W* from = w + panel * tile * out_line;
      if constexpr (std::is_same_v<W, float> && std::is_same_v<Element, bf16>)
        if (kernels.pack_columns && channels == tile && pass.c % 32 == 0) {
          auto* words = reinterpret_cast<Word*>(to);
          for (int64_t i = 0; i < pass.r; ++i)
            for (int64_t j = 0; j < pass.s; ++j) {
              const W* tap = from + ((pass.filter_r + i * pass.filter_step) * s.s + pass.filter_s + j * pass.filter_step) * s.c;
              for (int64_t c = 0; c < pass.c; c += 32, words += 16 * 32)
                if (turned)
                  for (int64_t row = 0; row < 16; ++row) kernels.pack_rows(tap + (c + 2 * row) * in_line, tap + (c + 2 * row + 1) * in_line, words + row * 32);
                else
                  for (int64_t half = 0; half < 2; ++half) kernels.pack_columns(tap + half * 16 * out_line + c, out_line, words + half * 16);
            }
          return;
        }
      int64_t t = 0;  // element of the reduction
      const auto put = [&](const W* element) {
        Element* step = to + t / word * tile * word + t % word;
        for (int64_t j = 0; j < channels; ++j) step[j * word] = Element(float(element[j * out_line]));
        for (int64_t j = channels; j < tile; ++j) step[j * word] = Element(0.f);
        ++t;
      };
      for (int64_t i = 0; i < pass.r; ++i)
        for (int64_t j = 0; j < pass.s; ++j) {
          const W* tap = from + ((pass.filter_r + i * pass.filter_step) * s.s + pass.filter_s + j * pass.filter_step) * s.c;
          for (int64_t c = 0; c < pass.c; ++c) put(tap + c * in_line);
        }
      for (; t < pass.steps * word; ++t)
        for (int64_t j = 0; j < tile; ++j) to[t / word * tile * word + j * word + t % word] = Element(0.f);
    });
}

// Where one position reads and writes.
struct Position {
  int64_t image;  // element of x where its image begins
  int64_t h, w;   // of tap (0, 0)
  int64_t out;    // element of y
};

// By image: (n, p, q). By pixel: (p, q, n).
enum class Order : unsigned char { image, pixel };

void find_positions(const Pass& pass, Order order, int64_t first, int64_t count, Position* to) {
  const int64_t pixels = pass.rows * pass.cols, image = pass.h * pass.w * pass.c, out_image = pass.out_h * pass.out_w * pass.out_c;
  int64_t n = order == Order::image ? first / pixels : first % pass.n, pixel = order == Order::image ? first % pixels : first / pass.n;
  int64_t p = pixel / pass.cols, q = pixel % pass.cols;
  const auto next_pixel = [&] {
    if (++q < pass.cols) return;
    q = 0;
    if (++p == pass.rows) p = 0, ++n;
  };
  for (int64_t i = 0; i < count; ++i) {
    to[i] = {n * image, p * pass.step + pass.dh, q * pass.step + pass.dw,
             n * out_image + ((p * pass.out_step + pass.out_row) * pass.out_w + q * pass.out_step + pass.out_col) * pass.out_c};
    if (order == Order::image)
      next_pixel();
    else if (++n == pass.n)
      n = 0, next_pixel();
  }
}

template <class From, class To>
KD_INLINE void copy(const From* from, int64_t n, To* to) {
  if constexpr (sizeof(From) == sizeof(To)) {
    // A window's row of three channels is 9 to 21 elements: two or three vectors that overlap, and no call.
    constexpr int64_t kLanes = 32 / sizeof(From);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) std::memcpy(to + i, from + i, 32);
    if (i == n) return;
    if (n >= kLanes)
      std::memcpy(to + n - kLanes, from + n - kLanes, 32);
    else
      for (; i < n; ++i) std::memcpy(to + i, from + i, sizeof(From));
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = To(float(from[i]));
  }
}

// Elements [begin, end) of a position's window, in the order (r, s, c).
template <class From, class To>
void gather(const Pass& pass, const From* x, const Position& at, int64_t begin, int64_t end, To* to) {
  const int64_t row = pass.s * pass.c;
  if (begin == 0 && end == pass.r * row && at.h >= 0 && at.h + pass.r <= pass.h && at.w >= 0 && at.w + pass.s <= pass.w) {
    const From* from = x + at.image + (at.h * pass.w + at.w) * pass.c;
    for (int64_t i = 0; i < pass.r; ++i) copy(from + i * pass.w * pass.c, row, to + i * row);
    return;
  }
  const int64_t inside = std::max<int64_t>(0, -at.w) * pass.c, outside = std::min(pass.s, pass.w - at.w) * pass.c;
  for (int64_t i = begin / row; begin < end; ++i) {
    const int64_t first = begin - i * row, last = std::min(end - i * row, row), h = at.h + i;
    int64_t from = last, until = last;
    if (h >= 0 && h < pass.h && i < pass.r) from = std::clamp(inside, first, last), until = std::clamp(outside, from, last);
    std::fill(to, to + (from - first), To{});
    copy(x + (at.image + (h * pass.w + at.w) * pass.c + from), until - from, to + (from - first));
    std::fill(to + (until - first), to + (last - first), To{});
    to += last - first;
    begin += last - first;
  }
}

struct Range {
  int64_t begin, end;
};

// The parts of the windows that some position of a block finds inside x, each at most `longest` elements and a multiple of `unit`.
void live_ranges(const Pass& pass, const Position* positions, int64_t count, int64_t unit, int64_t longest, int64_t total, std::vector<Range>& ranges) {
  ranges.clear();
  const auto add = [&](int64_t begin, int64_t end) {
    const int64_t pieces = ceil_div(end - begin, longest), units = (end - begin) / unit;
    for (int64_t i = 0; i < pieces; ++i) ranges.push_back({begin + units * i / pieces * unit, begin + units * (i + 1) / pieces * unit});
  };
  if (pass.c % unit != 0) return add(0, total);
  int64_t top = pass.r, bottom = 0, left = pass.s, right = 0;
  for (const Position* at = positions; at < positions + count; ++at) {
    top = std::min(top, std::max<int64_t>(0, -at->h)), bottom = std::max(bottom, std::min(pass.r, pass.h - at->h));
    left = std::min(left, std::max<int64_t>(0, -at->w)), right = std::max(right, std::min(pass.s, pass.w - at->w));
  }
  if (top >= bottom || left >= right) return;
  const int64_t row = pass.s * pass.c;
  if (left == 0 && right == pass.s) return add(top * row, bottom * row);
  for (int64_t i = top; i < bottom; ++i) add(i * row + left * pass.c, i * row + right * pass.c);
}

// Rows a multiple of 4 KB apart lie in one set of a first-level cache, which has 8 to 12 lines: a taller tile would fetch every line for each of its words.
bool share_a_set(const Kernels& kernels, int64_t line) { return kernels.lines_held > 8 && line % 1024 == 0; }

// T: of x and y. Element: what the arithmetic multiplies.
template <class T, class Element>
void run(const Kernels& kernels, const Pass& pass, const T* x, const Word* packed, const Output& out) {
  const int64_t word = kernels.word, tile = kernels.tile_cols, unit = word * kernels.align_steps, positions = pass.positions();
  if (positions == 0) return;
  if constexpr (std::is_same_v<T, bf16>)
    if (fits_batch(kernels, pass, DType::bf16)) return run_batch(kernels, pass, x, packed, out);
  const auto multiply = std::is_same_v<T, float> ? kernels.multiply_f32 : kernels.multiply_bf16;
  // Image-innermost where a whole block can then share its pixel.
  const bool by_pixel = pass.c % unit == 0 && pass.n >= 16 && pass.rows * pass.cols <= 64 && pass.r * pass.s > 1;
  const Order order = by_pixel ? Order::pixel : Order::image;
  const int64_t span = by_pixel ? pass.n : positions;
  const bool in_place = std::is_same_v<T, Element> && pass.r * pass.s == 1 && pass.step == 1 && pass.dh == 0 && pass.dw == 0 && pass.rows == pass.h &&
                        pass.cols == pass.w && pass.c % unit == 0 && !share_a_set(kernels, pass.c / word);
  // In place there is no buffer to keep small, and fewer blocks begin with lines that nobody asked for.
  const int64_t most = kernels.block * (in_place ? std::clamp<int64_t>(span / (kernels.block * 16 * omp_get_max_threads()), 1, 4) : 1);
  // As many for every thread, unless they were too small then: 7 blocks leave one of two threads waiting for an eighth of the time.
  const int64_t fewest = ceil_div(span, most), even = round_up(fewest, omp_get_max_threads());
  const int64_t block = ceil_div(span, fewest > 1 && !by_pixel && span >= even * kernels.block / 2 ? even : fewest),
                blocks = by_pixel ? pass.rows * pass.cols * ceil_div(span, block) : ceil_div(span, block);
  const int64_t per_span = ceil_div(span, block);
  // Few blocks: threads share the output channels too, and gather twice.
  const int64_t panels = ceil_div(pass.out_c, tile), groups = std::clamp<int64_t>(ceil_div(2 * omp_get_max_threads(), blocks), 1, panels);
  const int threads = omp_get_max_threads() == 1 ? 1 : int(std::min<int64_t>(omp_get_max_threads(), blocks * groups));

  // In place nothing is gathered that a cache would have to hold, and a row is read once.
  const bool whole_rows = in_place && pass.steps <= 2 * kernels.longest && pass.steps * panels * tile <= 1 << 18;
  const int64_t rows = round_up(block, kernels.align_rows), longest = std::max(whole_rows ? pass.steps : kernels.longest, int64_t(kernels.align_steps));
  const int64_t line = odd_lines(std::min(longest, pass.steps)), group_panels = ceil_div(panels, groups);
  const bool chunked = pass.steps > longest || by_pixel;
  const int64_t a_words = rows * line, sum_words = chunked ? group_panels * rows * tile : 0;
  auto scratch = Storage::allocate(4 * threads * (a_words + sum_words), Device::cpu);

#pragma omp parallel num_threads(threads)
  {
    auto* a = reinterpret_cast<Word*>(scratch->data()) + omp_get_thread_num() * (a_words + sum_words);
    auto* sums = reinterpret_cast<float*>(a + a_words);
    std::vector<Position> at(static_cast<size_t>(block));
    std::vector<int64_t> outs(static_cast<size_t>(block));
    std::vector<Range> ranges;
    kernels.enter();
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < blocks * groups; ++item) {
      const int64_t index = item / groups, group = item % groups, first_panel = panels * group / groups, end_panel = panels * (group + 1) / groups;
      const int64_t first = index / per_span * span + index % per_span * block, count = std::min(block, (index / per_span + 1) * span - first);
      find_positions(pass, order, first, count, at.data());
      for (int64_t i = 0; i < count; ++i) outs[size_t(i)] = at[size_t(i)].out;
      live_ranges(pass, at.data(), count, unit, longest * word, pass.steps * word, ranges);
      if (ranges.empty()) ranges.push_back({0, 0});
      const int64_t channel = first_panel * tile;
      const Finish finish{.at = outs.data(),
                          .y = static_cast<T*>(out.y) + channel,
                          .z = out.z ? static_cast<const T*>(out.z) + channel : nullptr,
                          .bias = out.bias ? out.bias + channel : nullptr,
                          .relu = out.relu,
                          .line = outs[size_t(count - 1)] - outs[0] == (count - 1) * pass.out_c ? pass.out_c : 0};
      const bool here = in_place && count % kernels.align_rows == 0;
      for (const Range& range : ranges) {
        if (!here && range.begin < range.end)
          for (int64_t i = 0; i < round_up(count, kernels.align_rows); ++i) {
            auto* row = reinterpret_cast<Element*>(a + i * line);
            if (i < count)
              gather(pass, x, at[size_t(i)], range.begin, range.end, row);
            else
              std::fill(row, row + (range.end - range.begin), Element{});
          }
        multiply({.a = here ? reinterpret_cast<const Word*>(x + first * pass.c + range.begin) : a,
                  .a_line = here ? pass.c / word : line,
                  .b = packed + pass.packed + (first_panel * pass.steps + range.begin / word) * tile,
                  .b_step = tile,
                  .b_panel = pass.steps * tile,
                  .steps = (range.end - range.begin) / word,
                  .rows = count,
                  .cols = std::min(pass.out_c, end_panel * tile) - channel,
                  .sums = chunked ? sums : nullptr,
                  .sums_row = tile,
                  .sums_panel = rows * tile,
                  .begin = &range == &ranges.front(),
                  .finish = &range == &ranges.back() ? &finish : nullptr});
      }
    }
    kernels.leave();
  }
}

template <class F>
void with_element(const Kernels& kernels, DType type, F&& f) {  // f(T{}, Element{})
  if (kernels.word == 2)
    f(bf16{}, bf16{});
  else
    with_float_type(type, [&](auto zero) { f(zero, float{}); });
}

void fprop(const Kernels& kernels, const ConvFpropArgs& args, const void* packed) {
  const ConvProblem problem{ConvOp::fprop, args.shape, args.type};
  std::vector<float> bias;
  if (args.bias)
    with_float_type(args.bias_type, [&](auto zero) {
      auto* from = static_cast<const decltype(zero)*>(args.bias);
      for (int64_t k = 0; k < args.shape.k; ++k) bias.push_back(float(from[k]));
    });
  const Output out{args.y, args.z, args.bias ? bias.data() : nullptr, args.epilogue == Epilogue::relu};
  with_element(kernels, args.type, [&](auto t, auto element) {
    using T = decltype(t);
    for (const Pass& pass : passes_of(kernels, problem))
      run<T, decltype(element)>(kernels, pass, static_cast<const T*>(args.x), static_cast<const Word*>(packed), out);
  });
}

void dgrad(const Kernels& kernels, const ConvDgradArgs& args, const void* packed) {
  const ConvProblem problem{ConvOp::dgrad, args.shape, args.type};
  const auto passes = passes_of(kernels, problem);
  const auto no_taps = [](const Pass& pass) { return pass.window() == 0; };
  // Classes that no tap reaches are zeros; written pixel by pixel they would cost more than the others.
  if (args.accumulate == Accumulate::no && std::any_of(passes.begin(), passes.end(), no_taps))
    parallel_ranges(args.shape.n * args.shape.h * args.shape.w * args.shape.c * size_of(args.type),
                    [&](int64_t begin, int64_t end) { std::memset(static_cast<std::byte*>(args.dx) + begin, 0, size_t(end - begin)); });
  const Output out{args.dx, args.accumulate == Accumulate::yes ? args.dx : nullptr, nullptr, false};
  with_element(kernels, args.type, [&](auto t, auto element) {
    using T = decltype(t);
    for (const Pass& pass : passes)
      if (!no_taps(pass)) run<T, decltype(element)>(kernels, pass, static_cast<const T*>(args.dy), static_cast<const Word*>(packed), out);
  });
}

// dw[k][t]: rows are output channels, the reduction runs over positions. Work is shared by chunks of dw and, where those are few, by ranges of positions
// ("parts") whose sums are added at the end.
template <class T, class Element>
void wgrad_typed(const Kernels& kernels, const ConvWgradArgs& args) {
  // Steps of a block. Its windows, dy and sums share the second-level cache; tiles, and two elements a word, want longer runs (vdpbf16ps: 3 to 5 %).
  const int64_t longest = kernels.adjacent && kernels.word == 1 ? 128 : 256;
  constexpr int64_t kChunkT = 384, kChunkK = 256;  // sums of a chunk, 384 KB, stay in the second-level cache
  const ConvShape& s = args.shape;
  const Pass pass = passes_of(kernels, {ConvOp::wgrad, s, args.type})[0];
  const int64_t word = kernels.word, tile = kernels.tile_cols, window = pass.window(), positions = pass.positions();
  const int64_t tiles = ceil_div(window, tile), t_chunks = ceil_div(tiles * tile, kChunkT), k_chunks = ceil_div(s.k, kChunkK);
  const int64_t block = longest * word, blocks = ceil_div(positions, block);
  const int64_t parts = std::clamp<int64_t>(32 / (t_chunks * k_chunks), 1, std::max<int64_t>(blocks / 4, 1));
  const int64_t sums_row = tiles * tile, sums_rows = round_up(s.k, 32), sums_size = sums_rows * sums_row;

  // Per thread: the windows [step][t], dy [step][k] (transposed: [k][step]), a pair of rows before it is interleaved.
  const int64_t chunk_t = ceil_div(tiles, t_chunks) * tile, chunk_k = std::min(sums_rows, kChunkK);
  const int64_t b_line = odd_lines(chunk_t), a_line = odd_lines(chunk_k), turned_line = odd_lines(longest);
  const int64_t b_words = longest * b_line, a_words = longest * a_line, turned_words = kernels.adjacent ? 0 : chunk_k * turned_line;
  const int64_t pair_line = std::max(b_line, a_line), per_thread = b_words + a_words + turned_words + 2 * pair_line;
  const int64_t items = t_chunks * k_chunks * parts;
  const int threads = int(std::min<int64_t>(omp_get_max_threads(), items));
  auto scratch = Storage::allocate(4 * threads * per_thread, Device::cpu), partial = Storage::allocate(4 * parts * sums_size, Device::cpu);
  auto* all_sums = reinterpret_cast<float*>(partial->data());
  const T *x = static_cast<const T*>(args.x), *dy = static_cast<const T*>(args.dy);

#pragma omp parallel num_threads(threads)
  {
    Word* b = reinterpret_cast<Word*>(scratch->data()) + omp_get_thread_num() * per_thread;
    Word *a = b + b_words, *turned = a + a_words;
    auto* pair = reinterpret_cast<Element*>(turned + turned_words);
    std::vector<Position> at(static_cast<size_t>(block));
    // `width` words of one step: put(position, row) writes a row and returns its length; two positions are interleaved.
    const auto put_step = [&](int64_t step, int64_t count, int64_t width, Word* to, auto&& put) {
      Element* rows = word == 1 ? reinterpret_cast<Element*>(to) : pair;
      for (int64_t i = 0; i < word; ++i) {
        Element* row = rows + i * pair_line;
        const int64_t position = step * word + i, filled = position < count ? put(position, row) : 0;
        std::fill(row + filled, row + width, Element{});
      }
      if constexpr (std::is_same_v<Element, bf16>)
        for (int64_t i = 0; i < width; ++i) to[i] = Word(rows[i].bits) | Word(rows[pair_line + i].bits) << 16;
    };
    kernels.enter();
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t part = item % parts, chunk = item / parts, i = chunk % t_chunks, j = chunk / t_chunks;
      const int64_t t = tiles * i / t_chunks * tile, t_size = tiles * (i + 1) / t_chunks * tile - t, t_real = std::min(window, t + t_size) - t;
      const int64_t k = j * kChunkK, k_size = std::min(s.k - k, kChunkK), k_padded = round_up(k_size, kernels.align_rows);
      float* sums = all_sums + part * sums_size + k * sums_row + t;
      for (int64_t n = blocks * part / parts; n < blocks * (part + 1) / parts; ++n) {
        const int64_t first = n * block, count = std::min(block, positions - first), steps = round_up(ceil_div(count, word), kernels.align_steps);
        find_positions(pass, Order::image, first, count, at.data());
        for (int64_t step = 0; step < steps; ++step) {
          put_step(step, count, t_size, b + step * b_line, [&](int64_t position, Element* row) {
            gather(pass, x, at[size_t(position)], t, t + t_real, row);
            return t_real;
          });
          put_step(step, count, k_padded, a + step * a_line, [&](int64_t position, Element* row) {
            copy(dy + (first + position) * s.k + k, k_size, row);
            return k_size;
          });
        }
        if (!kernels.adjacent) kernels.transpose(a, a_line, turned, turned_line, steps, k_padded);
        const Block product{.a = kernels.adjacent ? a : turned,
                            .a_line = kernels.adjacent ? a_line : turned_line,
                            .b = b,
                            .b_step = b_line,
                            .b_panel = tile,
                            .steps = steps,
                            .rows = k_size,
                            .cols = t_size,
                            .sums = sums,
                            .sums_row = sums_row,
                            .sums_panel = tile,
                            .begin = n == blocks * part / parts,
                            .finish = nullptr};
        kernels.adjacent ? kernels.multiply_adjacent(product) : kernels.multiply_f32(product);
      }
    }
    kernels.leave();
  }
  with_float_type(args.dw_type, [&](auto zero) {
    using W = decltype(zero);
    auto* dw = static_cast<W*>(args.dw);
    const bool adds = args.accumulate == Accumulate::yes;
    parallel_for(s.k, [&](int64_t k) {
      float* sums = all_sums + k * sums_row;
      for (int64_t part = 1; part < parts; ++part)
        for (int64_t t = 0; t < window; ++t) sums[t] += sums[part * sums_size + t];
      for (int64_t t = 0; t < window; ++t) {
        W& to = dw[k * window + t];
        to = W(adds ? float(to) + sums[t] : sums[t]);
      }
    });
  });
}

void wgrad(const Kernels& kernels, const ConvWgradArgs& args) {
  if (fits_batch_wgrad(kernels, args)) return wgrad_batch(kernels, args);
  with_element(kernels, args.type, [&](auto t, auto element) { wgrad_typed<decltype(t), decltype(element)>(kernels, args); });
}

// The functions of conv_algorithm.h carry no state, so each set of kernels has its own.
template <const Kernels* const& kernels>
ConvAlgorithm algorithm(const char* name, CpuIsa isa) {
  return {.name = name,
          .isa = isa,
          .exact = true,
          .offers =
              [](const ConvProblem& problem) {
                const ConvShape& s = problem.shape;
                const int64_t channels = problem.op == ConvOp::fprop ? s.k : problem.op == ConvOp::dgrad ? s.c : kernels->lanes;
                return channels % kernels->lanes == 0 &&
                       (kernels->word == 1 ? problem.type == DType::f32 || problem.type == DType::bf16 : problem.type == DType::bf16);
              },
          .packed_bytes = [](const ConvProblem& problem, DType) { return packed_bytes(*kernels, problem); },
          .pack =
              [](const ConvProblem& problem, const void* w, DType type, void* packed) {
                with_float_type(type, [&](auto zero) {
                  auto* from = static_cast<const decltype(zero)*>(w);
                  if (kernels->word == 2)
                    direct::pack(*kernels, problem, from, static_cast<bf16*>(packed));
                  else
                    direct::pack(*kernels, problem, from, static_cast<float*>(packed));
                });
              },
          .fprop = [](const ConvFpropArgs& args, const void* packed) { direct::fprop(*kernels, args, packed); },
          .dgrad = [](const ConvDgradArgs& args, const void* packed) { direct::dgrad(*kernels, args, packed); },
          .wgrad = [](const ConvWgradArgs& args) { direct::wgrad(*kernels, args); }};
}

ConvAlgorithms table(const std::vector<ConvAlgorithm>& list) { return {list.data(), list.data() + list.size()}; }

}  // namespace
}  // namespace direct

ConvAlgorithms direct_algorithms() {
  using namespace direct;
  static const std::vector<ConvAlgorithm> list = [] {
    std::vector<ConvAlgorithm> all;
    if (kernels_avx2) all.push_back(algorithm<kernels_avx2>("direct.avx2", CpuIsa::avx2));
    if (kernels_avx512) all.push_back(algorithm<kernels_avx512>("direct.avx512", CpuIsa::avx512));
    if (kernels_avx512_bf16) all.push_back(algorithm<kernels_avx512_bf16>("direct.avx512_bf16", CpuIsa::avx512_bf16));
    if (kernels_amx) all.push_back(algorithm<kernels_amx>("direct.amx", CpuIsa::amx));
    return all;
  }();
  return table(list);
}

ConvAlgorithms emulated_direct_algorithms() {
  using namespace direct;
  static const std::vector<ConvAlgorithm> list{
      algorithm<emulated_avx2>("direct.avx2_emulated", CpuIsa::none), algorithm<emulated_avx512>("direct.avx512_emulated", CpuIsa::none),
      algorithm<emulated_avx512_bf16>("direct.avx512_bf16_emulated", CpuIsa::none), algorithm<emulated_amx>("direct.amx_emulated", CpuIsa::none)};
  return table(list);
}

}  // namespace kd::cpu
