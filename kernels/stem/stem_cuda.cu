// stem on the GPU, portable form: mma.sync, compute capability 8.0 and newer. The window of an output pixel is 8 input pixels wide (7 and one of weight zero),
// so in bf16 with 4 channels a filter row is 32 products, and the product over all seven has K = 224.
//   input   A unit is two pixels, 16 bytes, one row of an ldmatrix. Output q reads units q..q+3 of an image row that is stored with two units of zeros before
//           it: the row in shared memory is the operand itself, there is no im2col. With the even output pixels of 16 as the upper half of a tile and the odd
//           ones as the lower, matrix c is "units q0+c, q0+c+2, ...", the upper half needs c = 0..3 and the lower c = 1..4: five matrices instead of eight.
//           Even and odd units lie apart, so that such a matrix is 128 bytes in a row and no two of its rows share a bank.
//   rows    A block walks over a contiguous share of all output rows. Input rows stay in a ring, addressed by n H + h; a row above or below the image is
//           one row of zeros that all share. While a step computes, cp.async brings the rows of the next.
//   fprop   Four warps: 2 output rows x 32 filters. A warp keeps its 32 x 224 weights in 112 registers and walks over its row, 16 pixels at a time. Filters
//           are dealt to columns so that a thread ends with 8 neighbouring filters of a pixel: 16 bytes, stored without a detour through shared memory.
//   infer   The same products. A thread holds pixels 2q' and 2q'+1 and fetches 2q'-1 by a shuffle; the three conv rows of a pooled row meet in shared memory,
//           where the lower one waits for the next pooled row. Bias first, then rounding, then maximum: rounding is monotone, so nothing is lost.
//   wgrad   Seven warps, one for each filter row: 64 filters x 32 products in 64 registers, summed over the pixels of the block's share. Both operands come
//           from shared memory by transposing loads. Blocks' sums go to scratch memory and are added in block order.
// bytes   fprop x + y, infer x + y, wgrad x + dy; batch 256 at 224: 103 + 411, 103 + 103, 103 + 411 MB
// cost    batch 256 at 224 on an H200, 2026-11-27: fprop 354 us, infer 314, wgrad 320; 200 (memory 170, shared memory 60 and mma.sync 150 of its
//         own, overlapping), 160 and 210 had been predicted for an H100
#include <algorithm>

#include "kernels/common/mma.cuh"
#include "kernels/stem/stem_forms.h"
#include "kernels/stem/stem_hopper.h"

namespace kd {
namespace KD_GPU {
namespace {
using stem::Geometry;
using Words4 = Pack<uint32_t, 4>;

constexpr int kTile = 16;  // output pixels
constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kWgradThreads = 7 * 32;
constexpr uint32_t kLowest = 0xff80ff80u;  // -inf, twice

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Input rows in shared memory

// How wide a stored row is, by the tiles of 16 output pixels that an output row has.
struct RowLayout {
  int tiles;
  KD_HOST_DEVICE int plane_bytes() const { return tiles * 128 + 64; }  // 64 of them apart, so that copies to both planes use all banks
  KD_HOST_DEVICE int row_bytes() const { return 2 * plane_bytes(); }
  KD_HOST_DEVICE int unit(int i) const { return (i & 1) * plane_bytes() + (i >> 1) * stem::kUnitBytes; }
};
KD_HOST_DEVICE inline RowLayout row_layout(int q) { return {stem::round_up(q, kTile) / kTile}; }

// A ring of kSlots rows at the start of the block's shared memory, and the row of zeros.
template <int kSlots>
struct InputRows {
  unsigned char* shared;
  RowLayout layout;

  static KD_HOST_DEVICE int bytes(RowLayout layout) { return (kSlots + 1) * layout.row_bytes(); }

