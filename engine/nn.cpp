#include "engine/nn.h"

#include <cmath>

#include "kernels/pointwise/pointwise.h"
#include "kernels/stem/stem.h"

namespace kd {

Shape ParamArena::Parameter::stored() const {
  return stored_channels > 0 ? Shape{shape[0], shape[1], shape[2], stored_channels} : shape;
}

void ParamArena::parameter(std::string name, Shape shape, Init init, Var* slot, int64_t stored_channels) {
  KD_CHECK(!weights_.defined(), "parameter '{}' after build", name);
  KD_CHECK(stored_channels == 0 || (shape.rank() == 4 && stored_channels >= shape[3]), "parameter '{}' {} stored with {} channels", name, to_string(shape),
           stored_channels);
  parameters_.push_back({std::move(name), shape, std::move(init), slot, stored_channels});
}

void ParamArena::buffer(std::string name, Shape shape, float fill, Tensor* slot) { buffers_.push_back({std::move(name), slot, shape, fill}); }

void ParamArena::build(uint64_t seed, Device device, DType activations) {
  auto is_matrix = [](const Parameter& p) { return p.shape.rank() >= 2; };
  int64_t total = 0, matrices = 0;
  for (bool wanted : {true, false}) {
    for (Parameter& p : parameters_) {
      if (is_matrix(p) != wanted) continue;
      p.offset = total;
      total += (p.stored().elements() + 15) / 16 * 16;
    }
    if (wanted) matrices = total;
  }
  Tensor initial = Tensor::zeros({total}, DType::f32);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    Rng rng(seed, Purpose::init, uint32_t(i));
    float* window = initial.data<float>() + p.offset;
    const int64_t channels = p.stored_channels > 0 ? p.shape[3] : 1, stored = p.stored_channels > 0 ? p.stored_channels : 1;
    for (int64_t k = 0; k < p.shape.elements(); ++k) window[k / channels * stored + k % channels] = p.init(rng);
  }
  weights_ = initial.to(device);
  grads_ = Tensor::zeros({total}, DType::f32, device);
  momentum_ = Tensor::zeros({total}, DType::f32, device);
  if (device != Device::cpu && activations == DType::bf16) {
    rounded_ = Tensor::empty({matrices}, DType::bf16, device);
    rounded_grads_ = Tensor::zeros({matrices}, DType::bf16, device);
    weights_changed();
  }
  for (Parameter& p : parameters_) {
    const bool in_bf16 = rounded_.defined() && is_matrix(p);
    auto window = [&](const Tensor& arena) { return arena.slice(p.offset, p.stored()); };
    *p.slot = Var(window(weights_), window(in_bf16 ? rounded_grads_ : grads_), in_bf16 ? window(rounded_) : Tensor());
  }
  for (Buffer& b : buffers_) {
    Tensor filled = Tensor::empty(b.shape, DType::f32);
    std::fill_n(filled.data<float>(), b.shape.elements(), b.fill);
    *b.slot = filled.to(device);
  }
}

void ParamArena::weights_changed() {
  if (rounded_.defined())
    pointwise_cast(current_stream(weights_.device()),
                   {.a = weights_.raw(), .out = rounded_.raw(), .n = rounded_.elements(), .from = DType::f32, .to = DType::bf16});
  touch();
}

int64_t ParamArena::parameter_count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.shape.elements();
  return n;
}

ConvBn::ConvBn(ParamArena& arena, const std::string& conv_name, const std::string& bn_name, int64_t in, int64_t out, int64_t kernel, int64_t stride,
               int64_t stored_in)
    : arena_(arena), kernel_(kernel), stride_(stride) {
  // He initialisation, fan-out (He et al. 2015; torchvision's choice for ResNets): N(0, 2 / (k*k*out)).
  const double sigma = std::sqrt(2.0 / double(kernel * kernel * out));
  arena.parameter(
      conv_name + ".weight", {out, kernel, kernel, in}, [sigma](Rng& rng) { return float(sigma * rng.normal()); }, &filter_, stored_in);
  arena.parameter(
      bn_name + ".weight", {out}, [](Rng&) { return 1.f; }, &bn_.gamma);
  arena.parameter(
      bn_name + ".bias", {out}, [](Rng&) { return 0.f; }, &bn_.beta);
  arena.buffer(bn_name + ".running_mean", {out}, 0.f, &bn_.running_mean);
  arena.buffer(bn_name + ".running_var", {out}, 1.f, &bn_.running_var);
}

