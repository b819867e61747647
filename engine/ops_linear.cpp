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

  const Stream stream = current_stream(xv.device());
  // bf16 operands where the optimizer keeps a bf16 copy of w; otherwise f32. Logits are f32 either way.
  const bool in_bf16 = xv.dtype() == DType::bf16 && w.rounded().defined();
  const DType type = in_bf16 ? DType::bf16 : DType::f32;
  const Tensor input = to_type(stream, xv, type), weight = in_bf16 ? w.rounded() : wv;
  Var y(Tensor::empty({n, k}, DType::f32, xv.device()), wants_grad({x, w, b}));
  gemm(stream, {.a = input.raw(),
                .b = weight.raw(),
                .ab_type = type,
                .c = y.value().raw(),
                .bias = b.value().data<float>(),
                .m = n,
                .n = k,
                .k = c,
                .op_b = Op::transposed});

  Tape::current().record("linear", {x, w, b}, y, input.bytes(), [=](const Tensor& dy) {
    const Tensor dy_in = to_type(stream, dy, type);
    if (w.requires_grad())
      gemm(stream, {.a = dy_in.raw(),
                    .b = input.raw(),
                    .ab_type = type,
                    .c = w.grad().raw(),
                    .c_type = w.grad().dtype(),
                    .m = k,
                    .n = c,
                    .k = n,
                    .op_a = Op::transposed,
                    .beta = w.claim_gradient() == Accumulate::yes ? 1.f : 0.f});
    if (b.requires_grad()) column_sums(stream, {.in = dy.data<float>(), .out = b.grad().data<float>(), .rows = n, .columns = k});
    if (x.requires_grad()) {
      Tensor dx = Tensor::empty({n, c}, type, dy.device());
      gemm(stream, {.a = dy_in.raw(), .b = weight.raw(), .ab_type = type, .c = dx.raw(), .c_type = type, .m = n, .n = c, .k = k});
      x.accumulate(to_type(stream, dx, x.value().dtype()));
    }
  });
  return y;
}

}  // namespace kd
