// batchnorm on CUDA. Channels are handled in slabs of 64, 128 bytes of a bf16 row; a thread has eight of them (kernels/common/eight.cuh) in every so many rows.
//   two passes   a kernel sums, and the last of its blocks to finish adds the blocks' sums up and turns them into what the second kernel needs; the second
//                kernel applies it, walking the rows backwards, for the last ones read are the ones in the L2 cache
//   one pass     one kernel whose blocks sum their share of rows, keep what fits of it in shared memory, wait for the other blocks of their slab, and apply:
//                first the rows that did not fit, last one first, then those that were kept. Every block adds up all sums for itself, to the same bits
//   sums         f32 within a thread, around row 0 (a large common offset costs no digits), then over a warp's, a block's rows in a fixed order; double over
//                blocks, in a fixed order: the same bits every run. Which form ran changes the order, and so the last bits; the choice depends on sizes alone
//   ReLU         v = fma(gamma * rstd, x - mean, beta) is one function, used by forward and backward: the sign comes out the same
//   pooled       forward: a thread walks four outputs down a column and reads each row once. Backward: a thread has 2x2 pixels; each of the nine places is one
//                of them in one of the four windows around, so a thread reads what it needs once and no two write one address. Both passes read all of x, the
//                sums too, which need it at the winners alone: of the 16 channels of a 32-byte sector one or more has its winner there in 99 cases of 100
// bytes   as batchnorm.h says, tensors once per pass; one pass re-reads x (backward: x and dy) only as far as 28 MB of shared memory do not hold it
// cost    H200, 2026-11-27, ResNet-18 at 224 px, batch 256, bf16. Layer1 (802816x64, 103 MB), two passes: forward 87 us, with residual 106, backward 132 and
//         160, 86 to 96 % of the copy bandwidth (4.08 TB/s); one pass: 88, 115, 135, 169. Stem (256x112x112x64), pooled: forward 283 us, 189 where its
//         producer gives the sums; backward 492 (in a step: sums 196, applying them 307). Small tensors wait for their reductions: 128x4x4x512, 2 MB, takes
//         8.4 us forward and 9.2 backward by one pass, 8.7 and 10.0 by two
#include <algorithm>
#include <type_traits>

#include "engine/base/memory.h"
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/batchnorm/batchnorm_pool.cuh"
#include "kernels/batchnorm/batchnorm_sums.cuh"

namespace kd {
namespace KD_GPU {
namespace {

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// A row

template <class T>
struct ForwardRow {
  Eight<T> x, residual;
};
struct ForwardArgs {
  const void *x, *residual;
  void* y;
  uint8_t* mask;
  Activation activation;
};

template <class T, bool kWhole>
struct Forward {
  const ForwardArgs& args;
  const Layout& l;
  const Place& at;

  __device__ Eight<T> load_x(int64_t row) const { return load_eight<kWhole>(static_cast<const T*>(args.x) + row * l.c + at.channel, at.count); }
  __device__ ForwardRow<T> with_residual(int64_t row, const Eight<T>& x) const {
    ForwardRow<T> in{x, {}};
    if (args.residual) in.residual = load_eight<kWhole>(static_cast<const T*>(args.residual) + row * l.c + at.channel, at.count);
    return in;
  }
  __device__ void apply(int64_t row, const ForwardRow<T>& in, const Affine& norm) const {
    float v[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      v[i] = norm(i, in.x[i]);
      if (args.residual) v[i] += in.residual[i];
      if (args.activation == Activation::relu) v[i] = v[i] < 0.f ? 0.f : v[i];  // a NaN stays
    }
    store_eight<kWhole>(static_cast<T*>(args.y) + row * l.c + at.channel, v, at.count);
    if (args.mask) {
      unsigned positive = 0;  // channels that are not there have v = 0
#pragma unroll
      for (int i = 0; i < kEight; ++i) positive |= (v[i] > 0.f ? 1u : 0u) << i;
      args.mask[row * ((l.c + kEight - 1) / kEight) + at.channel / kEight] = uint8_t(positive);
    }
  }
};

// What tells where ReLU let through: nothing (there is none), the forward's mask, the sign of v.
enum class Gate : unsigned char { open, mask, sign };

template <class T>
struct BackwardRow {
  Eight<T> dy, x;
  unsigned mask;
};
struct BackwardArgs {
  const void *x, *dy;
  void *dx, *dresidual;
  const uint8_t* mask;
  Gate gate;
};

template <class T, bool kWhole>
struct Backward {
  const BackwardArgs& args;
  const Layout& l;
  const Place& at;

