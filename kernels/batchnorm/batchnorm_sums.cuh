// batchnorm_sums: what the batchnorm kernels share. Which thread has which channels and rows, v = gamma * rstd * (x - mean) + beta, sums from threads over
// blocks to all blocks, and what the sums mean.
#pragma once
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/common/eight.cuh"

namespace kd {
namespace KD_GPU {
namespace {

constexpr int kColumns = 8, kSlab = kColumns * kEight;  // eights and channels of a slab
constexpr int kThreads = 256, kOnePassThreads = 512;
constexpr int kMostSlabs = 1024;

// The blocks of a multiprocessor that __launch_bounds__ asks for, which says how many registers a thread may have: without it the compiler goes for full
// occupancy and waits after every second load. f32 and odd channels need more registers and get them.
template <class T, bool kWhole>
constexpr int blocks_at_once(int fast) {
  return kWhole && sizeof(T) == 2 ? fast : fast / 2;
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Who has what

struct Layout {
  int64_t rows;
  int c, columns, shift, slabs;  // columns: eights of a row that a slab has, 2^shift, up to kColumns
};

Layout layout_of(int64_t rows, int64_t c) {
  const int64_t eights = (c + kEight - 1) / kEight;
  int shift = 0;
  while (1 << shift < kColumns && 1 << shift < eights) ++shift;
  const int64_t columns = 1 << shift, slabs = (eights + columns - 1) / columns;
  KD_CHECK(rows > 0 && c > 0 && slabs <= kMostSlabs, "batchnorm of {} rows with {} channels", rows, c);
  return {rows, int(c), int(columns), shift, int(slabs)};
}

// Neighbouring blocks have neighbouring slabs of the same rows.
struct Block {
  int slab, number;  // among the slab's blocks
};
__device__ Block block_of(const Layout& l, unsigned block) {
  const unsigned number = block / unsigned(l.slabs);
  return {int(block - number * unsigned(l.slabs)), int(number)};
}
__device__ Block this_block(const Layout& l) { return block_of(l, blockIdx.x); }
__device__ Block this_block_backwards(const Layout& l) { return block_of(l, gridDim.x - 1 - blockIdx.x); }

// A thread's eight channels (fewer at the end of a row, none beyond it) and its first row among those that its block visits in one step.
struct Place {
  int column, row, channel, count;
  __device__ Place(const Layout& l, int slab) {
    column = int(threadIdx.x) & (l.columns - 1);
    row = int(threadIdx.x) >> l.shift;
    channel = (slab * l.columns + column) * kEight;
    count = min(kEight, l.c - channel);
  }
};
__device__ int rows_of_block(const Layout& l) { return int(blockDim.x) >> l.shift; }

template <bool kWhole>
__device__ void load_channels(const float* from, const Place& at, float (&v)[kEight]) {
  const Eight<float> e = load_eight<kWhole>(from + at.channel, at.count);
#pragma unroll
  for (int i = 0; i < kEight; ++i) v[i] = e[i];
}

struct Norm {
  const float *gamma, *beta, *mean, *rstd;
};
struct Moments {
  float mean, rstd;
};

// v = fma(gamma * rstd, x - mean, beta) in eight channels.
struct Affine {
  float scale[kEight], mean[kEight], beta[kEight];

  template <bool kWhole>
  __device__ static Affine load(const Norm& n, const Place& at) {
    Affine a;
    float rstd[kEight];
    load_channels<kWhole>(n.gamma, at, a.scale);
    load_channels<kWhole>(n.rstd, at, rstd);
    load_channels<kWhole>(n.mean, at, a.mean);
    load_channels<kWhole>(n.beta, at, a.beta);
#pragma unroll
    for (int i = 0; i < kEight; ++i) a.scale[i] *= rstd[i];
    return a;
  }
  template <bool kWhole>
  __device__ static Affine load(const float* gamma, const float* beta, const Moments* moments, const Place& at) {
    Affine a;
    load_channels<kWhole>(gamma, at, a.scale);
    load_channels<kWhole>(beta, at, a.beta);
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      const Moments m = moments[at.column * kEight + i];
      a.mean[i] = m.mean, a.scale[i] *= m.rstd;
    }
    return a;
  }
  __device__ float operator()(int i, float x) const { return fmaf(scale[i], x - mean[i], beta[i]); }
};

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Sums: thread -> block -> all blocks

struct Sums {
  float first[kEight] = {}, second[kEight] = {};
};

__device__ void add(Sums& sums, const float (&shift)[kEight], const float (&x)[kEight]) {
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    const float d = x[i] - shift[i];
    sums.first[i] += d;
    sums.second[i] = fmaf(d, d, sums.second[i]);
  }
}
__device__ void add_gradient(Sums& sums, const float (&mean)[kEight], const float (&x)[kEight], const float (&dz)[kEight]) {
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    sums.first[i] += dz[i];
    sums.second[i] = fmaf(dz[i], x[i] - mean[i], sums.second[i]);
  }
}
template <class T>
__device__ void widen(const Eight<T>& e, float (&v)[kEight]) {
#pragma unroll
  for (int i = 0; i < kEight; ++i) v[i] = e[i];
}

// Per-channel sums of `parts` blocks, [parts,2,C].
struct Partials {
  float* at;
  int parts;
};

union Scratch {
  float warps[kOnePassThreads / 32][2][kSlab];
  double lanes[kThreads / 32][2][kSlab];
};

// The block's sums over its threads, as part `part` of slab `slab`.
__device__ void write_part(const Partials& out, const Layout& l, int slab, int part, Sums sums, Scratch& scratch) {
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), warps = int(blockDim.x / 32);
  for (int other = 16; other >= l.columns; other /= 2)
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      sums.first[i] += __shfl_xor_sync(0xffffffffu, sums.first[i], other);
      sums.second[i] += __shfl_xor_sync(0xffffffffu, sums.second[i], other);
    }
  if (lane < l.columns)
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      scratch.warps[warp][0][lane * kEight + i] = sums.first[i];
      scratch.warps[warp][1][lane * kEight + i] = sums.second[i];
    }
  __syncthreads();
  for (int sum = int(threadIdx.x); sum < 2 * kSlab; sum += int(blockDim.x)) {
    const int which = sum / kSlab, k = sum % kSlab, channel = slab * l.columns * kEight + k;
    if (k >= l.columns * kEight || channel >= l.c) continue;
    float total = 0;
    for (int w = 0; w < warps; ++w) total += scratch.warps[w][which][k];
    out.at[(int64_t(part) * 2 + which) * l.c + channel] = total;
  }
}

