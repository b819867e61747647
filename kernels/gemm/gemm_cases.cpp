#include <array>

#include "kernels/common/cases.h"
#include "kernels/gemm/gemm.h"

namespace kd::cases {
namespace {

struct Problem {
  int64_t m, n, k;
  Op op_a, op_b;
  float beta;
};

std::vector<Checked> check(const Problem& p, Stream stream) {
  Tensor a = random_tensor({p.m * p.k}, DType::f32, 1), b = random_tensor({p.k * p.n}, DType::f32, 2), c = random_tensor({p.m * p.n}, DType::f32, 3);
  const auto as = to_doubles(a), bs = to_doubles(b);
  auto want = to_doubles(c);
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < p.k; ++l)
        sum += as[size_t(p.op_a == Op::plain ? i * p.k + l : l * p.m + i)] * bs[size_t(p.op_b == Op::plain ? l * p.n + j : j * p.k + l)];
      double& out = want[size_t(i * p.n + j)];
      out = sum + double(p.beta) * out;
    }
  gemm(stream,
       {.a = a.data<float>(), .b = b.data<float>(), .c = c.data<float>(), .m = p.m, .n = p.n, .k = p.k, .op_a = p.op_a, .op_b = p.op_b, .beta = p.beta});
  return {{"c", to_doubles(c), want, tolerance(DType::f32)}};
}

}  // namespace

void add_gemm_cases(Cases& all) {
  for (auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {7, 13, 5}, {128, 10, 512}, {128, 100, 128}, {100, 512, 128}})
    for (Op op_a : {Op::plain, Op::transposed})
      for (Op op_b : {Op::plain, Op::transposed})
        for (float beta : {0.f, 1.f}) {
          Problem p{m, n, k, op_a, op_b, beta};
          all.push_back({.name = fmt::format("gemm:f32:{}x{}x{}:{}{}{}", m, n, k, char(op_a), char(op_b), beta != 0 ? ":add" : ""),
                         .check = [=](Stream stream) { return check(p, stream); },
                         .grad = {},
                         .perf = {}});
        }
  all.push_back(
      {.name = "gemm:f32:128x1000x2048:NT",
       .check =
           [](Stream stream) {
             return check({8, 1000, 2048, Op::plain, Op::transposed, 0}, stream);
           },
       .grad = {},
       .perf =
           [](Stream stream) {
             auto a = std::make_shared<Tensor>(random_tensor({128 * 2048}, DType::f32, 1));
             auto b = std::make_shared<Tensor>(random_tensor({1000 * 2048}, DType::f32, 2));
             auto c = std::make_shared<Tensor>(Tensor::empty({128 * 1000}, DType::f32));
             return Work{
                 .run =
                     [=] {
                       gemm(stream,
                            {.a = a->data<float>(), .b = b->data<float>(), .c = c->data<float>(), .m = 128, .n = 1000, .k = 2048, .op_b = Op::transposed});
                     },
                 .bytes = double(a->bytes() + b->bytes() + c->bytes()),
                 .flops = 2.0 * 128 * 1000 * 2048};
           }});
}

}  // namespace kd::cases
