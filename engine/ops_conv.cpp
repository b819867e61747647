#include "engine/convolution.h"
#include "engine/ops.h"
#include "kernels/stem/stem.h"

namespace kd {

Convolution convolution_of(const char* op, const Var& x, const Var& w, int64_t stride, int64_t pad) {
  const Tensor &xv = x.value(), &wv = w.value();
  KD_CHECK(xv.rank() == 4 && wv.rank() == 4, "{}: needs x [N,H,W,C] and weight [K,R,S,C], got {} and {}", op, xv.describe("x"), wv.describe("weight"));
  KD_CHECK(wv.dim(3) == xv.dim(3), "{}: {} expects {} input channels, {} has {}", op, wv.describe("weight"), wv.dim(3), xv.describe("x"), xv.dim(3));
  KD_CHECK(wv.dtype() == DType::f32, "{}: {} must be f32", op, wv.describe("weight"));
  const ConvShape s{
      .n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2), .c = xv.dim(3), .k = wv.dim(0), .r = wv.dim(1), .s = wv.dim(2), .stride = stride, .pad = pad};
  KD_CHECK(s.n > 0 && s.p() > 0 && s.q() > 0, "{}: {} is too small for {} with padding {}", op, xv.describe("x"), wv.describe("weight"), pad);
  return {current_stream(xv.device()), s, xv.dtype(), xv.dtype() == DType::bf16 && w.rounded().defined() ? w.rounded() : wv};
}

void convolution_backward(const Convolution& conv, const Var& x, const Var& w, const Tensor& dy) {
  if (w.requires_grad()) {
    // A parameter's gradient is a window of the arena: wgrad writes straight into it.
    Tensor dw = w.is_parameter() ? w.grad() : Tensor::empty(w.shape(), DType::f32, dy.device());
    conv_wgrad(conv.stream, {.shape = conv.shape,
                             .type = conv.type,
                             .x = x.value().raw(),
                             .dy = dy.raw(),
                             .dw = dw.raw(),
                             .dw_type = dw.dtype(),
                             .accumulate = w.is_parameter() ? w.claim_gradient() : Accumulate::no});
    if (!w.is_parameter()) w.accumulate(std::move(dw));
  }
  if (x.requires_grad()) {
    // Where a residual branch has brought its gradient already, the convolution adds to it on the way out: a pass of reading two tensors and writing one less.
    Tensor dx = x.own_gradient();
    const bool adds = dx.defined();
    if (!adds) dx = Tensor::empty(x.shape(), conv.type, dy.device());
    conv_dgrad(conv.stream, {.shape = conv.shape,
                             .type = conv.type,
                             .dy = dy.raw(),
                             .w = conv.filter.raw(),
                             .w_type = conv.filter.dtype(),
                             .dx = dx.raw(),
                             .accumulate = adds ? Accumulate::yes : Accumulate::no});
    if (!adds) x.accumulate(std::move(dx));
  }
}

Var conv2d(const Var& x, const Var& w, int64_t stride, int64_t pad) {
  const Convolution conv = convolution_of("conv2d", x, w, stride, pad);
  const Tensor& xv = x.value();
  Var y(Tensor::empty(conv.output(), conv.type, xv.device()), wants_grad({x, w}));
  conv_fprop(conv.stream, {.shape = conv.shape, .type = conv.type, .x = xv.raw(), .w = conv.filter.raw(), .w_type = conv.filter.dtype(), .y = y.value().raw()});
  Tape::current().record("conv2d", {x, w}, y, xv.bytes(), [=](const Tensor& dy) { convolution_backward(conv, x, w, dy); });
  return y;
}

int64_t stored_input_channels(Device device, DType type, int64_t window, int64_t filters) {
  if (device == Device::cpu) return 3;
  return type == DType::f32 || (window == 7 && filters == kStemFilters) ? kStemChannels : 8;
}

bool is_stem_convolution(const Var& x, const Var& w, int64_t stride, int64_t pad) {
  const Tensor &xv = x.value(), &wv = w.value();
  return xv.device() != Device::cpu && xv.dtype() == DType::bf16 && w.rounded().defined() && stride == 2 && pad == 3 &&
         wv.shape() == Shape{kStemFilters, 7, 7, kStemChannels} && xv.dim(3) == kStemChannels && xv.dim(1) % 2 == 0 && xv.dim(2) % 2 == 0 &&
         xv.dim(2) <= kStemMaxWidth;
}

Var stem_conv(const Var& x, const Var& w, const Tensor& shift, StemSums& sums) {
  KD_CHECK(is_stem_convolution(x, w, 2, 3) && w.is_parameter() && !x.requires_grad(), "stem_conv: {} and {} are not an input and a filter of the stem",
           x.value().describe("x"), w.value().describe("weight"));
  const Tensor& xv = x.value();
  const Stream stream = current_stream(xv.device());
  const StemShape shape{.n = xv.dim(0), .h = xv.dim(1), .w = xv.dim(2)};
  Var y(Tensor::empty({shape.n, shape.p(), shape.q(), kStemFilters}, DType::bf16, xv.device()), wants_grad({w}));
  sums = {.partial = Tensor::empty({stem_parts(stream, shape), 2, kStemFilters}, DType::f32, xv.device()), .shift = shift};
  stem_fprop(stream, {.shape = shape,
                      .x = xv.data<bf16>(),
                      .w = w.rounded().data<bf16>(),
                      .y = y.value().data<bf16>(),
                      .partial = sums.partial.data<float>(),
                      .shift = shift.data<float>()});
  Tape::current().record("stem_conv", {w}, y, xv.bytes(), [=](const Tensor& dy) {
    const bool first = w.claim_gradient() == Accumulate::no;
    Tensor dw = first ? w.grad() : Tensor::empty(w.shape(), DType::bf16, dy.device());
    stem_wgrad(stream, {.shape = shape, .x = x.value().data<bf16>(), .dy = dy.data<bf16>(), .dw = dw.data<bf16>()});
    if (!first) w.accumulate(std::move(dw));
  });
  return y;
}

}  // namespace kd
