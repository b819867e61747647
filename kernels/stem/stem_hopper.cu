// stem on the GPU, Hopper form: wgmma with the input row as it lies in memory as operand. As in the portable form a unit is two pixels, 16 bytes, output q
// reads units q..q+3 of a stored row that begins with two units of zeros, and a filter row is K = 32. A product is 64 filters x 112 output pixels: the weights,
// 64 x 224, are the left operand and stay in registers, 56 a thread; the right one is read from shared memory, where a core matrix of wgmma without swizzle is
// 8 units in a row. "The next pixel" and "the next 8 of K" are both the next unit, so one descriptor (leading 16 bytes, stride 128) reads the overlapping
// windows where they are: no im2col, no copy.
//   rows    One warpgroup a block, a contiguous share of all output rows. Input rows stay in a ring, addressed by n H + h, a row outside the image is one of
//           zeros; thread 0 starts bulk copies steps ahead, a barrier in shared memory counts their bytes.
//   fprop   A thread ends with 28 pixels of two filters: channel sums take 4 registers. The tile is transposed by stmatrix into shared memory, neighbouring
//           pixels' chunks in different banks, and leaves as whole lines; the next row goes into the other tile.
//   infer   Pixels 2q', 2q'+1 are in one thread, 2q'-1 in its neighbour. The lower conv row of a pooled row waits for the next one in shared memory.
//   wgrad   64 filters x 7 x 32 products in 112 registers. dy is the left operand, by transposing loads; the right one is the same row of units, read with
//           pixels as K (leading 128, stride 16). Blocks' sums go to scratch memory and are added in block order.
// bytes   as the portable form
// cost    batch 256 at 224 on an H200 with its clocks risen, 2026-11-27: fprop 215 us, infer 162, wgrad 196; within a step 202, 155, 181 (200, 150, 190
//         predicted for an H100: tensor cores 55 us, the rest memory)
#include <algorithm>

#include "kernels/common/hopper.cuh"
#include "kernels/stem/stem_forms.h"
#include "kernels/stem/stem_hopper.h"

namespace kd {
namespace KD_GPU {
namespace {
using stem::Geometry;
using stem::kUnitBytes;

constexpr int kThreads = 128;
constexpr int kTile = 112;  // output pixels
constexpr int kTileBytes = kTile * stem::kPixelBytes;
constexpr int kMaxTiles = 2;
constexpr uint32_t kLowest = 0xff80ff80u;  // -inf, twice
static_assert(kMaxTiles * kTile >= kStemMaxWidth / 2);

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Input rows in shared memory

KD_HOST_DEVICE inline int tiles_of(int q) { return (q + kTile - 1) / kTile; }
// The last output pixel of the last tile reads 3 units beyond its own.
KD_HOST_DEVICE inline int row_bytes(int tiles) { return (tiles * kTile + 4) * kUnitBytes; }

// The operand of output pixels q0..q0+111 and of 16 of a filter row's 32 products; and, for wgrad, of 16 pixels and all 32.
KD_HOST_DEVICE constexpr MatrixView window_of(uint32_t row, int q0, int half) {
  return {row + uint32_t(q0 + 2 * half) * kUnitBytes, kUnitBytes, 8 * kUnitBytes};
}
KD_HOST_DEVICE constexpr MatrixView pixels_of(uint32_t row, int q0) { return {row + uint32_t(q0) * kUnitBytes, 8 * kUnitBytes, kUnitBytes}; }

// Product kk of output pixel q is channel kk % 4 of the pixel kk / 4 places on from the first of its window, which is unit q.
constexpr uint32_t product_address(uint32_t row, int q, int kk) { return row + uint32_t(q) * kUnitBytes + uint32_t(kk) * 2; }
constexpr bool views_are_right() {
  for (int q0 : {0, 16, 112})
    for (int kk = 0; kk < stem::kRowK; ++kk)
      for (int q = 0; q < kTile; ++q) {
        const uint32_t row = 4096, want = product_address(row, q0 + q, kk);
        const MatrixView window = view_of(descriptor_of(window_of(row, q0, kk / 16))), pixels = view_of(descriptor_of(pixels_of(row, q0)));
        if (k_major_address(window, uint32_t(kk % 16), uint32_t(q)) != want) return false;
        if (q < 16 && mn_major_address(pixels, uint32_t(q), uint32_t(kk)) != want) return false;
      }
  return true;
}
static_assert(views_are_right());

// What a block computes is a sequence of steps, each a few output rows of one image. They read the input rows from begin to end, numbered through all images.
template <int kOutputRows>
struct Steps {
  Geometry g;
  __device__ int of_image() const { return (g.p + kOutputRows - 1) / kOutputRows; }
  __device__ int image(int step) const { return step / of_image(); }
  __device__ int index(int step) const { return step % of_image(); }
  __device__ int begin(int step) const { return image(step) * g.h + max(2 * kOutputRows * index(step) - 3, 0); }
  __device__ int end(int step) const { return image(step) * g.h + min(2 * kOutputRows * (index(step) + 1) + 2, g.h); }
};

// A ring of input rows, and the row of zeros. A step needs up to 2 kOutputRows + 5 rows, each step ahead 2 kOutputRows more.
template <int kOutputRows, int kAhead>
struct InputRows {
  static constexpr int kSlots = 2 * kOutputRows * (kAhead + 1) + 5;
  static constexpr int kBarriers = kAhead + 1;

