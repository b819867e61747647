// The oracle: seven loops in double. The gradients' oracles are the adjoint sums, written by scattering instead of gathering;
// their correctness is checked by the identity <dy, conv(x, w)> = <dgrad(dy), x> = <wgrad(dy, x), w> in mode grad.
#include "kernels/common/cases.h"
#include "kernels/conv/conv.h"

namespace kd::cases {
namespace {

template <class F>
void each_product(const ConvShape& s, F&& f) {  // f(x index, w index, y index) for every product of the sum
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t p = 0; p < s.p(); ++p)
      for (int64_t q = 0; q < s.q(); ++q)
        for (int64_t r = 0; r < s.r; ++r)
          for (int64_t t = 0; t < s.s; ++t) {
            int64_t h = p * s.stride + r - s.pad, w = q * s.stride + t - s.pad;
            if (h < 0 || h >= s.h || w < 0 || w >= s.w) continue;
            for (int64_t k = 0; k < s.k; ++k)
              for (int64_t c = 0; c < s.c; ++c)
                f(size_t(((n * s.h + h) * s.w + w) * s.c + c), size_t(((k * s.r + r) * s.s + t) * s.c + c), size_t(((n * s.p() + p) * s.q() + q) * s.k + k));
          }
}

struct Data {
  ConvShape s;
  DType type;
  Tensor x, w, dy;
  Data(const ConvShape& shape, DType dtype)
      : s(shape),
        type(dtype),
        x(random_tensor({s.n, s.h, s.w, s.c}, type, 1)),
        w(random_tensor({s.k, s.r, s.s, s.c}, DType::f32, 2)),
        dy(random_tensor({s.n, s.p(), s.q(), s.k}, type, 3)) {
    // bf16 multiplies rounded weights; the oracle must see the same ones.
    if (type == DType::bf16)
      for (int64_t i = 0; i < w.elements(); ++i) w.data<float>()[i] = float(bf16(w.data<float>()[i]));
  }
};

double tolerance_of(const Data& d) { return d.type == DType::bf16 ? 1e-2 : 1e-5; }

std::vector<Checked> check(const Data& d, Stream stream) {
  const auto x = to_doubles(d.x), w = to_doubles(d.w), dy = to_doubles(d.dy);
  std::vector<double> y(dy.size()), dx(x.size()), dw(w.size(), 0.5);
  each_product(d.s, [&](size_t i, size_t j, size_t k) {
    y[k] += x[i] * w[j];
    dx[i] += dy[k] * w[j];
    dw[j] += dy[k] * x[i];
  });
  Tensor got_y = Tensor::empty(d.dy.shape(), d.type), got_dx = Tensor::empty(d.x.shape(), d.type), got_dw = Tensor::empty(d.w.shape(), DType::f32);
  for (int64_t i = 0; i < got_dw.elements(); ++i) got_dw.data<float>()[i] = 0.5f;  // wgrad adds
  conv_fprop(stream, {.shape = d.s, .type = d.type, .x = d.x.raw(), .w = d.w.data<float>(), .y = got_y.raw()});
  conv_dgrad(stream, {.shape = d.s, .type = d.type, .dy = d.dy.raw(), .w = d.w.data<float>(), .dx = got_dx.raw()});
  conv_wgrad(stream, {.shape = d.s, .type = d.type, .x = d.x.raw(), .dy = d.dy.raw(), .dw = got_dw.data<float>()});

  // Inference form: bias, what y held, ReLU, with a filter packed once and used twice.
  Tensor bias = random_tensor({d.s.k}, DType::f32, 4), before = random_tensor(d.dy.shape(), d.type, 5);
  const auto b = to_doubles(bias), old = to_doubles(before);
  std::vector<double> fused(y.size());
  for (size_t i = 0; i < y.size(); ++i) fused[i] = std::max(0.0, y[i] + b[i % size_t(d.s.k)] + old[i]);
  PackedFilter packed;
  Tensor got_fused;
  for (int round = 0; round < 2; ++round) {
    got_fused = before.clone();
    conv_fprop(stream, {.shape = d.s,
                        .type = d.type,
                        .x = d.x.raw(),
                        .w = d.w.data<float>(),
                        .y = got_fused.raw(),
                        .bias = bias.data<float>(),
                        .epilogue = Epilogue::add_relu,
                        .packed = &packed});
  }
  double tol = tolerance_of(d);
  return {
      {"y", to_doubles(got_y), y, tol}, {"dx", to_doubles(got_dx), dx, tol}, {"dw", to_doubles(got_dw), dw, tol}, {"fused", to_doubles(got_fused), fused, tol}};
}

std::vector<Checked> grad(const Data& d, Stream stream) {
  Tensor y = Tensor::empty(d.dy.shape(), d.type), dx = Tensor::empty(d.x.shape(), d.type), dw = Tensor::zeros(d.w.shape(), DType::f32);
  conv_fprop(stream, {.shape = d.s, .type = d.type, .x = d.x.raw(), .w = d.w.data<float>(), .y = y.raw()});
  conv_dgrad(stream, {.shape = d.s, .type = d.type, .dy = d.dy.raw(), .w = d.w.data<float>(), .dx = dx.raw()});
  conv_wgrad(stream, {.shape = d.s, .type = d.type, .x = d.x.raw(), .dy = d.dy.raw(), .dw = dw.data<float>()});
  auto dot = [](const Tensor& a, const Tensor& b) {
    auto u = to_doubles(a), v = to_doubles(b);
    double sum = 0;
    for (size_t i = 0; i < u.size(); ++i) sum += u[i] * v[i];
    return sum;
  };
  // <dy, y> is a sum of N*P*Q*K terms of both signs: relative to its value the rounding is a few times that of one output.
  double want = dot(d.dy, y), tol = d.type == DType::bf16 ? 5e-2 : 1e-4;
  return {{"<dx,x>", {dot(dx, d.x)}, {want}, tol}, {"<dw,w>", {dot(dw, d.w)}, {want}, tol}};
}

Work perf(const Data& d, Stream stream) {
  auto y = std::make_shared<Tensor>(Tensor::empty(d.dy.shape(), d.type));
  return {.run = [d, y, stream] { conv_fprop(stream, {.shape = d.s, .type = d.type, .x = d.x.raw(), .w = d.w.data<float>(), .y = y->raw()}); },
          .bytes = double(d.x.bytes() + d.w.bytes() + d.dy.bytes()),
          .flops = d.s.flops()};
}

}  // namespace

