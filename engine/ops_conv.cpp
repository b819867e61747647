#include "engine/ops.h"
#include "kernels/conv/conv.h"

namespace kd {

Var conv2d(const Var& x, const Var& w, int64_t stride, int64_t pad) {
  const Tensor &xv = x.value(), &wv = w.value();
  KD_CHECK(xv.rank() == 4 && wv.rank() == 4, "conv2d: needs x [N,H,W,C] and weight [K,R,S,C], got {} and {}", xv.describe("x"), wv.describe("weight"));
  KD_CHECK(wv.dim(3) == xv.dim(3), "conv2d: {} expects {} input channels, {} has {}", wv.describe("weight"), wv.dim(3), xv.describe("x"), xv.dim(3));
  KD_CHECK(wv.dtype() == DType::f32, "conv2d: {} must be f32", wv.describe("weight"));
  ConvShape shape{.n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2), .c = xv.dim(3), .k = wv.dim(0), .r = wv.dim(1), .s = wv.dim(2), .stride = stride, .pad = pad};
  KD_CHECK(shape.n > 0 && shape.p() > 0 && shape.q() > 0, "conv2d: {} is too small for {} with padding {}", xv.describe("x"), wv.describe("weight"), pad);

  const Stream stream{xv.device()};
  const DType type = xv.dtype();
  Var y(Tensor::empty({shape.n, shape.p(), shape.q(), shape.k}, type, xv.device()), wants_grad({x, w}));
  conv_fprop(stream, {.shape = shape, .type = type, .x = xv.raw(), .w = wv.data<float>(), .y = y.value().raw()});

  Tape::current().record("conv2d", {x, w}, y, xv.bytes(), [=](const Tensor& dy) {
    if (w.requires_grad()) {
      // A parameter's gradient is a window of the arena: wgrad adds straight into it.
      Tensor dw = w.is_parameter() ? w.grad() : Tensor::zeros(w.shape(), DType::f32, dy.device());
      conv_wgrad(stream, {.shape = shape, .type = type, .x = x.value().raw(), .dy = dy.raw(), .dw = dw.data<float>()});
      if (!w.is_parameter()) w.accumulate(std::move(dw));
    }
    if (x.requires_grad()) {
      Tensor dx = Tensor::empty(x.shape(), type, dy.device());
      conv_dgrad(stream, {.shape = shape, .type = type, .dy = dy.raw(), .w = w.value().data<float>(), .dx = dx.raw()});
      x.accumulate(std::move(dx));
    }
  });
  return y;
}

}  // namespace kd
