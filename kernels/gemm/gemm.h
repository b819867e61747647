// gemm: C = alpha * op(A) * op(B) + beta * C in f32, row-major; op is the identity or the transpose.
// shapes  op(A) [M,K]  op(B) [K,N]  C [M,N], dense      work  2*M*N*K flops
// The classifier head is the only user: its logits stay f32 in every precision.
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

enum class Op : char { plain = 'N', transposed = 'T' };

struct GemmArgs {
  const float* a;
  const float* b;
  float* c;
  int64_t m, n, k;
  Op op_a = Op::plain, op_b = Op::plain;
  float alpha = 1.f, beta = 0.f;
};
void gemm(Stream, const GemmArgs&);

}  // namespace kd
