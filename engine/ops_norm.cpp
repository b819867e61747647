#include "engine/ops.h"

namespace kd {

Var batch_norm(const Var& x, const BatchNormParams& bn, Mode mode, Activation activation, const Var& residual) {
  const Tensor& xv = x.value();
  KD_CHECK(xv.rank() >= 2, "batch_norm: needs x [..., C], got {}", xv.describe("x"));
  const int64_t c = xv.dim(xv.rank() - 1), rows = xv.elements() / c;
  for (const Tensor* t : {&bn.gamma.value(), &bn.beta.value(), &bn.running_mean, &bn.running_var})
    KD_CHECK(t->shape() == Shape({c}) && t->dtype() == DType::f32, "batch_norm: {} for {}", t->describe("channel parameter"), xv.describe("x"));
  if (residual.defined())
    KD_CHECK(residual.shape() == xv.shape() && residual.value().dtype() == xv.dtype(), "batch_norm: {} is added to {}", residual.value().describe("residual"),
             xv.describe("x"));
  KD_CHECK((!bn.gamma.requires_grad() || bn.gamma.is_parameter()) && (!bn.beta.requires_grad() || bn.beta.is_parameter()),
           "batch_norm: gamma and beta must be parameters of an arena or constants");
  KD_CHECK(rows > 0, "batch_norm: {} has no rows", xv.describe("x"));

  const Stream stream{xv.device()};
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

  Tensor mean = Tensor::empty({c}, DType::f32, xv.device()), rstd = Tensor::empty({c}, DType::f32, xv.device());
  batchnorm_train(stream, {.x = xv.raw(),
                           .residual = residual_data,
                           .y = y.value().raw(),
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

  Tensor y_value = y.value();  // the ReLU mask is y > 0
  Tape::current().record("batch_norm", inputs, y, xv.bytes() + (activation == Activation::relu ? y_value.bytes() : 0),
                         [=, gamma = bn.gamma, beta = bn.beta](const Tensor& dy) {
                           Tensor dx = Tensor::empty(x.shape(), dy.dtype(), dy.device());
                           Tensor dresidual;
                           Tensor dgamma = gamma.requires_grad() ? gamma.grad() : Tensor::zeros({c}, DType::f32, dy.device());
                           Tensor dbeta = beta.requires_grad() ? beta.grad() : Tensor::zeros({c}, DType::f32, dy.device());
                           if (residual.defined() && residual.requires_grad()) dresidual = Tensor::empty(x.shape(), dy.dtype(), dy.device());
                           batchnorm_bwd(stream, {.x = x.value().raw(),
                                                  .y = y_value.raw(),
                                                  .dy = dy.raw(),
                                                  .dx = dx.raw(),
                                                  .dresidual = dresidual.raw(),
                                                  .gamma = gamma.value().data<float>(),
                                                  .mean = mean.data<float>(),
                                                  .rstd = rstd.data<float>(),
                                                  .dgamma = dgamma.data<float>(),
                                                  .dbeta = dbeta.data<float>(),
                                                  .rows = rows,
                                                  .c = c,
                                                  .type = dy.dtype(),
                                                  .activation = activation});
                           if (dresidual.defined()) residual.accumulate(std::move(dresidual));
                           x.accumulate(std::move(dx));
                         });
  return y;
}

}  // namespace kd
