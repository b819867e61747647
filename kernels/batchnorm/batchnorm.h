// batchnorm: batch normalisation over rows, with the residual add and the ReLU that follow it in a ResNet folded in
// (Ioffe & Szegedy 2015, arXiv 1502.03167).
//   forward   y = act( gamma * (x - mean) * rstd + beta  [+ residual] ),  rstd = 1/sqrt(var + eps),  act = ReLU or identity
//             training: mean and biased variance of this batch; running = (1-m)*running + m*batch, with the unbiased variance
//   backward  dz = dy where the ReLU let through, else 0;  dbeta += sum dz;  dgamma += sum dz * xhat;  xhat = (x - mean) * rstd
//             dx = gamma * rstd * ( dz - mean(dz) - xhat * mean(dz * xhat) );  dresidual = dz
//   pool      y = max over 3x3 windows, stride 2, padding 1, of ReLU(normalise(x)): the stem of an ImageNet ResNet, whose full-size map is never written
//   fold      filter' = filter * gamma * rstd,  bias = beta - running_mean * gamma * rstd: a convolution and its norm in evaluation mode as one convolution
// shapes   x, y, residual, dy, dx, dresidual [rows, C] with rows = N*H*W, f32 | bf16;  every per-channel array f32 [C]
// moves    forward: x twice (once where its producer summed it), y once (+ residual once); backward: x, dy twice, dx once (+ dresidual once): bandwidth-bound
// saves    x, mean, rstd, and the ReLU's mask (a bit an element) where a residual came in; without one backward computes the sign again, by the same operations
// sums     in a fixed order: the same bits in every run (CPU: for the same number of threads)
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

enum class Activation : unsigned char { none, relu };

// How a GPU goes about it (the CPU has one way): two_pass reads x for its sums and again to apply them, in two kernels; one_pass is one kernel whose blocks
// keep what they read in shared memory and wait for each other's sums. automatic takes what is faster for the size; the others are for tests and benchmarks.
enum class BatchNormForm : unsigned char { automatic, two_pass, one_pass };

// Sums over parts of the rows that the producer of x made on the way: partial[part][0][c] = sum (x - shift[c]), partial[part][1][c] = sum (x - shift[c])^2.
struct ChannelSums {
  const float* partial = nullptr;  // [parts,2,C]; null: none, x is read for them
  const float* shift = nullptr;    // [C]
  int64_t parts = 0;
};

struct BatchNormTrainArgs {
  const void* x;
  const void* residual = nullptr;  // may be null
  void* y;                         // not x
  uint8_t* mask = nullptr;         // [rows, ceil(C/8)], out: bit i of byte j is set where y of channel 8j+i is > 0; null: not wanted
  const float *gamma, *beta;
  float *mean, *rstd;                 // out: saved for backward
  float *running_mean, *running_var;  // updated
  int64_t rows, c;
  DType type;
  Activation activation = Activation::none;
  ChannelSums sums = {};
  float momentum = 0.1f, eps = 1e-5f;
  BatchNormForm form = BatchNormForm::automatic;
};
void batchnorm_train(Stream, const BatchNormTrainArgs&);

struct BatchNormBwdArgs {
  const void *x, *dy;
  void* dx;  // may be dy
  void* dresidual = nullptr;
  const uint8_t* mask = nullptr;  // ReLU: as the forward wrote it; null: the forward had no residual
  const float *gamma, *beta, *mean, *rstd;
  float *dgamma, *dbeta;  // added to
  int64_t rows, c;
  DType type;
  Activation activation = Activation::none;
  BatchNormForm form = BatchNormForm::automatic;
};
void batchnorm_bwd(Stream, const BatchNormBwdArgs&);

struct BatchNormPoolTrainArgs {
  const void* x;  // [N,H,W,C]
  void* y;        // [N,P,Q,C], P = (H - 1)/2 + 1
  uint8_t* arg;   // [N,P,Q,C], out: which of the window's nine places won, the first of equals
  const float *gamma, *beta;
  float *mean, *rstd, *running_mean, *running_var;
  int64_t n, h, w, c;
  DType type;
  ChannelSums sums = {};
  float momentum = 0.1f, eps = 1e-5f;
};
void batchnorm_pool_train(Stream, const BatchNormPoolTrainArgs&);

struct BatchNormPoolBwdArgs {
  const void *x, *dy;  // [N,H,W,C], [N,P,Q,C]
  const uint8_t* arg;
  void* dx;  // [N,H,W,C]
  const float *gamma, *beta, *mean, *rstd;
  float *dgamma, *dbeta;  // added to
  int64_t n, h, w, c;
  DType type;
};
void batchnorm_pool_bwd(Stream, const BatchNormPoolBwdArgs&);

struct BatchNormFoldArgs {
  const float* filter;  // [K, per_filter]
  const float *gamma, *beta, *running_mean, *running_var;
  void* out_filter;  // f32 | bf16
  DType filter_type;
  void* out_bias;  // f32 | bf16 [K]
  DType bias_type;
  int64_t k, per_filter;
  float eps = 1e-5f;
};
void batchnorm_fold(Stream, const BatchNormFoldArgs&);

}  // namespace kd
