// The oracle: for every output, the window's maximum in double; its gradient by handing each dy to the first place that holds the maximum.
#include <array>

#include "kernels/common/cases.h"
#include "kernels/pool/pool.h"

namespace kd::cases {
namespace {

std::vector<Checked> check_max(const PoolShape& s, DType type, Stream stream) {
  Tensor x = random_tensor({s.n, s.h, s.w, s.c}, type, 1), dy = random_tensor({s.n, s.p(), s.q(), s.c}, type, 2);
  if (type == DType::f32)  // ties: a third of the inputs are one value
    for (int64_t i = 0; i < x.elements(); i += 3) x.data<float>()[i] = 0.25f;
  Tensor y = Tensor::empty(dy.shape(), type), dx = Tensor::empty(x.shape(), type), arg = Tensor::empty(dy.shape(), DType::u8);
  max_pool_fwd(stream, {.shape = s, .type = type, .x = x.raw(), .y = y.raw(), .arg = arg.data<uint8_t>()});
  max_pool_bwd(stream, {.shape = s, .type = type, .dy = dy.raw(), .arg = arg.data<uint8_t>(), .dx = dx.raw()});
  const auto xs = to_doubles(x), dys = to_doubles(dy);
  std::vector<double> want(dys.size()), want_dx(xs.size());
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t c = 0; c < s.c; ++c) {
          size_t out = size_t(((n * s.p() + p) * s.q() + q) * s.c + c), best = xs.size();
          for (int64_t h = p * s.stride - s.pad; h < p * s.stride - s.pad + s.window; ++h)
            for (int64_t w = q * s.stride - s.pad; w < q * s.stride - s.pad + s.window; ++w) {
              if (h < 0 || w < 0 || h >= s.h || w >= s.w) continue;
              size_t at = size_t(((n * s.h + h) * s.w + w) * s.c + c);
              if (best == xs.size() || xs[at] > xs[best]) best = at;
            }
          want[out] = xs[best];
          want_dx[best] += dys[out];
        }
  return {{"y", to_doubles(y), want, 0}, {"dx", to_doubles(dx), want_dx, tolerance(type)}};
}

std::vector<Checked> check_average(int64_t n, int64_t hw, int64_t c, DType type, Stream stream) {
  Tensor x = random_tensor({n, hw, c}, type, 1), dy = random_tensor({n, c}, type, 2), y = Tensor::empty({n, c}, type), dx = Tensor::empty({n, hw, c}, type);
  global_avg_pool_fwd(stream, {.n = n, .hw = hw, .c = c, .type = type, .in = x.raw(), .out = y.raw()});
  global_avg_pool_bwd(stream, {.n = n, .hw = hw, .c = c, .type = type, .in = dy.raw(), .out = dx.raw()});
  const auto xs = to_doubles(x), dys = to_doubles(dy);
  std::vector<double> want(size_t(n * c)), want_dx(size_t(n * hw * c));
  for (int64_t i = 0; i < n * hw * c; ++i) {
    size_t out = size_t(i / (hw * c) * c + i % c);
    want[out] += xs[size_t(i)] / double(hw);
    want_dx[size_t(i)] = dys[out] / double(hw);
  }
  return {{"y", to_doubles(y), want, tolerance(type)}, {"dx", to_doubles(dx), want_dx, tolerance(type)}};
}

}  // namespace

void add_pool_cases(Cases& all) {
  for (DType type : {DType::f32, DType::bf16}) {
    for (PoolShape s : {PoolShape{2, 8, 8, 16, 3, 2, 1}, PoolShape{1, 1, 1, 3, 3, 2, 1}, PoolShape{3, 7, 9, 13, 3, 2, 1}, PoolShape{2, 6, 5, 8, 2, 2, 0}})
      all.push_back({.name = fmt::format("pool:max:{}:n{}h{}w{}c{}k{}st{}p{}", to_string(type), s.n, s.h, s.w, s.c, s.window, s.stride, s.pad),
                     .check = [=](Stream stream) { return check_max(s, type, stream); },
                     .grad = {},
                     .perf = {}});
    PoolShape stem{16, 112, 112, 64, 3, 2, 1};
    all.push_back({.name = "pool:max:" + to_string(type) + ":n16h112w112c64k3st2p1", .check = {}, .grad = {}, .perf = [=](Stream stream) {
                     auto x = std::make_shared<Tensor>(random_tensor({stem.n, stem.h, stem.w, stem.c}, type, 1));
                     auto y = std::make_shared<Tensor>(Tensor::empty({stem.n, stem.p(), stem.q(), stem.c}, type));
                     return Work{.run = [=] { max_pool_fwd(stream, {.shape = stem, .type = type, .x = x->raw(), .y = y->raw()}); },
                                 .bytes = double(x->bytes() + y->bytes()),
                                 .flops = 0};
                   }});
    for (auto [n, hw, c] : {std::array<int64_t, 3>{2, 16, 64}, {1, 1, 1}, {5, 49, 13}})
      all.push_back({.name = fmt::format("pool:avg:{}:{}x{}x{}", to_string(type), n, hw, c),
                     .check = [=, n = n, hw = hw, c = c](Stream stream) { return check_average(n, hw, c, type, stream); },
                     .grad = {},
                     .perf = {}});
  }
}

}  // namespace kd::cases