  // Zeroes everything: what no copy writes is the border of an image. A barrier must follow.
  __device__ void clear(int threads) const {
    for (int i = int(threadIdx.x) * 16; i < bytes(layout); i += threads * 16) store_words(shared + i, Words4{});
  }
  // Starts the copies of some rows, numbered through all images. A warp takes a row.
  __device__ void fetch(AsyncCopies& copies, const bf16* x, int w, int begin, int end, int warps) const {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    for (int row = begin + warp; row < end; row += warps) {
      const bf16* from = x + int64_t(row) * w * 4;
      unsigned char* to = shared + row % kSlots * layout.row_bytes();
      for (int i = lane; i < w / 2; i += 32) copies.copy16(to + layout.unit(i + stem::kLead), from + i * 8);
    }
    copies.end_group();
  }
  // Where row h of an image of `height` rows is, in bytes.
  __device__ int row(int image, int height, int h) const { return (h < 0 || h >= height ? kSlots : (image * height + h) % kSlots) * layout.row_bytes(); }
};

// Where this lane's rows of the matrices c = 0..3 and of c = 4 begin, of tile 0.
__device__ int offset_of_first_four(RowLayout layout) {
  const int lane = int(threadIdx.x) % 32, c = lane / 8;
  return layout.unit(c) + lane % 8 * stem::kUnitBytes;
}
__device__ int offset_of_fifth(RowLayout layout) { return layout.unit(4) + int(threadIdx.x) % 8 * stem::kUnitBytes; }

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Forward

constexpr int kForwardSlots = 13;  // a step needs up to 9 rows, the next one 4 more

// Column `column` of group b of a warp's filters; a thread then ends with filters 8t + 2b and 8t + 2b + 1, b = 0..3.
__device__ int filter_of(int b, int column) { return column / 2 * 8 + 2 * b + column % 2; }

struct Weights {
  uint32_t b[stem::kWindow][2][4][2];  // filter row, half of its 32 products, group of 8 filters

  __device__ void load(const bf16* w, int first_filter) {
    const int g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int r = 0; r < stem::kWindow; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int group = 0; group < 4; ++group)
#pragma unroll
          for (int k8 = 0; k8 < 2; ++k8) b[r][half][group][k8] = stem::filter_pair(w, first_filter + filter_of(group, g), r, 16 * half + 8 * k8 + 2 * t);
  }
};

// d += 16 pixels x 32 filters: d[b][0..1] is pixel 2g of the tile, d[b][2..3] is pixel 2g+1, filters 8t + 2b and 8t + 2b + 1.
__device__ void multiply(float (&d)[4][4], const Weights& weights, const unsigned char* shared, const int (&row)[stem::kWindow], int first_four, int fifth) {
#pragma unroll
  for (int r = 0; r < stem::kWindow; ++r) {
    uint32_t m[4], last[1];
    ldmatrix(m, shared + row[r] + first_four);
    ldmatrix(last, shared + row[r] + fifth);
    const uint32_t a[2][4] = {{m[0], m[1], m[1], m[2]}, {m[2], m[3], m[3], last[0]}};
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int b = 0; b < 4; ++b) mma_m16n8k16(d[b], a[half], weights.b[r][half][b]);
  }
}

// Two output rows, one step of a block.
struct Pair {
  int image, index;
  __device__ Pair next(int pairs) const { return index + 1 < pairs ? Pair{image, index + 1} : Pair{image + 1, 0}; }
  // The input rows that they need, numbered through all images.
  __device__ int begin(int height) const { return image * height + max(4 * index - 3, 0); }
  __device__ int end(int height) const { return image * height + min(4 * index + 6, height); }
};

__global__ void __launch_bounds__(kThreads, 2) stem_fprop_kernel(StemFpropArgs args, Geometry g) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const RowLayout layout = row_layout(g.q);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4, first_filter = warp % 2 * 32, row_of_pair = warp / 2;
  const int pairs = (g.p + 1) / 2;
  const stem::Share share = stem::share_of(g.n * pairs, blockIdx.x, gridDim.x);
  const InputRows<kForwardSlots> rows{shared, layout};
  AsyncCopies copies;
  rows.clear(kThreads);
  SIMT_SHARED(shift, float[kStemFilters]);
  if (threadIdx.x < kStemFilters) shift[threadIdx.x] = args.partial ? args.shift[threadIdx.x] : 0.f;
  __syncthreads();
  Pair at{share.begin / pairs, share.begin % pairs};
  rows.fetch(copies, args.x, g.w, at.begin(g.h), at.end(g.h), kWarps);

  Weights weights;
  weights.load(args.w, first_filter);
  float sum[8] = {}, squares[8] = {};
  const int first_four = offset_of_first_four(layout), fifth = offset_of_fifth(layout);

