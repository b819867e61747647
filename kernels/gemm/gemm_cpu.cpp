#include <algorithm>

#include "kernels/common/onednn.h"
#include "kernels/common/parallel.h"
#include "kernels/gemm/gemm.h"

namespace kd {

void check_gemm(const GemmArgs& args) {
  const auto is_float = [](DType type) { return type == DType::f32 || type == DType::bf16; };
  KD_CHECK(args.m > 0 && args.n > 0 && args.k > 0, "gemm {}x{}x{}: every extent must be at least 1", args.m, args.n, args.k);
  KD_CHECK(is_float(args.ab_type) && (args.c_type == DType::f32 || args.c_type == args.ab_type), "gemm: {} inputs with {} output", to_string(args.ab_type),
           to_string(args.c_type));
  KD_CHECK(args.beta == 0 || args.beta == 1, "gemm: beta {}; it is 0 or 1", args.beta);
  KD_CHECK(!args.bias || (args.beta == 0 && args.c_type == DType::f32), "gemm: a bias needs beta 0 and an f32 output, got beta {} and {}", args.beta,
           to_string(args.c_type));
}

namespace cpu {
namespace {

// Operands of another type are copied to f32: only the emulated device asks for that, where speed is no concern.
const float* as_f32(const void* from, DType type, int64_t n, std::shared_ptr<Storage>& holder) {
  if (type == DType::f32) return static_cast<const float*>(from);
  holder = Storage::allocate(n * size_of(DType::f32), Device::cpu);
  auto* to = reinterpret_cast<float*>(holder->data());
  std::transform(static_cast<const bf16*>(from), static_cast<const bf16*>(from) + n, to, [](bf16 x) { return float(x); });
  return to;
}

}  // namespace

void gemm(Stream, const GemmArgs& args) {
  const int64_t m = args.m, n = args.n, k = args.k;
  check_gemm(args);
  std::shared_ptr<Storage> a_holder, b_holder, c_holder;
  const float *a = as_f32(args.a, args.ab_type, m * k, a_holder), *b = as_f32(args.b, args.ab_type, k * n, b_holder);
  auto* c = const_cast<float*>(as_f32(args.c, args.c_type, m * n, c_holder));
  if (args.bias)
    for (int64_t i = 0; i < m; ++i) std::copy_n(args.bias, n, c + i * n);
  const auto status = dnnl_sgemm(char(args.op_a), char(args.op_b), m, n, k, 1.f, a, args.op_a == Op::plain ? k : m, b, args.op_b == Op::plain ? n : k,
                                 args.bias ? 1.f : args.beta, c, n);
  KD_CHECK(status == dnnl_success, "gemm {}x{}x{}: oneDNN status {}", m, n, k, int(status));
  if (c_holder) std::transform(c, c + m * n, static_cast<bf16*>(args.c), [](float x) { return bf16(x); });
}

void column_sums(Stream, const ColumnSumsArgs& args) {
  parallel_ranges(
      args.columns,
      [&](int64_t begin, int64_t end) {
        constexpr int64_t kWidth = 64;  // sums that stay in registers while the rows go by
        for (int64_t first = begin; first < end; first += kWidth) {
          const int64_t width = std::min(kWidth, end - first);
          float sums[kWidth] = {};
          for (int64_t row = 0; row < args.rows; ++row)
            for (int64_t j = 0; j < width; ++j) sums[j] += args.in[row * args.columns + first + j];
          for (int64_t j = 0; j < width; ++j) args.out[first + j] += sums[j];
        }
      },
      kParallelGrain / std::max<int64_t>(args.rows, 1));
}

}  // namespace cpu

static profile::Work work_of(const GemmArgs& a) {
  return {fmt::format("{} {}{} {}x{}x{}", to_string(a.ab_type), char(a.op_a), char(a.op_b), a.m, a.n, a.k), 2.0 * double(a.m * a.n) * double(a.k),
          double((a.m * a.k + a.k * a.n) * size_of(a.ab_type) + a.m * a.n * size_of(a.c_type))};
}
static profile::Work work_of(const ColumnSumsArgs& a) {
  return {fmt::format("{}x{}", a.rows, a.columns), 0, double((a.rows + 2) * a.columns) * double(sizeof(float))};
}

KD_KERNEL(gemm, GemmArgs)
KD_KERNEL(column_sums, ColumnSumsArgs)

}  // namespace kd
