// winograd: 3x3 convolutions of stride 1 by Winograd's F(4x4,3x3) or F(6x6,3x3), and of stride 2 by F(4x4,2x2) of every second pixel, in f32 arithmetic, NHWC,
// storage f32 or bf16.
//   fprop  Y  = A^T [ sum_c (G g G^T) .* (B^T d B) ] A   d: 6x6 pixels of one input channel, Y: 4x4 outputs, g: the 3x3 filter
//   dgrad  the same with dy for x, filters turned by 180 degrees and transposed (k <-> c), padding 2 - pad
//   wgrad  dw = G^T [ sum_tiles (A dy A^T) .* (B^T d B) ] G
//
//         | 4  0 -5  0  1  0 |        |  1/4    0    0  |
//         | 0 -4 -4  1  1  0 |        | -1/6  -1/6 -1/6 |         | 1  1  1  1  1  0 |
//   B^T = | 0  4 -4 -1  1  0 |    G = | -1/6   1/6 -1/6 |   A^T = | 0  1 -1  2 -2  0 |
//         | 0 -2 -1  2  1  0 |        |  1/24  1/12 1/6 |         | 0  1  1  4  4  0 |
//         | 0  2 -1 -2  1  0 |        |  1/24 -1/12 1/6 |         | 0  1 -1  8 -8  1 |
//         | 0  4  0 -5  0  1 |        |   0     0    1  |
//
// F(6x6,3x3) (`wide`, "winograd6") has 8x8 pixels and 6x6 outputs a tile: 64 multiplications for 36 outputs, where F(4x4,3x3) does 81.
//         | -1  0   21/4   0   -21/4   0   1  0 |        |  -1      0      0   |
//         |  0  1    1  -17/4  -17/4   1   1  0 |        | -2/9   -2/9   -2/9  |         | 1  1  1   1     1    1   1  0 |
//         |  0 -1    1   17/4  -17/4  -1   1  0 |        | -2/9    2/9   -2/9  |         | 0  1 -1  1/2  -1/2   2  -2  0 |
//   B^T = |  0  2    4   -5/2   -5    1/2  1  0 |    G = | 32/45  16/45   8/45 |   A^T = | 0  1  1  1/4   1/4   4   4  0 |
//         |  0 -2    4    5/2   -5   -1/2  1  0 |        | 32/45 -16/45   8/45 |         | 0  1 -1  1/8  -1/8   8  -8  0 |
//         |  0 1/2  1/4  -5/2  -5/4   2   1  0 |        |  1/90   1/45   2/45 |         | 0  1  1  1/16  1/16 16  16  0 |
//         |  0 -1/2 1/4   5/2  -5/4  -2   1  0 |        |  1/90  -1/45   2/45 |         | 0  1 -1  1/32 -1/32 32 -32  1 |
//         |  0 -1    0   21/4    0  -21/4  0  1 |        |   0      0      1   |
// Its points are 0, 1, -1, 1/2, -1/2, 2, -2 and infinity, in this order, so that short tiles leave out the large ones first. f32 loses a bit and a half more,
// so it is offered for bf16 alone, where one rounding of the result hides it, and where short tiles at the edges leave it fewer products (not at 8, 7 or 4 px).
//
// With stride 2, along an axis, y_p = g0 x_2p-1 + g1 x_2p + g2 x_2p+1: the middle tap sees every second pixel alone, and the outer two are a convolution of
// stride 1 and two taps over the others. Four outputs are four products plain and five by F(4,2) (points 0, 1, -1, 2, infinity) instead of twelve:
//         | 2 -1 -2  1  0 |        |  1/2   0  |
//         | 0 -2 -1  1  0 |        | -1/2 -1/2 |         | 1  1  1  1  0 |
//   B^T = | 0  2 -3  1  0 |    G = | -1/6  1/6 |   A^T = | 0  1 -1  2  0 |   of x_-1, x_1, x_3, x_5, x_7
//         | 0 -1  0  1  0 |        |  1/6  1/3 |         | 0  1  1  4  0 |
//         | 0  2 -1 -2  1 |        |   0    1  |         | 0  1 -1  8  1 |
// A window of 9x9 pixels becomes 81 points, 4 + 5 along each axis, which meet 36 different elements of the filter: the plain ones share theirs. dgrad turns
// this round (a dx_2p is a product, a dx_2p+1 two taps over dy): 5x5 pixels of dy become 81 points and 8x8 of dx. This does 81 multiplications where the
// definition has 144; with bf16 instructions, which do twice as many a cycle, direct sums are faster.
//
// Tiles at the lower and right edge are short: of their four outputs along an axis m lie in the tensor, and those need only m + 2 of the points, F(m,3) (with
// stride 2 m + 1 of the five, and m of the plain ones). Which ones is free: the first, because a pixel that no output needs can be chosen so that the others
// are zero. With m = 3 that pixel stands in the last row of B^T alone; with m = 2 it is d4 = d2 + 2 (d3 - d1), after which row 4 is zero too. So the same B^T,
// G and A serve all tiles, and V, U and M keep their places. A 14-px map then takes 484 products and not 576 (F(6x6,3x3): 400), one of 7 px 121 and not 144.
//
// offers  r = s = 3, stride 1 with pad 0..2, stride 2 with pad 1, c and k multiples of 16, any n, h, w. Pixels outside the tensor are read from a row of zeros.
// work    36 multiplications for 16 outputs of 9: a quarter of the direct convolution's (F(6x6,3x3): 64 for 36, a fifth; stride 2: 81 for 16, a 1.78th);
//         short tiles somewhat more
// bytes   x 2.25 times (windows overlap; F(6x6,3x3): 1.78; stride 2: 1.27), y and z once; U is 4c*k*36 or 4c*k*64, read once per block of tiles; V and M of a
//         block stay in cache
// error   largest difference over largest value, against double (winograd_test): f32 7e-6 fprop and dgrad, 4e-6 wgrad; bf16 storage 4e-3, which is one
//         rounding of the result. Stride 2 included. F(6x6,3x3) in f32, which only the test runs: 1.8e-5 fprop, 1.4e-5 dgrad, 5e-6 wgrad. With 512 channels
//         f32 differs from oneDNN's direct sums by 2e-5.
// bits    fprop and dgrad sum over input channels in order, wgrad over blocks of tiles whose size and order depend on the shape only: the number of threads and
//         the instruction set (the order of operations is the same in all) do not change them.
//
// Blocking
//   fprop, dgrad   about 72 tiles at a time: B^T d B of all input channels to V; then, for each 16 (AVX-512: 32) output channels, 36 products to M, and A^T m A
//                  with bias, residual and ReLU to y. Microkernel 6 tiles x 16 channels in 12 registers (14 x 32 in 28). A thread has blocks of its own, and
//                  their number is one that 2, 4 or 8 divides. Under at most 144 tiles a filter whose U would exceed 16 MB is never stored: its U is made,
//                  128 input channels at a time (300 KB), where it is used, and all threads share the tiles.
//   wgrad          64 tiles (128 where c + k >= 256) at a time: both transforms; then products of 16 x 16 channels, 6+5+5 (8+8) rows x 16 (32)
//                  columns in registers over all tiles. If these are all the tiles, 32 x 32 channels of dU go to dw from cache; else dU is kept,
//                  and up to 4 MB of it several times: up to 8 parts, added at the end, each by one thread. Of a larger dU up to four threads sum the
//                  positions between them, and each transforms the rows that it needs; more threads share the transformed tiles.
//   F(6x6,3x3)     42 tiles at a time, 64 in wgrad
//   stride 2       28 tiles at a time, and half as many in wgrad: a tile has 81 positions. Those that share an element of the filter follow each other.
//   Positions lie a multiple of 4 KB plus one cache line apart: at plain powers of two the 36 stores of a transform share 8 cache lines.
//   A transform asks for the pixels that the tile below it will read and write: rows of a window are no stream to the hardware.
//
// Measured: 1 thread, AMD EPYC (Zen 3: 512 KB L2), AVX2, register-only FMA 129 GF/s, on a machine that was busy with other work: the fastest of many runs,
// timed by the thread's own clock and interleaved with oneDNN 2.6.3's direct kernels; GF/s of the direct convolution's flops, packing included, f32.
//   layer            64@32 b128        128@16     256@8     512@4     64@56 b16    128@28   256@14    512@7
//   fprop / oneDNN   166 / 61          238 / 65   218 / 56  199 / 59  220 / 68     255 / 64 188 / 66  149 / 59
//   dgrad / oneDNN   170 / 71          245 / 86   263 / 78  211 / 55  207 / 68     256 / 81 192 / 87  161 / 60
//   wgrad / oneDNN   153 / 48          209 / 48   236 / 46  231 / 30  193 / 38     217 / 47 187 / 51  176 / 44
// On the same machine in a quieter minute 512@4 reached 333 (fprop) and 363 (dgrad), 64@32 346 (fprop): compare columns with their oneDNN number only.
// Shares of the time, input transform / products / output transform: 64@32 23 / 63 / 14 % for fprop, 256@8 6-10 / 88 / 1-6, 512@4 1 / 85 / 1 and 13 for the
// filter; wgrad with 256@8 20 / 64 / 16 (of dy), 512@4 2 / 94 / 2 and 3 for G^T dU G.
// Chosen by: tiles 24, 48, 72, 96, 128 gave fprop 195, 207, 266, 200, 225 at 128@16 and 187, 212, 249, 213, 121 at 512@4; two output groups per pass over V
// gained 15 % at 64 channels (206 for 179) and lost 5 % from 128 on. Writing all of U for 512@4 cost 7 ms of 48, and V of both blocks of tiles at once (9.4 MB
// rather than 4.9) doubled the time. wgrad with 64, 128, 256 tiles: 184, 163, 168 at 64@32, 240, 241, 218 at 512@4.
//
// Measured: 2 threads, AMD EPYC with AVX512_BF16 (1 MB L2, f32 peak 233 GF/s), AVX-512, n = 128, ms, best of 8, alternating; the products alone take 10.4 at
// peak. fprop f32: before the transforms asked for anything, and now. fprop bf16: before, and when they asked for the next tile of the row; the tile below gave
// 2 % more. wgrad: when they asked for the next tile of the row, and now.
//                 fprop f32      fprop bf16     wgrad f32      wgrad bf16
//   64@32        20.4   16.1    17.2   16.0    19.8   17.7    17.1   16.6
//   128@16       16.1   14.0    14.4   14.0    15.4   14.2    14.0   13.1
//   256@8        12.9   12.4    12.2   12.3    14.4   14.4    13.8   13.7
//   512@4        15.2   14.8    14.7   14.8    13.7   13.7    13.2   13.4
// Later that day (the same machine; kernels alone, best of many, f32 / bf16), after g++ was made to keep sums in registers (below), transforms by rows and the
// next position asked for ahead:
//                 64@32         128@16        256@8         512@4
//   fprop      14.4 / 13.5   13.1 / 12.6   12.1 / 11.8   12.6 / 12.5
//   dgrad      14.4 / 13.5   13.1 / 12.6   12.5 / 12.1   12.3 / 12.2
//   wgrad      14.2 / 13.3   13.0 / 12.4   13.0 / 12.1   12.4 / 12.3
// stride 2, f32, in ms, cold, beside the faster of direct.avx512 and oneDNN, from kd_bench_kernels --algorithms:
//                 64@32 -> 128   128@16 -> 256   256@8 -> 512
//   fprop         18.7  25.2     14.7  21.5      14.9  19.6
//   dgrad         16.6  25.0     15.1  20.2      15.6  19.9
//   wgrad         17.8  28.3     21.5  29.1      18.4  29.7
// F(6x6,3x3) beside F(4x4,3x3), bf16, 2026-11-30, cold, in ms, best of four alternating runs of kd_bench_kernels --algorithms in a noisy hour:
//                 64@32 b128     128@16 b128    64@56 b16      128@28 b16
//   fprop         14.2  13.4     12.1  11.1     5.28  4.79     4.58  4.18
//   dgrad         14.0  13.0     12.0  10.9     5.24  4.61     4.70  4.13
//   wgrad         13.5  13.2     13.9  12.6     5.24  5.05     4.78  4.51
// Predicted from the products: a sixth less of the time that is products.
// Arrays of sums were kept on the stack, copied into registers and back for every tile, as long as g++ unrolled loops over them late: 240 cycles a tile, of
// 2000 at 64 channels (104 -> 115 of 117 GF/s a thread). Hence KD_UNROLL. The output's loops are better left alone (unrolled 2 % slower).
// Nothing travels between threads that can be had without: when the host puts the two cores on different core complexes, a line's round trip takes 340 ns and
// not 55 (kd_bench_kernels prints it among the ceilings). ms, n = 128, alternating runs, sorted by what it took; before: all threads share each block of tiles.
//                        before, 55 ns   340 ns     now, 55 ns    340 ns
//   fprop 256@8 f32          12.4-13.0   15.7          12.5-12.8    13.9
//   fprop 128@16 bf16        13.2-13.5   13.9-14.8     12.5-12.8    13.5
//   wgrad 128@16 f32         13.4-13.5   20.1          13.3-13.7    14.4
//   wgrad 256@8 bf16         12.6-14.0   15.3-16.4     13.0-13.5    13.4-13.9
// The numbers of blocks matter more than their sizes: 8 blocks of 70, of which the last has 22 tiles, left one thread waiting for a tenth of the time.
// The sizes of blocks do not matter: 14 to 112 tiles change fprop by 3 % at 64@32 and by 7 % at 128@16, 32 to 192 wgrad by 15 %, in favour of 64 and more.
//
// Layouts, all f32, channels in blocks of 16:
//   V   [36, 64 or 81 of `position` floats][channels/16][capacity][16]   transformed tiles
//   U   [out/width][36 or 64 of filter_position][in][width]              transformed filter; the last block of `width` output channels may be 16 wide
//   M   [36, 64 or 81 of `position` floats][capacity][width]             products of one block of output channels
//   dU  [out/16][in/16][36 or 64 of kDuPosition][16][16]
#pragma once
#include "kernels/common/simd.h"