  for (int step = share.begin; step < share.end; ++step, at = at.next(pairs)) {
    copies.wait<0>();
    __syncthreads();  // everyone's copies have arrived, and nobody reads the rows of the step before any more
    if (step + 1 < share.end) rows.fetch(copies, args.x, g.w, at.end(g.h), at.next(pairs).end(g.h), kWarps);
    const int p = 2 * at.index + row_of_pair;
    if (p >= g.p) continue;
    int row[stem::kWindow];
#pragma unroll
    for (int r = 0; r < stem::kWindow; ++r) row[r] = rows.row(at.image, g.h, 2 * p + r - 3);
    bf16* const y = args.y + int64_t(at.image * g.p + p) * g.q * kStemFilters + first_filter + 8 * t;
    for (int tile = 0; tile < layout.tiles; ++tile) {
      float d[4][4] = {};
      multiply(d, weights, shared, row, first_four + tile * 128, fifth + tile * 128);
      const float* const of_filter = shift + first_filter + 8 * t;
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int q = tile * kTile + lane / 4 * 2 + odd;
        if (q >= g.q) continue;
        Words4 out;
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          out.v[b] = pack_bf16(d[b][2 * odd], d[b][2 * odd + 1]);
          const float low = low_bf16(out.v[b]) - of_filter[2 * b], high = high_bf16(out.v[b]) - of_filter[2 * b + 1];
          sum[2 * b] += low, sum[2 * b + 1] += high;
          squares[2 * b] += low * low, squares[2 * b + 1] += high * high;
        }
        store_words(y + q * int(kStemFilters), out);
      }
    }
  }

  if (!args.partial) return;
  SIMT_SHARED(of_row, float[2][2][kStemFilters]);  // row of the pair, sum or squares
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    for (int lanes = 4; lanes < 32; lanes *= 2) {
      sum[i] += __shfl_xor_sync(~0u, sum[i], lanes);
      squares[i] += __shfl_xor_sync(~0u, squares[i], lanes);
    }
    if (lane < 4) of_row[row_of_pair][0][first_filter + 8 * t + i] = sum[i], of_row[row_of_pair][1][first_filter + 8 * t + i] = squares[i];
  }
  __syncthreads();
  const int which = int(threadIdx.x) / 64, filter = int(threadIdx.x) % 64;
  args.partial[(int64_t(blockIdx.x) * 2 + which) * kStemFilters + filter] = of_row[0][which][filter] + of_row[1][which][filter];
}

// Rows of horizontally pooled values, 8 filters (16 bytes) a chunk. Neighbouring pixels swap the halves of their 128 bytes, for the banks' sake.
KD_HOST_DEVICE inline int pooled_chunk(int q, int chunk) { return q * stem::kPixelBytes + ((chunk ^ (q & 1) * 4) * 16); }
KD_HOST_DEVICE inline int pooled_row_bytes(RowLayout layout) { return layout.tiles * kTile / 2 * stem::kPixelBytes; }

