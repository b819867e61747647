#include "kernels/conv/winograd.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/memory.h"
#include "kernels/conv/conv_algorithm.h"

namespace kd::cpu {
namespace {

using winograd::Axis;
using winograd::Form;
using winograd::kAxes;
using winograd::Kernels;
using winograd::TileBlock;
using winograd::Tiling;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool does(const ConvProblem& problem) {
  const ConvShape& s = problem.shape;
  return s.r == 3 && s.s == 3 && ((s.stride == 1 && s.pad >= 0 && s.pad <= 2) || (s.stride == 2 && s.pad == 1)) && s.n >= 1 && s.p() >= 1 && s.q() >= 1 &&
         s.c % 16 == 0 && s.k % 16 == 0 && s.c > 0 && s.k > 0 && (problem.type == DType::f32 || problem.type == DType::bf16);
}

void check(const ConvProblem& problem, const char* what, DType type) {
  KD_CHECK(does(problem),
           "conv {}: Winograd does 3x3 filters of stride 1 with padding 0 to 2, or of stride 2 with padding 1, and channels in multiples of 16 only",
           to_string(problem.shape));
  KD_CHECK(type == DType::f32 || type == problem.type, "conv {}: {} is {}; it may be f32 or have the activations' type", to_string(problem.shape), what,
           to_string(type));
}

int index_of(DType type) { return type == DType::bf16; }

// Scratch of one call, cut into arrays on cache lines.
class Scratch {
 public:
  int64_t floats(int64_t count) { return std::exchange(bytes_, bytes_ + ceil_div(count * 4, 64) * 64); }
  void allocate() { storage_ = Storage::allocate(bytes_, Device::cpu); }
  float* at(int64_t offset) const { return reinterpret_cast<float*>(storage_->data() + offset); }

 private:
  int64_t bytes_ = 0;
  std::shared_ptr<Storage> storage_;
};

// One cache line more than the tiles need: 36 positions a multiple of 4096 bytes apart would fall into the same cache sets.
int64_t position_floats(int64_t capacity, int64_t channels) { return ceil_div(capacity * channels, 1024) * 1024 + 16; }
// Room for the tiles of a block. An odd number of cache lines from one block of 16 channels to the next: the rows of a product lie in all sets.
int64_t room_for(int64_t tiles) { return tiles | 1; }
int64_t filter_block_floats(Form form, int64_t in, int64_t width) { return kAxes[form].taps * kAxes[form].taps * winograd::filter_position(in, width); }

// For p x q outputs of the form.
Tiling tiling(Form form, int64_t h, int64_t w, int64_t c, int64_t pad, int64_t p, int64_t q) {
  const int64_t out = kAxes[form].out, tiles_h = ceil_div(p, out), tiles_w = ceil_div(q, out), step = out / kAxes[form].steps;
  return {h, w, c, pad, tiles_h, tiles_w, ceil_div(p - (tiles_h - 1) * out, step), ceil_div(q - (tiles_w - 1) * out, step)};
}

// The products of a form: an element of V for each position, the filter's for it, and whether it is the first with that one.
struct Position {
  int64_t v, u;
  bool first;
};
std::vector<Position> make_positions(Form form) {
  const int64_t points = kAxes[form].points, taps = kAxes[form].taps;
  std::vector<Position> all;
  std::vector<bool> seen(size_t(taps * taps));
  for (int64_t i = 0; i < points; ++i)
    for (int64_t j = 0; j < points; ++j) {
      const int64_t u = winograd::tap_of(form, i) * taps + winograd::tap_of(form, j);
      all.push_back({i * points + j, u, !seen[size_t(u)]});
      seen[size_t(u)] = true;
    }
  // Those that share a filter side by side: it stays in the first-level cache.
  std::stable_sort(all.begin(), all.end(), [](const Position& a, const Position& b) { return a.u < b.u; });
  return all;
}
constexpr int64_t kMostPositions = 81;
const std::vector<Position>& positions_of(Form form) {
  static const std::vector<Position> all[winograd::kForms] = {make_positions(Form::unit), make_positions(Form::wide), make_positions(Form::strided),
                                                              make_positions(Form::strided_back)};
  return all[form];
}

// A tensor's tiles in blocks of `size`. Within a block those that are short on the right only come first, then whole ones, then those short below only,
// then those short at both: so the tiles that need a position are neighbours, whichever it is.
class TileOrder {
 public:
  struct Range {
    int64_t begin, end;
  };
  static int64_t words(int64_t tiles, int64_t size) { return tiles + ceil_div(tiles, size) * kCuts; }
  TileOrder(Form form, const Tiling& s, int64_t tiles, int64_t size, int64_t* memory)
      : form_(form), s_(s), tiles_(tiles), size_(size), tile_(memory + ceil_div(tiles, size) * kCuts), cuts_(memory) {
    int64_t *cuts = memory, *to = memory + ceil_div(tiles, size) * kCuts;
    for (int64_t block = 0; block * size < tiles; ++block, cuts += kCuts) {
      const int64_t* begin = to;
      const int64_t first = block * size, end = first + count(block);
      for (int64_t kind = 0; kind < 4; ++kind) {
        cuts[kind] = to - begin;
        if (whole())
          for (int64_t t = first; kind == 1 && t < end; ++t) *to++ = t;
        else
          for (int64_t t = first; t < end; ++t)
            if (kind_of(t) == kind) *to++ = t;
      }
      cuts[4] = to - begin;
    }
  }