  unsigned char* shared;  // the rows, then the barriers
  const bf16* x;
  Steps<kOutputRows> steps;
  int first, last;  // the block's steps

  static KD_HOST_DEVICE int barriers_at(int q) { return (kSlots + 1) * row_bytes(tiles_of(q)); }
  static KD_HOST_DEVICE int bytes(int q) { return barriers_at(q) + stem::round_up(kBarriers * int(sizeof(ByteBarrier)), 128); }
  __device__ int pitch() const { return row_bytes(tiles_of(steps.g.q)); }
  __device__ ByteBarrier& barrier(int step) const { return reinterpret_cast<ByteBarrier*>(shared + barriers_at(steps.g.q))[(step - first) % kBarriers]; }

  // All threads of the block, first of all.
  __device__ void prepare() const {
    for (int i = int(threadIdx.x) * 16; i < barriers_at(steps.g.q); i += kThreads * 16) store_words(shared + i, Pack<uint32_t, 4>{});
    if (threadIdx.x == 0)
      for (int i = 0; i < kBarriers; ++i) barrier(first + i).init();
    fence_for_async();
    __syncthreads();
    if (threadIdx.x == 0)
      for (int step = first; step < first + kBarriers; ++step) fetch(step);
    __syncthreads();
  }
  // Thread 0, when nobody reads step - kAhead - 1 any more: starts the copies of the rows that `step` adds.
  __device__ void fetch(int step) const {
    if (step >= last) return;
    const uint32_t bytes = uint32_t(steps.g.w) * 8;
    const int begin = step == first ? steps.begin(step) : steps.end(step - 1), end = steps.end(step);
    ByteBarrier& counter = barrier(step);
    counter.expect(uint32_t(end - begin) * bytes);
#pragma unroll 1
    for (int row = begin; row < end; ++row) counter.copy(shared + row % kSlots * pitch() + stem::kLead * kUnitBytes, x + int64_t(row) * steps.g.w * 4, bytes);
  }
  __device__ void wait(int step) const { barrier(step).wait(uint32_t((step - first) / kBarriers & 1)); }
  // The address of row h of an image, as wgmma takes it.
  __device__ uint32_t row(int image, int h) const {
    return shared_address(shared) + uint32_t((h < 0 || h >= steps.g.h ? kSlots : (image * steps.g.h + h) % kSlots) * pitch());
  }
};

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Forward

struct Weights {
  uint32_t a[stem::kWindow][2][4];  // filter row, half of its 32 products

