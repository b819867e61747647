#include "kernels/common/cases.h"
#include "kernels/pointwise/pointwise.h"

namespace kd::cases {
namespace {

// Which arrays begin one element into their storage, so that no 16-byte access can reach them. What stands before must stay.
struct Shifts {
  int64_t a = 0, b = 0, out = 0;
};

std::vector<Checked> check(int64_t n, const Shifts& shift, DType type, Stream stream) {
  const DType other = type == DType::f32 ? DType::bf16 : DType::f32;
  const auto fresh = [&](int64_t shifted, DType of, uint32_t id) { return random_tensor({n + shifted}, of, id).to(stream.device); };
  const auto at = [](const Tensor& t, int64_t shifted) { return static_cast<std::byte*>(t.raw()) + shifted * size_of(t.dtype()); };
  const Tensor a = fresh(shift.a, type, 1), b = fresh(shift.b, type, 2), by = Tensor::of<float>({1}, {0.5f}).to(stream.device);
  const Tensor sum = fresh(shift.out, type, 3), scaled = sum.clone(), sum_in_place = a.clone(), scaled_in_place = a.clone(), cast = fresh(shift.out, other, 3);
  const auto as = to_doubles(a), bs = to_doubles(b);
  const auto expect = [&](const char* what, const Tensor& got, const Tensor& before, int64_t shifted, double tol, auto&& f) {
    auto want = to_doubles(before);
    for (int64_t i = 0; i < n; ++i) want[size_t(i + shifted)] = f(as[size_t(i + shift.a)], bs[size_t(i + shift.b)]);
    return Checked{what, to_doubles(got), std::move(want), tol};
  };

  pointwise_add(stream, {.a = at(a, shift.a), .b = at(b, shift.b), .out = at(sum, shift.out), .n = n, .type = type});
  pointwise_add(stream, {.a = at(sum_in_place, shift.a), .b = at(b, shift.b), .out = at(sum_in_place, shift.a), .n = n, .type = type});  // as the tape does
  pointwise_scale(stream, {.a = at(a, shift.a), .out = at(scaled, shift.out), .n = n, .factor = -1.75f, .type = type});
  pointwise_scale(stream,
                  {.a = at(scaled_in_place, shift.a), .out = at(scaled_in_place, shift.a), .n = n, .factor = -1.75f, .by = by.data<float>(), .type = type});
  pointwise_cast(stream, {.a = at(a, shift.a), .out = at(cast, shift.out), .n = n, .from = type, .to = other});

  // One rounding to the output type: half an ulp, 2^-9 for bf16 and 2^-24 for f32.
  const double ulp = type == DType::bf16 ? 0x1p-8 : 0x1p-23;
  const auto add = [](double x, double y) { return x + y; };
  return {expect("add", sum, fresh(shift.out, type, 3), shift.out, ulp, add), expect("add in place", sum_in_place, a, shift.a, ulp, add),
          expect("scale", scaled, fresh(shift.out, type, 3), shift.out, ulp, [](double x, double) { return -1.75 * x; }),
          expect("scale by", scaled_in_place, a, shift.a, ulp, [](double x, double) { return -0.875 * x; }),
          expect("cast", cast, fresh(shift.out, other, 3), shift.out, other == DType::bf16 ? 0x1p-8 : 0, [](double x, double) { return x; })};
}

// Rounding to bf16 is exact: ties go to the even neighbour, the largest floats to infinity (not compared: an oracle's value must be finite).
std::vector<Checked> check_rounding(Stream stream) {
  const std::vector<float> values{1.f,       1.00390625f, 1.01171875f, 1.00390637f, -1.00390625f,  -1.01171875f, 0.f,    -0.f,
                                  0x1p-126f, 0x1p-133f,   0x1p-134f,   0x1.8p-134f, 3.3895314e38f, 65504.f,      1e-38f, 0.1f};
  const std::vector<double> want{1.,       1.,       1.015625, 1.0078125, -1.,        -1.015625, 0.,          0.,
                                 0x1p-126, 0x1p-133, 0.,       0x1p-133,  0x1.fep127, 65536.,    0x1.b4p-127, 0x1.9ap-4};
  const int64_t n = int64_t(values.size());
  const Tensor a = Tensor::of<float>({n}, values).to(stream.device), out = Tensor::empty({n}, DType::bf16, stream.device);
  pointwise_cast(stream, {.a = a.raw(), .out = out.raw(), .n = n, .from = DType::f32, .to = DType::bf16});
  return {{"cast", to_doubles(out), want, 0}};
}

}  // namespace

void add_pointwise_cases(Cases& all) {
  for (DType type : {DType::f32, DType::bf16}) {
    const auto add = [&all, type](const std::string& size, int64_t n, const Shifts& shifts) {
      all.push_back({.name = fmt::format("pointwise:{}:{}", to_string(type), size),
                     .check = [=](Stream stream) { return check(n, shifts, type, stream); },
                     .grad = {},
                     .perf = {}});
    };
    // A GPU takes 4 or 8 elements at a time, 2048 or 4096 a block.
    for (int64_t n : {1, 3, 4, 5, 7, 8, 9, 63, 2047, 2048, 2049, 4097, 20001}) add(std::to_string(n), n, {});
    add("63:shifted_a", 63, {.a = 1});
    add("63:shifted_b", 63, {.b = 1});
    add("63:shifted_out", 63, {.out = 1});
    all.push_back({.name = fmt::format("pointwise:add:{}:{}", to_string(type), 1 << 23), .check = {}, .grad = {}, .perf = [=](Stream stream) {
                     constexpr int64_t n = 1 << 23;
                     auto a = std::make_shared<Tensor>(Tensor::zeros({n}, type, stream.device)), b = std::make_shared<Tensor>(a->clone());
                     return Work{.run = [=] { pointwise_add(stream, {.a = a->raw(), .b = b->raw(), .out = a->raw(), .n = n, .type = type}); },
                                 .bytes = 3.0 * double(a->bytes()),
                                 .flops = 0};
                   }});
    all.push_back({.name = fmt::format("pointwise:scale:{}:{}", to_string(type), 1 << 23), .check = {}, .grad = {}, .perf = [=](Stream stream) {
                     constexpr int64_t n = 1 << 23;
                     auto a = std::make_shared<Tensor>(Tensor::zeros({n}, type, stream.device)), out = std::make_shared<Tensor>(a->clone());
                     return Work{.run = [=] { pointwise_scale(stream, {.a = a->raw(), .out = out->raw(), .n = n, .factor = 0.5f, .type = type}); },
                                 .bytes = 2.0 * double(a->bytes()),
                                 .flops = 0};
                   }});
  }
  all.push_back({.name = "pointwise:cast:rounding", .check = check_rounding, .grad = {}, .perf = {}});
}

}  // namespace kd::cases