  int64_t count(int64_t block) const { return std::min(size_, tiles_ - block * size_); }
  TileBlock block(int64_t block, float* data, int64_t position) const { return {data, position, room_for(size_), tile_ + block * size_, count(block)}; }
  // Of the block's tiles, those that need a position.
  Range needing(int64_t block, int64_t position) const {
    const int64_t* cuts = cuts_ + block * kCuts;
    const auto [h, w] = needed_by_short(position);
    return {w ? 0 : cuts[1], h ? cuts[w ? 4 : 3] : cuts[2]};
  }
  // How many of an image's tiles do.
  int64_t work(int64_t position) const {
    const auto [h, w] = needed_by_short(position);
    return (s_.tiles_h - !h) * (s_.tiles_w - !w);
  }

 private:
  static constexpr int64_t kCuts = 5;
  bool whole() const { return s_.last_h == kAxes[form_].steps && s_.last_w == kAxes[form_].steps; }
  // By the tiles at the lower and by those at the right edge.
  std::pair<bool, bool> needed_by_short(int64_t position) const {
    const int64_t points = kAxes[form_].points;
    return {winograd::needs(form_, position / points, s_.last_h), winograd::needs(form_, position % points, s_.last_w)};
  }
  int64_t kind_of(int64_t t) const {
    const bool right = s_.last_w < kAxes[form_].steps && t % s_.tiles_w == s_.tiles_w - 1;
    const bool below = s_.last_h < kAxes[form_].steps && t / s_.tiles_w % s_.tiles_h == s_.tiles_h - 1;
    return below ? 2 + right : !right;
  }