struct Totals {
  double first, second;
};

// Adds all parts up: thread t gets the totals of the slab's channel t, for t < kSlab. For at least kThreads threads of a block, all of which have passed a
// barrier since write_part used the scratch.
__device__ Totals add_parts(const Partials& in, const Layout& l, int slab, Scratch& scratch) {
  constexpr int kLanes = kThreads / 32;  // a warp reads all sums of a part, four to a thread; warps take turns with the parts
  const int lane = int(threadIdx.x) / 32, which = int(threadIdx.x) % 32 * 4 / kSlab, k = int(threadIdx.x) % 32 * 4 % kSlab;
  const int channel = slab * l.columns * kEight + k, count = min(4, l.c - channel);
  const float* from = in.at + int64_t(which) * l.c + channel;
  const bool whole = l.c % 4 == 0 && reinterpret_cast<uintptr_t>(in.at) % 16 == 0;
  double sum[4] = {};
  if (lane < kLanes && k < l.columns * kEight)
    for_each_ahead<8>(
        lane, in.parts, kLanes,
        [=](int64_t part) {
          const float* p = from + part * 2 * l.c;
          if (whole && count == 4) return load_pack<4>(p);
          Pack<float, 4> v{};
          for (int i = 0; i < 4; ++i)
            if (i < count) v.v[i] = p[i];
          return v;
        },
        [&](int64_t, const Pack<float, 4>& v) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i] += double(v.v[i]);
        });
  if (lane < kLanes)
    for (int i = 0; i < 4; ++i) scratch.lanes[lane][which][k + i] = sum[i];
  __syncthreads();
  Totals totals{};
  if (threadIdx.x < kSlab)
    for (int turn = 0; turn < kLanes; ++turn) {
      totals.first += scratch.lanes[turn][0][threadIdx.x];
      totals.second += scratch.lanes[turn][1][threadIdx.x];
    }
  return totals;
}