__global__ void __launch_bounds__(kThreads, 2) stem_infer_kernel(StemInferArgs args, Geometry g) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const RowLayout layout = row_layout(g.q);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4, first_filter = warp % 2 * 32, row_of_pair = warp / 2;
  const int pooled_p = (g.p - 1) / 2 + 1, pooled_q = (g.q - 1) / 2 + 1;  // a pair of conv rows for every pooled row
  const stem::Share share = stem::share_of(g.n * pooled_p, blockIdx.x, gridDim.x);
  // Inside an image the first pooled row also needs the second conv row of the pair before: one more step, of which nothing else is used.
  const int first = share.begin - (share.begin % pooled_p != 0);
  const InputRows<kForwardSlots> rows{shared, layout};
  unsigned char* const pooled = shared + rows.bytes(layout);  // the even conv row; the odd ones of this step and of the one before
  const int pooled_bytes = pooled_row_bytes(layout);
  AsyncCopies copies;
  rows.clear(kThreads);
  SIMT_SHARED(bias, float[kStemFilters]);
  if (threadIdx.x < kStemFilters) bias[threadIdx.x] = args.bias[threadIdx.x];
  __syncthreads();
  Pair at{first / pooled_p, first % pooled_p};
  rows.fetch(copies, args.x, g.w, at.begin(g.h), at.end(g.h), kWarps);

  Weights weights;
  weights.load(args.w, first_filter);
  const int first_four = offset_of_first_four(layout), fifth = offset_of_fifth(layout);

  for (int step = first; step < share.end; ++step, at = at.next(pooled_p)) {
    copies.wait<0>();
    __syncthreads();  // as above; also, nobody reads the pooled rows of the step before any more
    if (step + 1 < share.end) rows.fetch(copies, args.x, g.w, at.end(g.h), at.next(pooled_p).end(g.h), kWarps);
    const int p = 2 * at.index + row_of_pair, newest = 1 + step % 2;  // newest: which of the two odd rows is this step's
    if (p < g.p) {
      int row[stem::kWindow];
#pragma unroll
      for (int r = 0; r < stem::kWindow; ++r) row[r] = rows.row(at.image, g.h, 2 * p + r - 3);
      unsigned char* const to = pooled + row_of_pair * newest * pooled_bytes;
      uint32_t last_odd[4] = {kLowest, kLowest, kLowest, kLowest};  // of the tile before
      for (int tile = 0; tile < layout.tiles; ++tile) {
        float d[4][4];
        const float* const of_filter = bias + first_filter + 8 * t;
#pragma unroll
        for (int b = 0; b < 4; ++b) d[b][0] = d[b][2] = of_filter[2 * b], d[b][1] = d[b][3] = of_filter[2 * b + 1];
        multiply(d, weights, shared, row, first_four + tile * 128, fifth + tile * 128);
        const int q = tile * kTile + lane / 4 * 2;
        Words4 out;
#pragma unroll
        for (int b = 0; b < 4; ++b) {
          const uint32_t even = q < g.q ? pack_bf16(d[b][0], d[b][1]) : kLowest, odd = q + 1 < g.q ? pack_bf16(d[b][2], d[b][3]) : kLowest;
          const uint32_t left = __shfl_sync(~0u, lane >= 28 ? last_odd[b] : odd, (lane + 28) % 32);
          last_odd[b] = odd;
          out.v[b] = max_bf16(max_bf16(even, odd), left);
        }
        store_words(to + pooled_chunk(q / 2, first_filter / 8 + t), out);
      }
    }
    __syncthreads();
    if (step < share.begin) continue;
    const bool above = at.index > 0, below = 2 * at.index + 1 < g.p;
    bf16* const y = args.y + int64_t(step) * pooled_q * kStemFilters;
    for (int i = int(threadIdx.x); i < pooled_q * 8; i += kThreads) {
      const unsigned char* const from = pooled + pooled_chunk(i / 8, i % 8);
      Words4 out = load_words(from);
      const auto include = [&](int row) {
        const Words4 other = load_words(from + row * pooled_bytes);
#pragma unroll
        for (int b = 0; b < 4; ++b) out.v[b] = max_bf16(out.v[b], other.v[b]);
      };
      if (above) include(3 - newest);
      if (below) include(newest);
#pragma unroll
      for (int b = 0; b < 4; ++b) out.v[b] = max_bf16(out.v[b], 0);
      store_words(y + i * 8, out);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Filter gradient

constexpr int kWgradSlots = 9;  // a step needs up to 7 rows, the next one 2 more

// A row of dy: 16 bytes (8 filters) a chunk. Eight even, or eight odd pixels, which is what one matrix reads, have their chunks in different banks.
KD_HOST_DEVICE inline int dy_chunk(int q, int chunk) { return q * stem::kPixelBytes + ((chunk ^ (q / 2 & 7)) * 16); }
KD_HOST_DEVICE inline int dy_row_bytes(RowLayout layout) { return layout.tiles * kTile * stem::kPixelBytes; }

// The input rows that output row p of an image needs, numbered through all images.
__device__ int rows_begin(int image, int height, int p) { return image * height + max(2 * p - 3, 0); }
__device__ int rows_end(int image, int height, int p) { return image * height + min(2 * p + 4, height); }

// partial [blocks,64,196]
__global__ void __launch_bounds__(kWgradThreads, 2) stem_wgrad_kernel(StemWgradArgs args, Geometry g, float* partial) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const RowLayout layout = row_layout(g.q);
  const int r = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const stem::Share share = stem::share_of(g.n * g.p, blockIdx.x, gridDim.x);
  const InputRows<kWgradSlots> rows{shared, layout};
  unsigned char* const dy = shared + rows.bytes(layout);  // this step's row and the next one's
  const int dy_bytes = dy_row_bytes(layout);
  AsyncCopies copies;
  const auto fetch = [&](int step, int begin) {
    const bf16* const from = args.dy + int64_t(step) * g.q * kStemFilters;
    for (int i = int(threadIdx.x); i < g.q * 8; i += kWgradThreads) copies.copy16(dy + step % 2 * dy_bytes + dy_chunk(i / 8, i % 8), from + i * 8);
    rows.fetch(copies, args.x, g.w, begin, rows_end(step / g.p, g.h, step % g.p), kWgradThreads / 32);
  };
  rows.clear(kWgradThreads);
  for (int i = int(threadIdx.x) * 16; i < 2 * dy_bytes; i += kWgradThreads * 16) store_words(dy + i, Words4{});
  __syncthreads();
  fetch(share.begin, rows_begin(share.begin / g.p, g.h, share.begin % g.p));

  float d[4][4][4] = {};  // [16 filters][8 products]
  const int first_four = offset_of_first_four(layout), fifth = offset_of_fifth(layout);
  // This lane's pixel of a tile, and its chunk of the first 16 filters: matrices are (filters 0-7, even), (8-15, even), (0-7, odd), (8-15, odd pixels).
  const int pixel = lane % 8 * 2 + lane / 16, chunk = lane / 8 % 2;
  for (int step = share.begin; step < share.end; ++step) {
    copies.wait<0>();
    __syncthreads();  // everyone's copies have arrived, and nobody reads what the step before read
    const int image = step / g.p, p = step % g.p;
    if (step + 1 < share.end) fetch(step + 1, rows_end(image, g.h, p));
    const unsigned char* const row = shared + rows.row(image, g.h, 2 * p + r - 3);
    const unsigned char* const from = dy + step % 2 * dy_bytes;
    for (int tile = 0; tile < layout.tiles; ++tile) {
      uint32_t m[4], last[1];
      ldmatrix_trans(m, row + first_four + tile * 128);
      ldmatrix_trans(last, row + fifth + tile * 128);
      const uint32_t b[4][2] = {{m[0], m[1]}, {m[1], m[2]}, {m[2], m[3]}, {m[3], last[0]}};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t a[4];
        ldmatrix_trans(a, from + dy_chunk(tile * kTile + pixel, 2 * i + chunk));
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_m16n8k16(d[i][j], a, b[j]);
      }
    }
  }

  float* const to = partial + int64_t(blockIdx.x) * kStemFilters * stem::kFilterElements + r * 28;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int filter = 16 * i + lane / 4, kk = 8 * j + 2 * (lane % 4);
      if (kk < 4) continue;  // the pixel of weight zero
      store_pack(to + filter * stem::kFilterElements + kk - 4, Pack<float, 2>{d[i][j][0], d[i][j][1]});
      store_pack(to + (filter + 8) * stem::kFilterElements + kk - 4, Pack<float, 2>{d[i][j][2], d[i][j][3]});
    }
}

