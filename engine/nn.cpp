#include "engine/nn.h"

#include <cmath>

namespace kd {

void ParamArena::parameter(std::string name, Shape shape, Init init, Var* slot) {
  KD_CHECK(!weights_.defined(), "parameter '{}' after build", name);
  parameters_.push_back({std::move(name), shape, std::move(init), slot});
}

void ParamArena::buffer(std::string name, Shape shape, float fill, Tensor* slot) { buffers_.push_back({std::move(name), slot, shape, fill}); }

void ParamArena::build(uint64_t seed) {
  int64_t total = 0;
  for (Parameter& p : parameters_) {
    p.offset = total;
    total += (p.shape.elements() + 15) / 16 * 16;
  }
  weights_ = Tensor::zeros({total}, DType::f32);
  grads_ = Tensor::zeros({total}, DType::f32);
  momentum_ = Tensor::zeros({total}, DType::f32);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = parameters_[i];
    Tensor window = weights_.slice(p.offset, p.shape);
    Rng rng(seed, Purpose::init, uint32_t(i));
    for (int64_t k = 0; k < window.elements(); ++k) window.data<float>()[k] = p.init(rng);
    *p.slot = Var(window, grads_.slice(p.offset, p.shape));
  }
  for (Buffer& b : buffers_) {
    *b.slot = Tensor::empty(b.shape, DType::f32);
    std::fill_n(b.slot->data<float>(), b.shape.elements(), b.fill);
  }
}

int64_t ParamArena::parameter_count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.shape.elements();
  return n;
}

ConvBn::ConvBn(ParamArena& arena, const std::string& conv_name, const std::string& bn_name, int64_t in, int64_t out, int64_t kernel, int64_t stride)
    : arena_(arena), kernel_(kernel), stride_(stride) {
  // He initialisation, fan-out (He et al. 2015; torchvision's choice for ResNets): N(0, 2 / (k*k*out)).
  const double sigma = std::sqrt(2.0 / double(kernel * kernel * out));
  arena.parameter(
      conv_name + ".weight", {out, kernel, kernel, in}, [sigma](Rng& rng) { return float(sigma * rng.normal()); }, &filter_);
  arena.parameter(
      bn_name + ".weight", {out}, [](Rng&) { return 1.f; }, &bn_.gamma);
  arena.parameter(
      bn_name + ".bias", {out}, [](Rng&) { return 0.f; }, &bn_.beta);
  arena.buffer(bn_name + ".running_mean", {out}, 0.f, &bn_.running_mean);
  arena.buffer(bn_name + ".running_var", {out}, 1.f, &bn_.running_var);
}

Var ConvBn::operator()(const Var& x, Mode mode, Activation activation, const Var& residual) const {
  if (mode == Mode::eval) return infer(x, activation, residual);
  folded_.version = 0;  // the running statistics move
  return batch_norm(conv2d(x, filter_, stride_, kernel_ / 2), bn_, mode, activation, residual);
}

Var ConvBn::infer(const Var& x, Activation activation, const Var& residual) const {
  KD_CHECK(!wants_grad({x, filter_}), "evaluation mode has no backward; wrap it in NoGrad");
  const Tensor &xv = x.value(), &w = filter_.value();
  KD_CHECK(xv.rank() == 4 && xv.dim(3) == w.dim(3), "conv: {} expects {} input channels, got {}", w.describe("weight"), w.dim(3), xv.describe("x"));
  if (folded_.version != arena_.version()) {
    const int64_t k = w.dim(0), per_filter = w.elements() / k;
    folded_ = {arena_.version(), Tensor::empty(w.shape(), DType::f32), Tensor::empty({k}, DType::f32), {}};
    for (int64_t i = 0; i < k; ++i) {
      double gain = double(bn_.gamma.value().data<float>()[i]) / std::sqrt(double(bn_.running_var.data<float>()[i]) + 1e-5);
      folded_.bias.data<float>()[i] = float(double(bn_.beta.value().data<float>()[i]) - gain * double(bn_.running_mean.data<float>()[i]));
      for (int64_t j = 0; j < per_filter; ++j) folded_.filter.data<float>()[i * per_filter + j] = float(gain * double(w.data<float>()[i * per_filter + j]));
    }
  }
  ConvShape shape{
      .n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2), .c = xv.dim(3), .k = w.dim(0), .r = kernel_, .s = kernel_, .stride = stride_, .pad = kernel_ / 2};
  Shape out{shape.n, shape.p(), shape.q(), shape.k};
  const bool relu = activation == Activation::relu;
  Tensor y;
  if (residual.defined()) {
    KD_CHECK(residual.shape() == out && residual.value().dtype() == xv.dtype(), "conv: {} is added to {}", residual.value().describe("residual"),
             to_string(out));
    y = residual.value().clone();  // the epilogue adds to what y holds
  } else {
    y = Tensor::empty(out, xv.dtype(), xv.device());
  }
  conv_fprop({xv.device()}, {.shape = shape,
                             .type = xv.dtype(),
                             .x = xv.raw(),
                             .w = folded_.filter.data<float>(),
                             .y = y.raw(),
                             .bias = folded_.bias.data<float>(),
                             .epilogue = residual.defined() ? (relu ? Epilogue::add_relu : Epilogue::add) : (relu ? Epilogue::relu : Epilogue::none),
                             .packed = &folded_.packed});
  return Var(y);
}

Linear::Linear(ParamArena& arena, const std::string& name, int64_t in, int64_t out) {
  const float bound = 1.f / std::sqrt(float(in));
  auto uniform = [bound](Rng& rng) { return rng.uniform(-bound, bound); };
  arena.parameter(name + ".weight", {out, in}, uniform, &weight);
  arena.parameter(name + ".bias", {out}, uniform, &bias);
}

}  // namespace kd