  Form form_;
  Tiling s_;
  int64_t tiles_, size_;
  const int64_t *tile_, *cuts_;
};
// Some of a block's tiles; each has `floats` of a position.
TileBlock part_of(TileBlock block, TileOrder::Range range, int64_t floats = 16) {
  block.data += range.begin * floats, block.tile += range.begin, block.tiles = range.end - range.begin;
  return block;
}

// Tiles of one pass over the filter, and output channels (in microkernel widths) of one pass over V: see "blocking" in winograd.h.
constexpr int64_t kForwardTiles[winograd::kForms] = {72, 42, 28, 28};
int64_t forward_group(int64_t in) { return in <= 64 ? 2 : 1; }

// Few tiles under a large filter: transforming the filter where it is used, a cache's worth of input channels at a time, costs less than writing it, four
// times its size, to memory and reading that back for every block of tiles.
constexpr int64_t kChunk = 128;
bool transforms_in_place(Form form, int64_t in, int64_t out, int64_t tiles) {
  return tiles <= 2 * kForwardTiles[Form::unit] && 4 * kAxes[form].taps * kAxes[form].taps * in * out > (int64_t(16) << 20);
}

struct Forward {
  Form form;
  Tiling from, to;
  const void* x;
  const void* filter;  // packed, or as the caller has it
  DType type, filter_type;
  bool dgrad;
  winograd::OutputArgs out;
  float* partial = nullptr;  // [blocks,2,out]: sums over each block of tiles, with out.shift
};

// How the tiles of a convolution are cut into blocks. A filter transformed where it is used is transformed once a block: AVX-512 takes all tiles as one (512@4,
// ms of fprop, 15.0 to 13.6), whose V is 9 MB then; with AVX2 on a CPU with half the second-level cache that doubled the time.
struct Blocks {
  int64_t size, count;
};
// Otherwise blocks are many that 2, 4 or 8 divides, so that as many threads have the same number each.
Blocks forward_blocks(const Kernels& kernels, Form form, int64_t in, int64_t out, int64_t tiles) {
  if (transforms_in_place(form, in, out, tiles) && kernels.width == 32) return {tiles, 1};
  const int64_t wanted = ceil_div(tiles, kForwardTiles[form]);
  const int64_t divisor = wanted == 1 ? 1 : wanted <= 4 ? 2 : wanted <= 16 ? 4 : 8, count = ceil_div(wanted - divisor / 4, divisor) * divisor;
  const int64_t size = ceil_div(tiles, count);
  return {size, ceil_div(tiles, size)};
}

int64_t tiles_of(int64_t n, const Tiling& s) { return n * s.tiles_h * s.tiles_w; }

void forward(const Kernels& kernels, int64_t n, const Forward& f) {
  const int64_t in = f.from.c, out = f.to.c, width = kernels.width, tiles = tiles_of(n, f.to);
  const bool in_place = transforms_in_place(f.form, in, out, tiles);
  const Blocks cut = forward_blocks(kernels, f.form, in, out, tiles);
  const std::vector<Position>& all = positions_of(f.form);
  const int64_t positions = int64_t(all.size());
  const int64_t blocks = cut.count, capacity = room_for(cut.size);
  const int64_t group = forward_group(in), groups = ceil_div(out, width * group);
  const int threads = omp_get_max_threads();
  // Every thread has blocks of its own, and nobody waits for another's cache; where that would leave some idle, all share each block.
  const bool together = 8 * ceil_div(blocks, threads) * threads > 9 * blocks;

  const int64_t v_floats = positions * position_floats(capacity, in), m_floats = positions * position_floats(capacity, width),
                u_floats = filter_block_floats(f.form, in, width), chunk_floats = filter_block_floats(f.form, std::min(in, kChunk), width);
  Scratch scratch;
  const int64_t zeros = scratch.floats(in), v = scratch.floats(v_floats * (together ? 1 : threads)), m = scratch.floats(m_floats * group * threads),
                u = scratch.floats(in_place ? chunk_floats * threads : 0), order_at = scratch.floats(2 * TileOrder::words(tiles, cut.size));
  scratch.allocate();
  std::memset(scratch.at(zeros), 0, size_t(in) * 4);
  const TileOrder order(f.form, f.to, tiles, cut.size, reinterpret_cast<int64_t*>(scratch.at(order_at)));
  const auto input = [&](const TileBlock& to) { kernels.input[f.form][index_of(f.type)](f.from, f.x, scratch.at(zeros), to, {0, kAxes[f.form].points}); };
  // Output channels of group g for one block of tiles.
  const auto output = [&](const TileBlock& from, int64_t block, int64_t g) {
    const int64_t begin = g * group * width, end = std::min(out, begin + group * width);
    const auto products = [&](int64_t o) {
      return order.block(block, scratch.at(m) + (omp_get_thread_num() * group + (o - begin) / width) * m_floats, m_floats / positions);
    };
    // M of position p for `columns` output channels from o on; of tiles that do not need it: zero.
    const auto multiply = [&](const Position& p, int64_t c, int64_t channels, const float* filter, int64_t o, int64_t columns, bool add) {
      const TileOrder::Range range = order.needing(block, p.v);
      const TileBlock to = products(o);
      kernels.multiply(part_of(from, range), p.v, c, channels, filter, columns, part_of(to, range, columns), add);
      float* row = to.data + p.v * to.position;
      if (!add) std::fill(row, row + range.begin * columns, 0.f), std::fill(row + range.end * columns, row + to.tiles * columns, 0.f);
    };
    if (in_place) {
      float* filter = scratch.at(u) + omp_get_thread_num() * chunk_floats;
      for (int64_t o = begin; o < end; o += width)
        for (int64_t c = 0; c < in; c += kChunk) {
          const int64_t channels = std::min(kChunk, in - c), columns = std::min(width, out - o);
          kernels.pack[f.form][index_of(f.filter_type)](f.filter, f.dgrad ? out : in, f.dgrad, c, channels, o, columns, filter);
          for (const Position& p : all) multiply(p, c, channels, filter + p.u * winograd::filter_position(channels, columns), o, columns, c > 0);
        }
    } else {
      const float* filter = static_cast<const float*>(f.filter) + begin / width * u_floats;
      for (const Position& p : all)
        for (int64_t o = begin; o < end; o += width) {
          const int64_t columns = std::min(width, out - o);
          multiply(p, 0, in, filter + (o - begin) / width * u_floats + p.u * winograd::filter_position(in, columns), o, columns, false);
        }
    }
    winograd::OutputArgs to = f.out;
    if (f.partial) {
      to.sum = f.partial + block * 2 * out, to.square = to.sum + out;
      std::fill(to.sum + begin, to.sum + end, 0.f), std::fill(to.square + begin, to.square + end, 0.f);
    }
    for (int64_t o = begin; o < end; o += width) kernels.output[f.form][index_of(f.type)](f.to, products(o), o, std::min(width, out - o), to);
  };

#pragma omp parallel num_threads(threads)
  if (together) {
    for (int64_t block = 0; block < blocks; ++block) {
      const TileBlock here = order.block(block, scratch.at(v), v_floats / positions);
#pragma omp for schedule(static)
      for (int64_t t = 0; t < here.tiles; t += 2) input(part_of(here, {t, std::min(t + 2, here.tiles)}));
#pragma omp for schedule(static)
      for (int64_t g = 0; g < groups; ++g) output(here, block, g);
    }
  } else {
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      const TileBlock here = order.block(block, scratch.at(v) + omp_get_thread_num() * v_floats, v_floats / positions);
      input(here);
      for (int64_t g = 0; g < groups; ++g) output(here, block, g);
    }
  }
}

// A convolution of stride 1 is done in the algorithm's form of it.
Form form_of(Form of_unit, const ConvShape& s, ConvOp op) { return s.stride == 1 ? of_unit : op == ConvOp::dgrad ? Form::strided_back : Form::strided; }
// The tensor that an fprop or dgrad of this shape reads, and the one that it writes.
Tiling source_of(Form form, const ConvShape& s, ConvOp op) {
  if (op == ConvOp::fprop) return tiling(form, s.h, s.w, s.c, s.pad, s.p(), s.q());
  return tiling(form, s.p(), s.q(), s.k, s.stride == 1 ? 2 - s.pad : 0, s.h, s.w);
}
Tiling target_of(Form form, const ConvShape& s, ConvOp op) {
  return op == ConvOp::fprop ? tiling(form, s.p(), s.q(), s.k, 0, s.p(), s.q()) : tiling(form, s.h, s.w, s.c, 0, s.h, s.w);
}

// Products of an image and a pair of channels, with stride 1.
int64_t products_of(Form form, const Tiling& s) {
  const Axis& axis = kAxes[form];
  return ((s.tiles_h - 1) * axis.points + s.last_h + 2) * ((s.tiles_w - 1) * axis.points + s.last_w + 2);
}
// F(6x6,3x3) is offered where it has fewer products, and for bf16 alone: of f32 it would lose another bit and a half.
template <Form of_unit>
bool offers(const ConvProblem& problem) {
  if (!does(problem)) return false;
  const ConvOp op = problem.op == ConvOp::dgrad ? ConvOp::dgrad : ConvOp::fprop;  // a filter's gradient has the tiles of fprop
  const auto products = [&](Form form) { return products_of(form, target_of(form, problem.shape, op)); };
  return of_unit == Form::unit || (problem.shape.stride == 1 && problem.type == DType::bf16 && products(Form::wide) < products(Form::unit));
}

template <const Kernels* const* kernels, Form of_unit>
int64_t packed_bytes(const ConvProblem& problem, DType) {
  const Form form = form_of(of_unit, problem.shape, problem.op);
  const Tiling from = source_of(form, problem.shape, problem.op), to = target_of(form, problem.shape, problem.op);
  if (transforms_in_place(form, from.c, to.c, tiles_of(problem.shape.n, to))) return 0;
  return ceil_div(to.c, (*kernels)->width) * filter_block_floats(form, from.c, (*kernels)->width) * 4;
}

void pack(const Kernels& kernels, Form of_unit, const ConvProblem& problem, const void* w, DType filter_type, void* packed) {
  check(problem, "w", filter_type);
  const Form form = form_of(of_unit, problem.shape, problem.op);
  const bool dgrad = problem.op == ConvOp::dgrad;
  const int64_t in = source_of(form, problem.shape, problem.op).c, out = target_of(form, problem.shape, problem.op).c, width = kernels.width;
#pragma omp parallel for schedule(static)
  for (int64_t o = 0; o < out; o += width)
    kernels.pack[form][index_of(filter_type)](w, problem.shape.c, dgrad, 0, in, o, std::min(width, out - o),
                                              static_cast<float*>(packed) + o / width * filter_block_floats(form, in, width));
}

void fprop(const Kernels& kernels, Form of_unit, const ConvFpropArgs& args, const void* packed) {
  const ConvShape& s = args.shape;
  check({ConvOp::fprop, s, args.type}, "w", args.w_type);
  check({ConvOp::fprop, s, args.type}, "bias", args.bias_type);
  Scratch scratch;
  const float* bias = static_cast<const float*>(args.bias);
  if (args.bias && args.bias_type == DType::bf16) {
    scratch.floats(s.k);
    scratch.allocate();
    for (int64_t i = 0; i < s.k; ++i) scratch.at(0)[i] = float(static_cast<const bf16*>(args.bias)[i]);
    bias = scratch.at(0);
  }
  const Form form = form_of(of_unit, s, ConvOp::fprop);
  forward(kernels, s.n,
          {.form = form,
           .from = source_of(form, s, ConvOp::fprop),
           .to = target_of(form, s, ConvOp::fprop),
           .x = args.x,
           .filter = packed,
           .type = args.type,
           .filter_type = args.w_type,
           .dgrad = false,
           .out = {.y = args.y, .z = args.z, .bias = bias, .relu = args.epilogue == Epilogue::relu, .shift = args.shift},
           .partial = args.partial});
}

int64_t sum_parts(const Kernels& kernels, Form of_unit, const ConvShape& s) {
  const Form form = form_of(of_unit, s, ConvOp::fprop);
  return forward_blocks(kernels, form, s.c, s.k, tiles_of(s.n, target_of(form, s, ConvOp::fprop))).count;
}

void dgrad(const Kernels& kernels, Form of_unit, const ConvDgradArgs& args, const void* packed) {
  const ConvShape& s = args.shape;
  check({ConvOp::dgrad, s, args.type}, "w", args.w_type);
  const Form form = form_of(of_unit, s, ConvOp::dgrad);
  forward(kernels, s.n,
          {.form = form,
           .from = source_of(form, s, ConvOp::dgrad),
           .to = target_of(form, s, ConvOp::dgrad),
           .x = args.dy,
           .filter = packed,
           .type = args.type,
           .filter_type = args.w_type,
           .dgrad = true,
           .out = {.y = args.dx, .z = args.accumulate == Accumulate::yes ? args.dx : nullptr, .bias = nullptr, .relu = false}});
}

// A dU of a few MB is kept in several parts, each the sum over tiles of its own: a thread multiplies the tiles that it has transformed, and nothing travels to
// another core. How many is the shape's affair, so the bits are too. (64@32: 12 to 20 % faster; 128@16, dU 2.5 MB: up to 5 % slower where the cores share a
// cache, 30 % faster where they do not.)
int64_t gradient_parts(int64_t blocks, int64_t du_floats) { return du_floats * 4 <= 4 << 20 ? std::clamp<int64_t>(blocks / 4, 1, 8) : 1; }

// So few threads transform of all tiles the rows whose products they sum themselves; more share the tiles, because each would need most of the pixels.
constexpr int kOwnRows = 4;

void wgrad(const Kernels& kernels, Form of_unit, const ConvWgradArgs& args) {
  const ConvShape& s = args.shape;
  check({ConvOp::wgrad, s, args.type}, "dw", args.dw_type);
  const bool add_dw = args.accumulate == Accumulate::yes;
  const Form form = form_of(of_unit, s, ConvOp::wgrad);
  const std::vector<Position>& all = positions_of(form);
  const int64_t positions = int64_t(all.size());
  const Tiling x = source_of(form, s, ConvOp::fprop), dy = target_of(form, s, ConvOp::fprop);
  const int64_t tiles = s.n * x.tiles_h * x.tiles_w, most = (s.stride == 1 ? 64 : 32) * (form == Form::wide || s.c + s.k < 256 ? 1 : 2);
  const int64_t size = ceil_div(tiles, ceil_div(tiles, most)), blocks = ceil_div(tiles, size), capacity = room_for(size);
  const int64_t c_blocks = s.c / 16, k_blocks = s.k / 16, side = 2;  // items of side x side blocks of 16 x 16 channels
  const int64_t c_items = ceil_div(c_blocks, side), k_items = ceil_div(k_blocks, side), items = c_items * k_items;
  const int64_t du_block = winograd::du_block_floats(form), du_floats = c_blocks * k_blocks * du_block, parts = gradient_parts(blocks, du_floats);
  const int threads = omp_get_max_threads();
  const bool apart = parts >= threads;  // each thread has parts of its own; otherwise all work on every block of tiles
  const bool own_rows = !apart && blocks > 1 && threads <= kOwnRows;
  const int64_t x_position = position_floats(capacity, s.c), dy_position = position_floats(capacity, s.k);
  const int64_t x_floats = positions * x_position, dy_floats = positions * dy_position, rooms = apart || own_rows ? threads : 1;
  Scratch scratch;
  const int64_t zeros = scratch.floats(std::max(s.c, s.k)), vx = scratch.floats(rooms * x_floats), vy = scratch.floats(rooms * dy_floats);
  // One block of tiles: each item is finished where it was made. More: all of dU is kept.
  const int64_t du = scratch.floats(blocks == 1 ? threads * side * side * du_block : parts * du_floats);
  const int64_t order_at = scratch.floats(2 * TileOrder::words(tiles, size));
  scratch.allocate();
  const TileOrder order(form, dy, tiles, size, reinterpret_cast<int64_t*>(scratch.at(order_at)));
  std::memset(scratch.at(zeros), 0, size_t(std::max(s.c, s.k)) * 4);
  const int type = index_of(args.type), dw_type = index_of(args.dw_type);

  struct Transformed {
    TileBlock x, dy;
    int64_t block;
  };
  const auto room = [&](int64_t block) {
    const int64_t own = apart || own_rows ? omp_get_thread_num() : 0;
    return Transformed{order.block(block, scratch.at(vx) + own * x_floats, x_position), order.block(block, scratch.at(vy) + own * dy_floats, dy_position),
                       block};
  };
  const winograd::Rows all_rows{0, kAxes[form].points};
  const auto transform = [&](const Transformed& to, int64_t begin, int64_t count, winograd::Rows rows) {
    const TileOrder::Range range{begin, std::min(begin + count, to.x.tiles)};
    kernels.input[form][type](x, args.x, scratch.at(zeros), part_of(to.x, range), rows);
    kernels.gradient[form][type](dy, args.dy, scratch.at(zeros), part_of(to.dy, range), rows);
  };
  // Item `item` of one position.
  const auto products = [&](const Transformed& from, const Position& p, int64_t item, float* to, int64_t to_row, bool add) {
    const int64_t i = item % c_items * side, o = item / c_items * side;
    const TileOrder::Range range = order.needing(from.block, p.v);
    kernels.accumulate(part_of(from.x, range), part_of(from.dy, range), p.v, i, std::min(side, c_blocks - i), o, std::min(side, k_blocks - o),
                       to + p.u * winograd::kDuPosition, to_row * du_block, du_block, add || !p.first);
  };
  const auto kept = [&](int64_t part, int64_t item) {
    return scratch.at(du) + part * du_floats + (item / c_items * side * c_blocks + item % c_items * side) * du_block;
  };
  const auto first_block = [&](int64_t part) { return blocks * part / parts; };
  int64_t before[kMostPositions + 1] = {0};  // work up to a position
  for (int64_t p = 0; p < positions; ++p) before[p + 1] = before[p] + order.work(all[size_t(p)].v) + 1;

#pragma omp parallel num_threads(threads)
  if (blocks == 1) {
    const Transformed here = room(0);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tiles; t += 2) transform(here, t, 2, all_rows);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t i = item % c_items * side, o = item / c_items * side, in = std::min(side, c_blocks - i), out = std::min(side, k_blocks - o);
      float* to = scratch.at(du) + omp_get_thread_num() * side * side * du_block;
      for (const Position& p : all) products(here, p, item, to, side, false);
      for (int64_t a = 0; a < out; ++a)
        for (int64_t b = 0; b < in; ++b) kernels.finish[form][dw_type](to + (a * side + b) * du_block, args.dw, s.c, (o + a) * 16, (i + b) * 16, add_dw);
    }
  } else if (apart) {
#pragma omp for schedule(static)
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t block = first_block(part); block < first_block(part + 1); ++block) {
        const Transformed here = room(block);
        transform(here, 0, here.x.tiles, all_rows);
        for (const Position& p : all)
          for (int64_t item = 0; item < items; ++item) products(here, p, item, kept(part, item), c_blocks, block > first_block(part));
      }
  } else {
    // Each thread sums into elements of dU of its own: those of the filter's elements that begin in its share of the work.
    const auto is_mine = [&](int64_t p, int64_t end, int64_t item) {
      return (before[p] * items + item * (before[end] - before[p])) * threads / (before[positions] * items) == omp_get_thread_num();
    };
    const auto each_of_mine = [&](auto&& f) {
      for (int64_t p = 0, end; p < positions; p = end) {  // [p, end): those of one element
        for (end = p + 1; end < positions && !all[size_t(end)].first;) ++end;
        for (int64_t item = 0; item < items; ++item)
          if (is_mine(p, end, item))
            for (int64_t same = p; same < end; ++same) f(all[size_t(same)], item);
      }
    };
    winograd::Rows mine{all_rows.end, 0};
    each_of_mine([&](const Position& p, int64_t) {
      const int64_t row = p.v / kAxes[form].points;
      mine = {std::min(mine.begin, row), std::max(mine.end, row + 1)};
    });
    for (int64_t part = 0; part < parts; ++part)
      for (int64_t block = first_block(part); block < first_block(part + 1); ++block) {
        const Transformed here = room(block);
        if (own_rows) {
          transform(here, 0, here.x.tiles, mine);
        } else {
#pragma omp for schedule(static)
          for (int64_t t = 0; t < here.x.tiles; t += 2) transform(here, t, 2, all_rows);
        }
        each_of_mine([&](const Position& p, int64_t item) { products(here, p, item, kept(part, item), c_blocks, block > first_block(part)); });
        if (!own_rows) {
#pragma omp barrier
        }
      }
  }
  if (blocks == 1) return;
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < c_blocks * k_blocks; ++b) {
    float* sum = scratch.at(du) + b * du_block;
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = 0; i < du_block; ++i) sum[i] += sum[part * du_floats + i];
    kernels.finish[form][dw_type](sum, args.dw, s.c, b / c_blocks * 16, b % c_blocks * 16, add_dw);
  }
}

