#include "kernels/common/cases.h"

#include <algorithm>
#include <cmath>

#include "engine/base/rng.h"

namespace kd::cases {

Tensor random_tensor(Shape shape, DType type, uint32_t stream, float low, float high) {
  Tensor t = Tensor::empty(shape, type);
  Rng rng(0x5eed, Purpose::test, stream);
  for (int64_t i = 0; i < t.elements(); ++i) {
    float x = rng.uniform(low, high);
    if (type == DType::bf16)
      t.data<bf16>()[i] = bf16(x);
    else
      t.data<float>()[i] = x;
  }
  return t;
}

std::vector<double> to_doubles(const Tensor& anywhere) {
  const Tensor t = anywhere.to(Device::cpu);
  std::vector<double> out(size_t(t.elements()));
  for (int64_t i = 0; i < t.elements(); ++i) {
    double& x = out[size_t(i)];
    switch (t.dtype()) {
      case DType::f32: x = double(t.data<float>()[i]); break;
      case DType::bf16: x = double(float(t.data<bf16>()[i])); break;
      case DType::u8: x = t.data<uint8_t>()[i]; break;
      case DType::i32: x = t.data<int32_t>()[i]; break;
      case DType::i64: x = double(t.data<int64_t>()[i]); break;
    }
  }
  return out;
}

Verdict judge(const Checked& c) {
  if (c.got.size() != c.want.size() || c.want.empty())
    return {false, HUGE_VAL, fmt::format("{}: {} values where the oracle has {}", c.what, c.got.size(), c.want.size())};
  double scale = 1e-30, worst = 0;
  size_t at = 0;
  for (double w : c.want) scale = std::max(scale, std::fabs(w));
  for (size_t i = 0; i < c.want.size(); ++i) {
    if (!std::isfinite(c.got[i]) || !std::isfinite(c.want[i])) return {false, HUGE_VAL, fmt::format("{}[{}] = {}, oracle {}", c.what, i, c.got[i], c.want[i])};
    double error = std::fabs(c.got[i] - c.want[i]) / scale;
    if (error > worst) worst = error, at = i;
  }
  bool ok = std::isfinite(worst) && worst <= c.tolerance;
  return {ok, worst,
          fmt::format("{}[{}] = {:.9g}, oracle {:.9g}: error {:.3g} of the largest value, tolerance {:.3g}", c.what, at, c.got[at], c.want[at], worst,
                      c.tolerance)};
}

Checked check_gradient(const std::string& what, std::vector<double> x, const std::function<double(const std::vector<double>&)>& contracted,
                       const std::vector<double>& analytic, double h, double tolerance) {
  KD_CHECK(x.size() == analytic.size(), "{}: {} gradients for {} inputs", what, analytic.size(), x.size());
  Checked c{what, {}, {}, tolerance};
  size_t probes = std::min<size_t>(x.size(), 24);
  for (size_t p = 0; p < probes; ++p) {
    size_t i = p * x.size() / probes;
    double keep = x[i];
    x[i] = keep + h;
    double up = contracted(x);
    x[i] = keep - h;
    double down = contracted(x);
    x[i] = keep;
    c.got.push_back(analytic[i]);
    c.want.push_back((up - down) / (2 * h));
  }
  return c;
}

}  // namespace kd::cases
