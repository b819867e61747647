// batchnorm_rows: the loops of batch norm over rows, once per instruction set, with the same bits in all of them: a lane is a channel, so no sum crosses lanes,
// and rows are added in one order (batchnorm_rows_kernel.h). (Only which NaN comes of two is the compiler's choice.) Who calls them splits rows between threads
// and finishes the sums (batchnorm_cpu.cpp).
//   sums            sum[c] += x - origin,  square[c] += (x - origin)^2
//   apply           y = act( scale * (x - mean) + beta [+ residual] )
//   gradient_sums   sum[c] += dz,  product[c] += dz * (x - mean)
//   gradient_apply  dx = scale * (dz - mean_dz - (x - mean) * slope),  dresidual = dz
//   pool, unpool    the pooled form: y and the winner of each window; dz before the ReLU's sign from dy and the winners
// Arrays "per channel" are f32, of padded(c) elements, zeros behind the c-th: kernels read and write whole vectors there. In tensors exactly c elements of a
// row are touched.
#pragma once
#include <cstdint>

namespace kd::cpu::batchnorm {

constexpr int64_t padded(int64_t c) { return (c + 15) / 16 * 16; }

struct Forward {
  const void *x, *residual;  // residual may be null
  void* y;
  uint8_t* mask;  // null: not wanted; else written where relu
  const float *mean, *scale, *beta;
  int64_t c;
  bool relu;
};

struct Backward {
  const void *x, *dy = nullptr;
  int64_t dy_row = 0;  // the row that dy begins with
  const uint8_t* mask = nullptr;
  void *dx, *dresidual = nullptr;  // dresidual may be null
  const float *mean = nullptr, *scale = nullptr, *beta = nullptr;
  const float *slope = nullptr, *mean_dz = nullptr;  // not for the sums
  int64_t c = 0;
  bool relu;  // by the mask or, without one, by the sign of scale * (x - mean) + beta
};

// Window (p,q) covers rows 2p-1..2p+1 and columns 2q-1..2q+1; place r*3+t of it is (2p-1+r, 2q-1+t). The centre is always inside.
struct Pool {
  const void* x;
  void* y;
  uint8_t* arg;
  const float *mean, *scale, *beta;
  int64_t h, w, c, out_h, out_w;
};
struct Unpool {
  const void* dy;
  const uint8_t* arg;
  int64_t h, w, c, out_h, out_w;
};

struct Kernels {
  // By storage type: [0] f32, [1] bf16. Rows [begin, end).
  void (*sums[2])(const void* x, const float* origin, int64_t begin, int64_t end, int64_t c, float* sum, float* square);
  void (*apply[2])(const Forward&, int64_t begin, int64_t end);
  void (*gradient_sums[2])(const Backward&, int64_t begin, int64_t end, float* sum, float* product);
  void (*gradient_apply[2])(const Backward&, int64_t begin, int64_t end);
  void (*pool[2])(const Pool&, int64_t out_row);                                                      // out_row = n*out_h + p
  void (*unpool[2])(const Unpool&, int64_t begin, int64_t end, float* dz);                            // dz [end - begin, c] of pixels [begin, end)
  void (*unpooled_sums[2])(const Backward&, int64_t begin, int64_t end, float* sum, float* product);  // as gradient_sums, dy f32, the ReLU by sign
  void (*unpooled_apply[2])(const Backward&, int64_t begin, int64_t end);
};

// What each file offers; null where the compiler or the architecture cannot build it.
extern const Kernels* const avx2_kernels;
extern const Kernels* const avx512_kernels;
extern const Kernels* const portable8_kernels;
extern const Kernels* const portable16_kernels;

}  // namespace kd::cpu::batchnorm
