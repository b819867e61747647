// direct_pass: what the two drivers of direct.h share: direct.cpp, which gathers windows position by position, and direct_batch.cpp, which has 16 images in a
// tile.
#pragma once
#include "kernels/conv/conv_algorithm.h"
#include "kernels/conv/direct_kernel.h"

namespace kd::cpu::direct {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
// An odd number of cache lines: rows that far apart spread over all sets of a cache.
inline int64_t odd_lines(int64_t words) { return round_up(words, 16) | 16; }

// Sums over a window of x at each position of a grid: fprop, or one parity class of dgrad. Position (p, q), tap (i, j) reads x[p*step + dh + i][q*step + dw +
// j] and its sum goes to y[p*out_step + out_row][q*out_step + out_col].
struct Pass {
  int64_t n, h, w, c;  // of x
  int64_t rows, cols;  // positions per image
  int64_t step, dh, dw, r, s;
  int64_t out_h, out_w, out_c, out_step = 1, out_row = 0, out_col = 0;
  int64_t filter_r = 0, filter_s = 0, filter_step = 1;  // tap (i, j) is the filter's (filter_r + i*filter_step, filter_s + j*filter_step)
  int64_t steps = 0, packed = 0;                        // reduction in words, rounded up; where its filter begins among the packed words

  int64_t positions() const { return n * rows * cols; }
  int64_t window() const { return r * s * c; }
};

struct Output {
  void* y;
  const void* z;
  const float* bias;
  bool relu;
};

// direct_batch.cpp: the same sums where a batch is whole tiles of 16 images. Anything else is the caller's to do another way.
bool fits_batch(const Kernels&, const Pass&, DType);
void run_batch(const Kernels&, const Pass&, const bf16* x, const Word* packed, const Output&);
bool fits_batch_wgrad(const Kernels&, const ConvWgradArgs&);
void wgrad_batch(const Kernels&, const ConvWgradArgs&);

}  // namespace kd::cpu::direct
