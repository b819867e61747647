// kd_ladder_conv: the steps of kernels/ladders/conv3x3, timed on one thread: GFLOP/s of the definition's operations, and the error against double.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <vector>

#include "bench/timing.h"
#include "engine/base/device.h"
#include "engine/base/rng.h"
#include "kernels/ladders/conv3x3.h"

namespace kd {
namespace {

std::vector<float> uniform(int64_t n, uint32_t stream) {
  Rng rng(7, Purpose::test, stream);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& f : v) f = rng.uniform(-1.f, 1.f);
  return v;
}

// Of every 97th output, relative to the largest of them.
double error_of(const ladder::Conv3x3& s, const std::vector<float>& x, const std::vector<float>& w, const std::vector<float>& y) {
  double worst = 0, largest = 0;
  for (int64_t at = 0; at < s.y_size(); at += 97) {
    const int64_t k = at % s.k, q = at / s.k % s.w, p = at / s.k / s.w % s.h, n = at / s.k / s.w / s.h;
    double sum = 0;
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t t = 0; t < 3; ++t) {
        const int64_t i = p + r - 1, j = q + t - 1;
        if (i < 0 || i >= s.h || j < 0 || j >= s.w) continue;
        for (int64_t c = 0; c < s.c; ++c) sum += double(x[size_t(((n * s.h + i) * s.w + j) * s.c + c)]) * double(w[size_t(((k * 3 + r) * 3 + t) * s.c + c)]);
      }
    const double d = std::fabs(double(y[size_t(at)]) - sum);
    if (!(d <= worst)) worst = d;
    largest = std::max(largest, std::fabs(sum));
  }
  return worst / largest;
}

int run_main(int argc, char** argv) {
  CLI::App app{"kd_ladder_conv: one 3x3 convolution, from its definition to Winograd"};
  ladder::Conv3x3 s{.n = 4, .h = 32, .w = 32, .c = 64, .k = 64};
  double seconds = 1;
  app.add_option("--images", s.n, "images")->check(CLI::PositiveNumber);
  app.add_option("--side", s.h, "height and width")->check(CLI::PositiveNumber);
  app.add_option("--channels", s.c, "input and output channels, a multiple of 16")->check(CLI::PositiveNumber);
  app.add_option("--seconds", seconds, "spent on each step")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  KD_INPUT(s.c % 16 == 0 && s.c <= 4096 && s.h <= 4096 && s.n <= 4096, "--channels {} must be a multiple of 16, and nothing above 4096", s.c);
  s.w = s.h, s.k = s.c;
  const auto x = uniform(s.x_size(), 1), w = uniform(s.w_size(), 2);
  std::vector<float> y(size_t(s.y_size()));
  fmt::print("{} · one thread · {} x {} x {} x {}, 3x3\n{:<14} {:>10} {:>10} {:>8} {:>9}  idea\n", cpu_info().name, s.n, s.h, s.w, s.c, "step", "ms", "GFLOP/s",
             "speed-up", "error");
  double naive = 0;
  for (const ladder::Step& step : ladder::conv3x3_steps()) {
    const bench::Spread t = bench::measure([&] { step.run(s, x.data(), w.data(), y.data()); }, seconds, 3);
    if (naive == 0) naive = t.median;
    fmt::print("{:<14} {:>10.2f} {:>10.1f} {:>7.1f}x {:>9.1e}  {}\n", step.name, 1e3 * t.median, s.flops() / t.median / 1e9, naive / t.median,
               error_of(s, x, w, y), step.idea);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace kd

int main(int argc, char** argv) {
  try {
    return kd::run_main(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "kd_ladder_conv: {}\n", e.what());
    return 1;
  }
}
