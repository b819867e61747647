// conv3x3: one convolution five times, each version with one idea more. For reading and teaching; the product never calls it, kernels/conv has the real ones.
//   y[n,p,q,k] = sum_{r,s,c} x[n,p+r-1,q+s-1,c] * w[k,r,s,c]     3x3, stride 1, padding 1, NHWC, filters KRSC, f32, one thread
// Every version takes any n, h, w >= 1; c and k multiples of 16.
#pragma once
#include <cstdint>
#include <span>

namespace kd::ladder {

struct Conv3x3 {
  int64_t n, h, w, c, k;
  int64_t x_size() const { return n * h * w * c; }
  int64_t w_size() const { return k * 9 * c; }
  int64_t y_size() const { return n * h * w * k; }
  double flops() const { return 2.0 * double(y_size()) * double(9 * c); }
};

using Conv3x3Fn = void (*)(const Conv3x3&, const float* x, const float* w, float* y);
struct Step {
  const char* name;
  const char* idea;
  Conv3x3Fn run;
};
std::span<const Step> conv3x3_steps();  // the first is the definition

}  // namespace kd::ladder