  __device__ void load(const bf16* w) {
    const int warp = int(threadIdx.x) / 32, g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll
    for (int r = 0; r < stem::kWindow; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) a[r][half][i] = stem::filter_pair(w, 16 * warp + g + i % 2 * 8, r, 16 * half + i / 2 * 8 + 2 * t);
  }
};

// d = `start` + output row p of an image, pixels q0..q0+111.
template <class Rows>
__device__ void multiply(float (&d)[56], const float (&start)[2], const Weights& weights, const Rows& rows, int image, int p, int q0) {
#pragma unroll
  for (int i = 0; i < 56; ++i) d[i] = start[i / 2 % 2];
  pin(d);
  wgmma_begin();
#pragma unroll
  for (int r = 0; r < stem::kWindow; ++r) {
    const uint32_t row = rows.row(image, 2 * p + r - 3);
#pragma unroll
    for (int half = 0; half < 2; ++half) wgmma_m64n112k16(d, weights.a[r][half], descriptor_of(window_of(row, q0, half)));
  }
  wgmma_wait();
  pin(d);
}

// A tile of pixels in shared memory: a chunk (16 bytes, 8 filters) is in different banks for 8 neighbouring pixels.
KD_HOST_DEVICE inline int tile_chunk(int pixel, int chunk) { return pixel * stem::kPixelBytes + ((chunk ^ (pixel & 7)) * 16); }

// Writes the first `pixels` of a tile's kPixels to y, 16 bytes a thread.
template <int kPixels>
__device__ void store_tile(bf16* y, const unsigned char* tile, int pixels) {
#pragma unroll
  for (int begin = 0; begin < kPixels * 8; begin += kThreads) {
    const int i = begin + int(threadIdx.x);
    if (i < pixels * 8) store_words(y + i * 8, load_words(tile + tile_chunk(i / 8, i % 8)));
  }
}

constexpr int kFpropAhead = 4;
using FpropRows = InputRows<1, kFpropAhead>;
size_t fprop_shared(int q) { return size_t(FpropRows::bytes(q) + 2 * kTileBytes); }

__global__ void __launch_bounds__(kThreads, 3) stem_fprop_hopper_kernel(StemFpropArgs args, Geometry g) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4, filter = 16 * warp + lane / 4;
  const stem::Share share = stem::share_of(g.n * g.p, blockIdx.x, gridDim.x);
  const FpropRows rows{shared, args.x, {g}, share.begin, share.end};
  unsigned char* const tiles = shared + rows.bytes(g.q);
  rows.prepare();
  Weights weights;
  weights.load(args.w);
  float sum[2] = {}, squares[2] = {}, shift[2] = {};
  if (args.partial) shift[0] = args.shift[filter], shift[1] = args.shift[filter + 8];

  int buffer = 0;
  for (int step = share.begin; step < share.end; ++step) {
    rows.wait(step);
    for (int q0 = 0; q0 < g.q; q0 += kTile, buffer ^= 1) {
      float d[56];
      multiply(d, {0.f, 0.f}, weights, rows, rows.steps.image(step), rows.steps.index(step), q0);
      unsigned char* const tile = tiles + buffer * kTileBytes;
#pragma unroll
      for (int j = 0; j < kTile / 8; j += 2) {
        uint32_t m[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // filters +0 and +8 of 8 pixels, then of the next 8
          const int at = 4 * (j + i / 2) + i % 2 * 2;
          m[i] = pack_bf16(d[at], d[at + 1]);
          const int q = q0 + 8 * (j + i / 2) + 2 * t;
          const float low = low_bf16(m[i]) - shift[i % 2], high = high_bf16(m[i]) - shift[i % 2];
          if (q < g.q) sum[i % 2] += low, squares[i % 2] += low * low;
          if (q + 1 < g.q) sum[i % 2] += high, squares[i % 2] += high * high;
        }
        stmatrix_trans(tile + tile_chunk(8 * (j + lane / 16) + lane % 8, 2 * warp + lane / 8 % 2), m);
      }
      __syncthreads();  // the tile is there, the other one is free, and after the last tile so are the rows that only this step reads
      if (threadIdx.x == 0 && q0 + kTile >= g.q) rows.fetch(step + kFpropAhead + 1);
      __syncwarp();
      store_tile<kTile>(args.y + (int64_t(step) * g.q + q0) * kStemFilters, tile, min(g.q - q0, kTile));
    }
  }