// Counters of a slab's blocks. One stream orders all work of a device, so kernels can share them; both are back where they were after each use.
__device__ unsigned tickets[kMostSlabs];
__device__ unsigned barriers[kMostSlabs];

// True in all threads of the last of the slab's blocks to call it; there, what the others wrote before is visible.
__device__ bool is_last_block(int slab, int parts) {
  SIMT_SHARED(last, bool);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // publishes what the whole block wrote before __syncthreads
    last = atomicInc(&tickets[slab], unsigned(parts - 1)) == unsigned(parts - 1);
    __threadfence();
  }
  __syncthreads();
  return last;
}

// then(channel, totals) for each of the slab's channels; threadIdx.x is the channel's number in the slab.
template <class Then>
__device__ void for_totals(const Partials& in, const Layout& l, int slab, Scratch& scratch, Then then) {
  const Totals totals = add_parts(in, l, slab, scratch);
  const int k = int(threadIdx.x), channel = slab * l.columns * kEight + k;
  if (k < l.columns * kEight && channel < l.c) then(channel, totals);
}

// The end of a kernel that sums: then(channel, totals) in the last block of the slab.
template <class Then>
__device__ void sum_over_blocks(const Partials& partials, const Layout& l, const Block& block, const Sums& sums, Scratch& scratch, Then then) {
  write_part(partials, l, block.slab, block.number, sums, scratch);
  if (is_last_block(block.slab, partials.parts)) for_totals(partials, l, block.slab, scratch, then);
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// What the totals mean

// Forward: first = sum (x - shift), second = sum (x - shift)^2.
struct Statistics {
  float *mean, *rstd, *running_mean, *running_var;
  float momentum, eps;
};

__device__ Moments finish(const Statistics& s, const Layout& l, int channel, const Totals& totals, float shift, bool write) {
  const double n = double(l.rows), offset = totals.first / n, mean = double(shift) + offset;
  double var = totals.second / n - offset * offset;
  if (var < 0) var = 0;  // not max, which would make 0 of a NaN
  const Moments moments{float(mean), float(1.0 / sqrt(var + double(s.eps)))};
  if (write) {
    const double m = double(s.momentum), unbiased = l.rows > 1 ? var * n / (n - 1) : var;
    s.mean[channel] = moments.mean;
    s.rstd[channel] = moments.rstd;
    s.running_mean[channel] = float((1 - m) * double(s.running_mean[channel]) + m * mean);
    s.running_var[channel] = float((1 - m) * double(s.running_var[channel]) + m * unbiased);
  }
  return moments;
}

// Backward: first = sum dz, second = sum dz (x - mean). dx = scale * (dz - mean_dz - (x - mean) * slope).
struct Gradients {
  float *dgamma, *dbeta;  // added to
};
struct Slope {
  float mean_dz, slope;
};

__device__ Slope finish(const Gradients& g, const Layout& l, int channel, const Totals& totals, float rstd, bool write) {
  const double n = double(l.rows), sum_dz_hat = totals.second * double(rstd);
  if (write) {
    g.dbeta[channel] += float(totals.first);
    g.dgamma[channel] += float(sum_dz_hat);
  }
  return {float(totals.first / n), float(sum_dz_hat / n * double(rstd))};
}

}  // namespace
}  // namespace KD_GPU
}  // namespace kd
