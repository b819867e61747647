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

// Random numbers that repeat after 2^20: drawing a GPU-sized tensor one by one would take longer than timing it.
Tensor random_on(Device device, Shape shape, DType type, uint32_t id) {
  const int64_t n = shape.elements(), period = std::min<int64_t>(n, 1 << 20);
  const Tensor drawn = random_tensor({period}, type, id).to(device), out = Tensor::empty(shape, type, device);
  for (int64_t at = 0; at < n; at += period) {
    const Shape part{std::min(period, n - at)};
    out.slice(at, part).copy_from(drawn.slice(0, part));
  }
  return out;
}

struct Data {
  ConvShape s;
  DType type;
  Tensor x, w, dy;  // on the stream's device, all of the activations' type: with f32 filters the oracle would see other numbers than bf16 products do
  Data(const ConvShape& shape, DType dtype, Stream stream)
      : s(shape),
        type(dtype),
        x(random_on(stream.device, {s.n, s.h, s.w, s.c}, type, 1)),
        w(random_on(stream.device, {s.k, s.r, s.s, s.c}, type, 2)),
        dy(random_on(stream.device, {s.n, s.p(), s.q(), s.k}, type, 3)) {}
};

double tolerance_of(DType type) { return type == DType::bf16 ? 1e-2 : 1e-5; }

Tensor to_f32(const Tensor& t) {
  const auto values = to_doubles(t);
  return Tensor::of<float>(t.shape(), std::vector<float>(values.begin(), values.end())).to(t.device());
}

// Every form of the three convolutions. `parameters` is the type of filter, bias and the filter's gradient.
void check_forms(const Data& d, DType parameters, Stream stream, std::vector<Checked>& checked) {
  const auto x = to_doubles(d.x), w = to_doubles(d.w), dy = to_doubles(d.dy);
  const Tensor filter = parameters == d.type ? d.w : to_f32(d.w), bias = random_tensor({d.s.k}, parameters, 4).to(stream.device);
  const Tensor z = random_tensor(d.dy.shape(), d.type, 5).to(stream.device), dx_before = random_tensor(d.x.shape(), d.type, 6).to(stream.device),
               dw_before = random_tensor(d.w.shape(), parameters, 7).to(stream.device);
  const auto biases = to_doubles(bias), zs = to_doubles(z);
  std::vector<double> y(dy.size()), dx(x.size()), dw(w.size());
  each_product(d.s, [&](size_t i, size_t j, size_t k) {
    y[k] += x[i] * w[j];
    dx[i] += dy[k] * w[j];
    dw[j] += dy[k] * x[i];
  });
  const double tol = tolerance_of(d.type);
  const auto expect = [&](const char* what, const Tensor& got, std::vector<double> want) {
    checked.push_back({what + (" with " + to_string(parameters) + " filters"), to_doubles(got), std::move(want), tol});
  };
  const auto plus = [](std::vector<double> a, const std::vector<double>& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i % b.size()];
    return a;
  };
  const auto relu = [](std::vector<double> a) {
    for (double& v : a) v = std::max(v, 0.0);
    return a;
  };

  const ConvFpropArgs plain{.shape = d.s, .type = d.type, .x = d.x.raw(), .w = filter.raw(), .w_type = parameters, .y = nullptr, .bias_type = parameters};
  const auto fprop = [&](ConvFpropArgs args, const Tensor& out) {
    args.y = out.raw();
    conv_fprop(stream, args);
    return out;
  };
  const auto fresh_y = [&] { return Tensor::empty(d.dy.shape(), d.type, stream.device); };
  expect("y", fprop(plain, fresh_y()), y);
  auto args = plain;
  args.bias = bias.raw();
  expect("y + bias", fprop(args, fresh_y()), plus(y, biases));
  // Inference: a filter packed once and used twice, the residual first apart from y, then in it.
  PackedFilter packed;
  args.packed = &packed;
  args.epilogue = Epilogue::relu;
  args.z = z.raw();
  const auto fused = relu(plus(plus(y, biases), zs));
  expect("relu(y + z + bias)", fprop(args, fresh_y()), fused);
  const Tensor in_place = z.clone();
  args.z = in_place.raw();
  expect("relu(y + bias) onto z", fprop(args, in_place), fused);
  expect("z", z, zs);
  args = plain;
  args.z = z.raw();
  expect("y + z", fprop(args, fresh_y()), plus(y, zs));
  args.z = nullptr;
  args.epilogue = Epilogue::relu;
  expect("relu(y)", fprop(args, fresh_y()), relu(y));

  for (auto accumulate : {Accumulate::no, Accumulate::yes}) {
    const bool adds = accumulate == Accumulate::yes;
    const Tensor got_dx = dx_before.clone(), got_dw = dw_before.clone();
    conv_dgrad(stream, {.shape = d.s, .type = d.type, .dy = d.dy.raw(), .w = filter.raw(), .w_type = parameters, .dx = got_dx.raw(), .accumulate = accumulate});
    conv_wgrad(stream, {.shape = d.s, .type = d.type, .x = d.x.raw(), .dy = d.dy.raw(), .dw = got_dw.raw(), .dw_type = parameters, .accumulate = accumulate});
    expect(adds ? "dx added" : "dx", got_dx, adds ? plus(dx, to_doubles(dx_before)) : dx);
    expect(adds ? "dw added" : "dw", got_dw, adds ? plus(dw, to_doubles(dw_before)) : dw);
  }
}

