// Every step of the ladder against sums in double, at sizes that no block divides.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "engine/base/rng.h"
#include "kernels/ladders/conv3x3.h"

namespace kd::ladder {
namespace {

std::vector<double> in_double(const Conv3x3& s, const std::vector<float>& x, const std::vector<float>& w) {
  std::vector<double> y(size_t(s.y_size()));
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t i = 0; i < s.h; ++i)  // scattered from the pixels, where the steps gather
      for (int64_t j = 0; j < s.w; ++j)
        for (int64_t r = 0; r < 3; ++r)
          for (int64_t t = 0; t < 3; ++t) {
            const int64_t p = i - r + 1, q = j - t + 1;
            if (p < 0 || p >= s.h || q < 0 || q >= s.w) continue;
            for (int64_t k = 0; k < s.k; ++k)
              for (int64_t c = 0; c < s.c; ++c)
                y[size_t(((n * s.h + p) * s.w + q) * s.k + k)] +=
                    double(x[size_t(((n * s.h + i) * s.w + j) * s.c + c)]) * double(w[size_t(((k * 3 + r) * 3 + t) * s.c + c)]);
          }
  return y;
}

TEST(Ladder, EveryStepIsTheConvolution) {
  for (const Conv3x3 s : {Conv3x3{1, 1, 1, 16, 16}, Conv3x3{2, 5, 7, 16, 48}, Conv3x3{3, 9, 4, 32, 16}, Conv3x3{1, 13, 13, 48, 32}}) {
    Rng rng(3, Purpose::test);
    std::vector<float> x(size_t(s.x_size())), w(size_t(s.w_size()));
    for (auto* v : {&x, &w})
      for (float& f : *v) f = rng.uniform(-1.f, 1.f);
    const std::vector<double> want = in_double(s, x, w);
    double largest = 0;
    for (double v : want) largest = std::max(largest, std::fabs(v));
    ASSERT_GT(largest, 0);
    for (const Step& step : conv3x3_steps()) {
      std::vector<float> y(size_t(s.y_size()), NAN);
      step.run(s, x.data(), w.data(), y.data());
      double worst = 0;
      for (size_t i = 0; i < y.size(); ++i)
        if (const double d = std::fabs(double(y[i]) - want[i]) / largest; !(d <= worst)) worst = d;
      EXPECT_LE(worst, 1e-5) << step.name << " " << s.n << "x" << s.h << "x" << s.w << "x" << s.c << "x" << s.k;
    }
  }
}

TEST(Ladder, StartsWithTheDefinition) {
  ASSERT_EQ(conv3x3_steps().size(), 5u);
  EXPECT_STREQ(conv3x3_steps()[0].name, "naive");
}

}  // namespace
}  // namespace kd::ladder
