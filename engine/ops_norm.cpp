#include "engine/convolution.h"
#include "engine/ops.h"

namespace kd {
namespace {

void check_channels(const char* op, const Tensor& x, const BatchNormParams& bn, int64_t c) {
  for (const Tensor* t : {&bn.gamma.value(), &bn.beta.value(), &bn.running_mean, &bn.running_var})
    KD_CHECK(t->shape() == Shape({c}) && t->dtype() == DType::f32, "{}: {} for {}", op, t->describe("channel parameter"), x.describe("x"));
  KD_CHECK((!bn.gamma.requires_grad() || bn.gamma.is_parameter()) && (!bn.beta.requires_grad() || bn.beta.is_parameter()),
           "{}: gamma and beta must be parameters of an arena or constants", op);
}

// Where a kernel adds dgamma or dbeta: the arena's window, or a place that nobody reads.
Tensor channel_gradient(const Var& v) { return v.requires_grad() ? v.grad() : Tensor::zeros(v.shape(), DType::f32, v.value().device()); }

}  // namespace

Var conv_bn(const Var& x, const Var& w, int64_t stride, int64_t pad, const BatchNormParams& bn, Activation activation, const Var& residual) {
  const Convolution conv = convolution_of("conv_bn", x, w, stride, pad);
  const Stream stream = conv.stream;
  const Device device = x.value().device();
  const DType type = conv.type;
  const int64_t c = conv.shape.k, rows = conv.shape.n * conv.shape.p() * conv.shape.q();
  std::vector<Var> inputs{x, w, bn.gamma, bn.beta};
  if (residual.defined()) inputs.push_back(residual);
  const bool grad = wants_grad(inputs);

  // z: between the convolution and the norm. Its algorithm may have made the sums over z on the way; then the norm reads z once instead of twice.
  const Tensor z = Tensor::empty(conv.output(), type, device);
  check_channels("conv_bn", z, bn, c);
  if (residual.defined())
    KD_CHECK(residual.shape() == z.shape() && residual.value().dtype() == type, "conv_bn: {} is added to {}", residual.value().describe("residual"),
             z.describe("the convolution's"));
  Tensor partial;
  if (const int64_t parts = conv_sum_parts(stream, conv.shape, type)) partial = Tensor::empty({parts, 2, c}, DType::f32, device);
  const float* shift = partial.defined() ? bn.running_mean.data<float>() : nullptr;  // about the mean, and known beforehand
  conv_fprop(stream, {.shape = conv.shape,
                      .type = type,
                      .x = x.value().raw(),
                      .w = conv.filter.raw(),
                      .w_type = conv.filter.dtype(),
                      .y = z.raw(),
                      .partial = partial.defined() ? partial.data<float>() : nullptr,
                      .shift = shift});

  Var y(Tensor::empty(z.shape(), type, device), grad);
  Tensor mean = Tensor::empty({c}, DType::f32, device), rstd = Tensor::empty({c}, DType::f32, device), mask;
  if (grad && residual.defined() && activation == Activation::relu) mask = Tensor::empty({rows, (c + 7) / 8}, DType::u8, device);
  batchnorm_train(stream, {.x = z.raw(),
                           .residual = residual.defined() ? residual.value().raw() : nullptr,
                           .y = y.value().raw(),
                           .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                           .gamma = bn.gamma.value().data<float>(),
                           .beta = bn.beta.value().data<float>(),
                           .mean = mean.data<float>(),
                           .rstd = rstd.data<float>(),
                           .running_mean = bn.running_mean.data<float>(),
                           .running_var = bn.running_var.data<float>(),
                           .rows = rows,
                           .c = c,
                           .type = type,
                           .activation = activation,
                           .sums = partial.defined() ? ChannelSums{partial.data<float>(), shift, partial.dim(0)} : ChannelSums{}});

  const int64_t saved = x.value().bytes() + z.bytes() + mask.bytes();
  Tape::current().record("conv_bn", inputs, y, saved, [=, gamma = bn.gamma, beta = bn.beta](const Tensor& dy) {
    // dy is overwritten where this node alone holds it.
    Tensor dz = dy.is_sole_owner() ? dy : Tensor::empty(z.shape(), type, device), dresidual;
    if (residual.defined() && residual.requires_grad()) dresidual = Tensor::empty(z.shape(), type, device);
    batchnorm_bwd(stream, {.x = z.raw(),
                           .dy = dy.raw(),
                           .dx = dz.raw(),
                           .dresidual = dresidual.raw(),
                           .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                           .gamma = gamma.value().data<float>(),
                           .beta = beta.value().data<float>(),
                           .mean = mean.data<float>(),
                           .rstd = rstd.data<float>(),
                           .dgamma = channel_gradient(gamma).data<float>(),
                           .dbeta = channel_gradient(beta).data<float>(),
                           .rows = rows,
                           .c = c,
                           .type = type,
                           .activation = activation});
    if (dresidual.defined()) residual.accumulate(std::move(dresidual));
    convolution_backward(conv, x, w, dz);
  });
  return y;
}

Var batch_norm_pool(const Var& x, const BatchNormParams& bn, const StemSums& sums) {
  const Tensor& xv = x.value();
  KD_CHECK(xv.rank() == 4 && xv.elements() > 0, "batch_norm_pool: needs x [N,H,W,C], got {}", xv.describe("x"));
  const int64_t n = xv.dim(0), h = xv.dim(1), w = xv.dim(2), c = xv.dim(3);
  check_channels("batch_norm_pool", xv, bn, c);
  const Stream stream = current_stream(xv.device());
  const std::vector<Var> inputs{x, bn.gamma, bn.beta};
  const Shape out{n, (h - 1) / 2 + 1, (w - 1) / 2 + 1, c};
  Var y(Tensor::empty(out, xv.dtype(), xv.device()), wants_grad(inputs));
  Tensor arg = Tensor::empty(out, DType::u8, xv.device());
  Tensor mean = Tensor::empty({c}, DType::f32, xv.device()), rstd = Tensor::empty({c}, DType::f32, xv.device());
  batchnorm_pool_train(stream, {.x = xv.raw(),
                                .y = y.value().raw(),
                                .arg = arg.data<uint8_t>(),
                                .gamma = bn.gamma.value().data<float>(),
                                .beta = bn.beta.value().data<float>(),
                                .mean = mean.data<float>(),
                                .rstd = rstd.data<float>(),
                                .running_mean = bn.running_mean.data<float>(),
                                .running_var = bn.running_var.data<float>(),
                                .n = n,
                                .h = h,
                                .w = w,
                                .c = c,
                                .type = xv.dtype(),
                                .sums = sums.partial.defined()
                                            ? ChannelSums{sums.partial.data<float>(), sums.shift.data<float>(), sums.partial.dim(0)}
                                            : ChannelSums{}});
  Tape::current().record("batch_norm_pool", inputs, y, xv.bytes() + arg.bytes(), [=, gamma = bn.gamma, beta = bn.beta](const Tensor& dy) {
    Tensor dx = Tensor::empty(x.shape(), dy.dtype(), dy.device());
    batchnorm_pool_bwd(stream, {.x = x.value().raw(),
                                .dy = dy.raw(),
                                .arg = arg.data<uint8_t>(),
                                .dx = dx.raw(),
                                .gamma = gamma.value().data<float>(),
                                .beta = beta.value().data<float>(),
                                .mean = mean.data<float>(),
                                .rstd = rstd.data<float>(),
                                .dgamma = channel_gradient(gamma).data<float>(),
                                .dbeta = channel_gradient(beta).data<float>(),
                                .n = n,
                                .h = h,
                                .w = w,
                                .c = c,
                                .type = dy.dtype()});
    x.accumulate(std::move(dx));
  });
  return y;
}

}  // namespace kd