std::vector<Checked> check(const ConvShape& s, DType type, Stream stream) {
  const Data d(s, type, stream);
  std::vector<Checked> checked;
  check_forms(d, type, stream, checked);
  if (type != DType::f32 && stream.device == Device::cpu) check_forms(d, DType::f32, stream, checked);  // CUDA takes parameters of the activations' type only
  return checked;
}

std::vector<Checked> grad(const ConvShape& s, DType type, Stream stream) {
  const Data d(s, type, stream);
  const Tensor y = Tensor::empty(d.dy.shape(), type, stream.device), dx = Tensor::empty(d.x.shape(), type, stream.device),
               dw = Tensor::empty(d.w.shape(), type, stream.device);
  conv_fprop(stream, {.shape = s, .type = type, .x = d.x.raw(), .w = d.w.raw(), .w_type = type, .y = y.raw()});
  conv_dgrad(stream, {.shape = s, .type = type, .dy = d.dy.raw(), .w = d.w.raw(), .w_type = type, .dx = dx.raw()});
  conv_wgrad(stream, {.shape = s, .type = type, .x = d.x.raw(), .dy = d.dy.raw(), .dw = dw.raw(), .dw_type = type, .accumulate = Accumulate::no});
  auto dot = [](const Tensor& a, const Tensor& b) {
    auto u = to_doubles(a), v = to_doubles(b);
    double sum = 0;
    for (size_t i = 0; i < u.size(); ++i) sum += u[i] * v[i];
    return sum;
  };
  // <dy, y> is a sum of N*P*Q*K terms of both signs: relative to its value the rounding is a few times that of one output.
  double want = dot(d.dy, y), tol = type == DType::bf16 ? 5e-2 : 1e-4;
  return {{"<dx,x>", {dot(dx, d.x)}, {want}, tol}, {"<dw,w>", {dot(dw, d.w)}, {want}, tol}};
}

enum class Form : unsigned char { fprop, infer, dgrad, wgrad };  // infer: residual, bias and ReLU
const char* name_of(Form form) { return form == Form::fprop ? "" : form == Form::infer ? ":infer" : form == Form::dgrad ? ":dgrad" : ":wgrad"; }

Work perf(const ConvShape& s, DType type, Form form, Stream stream) {
  const Data d(s, type, stream);
  const Tensor bias = Tensor::zeros({s.k}, type, stream.device), z = d.dy.clone();
  auto packed = std::make_shared<PackedFilter>();
  ConvFpropArgs fprop{.shape = s, .type = type, .x = d.x.raw(), .w = d.w.raw(), .w_type = type, .y = d.dy.raw()};
  if (form == Form::infer) fprop.z = z.raw(), fprop.bias = bias.raw(), fprop.bias_type = type, fprop.epilogue = Epilogue::relu, fprop.packed = packed.get();
  const ConvDgradArgs dgrad{.shape = s, .type = type, .dy = d.dy.raw(), .w = d.w.raw(), .w_type = type, .dx = d.x.raw()};
  const ConvWgradArgs wgrad{.shape = s, .type = type, .x = d.x.raw(), .dy = d.dy.raw(), .dw = d.w.raw(), .dw_type = type, .accumulate = Accumulate::no};
  return {.run =
              [=, keep = std::make_tuple(d, bias, z, packed)] {
                if (form == Form::dgrad)
                  conv_dgrad(stream, dgrad);
                else if (form == Form::wgrad)
                  conv_wgrad(stream, wgrad);
                else
                  conv_fprop(stream, fprop);
              },
          .bytes = double(d.x.bytes() + d.w.bytes() + d.dy.bytes() + (form == Form::infer ? z.bytes() : 0)),
          .flops = s.flops()};
}

