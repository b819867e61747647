// The oracle: for every output, the window's maximum in double; its gradient by handing each dy to the first place that holds the maximum.
#include <array>
#include <cmath>
#include <limits>

#include "kernels/common/cases.h"
#include "kernels/pool/pool.h"

namespace kd::cases {
namespace {

void put(const Tensor& t, int64_t i, float value) {
  if (t.dtype() == DType::f32)
    t.data<float>()[i] = value;
  else
    t.data<bf16>()[i] = bf16(value);
}

struct Run {
  Tensor x, dy, y, dx, arg;
  Run(const PoolShape& s, DType type, const Tensor& host_x, Stream stream) : x(host_x.to(stream.device)) {
    dy = random_tensor({s.n, s.p(), s.q(), s.c}, type, 2).to(stream.device);
    y = Tensor::empty(dy.shape(), type, stream.device), dx = Tensor::empty(x.shape(), type, stream.device);
    arg = Tensor::empty(dy.shape(), DType::u8, stream.device);
    max_pool_fwd(stream, {.shape = s, .type = type, .x = x.raw(), .y = y.raw(), .arg = arg.data<uint8_t>()});
    max_pool_bwd(stream, {.shape = s, .type = type, .dy = dy.raw(), .arg = arg.data<uint8_t>(), .dx = dx.raw()});
  }
};

std::vector<Checked> check_max(const PoolShape& s, DType type, Stream stream) {
  Tensor x = random_tensor({s.n, s.h, s.w, s.c}, type, 1);
  const auto uniform = to_doubles(x);
  for (int64_t i = 0; i < x.elements(); ++i) {
    const int64_t pixel = i / s.c, h = pixel / s.w % s.h, w = pixel % s.w;
    if (s.window > 8)
      put(x, i, float(uniform[size_t(i)]) + 2 * float(h + w));  // a slope, or a few pixels would win everywhere and dx be nearly all zero
    else if (i % 3 == 0)
      put(x, i, 0.25f);  // ties
  }
  Run run(s, type, x, stream);
  const auto xs = to_doubles(x), dys = to_doubles(run.dy);
  std::vector<double> want(dys.size()), want_arg(dys.size()), want_dx(xs.size());
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t c = 0; c < s.c; ++c) {
          size_t out = size_t(((n * s.p() + p) * s.q() + q) * s.c + c), best = xs.size();
          for (int64_t r = 0; r < s.window; ++r)
            for (int64_t t = 0; t < s.window; ++t) {
              const int64_t h = p * s.stride - s.pad + r, w = q * s.stride - s.pad + t;
              if (h < 0 || w < 0 || h >= s.h || w >= s.w) continue;
              size_t at = size_t(((n * s.h + h) * s.w + w) * s.c + c);
              if (best == xs.size() || xs[at] > xs[best]) best = at, want_arg[out] = double(r * s.window + t);
            }
          want[out] = xs[best];
          want_dx[best] += dys[out];
        }
  Tensor inferred = Tensor::empty(run.y.shape(), type, stream.device);
  max_pool_fwd(stream, {.shape = s, .type = type, .x = run.x.raw(), .y = inferred.raw()});
  return {{"y", to_doubles(run.y), want, 0},
          {"arg", to_doubles(run.arg), want_arg, 0},
          {"dx", to_doubles(run.dx), want_dx, tolerance(type)},
          {"y without arg", to_doubles(inferred), want, 0}};
}

// One channel of -inf, whose gradient must still find its way to the first place of each window; one with a NaN in the middle of the image, which must reach
// every window that covers it, whatever comes after.
std::vector<Checked> check_extremes(DType type, Stream stream) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const PoolShape s{1, 5, 5, 2, 3, 2, 1};
  Tensor x = Tensor::empty({s.n, s.h, s.w, s.c}, type);
  for (int64_t i = 0; i < x.elements(); ++i) {
    const float v = i % 2 == 0 ? -kInf : i / 2 == 2 * 5 + 1 ? kNan : float(i);  // the NaN at (2, 1)
    put(x, i, v);
  }
  Run run(s, type, x, stream);
  const auto y = to_doubles(run.y), arg = to_doubles(run.arg), dx = to_doubles(run.dx), dy = to_doubles(run.dy);
  Checked infinite{"arg of -inf", {}, {4, 3, 3, 1, 0, 0, 1, 0, 0}, 0}, nan{"where NaN is seen", {}, {0, 0, 0, 1, 1, 0, 0, 0, 0}, 0},
      sum{"sum of dx", {}, {}, tolerance(type)};
  double got = 0, want = 0;
  for (size_t i = 0; i < 9; ++i) {
    infinite.got.push_back(y[2 * i] == -double(kInf) ? arg[2 * i] : -1);
    nan.got.push_back(std::isnan(y[2 * i + 1]) ? 1 : 0);
    want += dy[2 * i];
  }
  for (size_t i = 0; i < dx.size(); i += 2) got += dx[i];
  sum.got = {got}, sum.want = {want};
  return {infinite, nan, sum};
}

