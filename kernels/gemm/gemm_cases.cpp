#include <array>

#include "kernels/common/cases.h"
#include "kernels/gemm/gemm.h"

namespace kd::cases {
namespace {

enum class Onto : unsigned char { nothing, c, bias };

struct Problem {
  int64_t m, n, k;
  Op op_a, op_b;
  Onto onto = Onto::nothing;
  DType ab = DType::f32, c = DType::f32;
};

std::string name_of(const Problem& p) {
  return fmt::format("gemm:{}{}:{}x{}x{}:{}{}{}", to_string(p.ab), p.c == p.ab ? "" : "_" + to_string(p.c), p.m, p.n, p.k, char(p.op_a), char(p.op_b),
                     p.onto == Onto::c      ? ":add"
                     : p.onto == Onto::bias ? ":bias"
                                            : "");
}

std::vector<Checked> check(const Problem& p, Stream stream) {
  const Tensor a = random_tensor({p.m * p.k}, p.ab, 1).to(stream.device), b = random_tensor({p.k * p.n}, p.ab, 2).to(stream.device),
               c = random_tensor({p.m * p.n}, p.c, 3).to(stream.device), bias = random_tensor({p.n}, DType::f32, 4).to(stream.device);
  const auto as = to_doubles(a), bs = to_doubles(b), biases = to_doubles(bias);
  auto want = to_doubles(c);
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < p.n; ++j) {
      double& out = want[size_t(i * p.n + j)];
      double sum = p.onto == Onto::c ? out : p.onto == Onto::bias ? biases[size_t(j)] : 0;
      for (int64_t l = 0; l < p.k; ++l)
        sum += as[size_t(p.op_a == Op::plain ? i * p.k + l : l * p.m + i)] * bs[size_t(p.op_b == Op::plain ? l * p.n + j : j * p.k + l)];
      out = sum;
    }
  gemm(stream, {.a = a.raw(),
                .b = b.raw(),
                .ab_type = p.ab,
                .c = c.raw(),
                .c_type = p.c,
                .bias = p.onto == Onto::bias ? bias.data<float>() : nullptr,
                .m = p.m,
                .n = p.n,
                .k = p.k,
                .op_a = p.op_a,
                .op_b = p.op_b,
                .beta = p.onto == Onto::c ? 1.f : 0.f});
  // Products of bf16 are exact in f32, so only the output's type decides.
  return {{"c", to_doubles(c), want, tolerance(p.c)}};
}

std::vector<Checked> check_column_sums(int64_t rows, int64_t columns, Stream stream) {
  const Tensor in = random_tensor({rows, columns}, DType::f32, 1).to(stream.device), out = random_tensor({columns}, DType::f32, 2).to(stream.device);
  const auto ins = to_doubles(in);
  auto want = to_doubles(out);
  for (size_t i = 0; i < ins.size(); ++i) want[i % size_t(columns)] += ins[i];
  column_sums(stream, {.in = in.data<float>(), .out = out.data<float>(), .rows = rows, .columns = columns});
  return {{"out", to_doubles(out), want, tolerance(DType::f32)}};
}

}  // namespace

void add_gemm_cases(Cases& all) {
  const auto add = [&all](const Problem& p) {
    all.push_back({.name = name_of(p), .check = [=](Stream stream) { return check(p, stream); }, .grad = {}, .perf = {}});
  };
  for (auto [m, n, k] : {std::array<int64_t, 3>{1, 1, 1}, {7, 13, 5}, {128, 10, 512}, {128, 100, 128}, {100, 512, 128}})
    for (Op op_a : {Op::plain, Op::transposed})
      for (Op op_b : {Op::plain, Op::transposed})
        for (Onto onto : {Onto::nothing, Onto::c, Onto::bias}) add({m, n, k, op_a, op_b, onto});
  // bf16: forward, the gradient of the weights, the gradient of the input; 7x13x5 has no aligned row.
  for (auto [m, n, k] : {std::array<int64_t, 3>{7, 13, 5}, {32, 104, 64}})
    for (DType c : {DType::f32, DType::bf16}) {
      add({m, n, k, Op::plain, Op::transposed, c == DType::f32 ? Onto::bias : Onto::nothing, DType::bf16, c});
      add({m, n, k, Op::transposed, Op::plain, Onto::nothing, DType::bf16, c});
      add({m, n, k, Op::transposed, Op::plain, Onto::c, DType::bf16, c});
      add({m, n, k, Op::plain, Op::plain, Onto::nothing, DType::bf16, c});
    }
  for (DType type : {DType::f32, DType::bf16})
    all.push_back({.name = "gemm:" + to_string(type) + ":128x1000x2048:NT",
                   .check =
                       [=](Stream stream) {
                         return check({8, 1000, 2048, Op::plain, Op::transposed, Onto::bias, type}, stream);
                       },
                   .grad = {},
                   .perf =
                       [=](Stream stream) {
                         auto a = std::make_shared<Tensor>(random_tensor({128 * 2048}, type, 1).to(stream.device));
                         auto b = std::make_shared<Tensor>(random_tensor({1000 * 2048}, type, 2).to(stream.device));
                         auto c = std::make_shared<Tensor>(Tensor::empty({128 * 1000}, DType::f32, stream.device));
                         return Work{
                             .run =
                                 [=] {
                                   gemm(stream,
                                        {.a = a->raw(), .b = b->raw(), .ab_type = type, .c = c->raw(), .m = 128, .n = 1000, .k = 2048, .op_b = Op::transposed});
                                 },
                             .bytes = double(a->bytes() + b->bytes() + c->bytes()),
                             .flops = 2.0 * 128 * 1000 * 2048};
                       }});
  for (auto [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {3, 31}, {15, 32}, {17, 33}, {128, 100}, {200, 10}, {128, 1000}})
    all.push_back({.name = fmt::format("gemm:column_sums:{}x{}", rows, columns),
                   .check = [rows = rows, columns = columns](Stream stream) { return check_column_sums(rows, columns, stream); },
                   .grad = {},
                   .perf = {}});
}

}  // namespace kd::cases