  if (!args.partial) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      sum[i] += __shfl_xor_sync(~0u, sum[i], lanes);
      squares[i] += __shfl_xor_sync(~0u, squares[i], lanes);
    }
    if (t == 0) {
      float* const to = args.partial + int64_t(blockIdx.x) * 2 * kStemFilters + filter + 8 * i;
      to[0] = sum[i], to[kStemFilters] = squares[i];
    }
  }
}

constexpr int kInferAhead = 2;
using InferRows = InputRows<2, kInferAhead>;
constexpr int kPooledTile = kTile / 2, kPooledTileBytes = kPooledTile * stem::kPixelBytes;
constexpr int kPairs = kTile / 8;  // of a thread: pooled pixels of a tile, each a word with two filters
constexpr int kCarryBytes = kPairs * kThreads * 4;
size_t infer_shared(int q) { return size_t(InferRows::bytes(q) + 2 * kPooledTileBytes + tiles_of(q) * kCarryBytes); }

// The maxima over columns 2q'-1..2q'+1 of a conv row, for q' = 4j + t of the tile: filter g in the lower half of pooled[j], g + 8 in the upper. `before` is the
// odd column of the tile before, out: of this one.
__device__ void pool_columns(uint32_t (&pooled)[kPairs], const float (&d)[56], uint32_t& before, int q0, int q_end) {
  const int lane = int(threadIdx.x) % 32, t = lane % 4, neighbour = (lane & ~3) + (t + 3) % 4;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int q = q0 + 8 * j + 2 * t;
    const uint32_t even = q < q_end ? pack_bf16(d[4 * j], d[4 * j + 2]) : kLowest, odd = q + 1 < q_end ? pack_bf16(d[4 * j + 1], d[4 * j + 3]) : kLowest;
    const uint32_t left = __shfl_sync(~0u, t == 3 ? before : odd, neighbour);
    before = odd;
    pooled[j] = max_bf16(max_bf16(even, odd), left);
  }
}