template <const Kernels* const* kernels, Form of_unit>
constexpr ConvAlgorithm algorithm(const char* name, CpuIsa isa) {
  return {.name = name,
          .isa = isa,
          .exact = false,
          .offers = offers<of_unit>,
          .packed_bytes = packed_bytes<kernels, of_unit>,
          .pack = [](const ConvProblem& problem, const void* w, DType type, void* packed) { pack(**kernels, of_unit, problem, w, type, packed); },
          .fprop = [](const ConvFpropArgs& args, const void* packed) { fprop(**kernels, of_unit, args, packed); },
          .dgrad = [](const ConvDgradArgs& args, const void* packed) { dgrad(**kernels, of_unit, args, packed); },
          .wgrad = [](const ConvWgradArgs& args) { wgrad(**kernels, of_unit, args); },
          .sum_parts = [](const ConvShape& s) { return sum_parts(**kernels, of_unit, s); }};
}

}  // namespace

ConvAlgorithms winograd_algorithms() {
  using namespace winograd;
  static const ConvAlgorithm all[] = {
      algorithm<&avx512_kernels, unit>("winograd.avx512", CpuIsa::avx512), algorithm<&avx512_kernels, wide>("winograd6.avx512", CpuIsa::avx512),
      algorithm<&avx2_kernels, unit>("winograd.avx2", CpuIsa::avx2), algorithm<&avx2_kernels, wide>("winograd6.avx2", CpuIsa::avx2)};
  // What the compiler could not build is left out; a build has AVX-512 kernels only where it has AVX2's or is for x86-64 at large.
  const ConvAlgorithm* begin = avx512_kernels ? all : all + 2;
  const ConvAlgorithm* end = avx2_kernels ? all + 4 : all + 2;
  return {begin, end};
}

ConvAlgorithms emulated_winograd_algorithms() {
  using namespace winograd;
  static const ConvAlgorithm all[] = {
      algorithm<&portable8_kernels, unit>("winograd.emulated8", CpuIsa::none), algorithm<&portable8_kernels, wide>("winograd6.emulated8", CpuIsa::none),
      algorithm<&portable16_kernels, unit>("winograd.emulated16", CpuIsa::none), algorithm<&portable16_kernels, wide>("winograd6.emulated16", CpuIsa::none)};
  return {all, all + 4};
}

}  // namespace kd::cpu
