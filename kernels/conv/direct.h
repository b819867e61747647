// direct: convolutions as they are defined, any filter, stride and padding, NHWC, behind conv_algorithm.h.
//   fprop  y[pos][k] = sum_t A[pos][t] * W[t][k]         A[pos][t]: what output position pos reads through the window, t = (r, s, c); zero in the padding
//   dgrad  the same over dy with the filter turned around: stride*stride passes, one per parity class (h % stride, w % stride) of dx, each with the taps that
//          reach it (a 1x1 filter with stride 2 reaches one class; the other three are zeros)
//   wgrad  dw[k][t]  = sum_pos dy[pos][k] * A[pos][t]
// All three are one matrix product (direct_kernel.h). A is never whole: a block of positions x a chunk of t is gathered into a buffer that stays in the second-
// level cache, widened to the arithmetic's type on the way. A window's row is contiguous in NHWC, so the gather is R copies per position, and three channels
// are as good as many. A 1x1 filter with stride 1 reads x where it stands. Small images are walked image-innermost, so that taps which fall into the padding
// for a whole block are left out (4x4 images, 3x3 filter: 1.8 times fewer products).
//   algorithm           storage     arithmetic                                                       register tile, positions x channels
//   direct.avx2         f32, bf16   f32 FMA                                                          6 x 16
//   direct.avx512       f32, bf16   f32 FMA                                                          14 x 32
//   direct.avx512_bf16  bf16        vdpbf16ps: bf16 products (also of f32 filters), f32 sums         14 x 32
//   direct.amx          bf16        tdpbf16ps: the same                                              32 x 32 in 2 x 2 tiles
// offers   fprop k, dgrad c: a multiple of the vector (8 f32 for AVX2, 16 otherwise); everything else any size
// Batches of a multiple of 16 images, channels of x a multiple of 32 (weight gradients: filters too): direct.amx has 16 images in a tile instead and gathers no
// windows at all (direct_batch.cpp).
// sums     fprop, dgrad: over t in one order whatever the threads. wgrad: over positions in a number of parts that the shape alone decides, added in order.
//          The same bits for any number of threads.
// bytes    packed filter: one word per tap and channel, channels rounded up to the tile. Scratch per thread: under 1 MB (whole batches: 2 MB). wgrad: up to 32
//          partial dw, 13 MB at most unless one dw is more.
#pragma once
#include "kernels/conv/conv_algorithm.h"
