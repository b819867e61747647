#include "kernels/common/cases.h"
#include "kernels/pointwise/pointwise.h"

namespace kd::cases {
namespace {

std::vector<Checked> check(int64_t n, DType type, Stream stream) {
  Tensor a = random_tensor({n}, type, 1), b = random_tensor({n}, type, 2), sum = a.clone(), scaled = Tensor::empty({n}, type);
  DType other = type == DType::f32 ? DType::bf16 : DType::f32;
  Tensor cast = Tensor::empty({n}, other);
  pointwise_add(stream, {.a = sum.raw(), .b = b.raw(), .out = sum.raw(), .n = n, .type = type});  // in place, as the tape uses it
  pointwise_scale(stream, {.a = a.raw(), .out = scaled.raw(), .n = n, .factor = -1.75f, .type = type});
  pointwise_cast(stream, {.a = a.raw(), .out = cast.raw(), .n = n, .from = type, .to = other});
  const auto as = to_doubles(a), bs = to_doubles(b);
  std::vector<double> want_sum, want_scaled;
  for (size_t i = 0; i < as.size(); ++i) want_sum.push_back(as[i] + bs[i]), want_scaled.push_back(-1.75 * as[i]);
  // One rounding to the output type: half an ulp, 2^-9 for bf16 and 2^-24 for f32.
  double ulp = type == DType::bf16 ? 0x1p-8 : 0x1p-23;
  return {{"add", to_doubles(sum), want_sum, ulp},
          {"scale", to_doubles(scaled), want_scaled, ulp},
          {"cast", to_doubles(cast), as, other == DType::bf16 ? 0x1p-8 : 0}};
}

}  // namespace

void add_pointwise_cases(Cases& all) {
  for (DType type : {DType::f32, DType::bf16}) {
    for (int64_t n : {int64_t(1), int64_t(63), int64_t(100001)})
      all.push_back(
          {.name = fmt::format("pointwise:{}:{}", to_string(type), n), .check = [=](Stream stream) { return check(n, type, stream); }, .grad = {}, .perf = {}});
    all.push_back({.name = fmt::format("pointwise:add:{}:{}", to_string(type), 1 << 23), .check = {}, .grad = {}, .perf = [=](Stream stream) {
                     constexpr int64_t n = 1 << 23;
                     auto a = std::make_shared<Tensor>(Tensor::zeros({n}, type)), b = std::make_shared<Tensor>(Tensor::zeros({n}, type));
                     return Work{.run = [=] { pointwise_add(stream, {.a = a->raw(), .b = b->raw(), .out = a->raw(), .n = n, .type = type}); },
                                 .bytes = 3.0 * double(a->bytes()),
                                 .flops = 0};
                   }});
  }
}

}  // namespace kd::cases
