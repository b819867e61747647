// gemm: C = op(A) * op(B) [+ bias] [+ C], row-major; op is the identity or the transpose; products of the inputs' type, sums f32.
//   column_sums  out[j] += sum_i in[i,j]
// shapes  op(A) [M,K]  op(B) [K,N]  C [M,N]  bias [N], dense      types  A and B f32 | bf16 (the same), C f32, or bf16 where A and B are, bias f32
// work    2*M*N*K flops
// The classifier head is the only user: its logits are f32 in every precision.
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

enum class Op : char { plain = 'N', transposed = 'T' };

struct GemmArgs {
  const void *a, *b;
  DType ab_type = DType::f32;
  void* c;
  DType c_type = DType::f32;
  const float* bias = nullptr;  // added to every row; with beta = 0 and an f32 C only
  int64_t m, n, k;
  Op op_a = Op::plain, op_b = Op::plain;
  float beta = 0.f;  // 0: C is overwritten, 1: added to
};
void gemm(Stream, const GemmArgs&);
void check_gemm(const GemmArgs&);  // the rules above, for those who implement gemm: throws where one is broken

struct ColumnSumsArgs {
  const float* in;  // [rows, columns]
  float* out;       // [columns], added to
  int64_t rows, columns;
};
void column_sums(Stream, const ColumnSumsArgs&);

}  // namespace kd