Var ConvBn::operator()(const Var& x, Mode mode, Activation activation, Var residual) const {
  if (mode == Mode::eval) return infer(x, activation, std::move(residual));
  folded_.version = 0;  // the running statistics move
  return conv_bn(x, filter_, stride_, kernel_ / 2, bn_, activation, residual);
}

Var ConvBn::pooled(const Var& x, Mode mode) const {
  const bool own_kernels = is_stem_convolution(x, filter_, stride_, kernel_ / 2);
  if (mode == Mode::eval) {
    if (!own_kernels) return max_pool(infer(x, Activation::relu, {}), 3, 2, 1);
    KD_CHECK(!wants_grad({x, filter_}), "evaluation mode has no backward; wrap it in NoGrad");
    const Tensor& xv = x.value();
    const StemShape shape{.n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2)};
    Tensor y = Tensor::empty({shape.n, (shape.p() - 1) / 2 + 1, (shape.q() - 1) / 2 + 1, kStemFilters}, DType::bf16, xv.device());
    const Folded& f = folded(DType::bf16);
    stem_infer(current_stream(xv.device()),
               {.shape = shape, .x = xv.data<bf16>(), .w = f.filter.data<bf16>(), .bias = f.bias.data<float>(), .y = y.data<bf16>()});
    return Var(y);
  }
  folded_.version = 0;
  if (!own_kernels) return batch_norm_pool(conv2d(x, filter_, stride_, kernel_ / 2), bn_);
  StemSums sums;
  const Var y = stem_conv(x, filter_, bn_.running_mean, sums);
  return batch_norm_pool(y, bn_, sums);
}

// The filter in the type the convolution multiplies in. The bias: f32 for the CPU and the stem's own kernels, bf16 for cuDNN's.
const ConvBn::Folded& ConvBn::folded(DType activations) const {
  const Tensor& w = filter_.value();
  const Device device = w.device();
  const DType type = device == Device::cpu ? DType::f32 : activations;
  if (folded_.version == arena_.version() && folded_.filter.dtype() == type) return folded_;
  const bool own_kernels = kernel_ == 7 && type == DType::bf16 && w.dim(3) == kStemChannels;
  const int64_t k = w.dim(0);
  folded_ = {arena_.version(), Tensor::empty(w.shape(), type, device), Tensor::empty({k}, own_kernels ? DType::f32 : type, device), {}};
  batchnorm_fold(current_stream(device), {.filter = w.data<float>(),
                                          .gamma = bn_.gamma.value().data<float>(),
                                          .beta = bn_.beta.value().data<float>(),
                                          .running_mean = bn_.running_mean.data<float>(),
                                          .running_var = bn_.running_var.data<float>(),
                                          .out_filter = folded_.filter.raw(),
                                          .filter_type = folded_.filter.dtype(),
                                          .out_bias = folded_.bias.raw(),
                                          .bias_type = folded_.bias.dtype(),
                                          .k = k,
                                          .per_filter = w.elements() / k});
  return folded_;
}

Var ConvBn::infer(const Var& x, Activation activation, Var residual) const {
  KD_CHECK(!wants_grad({x, filter_}), "evaluation mode has no backward; wrap it in NoGrad");
  const Tensor &xv = x.value(), &w = filter_.value();
  KD_CHECK(xv.rank() == 4 && xv.dim(3) == w.dim(3), "conv: {} expects {} input channels, got {}", w.describe("weight"), w.dim(3), xv.describe("x"));
  const Folded& f = folded(xv.dtype());
  const ConvShape shape{
      .n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2), .c = xv.dim(3), .k = w.dim(0), .r = kernel_, .s = kernel_, .stride = stride_, .pad = kernel_ / 2};
  const Shape out{shape.n, shape.p(), shape.q(), shape.k};
  if (residual.defined())
    KD_CHECK(residual.shape() == out && residual.value().dtype() == xv.dtype(), "conv: {} is added to {}", residual.value().describe("residual"),
             to_string(out));
  // cuDNN's fused plans promise nothing about a residual in the place of y.
  const bool in_place = residual.is_sole_owner() && xv.device() == Device::cpu;
  Tensor y = in_place ? residual.value() : Tensor::empty(out, xv.dtype(), xv.device());
  conv_fprop(current_stream(xv.device()), {.shape = shape,
                                           .type = xv.dtype(),
                                           .x = xv.raw(),
                                           .w = f.filter.raw(),
                                           .w_type = f.filter.dtype(),
                                           .y = y.raw(),
                                           .z = residual.defined() ? residual.value().raw() : nullptr,
                                           .bias = f.bias.raw(),
                                           .bias_type = f.bias.dtype(),
                                           .epilogue = activation == Activation::relu ? Epilogue::relu : Epilogue::none,
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