namespace kd::cpu::winograd {

enum Form { unit, wide, strided, strided_back };  // stride 1: F(4x4,3x3), F(6x6,3x3); stride 2: fprop and wgrad, dgrad
constexpr int kForms = 4;
// Of a full tile, along an axis: points; outputs; steps, which are outputs, but in strided_back two neighbours that share their points; rows of G, which the
// filter's elements are counted by.
struct Axis {
  int64_t points, out, steps, taps;
};
constexpr Axis kAxes[kForms] = {{6, 4, 4, 6}, {8, 6, 6, 8}, {9, 4, 4, 6}, {9, 8, 4, 6}};
// The row of G that belongs to a point: with stride 2 the first four share one.
KD_INLINE constexpr int64_t tap_of(Form form, int64_t point) { return form <= wide ? point : point < 4 ? 0 : point - 3; }
// Whether a tile of which so many steps lie in the tensor needs a point: the first steps + taps - 1 of F, and, with stride 2, as many plain ones as steps.
KD_INLINE constexpr bool needs(Form form, int64_t point, int64_t steps) {
  return form <= wide ? point < steps + 2 : point < 4 ? point < steps : point - 4 < steps + 1;
}

constexpr int64_t kDuPosition = 16 * 16 + 16;  // 36 positions a power of two apart would share few cache sets
KD_INLINE constexpr int64_t du_block_floats(Form form) { return kAxes[form].taps * kAxes[form].taps * kDuPosition; }
KD_INLINE constexpr int64_t filter_position(int64_t in, int64_t width) { return in * width + 16; }  // U: for the same reason

// An NHWC tensor cut into tiles. `pad`: the first tile's window begins so many pixels above and left of the tensor.
struct Tiling {
  int64_t h, w, c, pad, tiles_h, tiles_w;
  int64_t last_h, last_w;  // steps of the tiles at the lower and right edge
};
struct TileBlock {
  float* data;
  int64_t position, capacity;  // floats from one position to the next; tiles there is room for
  const int64_t* tile;         // which tiles of the tensor
  int64_t tiles;
};
// Some of the rows of a tile's points.
struct Rows {
  int64_t begin, end;
};
struct OutputArgs {
  void* y;
  const void* z;      // null, or added
  const float* bias;  // null, or one per channel of the tensor
  bool relu;
  // Null, or per channel of the tensor: y - shift and its square are added, of f32 y before it is stored.
  float *sum = nullptr, *square = nullptr;
  const float* shift = nullptr;
};

struct Kernels {
  int64_t width;  // output channels of the product's microkernel
  // By form, and storage type: [0] f32, [1] bf16.
  void (*input[kForms][2])(const Tiling&, const void* x, const void* zeros, const TileBlock&, Rows);                // B^T d B; zeros: c elements
  void (*gradient[kForms][2])(const Tiling&, const void* dy, const void* zeros, const TileBlock&, Rows);            // A dy A^T; not strided_back
  void (*output[kForms][2])(const Tiling&, const TileBlock& m, int64_t channel, int64_t width, const OutputArgs&);  // A^T m A and the epilogue
  void (*pack[kForms][2])(const void* w, int64_t c, bool dgrad, int64_t in, int64_t in_count, int64_t out, int64_t width, float* u);  // G g G^T
  void (*finish[kForms][2])(const float* du, void* dw, int64_t c, int64_t out, int64_t in, bool add);  // G^T dU G of one 16x16 block; not strided_back
  // M (=|+=) V U of one position, for input channels [in, in + in_count); u: the position's, of those channels only.
  void (*multiply)(const TileBlock& v, int64_t position, int64_t in, int64_t in_count, const float* u, int64_t width, const TileBlock& m, bool add);
  // dU (=|+=) sum over the tiles of one position, for blocks of 16 x 16 channels: du, the position's, of block (o, i) is du + o*du_row + i*du_block.
  void (*accumulate)(const TileBlock& x, const TileBlock& dy, int64_t position, int64_t in, int64_t in_blocks, int64_t out, int64_t out_blocks, float* du,
                     int64_t du_row, int64_t du_block, bool add);
};

// What each file offers; null where the compiler or the architecture cannot build it. Data, not functions: asking must not run code of a set that the
// machine may lack (a function that filled its table on first use died of an illegal instruction on AVX2).
extern const Kernels* const avx2_kernels;
extern const Kernels* const avx512_kernels;
extern const Kernels* const portable8_kernels;
extern const Kernels* const portable16_kernels;

}  // namespace kd::cpu::winograd
