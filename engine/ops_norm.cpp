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

Var batch_norm(const Var& x, const BatchNormParams& bn, Mode mode, Activation activation, const Var& residual) {
  const Tensor& xv = x.value();
  KD_CHECK(xv.rank() >= 2, "batch_norm: needs x [..., C], got {}", xv.describe("x"));
  const int64_t c = xv.dim(xv.rank() - 1), rows = xv.elements() / c;
  check_channels("batch_norm", xv, bn, c);
  if (residual.defined())
    KD_CHECK(residual.shape() == xv.shape() && residual.value().dtype() == xv.dtype(), "batch_norm: {} is added to {}", residual.value().describe("residual"),
             xv.describe("x"));
  KD_CHECK(rows > 0, "batch_norm: {} has no rows", xv.describe("x"));

  const Stream stream = current_stream(xv.device());
  const void* residual_data = residual.defined() ? residual.value().raw() : nullptr;
  std::vector<Var> inputs{x, bn.gamma, bn.beta};
  if (residual.defined()) inputs.push_back(residual);
  const bool grad = wants_grad(inputs);

  Var y(Tensor::empty(xv.shape(), xv.dtype(), xv.device()), grad);
  if (mode == Mode::eval) {
    KD_CHECK(!grad, "batch_norm: eval mode has no backward; wrap evaluation in NoGrad");
    batchnorm_infer(stream, {.x = xv.raw(),
                             .residual = residual_data,
                             .y = y.value().raw(),
                             .gamma = bn.gamma.value().data<float>(),
                             .beta = bn.beta.value().data<float>(),
                             .running_mean = bn.running_mean.data<float>(),
                             .running_var = bn.running_var.data<float>(),
                             .rows = rows,
                             .c = c,
                             .type = xv.dtype(),
                             .activation = activation});
    return y;
  }

  Tensor mean = Tensor::empty({c}, DType::f32, xv.device()), rstd = Tensor::empty({c}, DType::f32, xv.device()), mask;
  if (grad && residual.defined() && activation == Activation::relu) mask = Tensor::empty({rows, (c + 7) / 8}, DType::u8, xv.device());
  batchnorm_train(stream, {.x = xv.raw(),
                           .residual = residual_data,
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
                           .type = xv.dtype(),
                           .activation = activation});

  Tape::current().record("batch_norm", inputs, y, xv.bytes() + mask.bytes(), [=, gamma = bn.gamma, beta = bn.beta](const Tensor& dy) {
    // dy is overwritten where this node alone holds it.
    Tensor dx = dy.is_sole_owner() ? dy : Tensor::empty(x.shape(), dy.dtype(), dy.device());
    Tensor dresidual;
    if (residual.defined() && residual.requires_grad()) dresidual = Tensor::empty(x.shape(), dy.dtype(), dy.device());
    batchnorm_bwd(stream, {.x = x.value().raw(),
                           .dy = dy.raw(),
                           .dx = dx.raw(),
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
                           .type = dy.dtype(),
                           .activation = activation});
    if (dresidual.defined()) residual.accumulate(std::move(dresidual));
    x.accumulate(std::move(dx));
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
