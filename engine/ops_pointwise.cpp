#include "engine/ops.h"
#include "kernels/pointwise/pointwise.h"

namespace kd {

Var add(const Var& a, const Var& b) {
  const Tensor &av = a.value(), &bv = b.value();
  KD_CHECK(av.shape() == bv.shape() && av.dtype() == bv.dtype(), "add: {} and {}", av.describe("a"), bv.describe("b"));
  const Stream stream = current_stream(av.device());
  Var y(Tensor::empty(av.shape(), av.dtype(), av.device()), wants_grad({a, b}));
  pointwise_add(stream, {.a = av.raw(), .b = bv.raw(), .out = y.value().raw(), .n = av.elements(), .type = av.dtype()});
  Tape::current().record("add", {a, b}, y, 0, [=](const Tensor& dy) {
    a.accumulate(dy);
    b.accumulate(dy);
  });
  return y;
}

Var scale(const Var& a, float factor) {
  const Tensor& av = a.value();
  const Stream stream = current_stream(av.device());
  Var y(Tensor::empty(av.shape(), av.dtype(), av.device()), wants_grad({a}));
  pointwise_scale(stream, {.a = av.raw(), .out = y.value().raw(), .n = av.elements(), .factor = factor, .type = av.dtype()});
  Tape::current().record("scale", {a}, y, 0, [=](const Tensor& dy) {
    Tensor dx = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    pointwise_scale(stream, {.a = dy.raw(), .out = dx.raw(), .n = dy.elements(), .factor = factor, .type = dy.dtype()});
    a.accumulate(std::move(dx));
  });
  return y;
}

}  // namespace kd
