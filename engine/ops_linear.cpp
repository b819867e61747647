#include "engine/ops.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pointwise/pointwise.h"

namespace kd {
namespace {

Tensor to_type(Stream stream, const Tensor& t, DType type) {
  if (t.dtype() == type) return t;
  Tensor out = Tensor::empty(t.shape(), type, t.device());
  pointwise_cast(stream, {.a = t.raw(), .out = out.raw(), .n = t.elements(), .from = t.dtype(), .to = type});
  return out;
}

}  // namespace

Var linear(const Var& x, const Var& w, const Var& b) {
  const Tensor &xv = x.value(), &wv = w.value();
  KD_CHECK(xv.rank() == 2 && wv.rank() == 2 && wv.dim(1) == xv.dim(1), "linear: {} for {}", wv.describe("weight"), xv.describe("x"));
  const int64_t n = xv.dim(0), c = xv.dim(1), k = wv.dim(0);
  KD_CHECK(b.shape() == Shape({k}), "linear: {} for {}", b.value().describe("bias"), wv.describe("weight"));

  KD_CHECK((!w.requires_grad() || w.is_parameter()) && (!b.requires_grad() || b.is_parameter()),
           "linear: weight and bias must be parameters of an arena or constants");

  const Stream stream{xv.device()};
  Tensor input = to_type(stream, xv, DType::f32);
  Var y(Tensor::empty({n, k}, DType::f32, xv.device()), wants_grad({x, w, b}));
  // Every row starts as the bias: ones[n,1] * b[1,k], then the product is added.
  Tensor ones = Tensor::empty({n}, DType::f32, xv.device());
  std::fill_n(ones.data<float>(), n, 1.f);
  gemm(stream, {.a = ones.data<float>(), .b = b.value().data<float>(), .c = y.value().data<float>(), .m = n, .n = k, .k = 1});
  gemm(stream, {.a = input.data<float>(), .b = wv.data<float>(), .c = y.value().data<float>(), .m = n, .n = k, .k = c, .op_b = Op::transposed, .beta = 1.f});

  Tape::current().record("linear", {x, w, b}, y, input.bytes(), [=](const Tensor& dy) {
    if (w.requires_grad())
      gemm(stream, {.a = dy.data<float>(), .b = input.data<float>(), .c = w.grad().data<float>(), .m = k, .n = c, .k = n, .op_a = Op::transposed, .beta = 1.f});
    if (b.requires_grad()) gemm(stream, {.a = ones.data<float>(), .b = dy.data<float>(), .c = b.grad().data<float>(), .m = 1, .n = k, .k = n, .beta = 1.f});
    if (x.requires_grad()) {
      Tensor dx = Tensor::empty({n, c}, DType::f32, dy.device());
      gemm(stream, {.a = dy.data<float>(), .b = w.value().data<float>(), .c = dx.data<float>(), .m = n, .n = c, .k = k});
      x.accumulate(to_type(stream, dx, x.value().dtype()));
    }
  });
  return y;
}

}  // namespace kd