std::vector<Checked> check_average(int64_t n, int64_t hw, int64_t c, DType type, Stream stream) {
  const Tensor x = random_tensor({n, hw, c}, type, 1).to(stream.device), dy = random_tensor({n, c}, type, 2).to(stream.device);
  const Tensor y = Tensor::empty({n, c}, type, stream.device), dx = Tensor::empty({n, hw, c}, type, stream.device);
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
    for (PoolShape s : {PoolShape{2, 8, 8, 16, 3, 2, 1}, PoolShape{1, 1, 1, 3, 3, 2, 1}, PoolShape{3, 7, 9, 13, 3, 2, 1}, PoolShape{2, 6, 5, 8, 2, 2, 0},
                        PoolShape{1, 9, 10, 72, 3, 2, 1}, PoolShape{1, 6, 7, 24, 3, 1, 1}, PoolShape{1, 11, 8, 8, 2, 3, 1}, PoolShape{1, 20, 17, 9, 15, 2, 7}})
      all.push_back({.name = fmt::format("pool:max:{}:n{}h{}w{}c{}k{}st{}p{}", to_string(type), s.n, s.h, s.w, s.c, s.window, s.stride, s.pad),
                     .check = [=](Stream stream) { return check_max(s, type, stream); },
                     .grad = {},
                     .perf = {}});
    all.push_back(
        {.name = "pool:max:" + to_string(type) + ":extremes", .check = [=](Stream stream) { return check_extremes(type, stream); }, .grad = {}, .perf = {}});
    PoolShape stem{16, 112, 112, 64, 3, 2, 1};
    all.push_back({.name = "pool:max:" + to_string(type) + ":n16h112w112c64k3st2p1", .check = {}, .grad = {}, .perf = [=](Stream stream) {
                     auto x = std::make_shared<Tensor>(random_tensor({stem.n, stem.h, stem.w, stem.c}, type, 1).to(stream.device));
                     auto y = std::make_shared<Tensor>(Tensor::empty({stem.n, stem.p(), stem.q(), stem.c}, type, stream.device));
                     return Work{.run = [=] { max_pool_fwd(stream, {.shape = stem, .type = type, .x = x->raw(), .y = y->raw()}); },
                                 .bytes = double(x->bytes() + y->bytes()),
                                 .flops = 0};
                   }});
    for (auto [n, hw, c] : {std::array<int64_t, 3>{2, 16, 64}, {1, 1, 1}, {5, 49, 13}, {3, 49, 512}, {2, 7, 72}, {9, 1, 8}})
      all.push_back({.name = fmt::format("pool:avg:{}:{}x{}x{}", to_string(type), n, hw, c),
                     .check = [=, n = n, hw = hw, c = c](Stream stream) { return check_average(n, hw, c, type, stream); },
                     .grad = {},
                     .perf = {}});
  }
}

}  // namespace kd::cases