// dw = sum over parts of partial [parts,64,196]. A thread adds every kGroups-th part of four elements, then the groups are added in order.
constexpr int kSumColumns = 8, kSumGroups = 32;

__global__ void __launch_bounds__(kSumColumns* kSumGroups) stem_wgrad_sum_kernel(const float* partial, int parts, bf16* dw) {
  SIMT_SHARED(of_group, Pack<float, 4>[kSumGroups][kSumColumns]);
  constexpr int64_t kElements = kStemFilters * stem::kFilterElements;
  static_assert(kElements % (4 * kSumColumns) == 0);
  const int column = int(threadIdx.x) % kSumColumns, group = int(threadIdx.x) / kSumColumns;
  const int64_t element = (int64_t(blockIdx.x) * kSumColumns + column) * 4;
  Pack<float, 4> sum{};
#pragma unroll 4
  for (int part = group; part < parts; part += kSumGroups) {
    const auto more = load_pack<4>(partial + part * kElements + element);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum.v[i] += more.v[i];
  }
  of_group[group][column] = sum;
  __syncthreads();
  if (group != 0) return;
  for (int other = 1; other < kSumGroups; ++other)
    for (int i = 0; i < 4; ++i) sum.v[i] += of_group[other][column].v[i];
  store_words(dw + element, Pack<uint32_t, 2>{pack_bf16(sum.v[0], sum.v[1]), pack_bf16(sum.v[2], sum.v[3])});
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

// As many blocks as are resident at once, so that all end together, and no more than there are steps.
template <class... P>
int64_t blocks_for(void (*kernel)(P...), int threads, size_t shared, int64_t steps) {
  return std::min<int64_t>(simt::max_resident_blocks(kernel, threads, shared), steps);
}

int64_t pairs_of(const StemShape& s) { return s.n * ((s.p() + 1) / 2); }
size_t fprop_shared(RowLayout layout) { return size_t(InputRows<kForwardSlots>::bytes(layout)); }
size_t infer_shared(RowLayout layout) { return size_t(InputRows<kForwardSlots>::bytes(layout) + 3 * pooled_row_bytes(layout)); }
size_t wgrad_shared(RowLayout layout) { return size_t(InputRows<kWgradSlots>::bytes(layout) + 2 * dy_row_bytes(layout)); }

int64_t fprop_blocks(const StemShape& s) { return blocks_for(stem_fprop_kernel, kThreads, fprop_shared(row_layout(int(s.q()))), pairs_of(s)); }

}  // namespace

