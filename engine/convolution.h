// convolution: the two directions of a convolution, for the ops that have one: conv2d, and conv_bn, where a norm follows. ops_conv.cpp.
#pragma once
#include "engine/tape.h"
#include "kernels/conv/conv.h"

namespace kd {

struct Convolution {
  Stream stream;
  ConvShape shape;
  DType type;     // of the activations
  Tensor filter;  // what is multiplied: the bf16 copy where the optimizer keeps one and the activations are bf16
  Shape output() const { return {shape.n, shape.p(), shape.q(), shape.k}; }
};

// Checks x [N,H,W,C] and w [K,R,S,C]; errors begin with `op`.
Convolution convolution_of(const char* op, const Var& x, const Var& w, int64_t stride, int64_t pad);
// dy [N,P,Q,K] to the gradients of w and x, whichever want one.
void convolution_backward(const Convolution&, const Var& x, const Var& w, const Tensor& dy);

}  // namespace kd