void add_conv_cases(Cases& all) {
  std::vector<ConvShape> small{
      {.n = 2, .h = 8, .w = 8, .c = 16, .k = 16, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 3, .h = 7, .w = 5, .c = 16, .k = 32, .r = 3, .s = 3, .stride = 2, .pad = 1},  // odd extents: the last window does not reach the edge
      {.n = 1, .h = 1, .w = 1, .c = 32, .k = 32, .r = 1, .s = 1, .stride = 1, .pad = 0},
      {.n = 2, .h = 9, .w = 9, .c = 32, .k = 64, .r = 1, .s = 1, .stride = 2, .pad = 0},   // the shortcut
      {.n = 2, .h = 32, .w = 32, .c = 3, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},  // CIFAR stem
      {.n = 1, .h = 33, .w = 32, .c = 3, .k = 64, .r = 7, .s = 7, .stride = 2, .pad = 3},  // ImageNet stem
      {.n = 2, .h = 6, .w = 6, .c = 13, .k = 7, .r = 3, .s = 3, .stride = 1, .pad = 1},    // no vector width divides these
      {.n = 2, .h = 4, .w = 4, .c = 24, .k = 40, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 2, .h = 16, .w = 16, .c = 3, .k = 16, .r = 3, .s = 3, .stride = 1, .pad = 1},  // narrow stem
      {.n = 4, .h = 56, .w = 56, .c = 8, .k = 16, .r = 1, .s = 1, .stride = 2, .pad = 0},  // oneDNN 2.6.3 gets wgrad wrong here: see conv_cpu.cpp
  };
  // resnet18 at 32 px, batch 32: timed only.
  std::vector<ConvShape> timed{
      {.n = 32, .h = 32, .w = 32, .c = 64, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 16, .w = 16, .c = 128, .k = 128, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 8, .w = 8, .c = 256, .k = 256, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 4, .w = 4, .c = 512, .k = 512, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 32, .w = 32, .c = 64, .k = 128, .r = 3, .s = 3, .stride = 2, .pad = 1},
  };
  for (DType type : {DType::f32, DType::bf16}) {
    if (type == DType::bf16 && !cpu_info().avx512_bf16) continue;  // oneDNN has no bf16 convolution without it
    for (const ConvShape& s : small)
      all.push_back({.name = "conv:" + to_string(type) + ":" + to_string(s),
                     .check = [=](Stream stream) { return check(Data(s, type), stream); },
                     .grad = [=](Stream stream) { return grad(Data(s, type), stream); },
                     .perf = {}});
    for (const ConvShape& s : timed)
      all.push_back({.name = "conv:" + to_string(type) + ":" + to_string(s),
                     .check = {},
                     .grad = [=](Stream stream) { return grad(Data(s, type), stream); },
                     .perf = [=](Stream stream) { return perf(Data(s, type), stream); }});
  }
}

}  // namespace kd::cases
