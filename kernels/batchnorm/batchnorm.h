// batchnorm: batch normalisation over rows, with the residual add and the ReLU that follow it in a ResNet folded in
// (Ioffe & Szegedy 2015, arXiv 1502.03167).
//   forward   y = act( gamma * (x - mean) * rstd + beta  [+ residual] ),  rstd = 1/sqrt(var + eps),  act = ReLU or identity
//             training: mean and biased variance of this batch; running = (1-m)*running + m*batch, with the unbiased variance
//             inference: mean and variance are the running ones
//   backward  dz = dy masked by y > 0;  dbeta += sum dz;  dgamma += sum dz * xhat;  xhat = (x - mean) * rstd
//             dx = gamma * rstd * ( dz - mean(dz) - xhat * mean(dz * xhat) );  dresidual = dz
// shapes   x, y, residual, dy, dx, dresidual [rows, C] with rows = N*H*W, f32 | bf16;  every per-channel array f32 [C]
// moves    forward: x twice, y once (+ residual once); backward: x, dy, y twice, dx once (+ dresidual once): bandwidth-bound
// saves    x, y, mean, rstd. The ReLU mask is y > 0: y is kept by the next op anyway.
// sums     f32 over 64 rows, then double, combined in a fixed order: the same bits for the same number of threads
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

enum class Activation : unsigned char { none, relu };

struct BatchNormTrainArgs {
  const void* x;
  const void* residual = nullptr;  // may be null
  void* y;                         // not x
  const float *gamma, *beta;
  float *mean, *rstd;                 // out: saved for backward
  float *running_mean, *running_var;  // updated
  int64_t rows, c;
  DType type;
  Activation activation = Activation::none;
  float momentum = 0.1f, eps = 1e-5f;
};
void batchnorm_train(Stream, const BatchNormTrainArgs&);

struct BatchNormInferArgs {
  const void* x;
  const void* residual = nullptr;
  void* y;  // may be x
  const float *gamma, *beta, *running_mean, *running_var;
  int64_t rows, c;
  DType type;
  Activation activation = Activation::none;
  float eps = 1e-5f;
};
void batchnorm_infer(Stream, const BatchNormInferArgs&);

struct BatchNormBwdArgs {
  const void *x, *y, *dy;  // y is read only where activation is relu
  void* dx;                // may be dy
  void* dresidual = nullptr;
  const float *gamma, *mean, *rstd;
  float *dgamma, *dbeta;  // added to
  int64_t rows, c;
  DType type;
  Activation activation = Activation::none;
};
void batchnorm_bwd(Stream, const BatchNormBwdArgs&);

}  // namespace kd