int64_t stem_parts(Stream stream, const StemShape& shape, StemForm form) {
  return stem::form_for(stream, "stem_fprop", form) == StemForm::hopper ? stem_fprop_parts_hopper(shape) : fprop_blocks(shape);
}

void stem_fprop(Stream stream, const StemFpropArgs& args) {
  stem::check("stem_fprop", args.shape, {args.x, args.w, args.y});
  KD_CHECK(!args.partial || args.shift, "stem_fprop: channel sums are wanted without a shift");
  if (stem::form_for(stream, "stem_fprop", args.form) == StemForm::hopper) return stem_fprop_hopper(stream, args);
  const Geometry g = stem::geometry_of(args.shape);
  simt::launch(stem_fprop_kernel, fprop_blocks(args.shape), kThreads, fprop_shared(row_layout(g.q)), simt::stream_t(stream.handle), args, g);
}

void stem_infer(Stream stream, const StemInferArgs& args) {
  stem::check("stem_infer", args.shape, {args.x, args.w, args.y, args.bias});
  if (stem::form_for(stream, "stem_infer", args.form) == StemForm::hopper) return stem_infer_hopper(stream, args);
  const Geometry g = stem::geometry_of(args.shape);
  const size_t shared = infer_shared(row_layout(g.q));
  const int64_t blocks = blocks_for(stem_infer_kernel, kThreads, shared, pairs_of(args.shape));
  simt::launch(stem_infer_kernel, blocks, kThreads, shared, simt::stream_t(stream.handle), args, g);
}

void stem_wgrad(Stream stream, const StemWgradArgs& args) {
  stem::check("stem_wgrad", args.shape, {args.x, args.dy, args.dw});
  const bool hopper = stem::form_for(stream, "stem_wgrad", args.form) == StemForm::hopper;
  const Geometry g = stem::geometry_of(args.shape);
  const size_t shared = wgrad_shared(row_layout(g.q));
  const int64_t parts = hopper ? stem_wgrad_parts_hopper(args.shape) : blocks_for(stem_wgrad_kernel, kWgradThreads, shared, args.shape.n * g.p);
  constexpr int64_t kElements = kStemFilters * stem::kFilterElements;
  const auto scratch = Storage::allocate(parts * kElements * int64_t(sizeof(float)), stream.device);
  float* const partial = reinterpret_cast<float*>(scratch->data());
  const auto queue = simt::stream_t(stream.handle);
  if (hopper)
    stem_wgrad_hopper(stream, args, partial);
  else
    simt::launch(stem_wgrad_kernel, parts, kWgradThreads, shared, queue, args, g, partial);
  simt::launch(stem_wgrad_sum_kernel, kElements / (4 * kSumColumns), kSumColumns * kSumGroups, 0, queue, partial, int(parts), args.dw);
}

}  // namespace KD_GPU
}  // namespace kd