  __device__ BackwardRow<T> load(int64_t row) const {
    const int64_t from = row * l.c + at.channel;
    BackwardRow<T> in{load_eight<kWhole>(static_cast<const T*>(args.dy) + from, at.count), load_eight<kWhole>(static_cast<const T*>(args.x) + from, at.count),
                      0xffu};
    if (args.gate == Gate::mask) in.mask = args.mask[row * ((l.c + kEight - 1) / kEight) + at.channel / kEight];
    return in;
  }
  __device__ void gradient(const BackwardRow<T>& in, const Affine& norm, float (&dz)[kEight]) const {
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      const bool through = args.gate == Gate::sign ? norm(i, in.x[i]) > 0.f : (in.mask >> i & 1u) != 0;
      dz[i] = through ? in.dy[i] : 0.f;
    }
  }
  __device__ void apply(int64_t row, const float (&dz)[kEight], const Eight<T>& x, const Affine& norm, const float (&mean_dz)[kEight],
                        const float (&slope)[kEight]) const {
    const int64_t to = row * l.c + at.channel;
    float dx[kEight];
#pragma unroll
    for (int i = 0; i < kEight; ++i) dx[i] = norm.scale[i] * (dz[i] - mean_dz[i] - (x[i] - norm.mean[i]) * slope[i]);
    if (args.dresidual) store_eight<kWhole>(static_cast<T*>(args.dresidual) + to, dz, at.count);
    store_eight<kWhole>(static_cast<T*>(args.dx) + to, dx, at.count);
  }
};

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Two passes

constexpr int kSumAhead = 4, kSumGradientAhead = 2, kApplyRows = 2;  // rows under way; a gradient's row is two loads

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2) sum_kernel(const T* __restrict__ x, Layout l, Partials partials, Statistics statistics) {
  SIMT_SHARED(scratch, Scratch);
  const Block block = this_block(l);
  const Place at(l, block.slab);
  Sums sums;
  if (at.count > 0) {
    float shift[kEight];
    widen(load_eight<kWhole>(x + at.channel, at.count), shift);
    const int step = rows_of_block(l);
    for_each_ahead<kSumAhead>(
        int64_t(block.number) * step + at.row, l.rows, int64_t(partials.parts) * step,
        [=](int64_t row) { return load_eight<kWhole>(x + row * l.c + at.channel, at.count); },
        [&](int64_t, const Eight<T>& e) {
          float v[kEight];
          widen(e, v);
          add(sums, shift, v);
        });
  }
  sum_over_blocks(partials, l, block, sums, scratch,
                  [&](int channel, const Totals& totals) { finish(statistics, l, channel, totals, float(x[channel]), true); });
}

// The producer of x has made the sums: a block a slab.
__global__ void __launch_bounds__(kThreads) finish_sums_kernel(Layout l, Partials partials, const float* shift, Statistics statistics) {
  SIMT_SHARED(scratch, Scratch);
  for_totals(partials, l, int(blockIdx.x), scratch, [&](int channel, const Totals& totals) { finish(statistics, l, channel, totals, shift[channel], true); });
}

// The kApplyRows rows of a thread in the kernels that apply; a block's rows are one run of memory.
struct ApplyRows {
  int64_t first, step, rows;
  __device__ ApplyRows(const Layout& l, const Block& block, const Place& at) {
    step = rows_of_block(l);
    first = block.number * (kApplyRows * step) + at.row;
    rows = l.rows;
  }
  __device__ bool has(int k) const { return first + k * step < rows; }
  __device__ int64_t operator[](int k) const { return first + k * step; }
  __device__ int64_t to_load(int k) const { return has(k) ? first + k * step : first; }  // no condition on the load: it may go ahead
};

// The last rows first. What depends on the row is loaded before the channels' parameters, which come from L1.
template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T, kWhole>(3)) apply_kernel(ForwardArgs args, Layout l, Norm norm) {
  const Block block = this_block_backwards(l);
  const Place at(l, block.slab);
  const ApplyRows rows(l, block, at);
  if (at.count <= 0 || !rows.has(0)) return;
  const Forward<T, kWhole> forward{args, l, at};
  ForwardRow<T> in[kApplyRows];
#pragma unroll
  for (int k = 0; k < kApplyRows; ++k) in[k] = forward.with_residual(rows.to_load(k), forward.load_x(rows.to_load(k)));
  const Affine affine = Affine::load<kWhole>(norm, at);
#pragma unroll
  for (int k = 0; k < kApplyRows; ++k)
    if (rows.has(k)) forward.apply(rows[k], in[k], affine);
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, 2)
    sum_gradient_kernel(BackwardArgs args, Layout l, Norm norm, Partials partials, Gradients gradients, float* slopes) {
  SIMT_SHARED(scratch, Scratch);
  const Block block = this_block(l);
  const Place at(l, block.slab);
  Sums sums;
  if (at.count > 0) {
    const Affine affine = Affine::load<kWhole>(norm, at);
    const Backward<T, kWhole> backward{args, l, at};
    const int step = rows_of_block(l);
    for_each_ahead<kSumGradientAhead>(
        int64_t(block.number) * step + at.row, l.rows, int64_t(partials.parts) * step, [&](int64_t row) { return backward.load(row); },
        [&](int64_t, const BackwardRow<T>& in) {
          float dz[kEight], x[kEight];
          backward.gradient(in, affine, dz);
          widen(in.x, x);
          add_gradient(sums, affine.mean, x, dz);
        });
  }
  sum_over_blocks(partials, l, block, sums, scratch, [&](int channel, const Totals& totals) {
    const Slope s = finish(gradients, l, channel, totals, norm.rstd[channel], true);
    slopes[channel] = s.mean_dz, slopes[l.c + channel] = s.slope;
  });
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads, blocks_at_once<T, kWhole>(2)) apply_gradient_kernel(BackwardArgs args, Layout l, Norm norm, const float* slopes) {
  const Block block = this_block_backwards(l);
  const Place at(l, block.slab);
  const ApplyRows rows(l, block, at);
  if (at.count <= 0 || !rows.has(0)) return;
  const Backward<T, kWhole> backward{args, l, at};
  BackwardRow<T> in[kApplyRows];
#pragma unroll
  for (int k = 0; k < kApplyRows; ++k) in[k] = backward.load(rows.to_load(k));
  const Affine affine = Affine::load<kWhole>(norm, at);
  float mean_dz[kEight], slope[kEight];
  load_channels<kWhole>(slopes, at, mean_dz);
  load_channels<kWhole>(slopes + l.c, at, slope);
#pragma unroll
  for (int k = 0; k < kApplyRows; ++k) {
    if (!rows.has(k)) continue;
    float dz[kEight];
    backward.gradient(in[k], affine, dz);
    backward.apply(rows[k], dz, in[k].x, affine, mean_dz, slope);
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// One pass

// A block's share of a slab's rows, and how many of them stay in shared memory.
struct Share {
  int64_t begin, end, kept;  // rows [begin, kept) are kept
  __device__ Share(const Layout& l, int rank, int blocks, int tile_rows) {
    const int64_t rows = (l.rows + blocks - 1) / blocks;
    begin = min(l.rows, rank * rows);
    end = min(l.rows, begin + rows);
    kept = min(end, begin + tile_rows);
  }
};

template <class T, bool kWhole>
__global__ void __launch_bounds__(kOnePassThreads, 1)
    train_one_pass_kernel(ForwardArgs args, Layout l, Partials partials, int tile_rows, const float* gamma, const float* beta, Statistics statistics) {
  SIMT_SHARED(scratch, Scratch);
  SIMT_SHARED(moments, Moments[kSlab]);
  SIMT_DYNAMIC_SHARED(Eight<T>, tile);  // [rows][columns]; a thread reads back what it wrote itself
  const Block block = this_block(l);
  const Place at(l, block.slab);
  const Share share(l, block.number, partials.parts, tile_rows);
  const Forward<T, kWhole> forward{args, l, at};
  const int step = rows_of_block(l);
  const auto kept = [=](int64_t row) -> Eight<T>& { return tile[(row - share.begin) * l.columns + at.column]; };

  Sums sums;
  if (at.count > 0) {
    float shift[kEight];
    widen(forward.load_x(0), shift);
    for_each_ahead<kSumAhead>(
        share.begin + at.row, share.end, step, [&](int64_t row) { return forward.load_x(row); },
        [&](int64_t row, const Eight<T>& x) {
          if (row < share.kept) kept(row) = x;
          float v[kEight];
          widen(x, v);
          add(sums, shift, v);
        });
  }
  write_part(partials, l, block.slab, block.number, sums, scratch);
  simt::grid_sync(&barriers[block.slab], unsigned(partials.parts), unsigned(block.number));

  for_totals(partials, l, block.slab, scratch, [&](int channel, const Totals& totals) {
    moments[threadIdx.x] = finish(statistics, l, channel, totals, float(static_cast<const T*>(args.x)[channel]), block.number == 0);
  });
  __syncthreads();
  if (at.count <= 0) return;
  const Affine affine = Affine::load<kWhole>(gamma, beta, moments, at);
  // Backwards through the rows that did not fit: the last ones read are in the L2 cache.
  for_each_ahead<kSumAhead / 2>(
      share.kept + at.row, share.end, step,
      [&](int64_t i) {
        const int64_t row = share.kept + share.end - 1 - i;
        return forward.with_residual(row, forward.load_x(row));
      },
      [&](int64_t i, const ForwardRow<T>& in) { forward.apply(share.kept + share.end - 1 - i, in, affine); });
  for_each_ahead<kSumAhead / 2>(
      share.begin + at.row, share.kept, step, [&](int64_t row) { return forward.with_residual(row, kept(row)); },
      [&](int64_t row, const ForwardRow<T>& in) { forward.apply(row, in, affine); });
}

template <class T, bool kWhole>
__global__ void __launch_bounds__(kOnePassThreads, 1)
    bwd_one_pass_kernel(BackwardArgs args, Layout l, Partials partials, int tile_rows, Norm norm, Gradients gradients) {
  SIMT_SHARED(scratch, Scratch);
  SIMT_SHARED(slopes, Slope[kSlab]);
  SIMT_DYNAMIC_SHARED(Eight<T>, tile);  // dz [rows][columns], x [rows][columns]
  const Block block = this_block(l);
  const Place at(l, block.slab);
  const Share share(l, block.number, partials.parts, tile_rows);
  const Backward<T, kWhole> backward{args, l, at};
  const Affine affine = at.count > 0 ? Affine::load<kWhole>(norm, at) : Affine{};
  const int step = rows_of_block(l), x_tile = tile_rows * l.columns;
  const auto kept = [=](int64_t row) { return tile + (row - share.begin) * l.columns + at.column; };

  Sums sums;
  if (at.count > 0)
    for_each_ahead<kSumGradientAhead>(
        share.begin + at.row, share.end, step, [&](int64_t row) { return backward.load(row); },
        [&](int64_t row, const BackwardRow<T>& in) {
          float dz[kEight], x[kEight];
          backward.gradient(in, affine, dz);
          widen(in.x, x);
          add_gradient(sums, affine.mean, x, dz);
          if (row < share.kept) kept(row)[0] = make_eight<T>(dz), kept(row)[x_tile] = in.x;
        });
  write_part(partials, l, block.slab, block.number, sums, scratch);
  simt::grid_sync(&barriers[block.slab], unsigned(partials.parts), unsigned(block.number));

  for_totals(partials, l, block.slab, scratch,
             [&](int channel, const Totals& totals) { slopes[threadIdx.x] = finish(gradients, l, channel, totals, norm.rstd[channel], block.number == 0); });
  __syncthreads();
  if (at.count <= 0) return;
  float mean_dz[kEight], slope[kEight];
#pragma unroll
  for (int i = 0; i < kEight; ++i) mean_dz[i] = slopes[at.column * kEight + i].mean_dz, slope[i] = slopes[at.column * kEight + i].slope;
  for_each_ahead<kSumGradientAhead>(
      share.kept + at.row, share.end, step, [&](int64_t i) { return backward.load(share.kept + share.end - 1 - i); },
      [&](int64_t i, const BackwardRow<T>& in) {
        float dz[kEight];
        backward.gradient(in, affine, dz);
        backward.apply(share.kept + share.end - 1 - i, dz, in.x, affine, mean_dz, slope);
      });
  for (int64_t row = share.begin + at.row; row < share.kept; row += step) {
    float dz[kEight];
    widen(kept(row)[0], dz);
    backward.apply(row, dz, kept(row)[x_tile], affine, mean_dz, slope);
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Fold: blocks of kFold elements of a filter

constexpr int kFold = 4 * kThreads;

template <class F, class B>
__global__ void __launch_bounds__(kThreads) fold_kernel(BatchNormFoldArgs args) {
  const unsigned blocks = unsigned((args.per_filter + kFold - 1) / kFold), k = blockIdx.x / blocks;
  const int64_t first = int64_t(blockIdx.x - k * blocks) * kFold + threadIdx.x;
  const float scale = args.gamma[k] / sqrtf(args.running_var[k] + args.eps);
  const float* from = args.filter + int64_t(k) * args.per_filter;
  F* to = static_cast<F*>(args.out_filter) + int64_t(k) * args.per_filter;
#pragma unroll
  for (int i = 0; i < kFold / kThreads; ++i)
    if (first + i * kThreads < args.per_filter) to[first + i * kThreads] = F(from[first + i * kThreads] * scale);
  if (first == 0) static_cast<B*>(args.out_bias)[k] = B(args.beta[k] - args.running_mean[k] * scale);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

// f(T{}, whole): the kernels' two template arguments.
template <class F>
void with_kernel(DType type, bool whole, F&& f) {
  with_float_type(type, [&](auto zero) { whole ? f(zero, std::true_type{}) : f(zero, std::false_type{}); });
}

simt::stream_t stream_of(Stream stream) { return simt::stream_t(stream.handle); }
int rows_a_block(const Layout& l, int threads) { return threads / l.columns; }
int64_t blocks_for(const Layout& l, int64_t rows_a_thread) {
  const int64_t rows = rows_a_thread * rows_a_block(l, kThreads);
  return (l.rows + rows - 1) / rows * l.slabs;
}

// Blocks of a slab in a kernel that sums: two to a multiprocessor, over all slabs. Emulated: some.
int parts_for(Stream stream, const Layout& l, int ahead) {
  const int blocks = stream.device == Device::cuda ? 2 * gpu_info().multiprocessors : 6;
  const int64_t rows = int64_t(ahead) * rows_a_block(l, kThreads);
  return int(std::clamp<int64_t>((l.rows + rows - 1) / rows, 1, std::max(1, blocks / l.slabs)));
}

// Memory that kernels of one call hand each other; free for the stream's next work when the call returns.
class Room {
 public:
  Room(Stream stream, int64_t floats) : storage_(Storage::allocate(floats * int64_t(sizeof(float)), stream.device)) {}
  float* data() const { return reinterpret_cast<float*>(storage_->data()); }

 private:
  std::shared_ptr<Storage> storage_;
};

// Shared memory of a multiprocessor that a one-pass block takes, in bytes; the rest, of what CUDA gives a block, is for its sums.
size_t tile_limit(Stream stream) {
  if (stream.device != Device::cuda) return 208 << 10;
  const GpuInfo& gpu = gpu_info();
  if (gpu.major == 9 || gpu.major == 10) return 208 << 10;
  if (gpu.major == 8 && (gpu.minor == 0 || gpu.minor == 7)) return 144 << 10;
  return gpu.major < 8 ? 52 << 10 : 80 << 10;
}

// How the one-pass form would run: blocks per slab (0: not at all), and rows that each keeps.
struct OnePass {
  int blocks, tile_rows;
  size_t tile_bytes;
};
template <class Kernel>
OnePass one_pass(Stream stream, const Layout& l, Kernel* kernel, int64_t kept_bytes_of_row) {
  const size_t limit = tile_limit(stream);
  const int64_t step = rows_a_block(l, kOnePassThreads), resident = simt::max_resident_blocks(kernel, kOnePassThreads, limit) / l.slabs;
  const int64_t blocks = std::min(resident, (l.rows + step - 1) / step);
  if (blocks == 0) return {};
  const int64_t rows = std::min(int64_t(limit) / kept_bytes_of_row, (l.rows + blocks - 1) / blocks);
  return {int(blocks), int(rows), size_t(rows * kept_bytes_of_row)};
}

// One pass is faster while the copies in shared memory and the L2 cache together hold most of the tensors; a residual, which is read and written once either
// way, only adds waiting. Measured on an H200 (bench/results/gpu_h200_2026-11-27), us by two passes and one, of x by bytes:
//                 26 MB         51 MB          67 MB          103 MB
//   forward       27.7  22.3    47.5  43.3     60.5  55.2     87.4  87.5
//     add         33.0  33.1    57.3  61.4     72.9  74.6    106.3 114.5
//   backward      37.9  33.6    70.4  70.6     89.5  86.1    132.1 135.0
//     add         44.8  41.8    85.1  91.6    108.0 108.0    160.0 169.2
constexpr int64_t kOnePassBytes = 80'000'000, kOnePassBytesAddBackward = 35'000'000;
bool takes_one_pass(BatchNormForm form, const OnePass& plan, int64_t bytes, int64_t limit) {
  KD_CHECK(form != BatchNormForm::one_pass || plan.blocks > 0, "batchnorm: the one-pass form does not fit this GPU");
  return form == BatchNormForm::one_pass || (form == BatchNormForm::automatic && plan.blocks > 0 && bytes <= limit);
}

// Mean, rstd and running statistics of x seen as l, from x or from its producer's sums; for BatchNormTrainArgs and BatchNormPoolTrainArgs.
template <class T, bool kWhole, class Args>
void batch_statistics(Stream stream, const Args& args, const Layout& l) {
  const Statistics statistics{args.mean, args.rstd, args.running_mean, args.running_var, args.momentum, args.eps};
  if (args.sums.partial) {
    const Partials partials{const_cast<float*>(args.sums.partial), int(args.sums.parts)};
    simt::launch(finish_sums_kernel, l.slabs, kThreads, 0, stream_of(stream), l, partials, args.sums.shift, statistics);
  } else {
    const int parts = parts_for(stream, l, kSumAhead);
    const Room room(stream, int64_t(parts) * 2 * l.c);
    simt::launch(sum_kernel<T, kWhole>, int64_t(parts) * l.slabs, kThreads, 0, stream_of(stream), static_cast<const T*>(args.x), l,
                 Partials{room.data(), parts}, statistics);
  }
}

}  // namespace

void batchnorm_train(Stream stream, const BatchNormTrainArgs& args) {
  const Layout l = layout_of(args.rows, args.c);
  const ForwardArgs forward{args.x, args.residual, args.y, args.mask, args.activation};
  with_kernel(args.type, is_whole(args.c, {args.x, args.residual, args.y, args.gamma, args.beta, args.mean, args.rstd}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    constexpr bool kWhole = decltype(whole)::value;
    if (!args.sums.partial && args.form != BatchNormForm::two_pass) {
      const auto kernel = train_one_pass_kernel<T, kWhole>;
      const OnePass plan = one_pass(stream, l, kernel, l.columns * int64_t(sizeof(Eight<T>)));
      if (takes_one_pass(args.form, plan, args.rows * args.c * int64_t(sizeof(T)), args.residual ? 0 : kOnePassBytes)) {
        const Room room(stream, int64_t(plan.blocks) * 2 * l.c);
        const Statistics statistics{args.mean, args.rstd, args.running_mean, args.running_var, args.momentum, args.eps};
        simt::launch_cooperative(kernel, plan.blocks * l.slabs, kOnePassThreads, plan.tile_bytes, stream_of(stream), forward, l,
                                 Partials{room.data(), plan.blocks}, plan.tile_rows, args.gamma, args.beta, statistics);
        return;
      }
    }
    batch_statistics<T, kWhole>(stream, args, l);
    simt::launch(apply_kernel<T, kWhole>, blocks_for(l, kApplyRows), kThreads, 0, stream_of(stream), forward, l,
                 Norm{args.gamma, args.beta, args.mean, args.rstd});
  });
}

void batchnorm_bwd(Stream stream, const BatchNormBwdArgs& args) {
  const Layout l = layout_of(args.rows, args.c);
  KD_CHECK(args.activation == Activation::none || args.mask || !args.dresidual,
           "batchnorm_bwd: the sign of x alone does not tell where ReLU(v + residual) let through; it needs the mask");
  const Gate gate = args.activation == Activation::none ? Gate::open : args.mask ? Gate::mask : Gate::sign;
  const BackwardArgs backward{args.x, args.dy, args.dx, args.dresidual, args.mask, gate};
  const Norm norm{args.gamma, args.beta, args.mean, args.rstd};
  const Gradients gradients{args.dgamma, args.dbeta};
  with_kernel(args.type, is_whole(args.c, {args.x, args.dy, args.dx, args.dresidual, args.gamma, args.beta, args.mean, args.rstd}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    constexpr bool kWhole = decltype(whole)::value;
    if (args.form != BatchNormForm::two_pass) {
      const auto kernel = bwd_one_pass_kernel<T, kWhole>;
      const OnePass plan = one_pass(stream, l, kernel, 2 * l.columns * int64_t(sizeof(Eight<T>)));
      if (takes_one_pass(args.form, plan, args.rows * args.c * int64_t(sizeof(T)), args.dresidual ? kOnePassBytesAddBackward : kOnePassBytes)) {
        const Room room(stream, int64_t(plan.blocks) * 2 * l.c);
        simt::launch_cooperative(kernel, plan.blocks * l.slabs, kOnePassThreads, plan.tile_bytes, stream_of(stream), backward, l,
                                 Partials{room.data(), plan.blocks}, plan.tile_rows, norm, gradients);
        return;
      }
    }
    const int parts = parts_for(stream, l, kSumGradientAhead);
    const Room room(stream, int64_t(parts) * 2 * l.c), slopes(stream, 2 * l.c);
    simt::launch(sum_gradient_kernel<T, kWhole>, int64_t(parts) * l.slabs, kThreads, 0, stream_of(stream), backward, l, norm, Partials{room.data(), parts},
                 gradients, slopes.data());
    simt::launch(apply_gradient_kernel<T, kWhole>, blocks_for(l, kApplyRows), kThreads, 0, stream_of(stream), backward, l, norm, slopes.data());
  });
}

namespace {

template <class Args>
Image image_of(const Args& args) {
  KD_CHECK(args.n * args.h * args.w <= INT32_MAX, "batchnorm_pool of [{},{},{},{}]: too large", args.n, args.h, args.w, args.c);
  return {int(args.h), int(args.w), int((args.h - 1) / 2 + 1), int((args.w - 1) / 2 + 1)};
}

}  // namespace

void batchnorm_pool_train(Stream stream, const BatchNormPoolTrainArgs& args) {
  const Image image = image_of(args);
  const Layout l = layout_of(args.n * args.h * args.w, args.c), items = layout_of(args.n * ((image.p + kStrip - 1) / kStrip) * image.q, args.c);
  with_kernel(args.type, is_whole(args.c, {args.x, args.y, args.arg, args.gamma, args.beta, args.mean, args.rstd}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    constexpr bool kWhole = decltype(whole)::value;
    batch_statistics<T, kWhole>(stream, args, l);
    simt::launch(pool_apply_kernel<T, kWhole>, blocks_for(items, 1), kThreads, 0, stream_of(stream),
                 PoolArgs{.x = args.x, .dy = nullptr, .y = args.y, .dx = nullptr, .arg_out = args.arg, .arg = nullptr, .image = image}, items,
                 Norm{args.gamma, args.beta, args.mean, args.rstd});
  });
}

void batchnorm_pool_bwd(Stream stream, const BatchNormPoolBwdArgs& args) {
  const Image image = image_of(args);
  const Layout l = layout_of(args.n * args.h * args.w, args.c), items = layout_of(args.n * image.p * image.q, args.c);
  const Norm norm{args.gamma, args.beta, args.mean, args.rstd};
  const PoolArgs pool{.x = args.x, .dy = args.dy, .y = nullptr, .dx = args.dx, .arg_out = nullptr, .arg = args.arg, .image = image};
  with_kernel(args.type, is_whole(args.c, {args.x, args.dy, args.dx, args.arg, args.gamma, args.beta, args.mean, args.rstd}), [&](auto zero, auto whole) {
    using T = decltype(zero);
    constexpr bool kWhole = decltype(whole)::value;
    const int parts = parts_for(stream, items, 1);
    const Room room(stream, int64_t(parts) * 2 * l.c), slopes(stream, 2 * l.c);
    simt::launch(pool_sum_gradient_kernel<T, kWhole>, int64_t(parts) * l.slabs, kThreads, 0, stream_of(stream), pool, items, l, norm,
                 Partials{room.data(), parts}, Gradients{args.dgamma, args.dbeta}, slopes.data());
    simt::launch(pool_apply_gradient_kernel<T, kWhole>, blocks_for(items, 1), kThreads, 0, stream_of(stream), pool, items, norm, slopes.data());
  });
}

void batchnorm_fold(Stream stream, const BatchNormFoldArgs& args) {
  with_float_type(args.filter_type, [&](auto filter_zero) {
    with_float_type(args.bias_type, [&](auto bias_zero) {
      simt::launch(fold_kernel<decltype(filter_zero), decltype(bias_zero)>, args.k * ((args.per_filter + kFold - 1) / kFold), kThreads, 0, stream_of(stream),
                   args);
    });
  });
}

}  // namespace KD_GPU
}  // namespace kd