__global__ void __launch_bounds__(kThreads, 3) stem_infer_hopper_kernel(StemInferArgs args, Geometry g) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, filter = 16 * warp + lane / 4;
  const int pooled_p = (g.p - 1) / 2 + 1, pooled_q = (g.q - 1) / 2 + 1;
  const stem::Share share = stem::share_of(g.n * pooled_p, blockIdx.x, gridDim.x);
  // Inside an image the first pooled row also needs the second conv row of the step before: one more step, of which nothing else is used.
  const int first = share.begin - (share.begin % pooled_p != 0);
  const InferRows rows{shared, args.x, {g}, first, share.end};
  unsigned char* const tiles = shared + rows.bytes(g.q);
  auto* const carry = reinterpret_cast<uint32_t*>(tiles + 2 * kPooledTileBytes) + threadIdx.x;  // each thread its own: [tile][pair][thread]
  rows.prepare();
  Weights weights;
  weights.load(args.w);
  const float bias[2] = {args.bias[filter], args.bias[filter + 8]};

  int buffer = 0;
  for (int step = first; step < share.end; ++step) {
    const int image = rows.steps.image(step), index = rows.steps.index(step);
    uint32_t before[2] = {kLowest, kLowest};
    rows.wait(step);
    for (int q0 = 0; q0 < g.q; q0 += kTile, buffer ^= 1) {
      uint32_t pooled[kPairs];
      uint32_t* const of_tile = carry + q0 / kTile * (kPairs * kThreads);
      float d[56];
      multiply(d, bias, weights, rows, image, 2 * index, q0);
      pool_columns(pooled, d, before[0], q0, g.q);
      if (index > 0)
#pragma unroll
        for (int j = 0; j < kPairs; ++j) pooled[j] = max_bf16(pooled[j], of_tile[j * kThreads]);
      if (2 * index + 1 < g.p) {
        uint32_t lower[kPairs];
        multiply(d, bias, weights, rows, image, 2 * index + 1, q0);
        pool_columns(lower, d, before[1], q0, g.q);
#pragma unroll
        for (int j = 0; j < kPairs; ++j) pooled[j] = max_bf16(pooled[j], lower[j]), of_tile[j * kThreads] = lower[j];
      }
      // Columns 2t and 2t + 1 of a matrix are the pooled pixels 8i + t and 8i + 4 + t, so column c is pixel c / 2 + c % 2 * 4 of its eight.
      unsigned char* const tile = tiles + buffer * kPooledTileBytes;
      const int column = lane % 8 / 2 + lane % 2 * 4, chunk = 2 * warp + lane / 8 % 2;
#pragma unroll
      for (int j = 0; j < kPairs; j += 2) {
        const uint32_t x = max_bf16(pooled[j], 0), y = max_bf16(pooled[j + 1], 0);
        stmatrix_trans(tile + tile_chunk(4 * j + column, chunk), {__byte_perm(x, y, 0x5410), __byte_perm(x, y, 0x7632)});
      }
      __syncthreads();  // as above
      if (threadIdx.x == 0 && q0 + kTile >= g.q) rows.fetch(step + kInferAhead + 1);
      __syncwarp();
      if (step >= share.begin) store_tile<kPooledTile>(args.y + (int64_t(step) * pooled_q + q0 / 2) * kStemFilters, tile, min(pooled_q - q0 / 2, kPooledTile));
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Filter gradient

constexpr int kWgradAhead = 2;
using WgradRows = InputRows<1, kWgradAhead>;
size_t wgrad_shared(int q) { return size_t(WgradRows::bytes(q) + (kWgradAhead + 1) * tiles_of(q) * kTileBytes); }

// partial [blocks,64,196]
__global__ void __launch_bounds__(kThreads, 2) stem_wgrad_hopper_kernel(StemWgradArgs args, Geometry g, float* partial) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const stem::Share share = stem::share_of(g.n * g.p, blockIdx.x, gridDim.x);
  const WgradRows rows{shared, args.x, {g}, share.begin, share.end};
  unsigned char* const dy = shared + rows.bytes(g.q);
  const int dy_bytes = tiles_of(g.q) * kTileBytes;
  AsyncCopies copies;
  const auto dy_row = [&](int step) { return dy + (step - share.begin) % (kWgradAhead + 1) * dy_bytes; };
  const auto fetch = [&](int step) {
    if (step < share.end) {
      const bf16* const from = args.dy + int64_t(step) * g.q * kStemFilters;
      for (int i = int(threadIdx.x); i < g.q * 8; i += kThreads) copies.copy16(dy_row(step) + tile_chunk(i / 8, i % 8), from + i * 8);
    }
    copies.end_group();
  };
  // Beyond the last pixel dy is zero.
  for (int i = int(threadIdx.x) * 16; i < (kWgradAhead + 1) * dy_bytes; i += kThreads * 16) store_words(dy + i, Pack<uint32_t, 4>{});
  rows.prepare();
  for (int step = share.begin; step < share.begin + kWgradAhead; ++step) fetch(step);

  float d[stem::kWindow][16] = {};
  for (int step = share.begin; step < share.end; ++step) {
    copies.wait<kWgradAhead - 1>();
    rows.wait(step);
    __syncthreads();  // everyone's copies have arrived, and nobody reads what the step before read
    if (threadIdx.x == 0 && step > share.begin) rows.fetch(step + kWgradAhead);
    __syncwarp();
    fetch(step + kWgradAhead);
    for (int q0 = 0; q0 < g.q; q0 += kTile) {
      uint32_t a[kTile / 16][4];
#pragma unroll
      for (int k = 0; k < kTile / 16; ++k) ldmatrix_trans(a[k], dy_row(step) + tile_chunk(q0 + 16 * k + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
#pragma unroll
      for (int r = 0; r < stem::kWindow; ++r) pin(d[r]);
      wgmma_begin();
#pragma unroll
      for (int r = 0; r < stem::kWindow; ++r) {
        const uint32_t row = rows.row(rows.steps.image(step), 2 * rows.steps.index(step) + r - 3);
#pragma unroll
        for (int k = 0; k < kTile / 16; ++k) wgmma_m64n32k16_mn(d[r], a[k], descriptor_of(pixels_of(row, q0 + 16 * k)));
      }
      wgmma_wait();
#pragma unroll
      for (int r = 0; r < stem::kWindow; ++r) pin(d[r]);
    }
  }

  float* const to = partial + int64_t(blockIdx.x) * kStemFilters * stem::kFilterElements + (16 * warp + lane / 4) * stem::kFilterElements;
#pragma unroll
  for (int r = 0; r < stem::kWindow; ++r)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int kk = 8 * j + 2 * (lane % 4);
      if (kk < 4) continue;  // the pixel of weight zero
      store_pack(to + r * 28 + kk - 4, Pack<float, 2>{d[r][4 * j], d[r][4 * j + 1]});
      store_pack(to + 8 * stem::kFilterElements + r * 28 + kk - 4, Pack<float, 2>{d[r][4 * j + 2], d[r][4 * j + 3]});
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------------------------
// Launchers

// As many blocks as are resident at once, so that all end together, and no more than there are steps.
template <class... P>
int64_t blocks_for(void (*kernel)(P...), size_t shared, int64_t steps) {
  return std::min<int64_t>(simt::max_resident_blocks(kernel, kThreads, shared), steps);
}

}  // namespace

int64_t stem_fprop_parts_hopper(const StemShape& s) { return blocks_for(stem_fprop_hopper_kernel, fprop_shared(int(s.q())), s.n * s.p()); }

void stem_fprop_hopper(Stream stream, const StemFpropArgs& args) {
  const Geometry g = stem::geometry_of(args.shape);
  simt::launch(stem_fprop_hopper_kernel, stem_fprop_parts_hopper(args.shape), kThreads, fprop_shared(g.q), simt::stream_t(stream.handle), args, g);
}

void stem_infer_hopper(Stream stream, const StemInferArgs& args) {
  const Geometry g = stem::geometry_of(args.shape);
  const size_t shared = infer_shared(g.q);
  const int64_t blocks = blocks_for(stem_infer_hopper_kernel, shared, args.shape.n * ((g.p - 1) / 2 + 1));
  simt::launch(stem_infer_hopper_kernel, blocks, kThreads, shared, simt::stream_t(stream.handle), args, g);
}

int64_t stem_wgrad_parts_hopper(const StemShape& s) { return blocks_for(stem_wgrad_hopper_kernel, wgrad_shared(int(s.q())), s.n * s.p()); }

void stem_wgrad_hopper(Stream stream, const StemWgradArgs& args, float* partial) {
  const Geometry g = stem::geometry_of(args.shape);
  simt::launch(stem_wgrad_hopper_kernel, stem_wgrad_parts_hopper(args.shape), kThreads, wgrad_shared(g.q), simt::stream_t(stream.handle), args, g, partial);
}

}  // namespace KD_GPU
}  // namespace kd
