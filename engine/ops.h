// ops: differentiable operations. Each is one function: check the shapes, call the kernel, record the tape node.
// Activations are NHWC f32 or bf16; parameters are f32. Under NoGrad, or when no input wants a gradient, nothing is recorded.
#pragma once
#include "engine/tape.h"
#include "kernels/batchnorm/batchnorm.h"

namespace kd {

enum class Mode { train, eval };

// x [N,H,W,C], w [K,R,S,C] -> [N,P,Q,K]
Var conv2d(const Var& x, const Var& w, int64_t stride, int64_t pad);

struct BatchNormParams {
  Var gamma, beta;                   // f32 [C]
  Tensor running_mean, running_var;  // f32 [C]; Mode::train moves them
};
// act(normalise(conv2d(x, w)) [+ residual]) in training, one node: the unit that a ResNet is made of. It keeps x, the convolution's result and, where a
// residual came in, the ReLU's mask (a bit an element); the gradient of a residual is handed over, and x's is added to what another branch has brought.
Var conv_bn(const Var& x, const Var& w, int64_t stride, int64_t pad, const BatchNormParams&, Activation, const Var& residual = {});

// The stem at 224 px in training: max over 3x3 windows, stride 2, padding 1, of ReLU(normalise(x)); x [N,H,W,C]. `sums`, where the convolution made them,
// spare a pass over x.
struct StemSums {
  Tensor partial, shift;  // f32 [parts,2,C], [C]: kernels/batchnorm/batchnorm.h, ChannelSums
};
Var batch_norm_pool(const Var& x, const BatchNormParams&, const StemSums& sums = {});
// Channels of an RGB pixel in memory: 3 on the CPU; on a GPU padded with zeros to 16 bytes, or to the 8 bytes that kernels/stem reads.
int64_t stored_input_channels(Device, DType, int64_t window, int64_t filters);
// Whether x and w are what kernels/stem computes: 7x7, stride 2, 4 stored channels, 64 filters, bf16, on a GPU.
bool is_stem_convolution(const Var& x, const Var& w, int64_t stride, int64_t pad);
Var stem_conv(const Var& x, const Var& w, const Tensor& shift, StemSums& sums);  // w must be a parameter

Var max_pool(const Var& x, int64_t window, int64_t stride, int64_t pad);  // [N,H,W,C] -> [N,P,Q,C]
Var global_avg_pool(const Var& x);                                        // [N,H,W,C] -> [N,C]
Var linear(const Var& x, const Var& w, const Var& b);                     // [N,C] f32|bf16, [K,C], [K] -> f32 [N,K]
Var add(const Var& a, const Var& b);                                      // same shape and type
Var scale(const Var& a, float factor);

}  // namespace kd