// On the CPU, where somebody offers the shape: bf16 without AVX512_BF16 only by our own algorithms.
std::function<bool(Device)> can_run(const ConvShape& s, DType type) {
  return [=](Device device) { return device != Device::cpu || can_convolve(s, type); };
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
      {.n = 1, .h = 18, .w = 18, .c = 4, .k = 64, .r = 7, .s = 7, .stride = 2, .pad = 3},  // stems that read padded pixels
      {.n = 2, .h = 10, .w = 10, .c = 8, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 4, .h = 56, .w = 56, .c = 8, .k = 16, .r = 1, .s = 1, .stride = 2, .pad = 0},  // oneDNN 2.6.3 gets wgrad wrong here: see conv_onednn.cpp
  };
  // resnet18 at 32 px: the gradient at batch 32, the time at batch 128, forward and backward.
  std::vector<ConvShape> timed{
      {.n = 32, .h = 32, .w = 32, .c = 64, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 16, .w = 16, .c = 128, .k = 128, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 8, .w = 8, .c = 256, .k = 256, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 4, .w = 4, .c = 512, .k = 512, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 32, .h = 32, .w = 32, .c = 64, .k = 128, .r = 3, .s = 3, .stride = 2, .pad = 1},
  };
  // resnet18 and resnet50 at 224 px, batch 256, on a GPU: timed only.
  std::vector<ConvShape> timed_on_gpu{
      {.n = 256, .h = 56, .w = 56, .c = 64, .k = 64, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 256, .h = 28, .w = 28, .c = 128, .k = 128, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 256, .h = 14, .w = 14, .c = 256, .k = 256, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 256, .h = 7, .w = 7, .c = 512, .k = 512, .r = 3, .s = 3, .stride = 1, .pad = 1},
      {.n = 256, .h = 56, .w = 56, .c = 64, .k = 256, .r = 1, .s = 1, .stride = 1, .pad = 0},
      {.n = 256, .h = 56, .w = 56, .c = 64, .k = 128, .r = 1, .s = 1, .stride = 2, .pad = 0},
  };
  for (DType type : {DType::f32, DType::bf16}) {
    const auto add = [&](const ConvShape& s, Form form, Case c) {
      c.name = "conv:" + to_string(type) + ":" + to_string(s) + name_of(form);
      all.push_back(std::move(c));
    };
    for (const ConvShape& s : small)
      add(s, Form::fprop,
          {.name = {},
           .check = [=](Stream stream) { return check(s, type, stream); },
           .grad = [=](Stream stream) { return grad(s, type, stream); },
           .perf = {},
           .can_run = can_run(s, type)});
    for (ConvShape s : timed) {
      add(s, Form::fprop, {.name = {}, .check = {}, .grad = [=](Stream stream) { return grad(s, type, stream); }, .perf = {}, .can_run = can_run(s, type)});
      s.n = 128;
      for (Form form : {Form::fprop, Form::dgrad, Form::wgrad})
        add(s, form, {.name = {}, .check = {}, .grad = {}, .perf = [=](Stream stream) { return perf(s, type, form, stream); }, .can_run = can_run(s, type)});
    }
    for (const ConvShape& s : timed_on_gpu)
      for (Form form : {Form::fprop, Form::infer, Form::dgrad, Form::wgrad})
        add(s, form,
            {.name = {},
             .check = {},
             .grad = {},
             .perf = [=](Stream stream) { return perf(s, type, form, stream); },
             .can_run = [](Device device) { return device == Device::cuda; }});
  }
}

}  // namespace kd::cases
