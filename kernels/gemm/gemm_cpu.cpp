#include "kernels/common/onednn.h"
#include "kernels/gemm/gemm.h"

namespace kd {
namespace cpu {

void gemm(Stream, const GemmArgs& args) {
  int64_t lda = args.op_a == Op::plain ? args.k : args.m, ldb = args.op_b == Op::plain ? args.n : args.k;
  auto status = dnnl_sgemm(char(args.op_a), char(args.op_b), args.m, args.n, args.k, args.alpha, args.a, lda, args.b, ldb, args.beta, args.c, args.n);
  KD_CHECK(status == dnnl_success, "gemm {}x{}x{}: oneDNN status {}", args.m, args.n, args.k, int(status));
}

}  // namespace cpu

void gemm(Stream stream, const GemmArgs& args) { KD_DISPATCH(stream, gemm, args); }

}  // namespace kd
