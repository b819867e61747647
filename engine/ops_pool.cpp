#include "engine/ops.h"
#include "kernels/pool/pool.h"

namespace kd {

Var max_pool(const Var& x, int64_t window, int64_t stride, int64_t pad) {
  const Tensor& xv = x.value();
  KD_CHECK(xv.rank() == 4, "max_pool: needs x [N,H,W,C], got {}", xv.describe("x"));
  KD_CHECK(window >= 1 && window <= 15 && stride >= 1 && pad >= 0 && 2 * pad <= window, "max_pool: window {}, stride {}, padding {}", window, stride, pad);
  PoolShape shape{.n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2), .c = xv.dim(3), .window = window, .stride = stride, .pad = pad};
  KD_CHECK(shape.n > 0 && shape.p() > 0 && shape.q() > 0, "max_pool: {} is too small for a window of {}", xv.describe("x"), window);

  const Stream stream = current_stream(xv.device());
  const bool grad = wants_grad({x});
  Shape out{shape.n, shape.p(), shape.q(), shape.c};
  Var y(Tensor::empty(out, xv.dtype(), xv.device()), grad);
  Tensor arg;
  if (grad) arg = Tensor::empty(out, DType::u8, xv.device());
  max_pool_fwd(stream, {.shape = shape, .type = xv.dtype(), .x = xv.raw(), .y = y.value().raw(), .arg = grad ? arg.data<uint8_t>() : nullptr});
  Tape::current().record("max_pool", {x}, y, grad ? arg.bytes() : 0, [=](const Tensor& dy) {
    Tensor dx = Tensor::empty({shape.n, shape.h, shape.w, shape.c}, dy.dtype(), dy.device());
    max_pool_bwd(stream, {.shape = shape, .type = dy.dtype(), .dy = dy.raw(), .arg = arg.data<uint8_t>(), .dx = dx.raw()});
    x.accumulate(std::move(dx));
  });
  return y;
}

Var global_avg_pool(const Var& x) {
  const Tensor& xv = x.value();
  KD_CHECK(xv.rank() == 4 && xv.elements() > 0, "global_avg_pool: needs x [N,H,W,C], got {}", xv.describe("x"));
  const int64_t n = xv.dim(0), hw = xv.dim(1) * xv.dim(2), c = xv.dim(3);
  const Stream stream = current_stream(xv.device());
  Var y(Tensor::empty({n, c}, xv.dtype(), xv.device()), wants_grad({x}));
  global_avg_pool_fwd(stream, {.n = n, .hw = hw, .c = c, .type = xv.dtype(), .in = xv.raw(), .out = y.value().raw()});
  Tape::current().record("global_avg_pool", {x}, y, 0, [=](const Tensor& dy) {
    Tensor dx = Tensor::empty(x.shape(), dy.dtype(), dy.device());
    global_avg_pool_bwd(stream, {.n = n, .hw = hw, .c = c, .type = dy.dtype(), .in = dy.raw(), .out = dx.raw()});
    x.accumulate(std::move(dx));
  });
  return y;
}

}  // namespace kd
