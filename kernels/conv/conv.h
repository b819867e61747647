// conv: 2-D convolution (cross-correlation, as every framework calls it), NHWC activations, KRSC filters, no groups, no dilation.
//   fprop  y[n,p,q,k]  = sum_{r,s,c} x[n, p*stride+r-pad, q*stride+s-pad, c] * w[k,r,s,c]   (+ z[n,p,q,k]) (+ bias[k]) (ReLU)
//   dgrad  dx          = the adjoint of fprop in x applied to dy
//   wgrad  dw[k,r,s,c]  = sum_{n,p,q} dy[n,p,q,k] * x[n, p*stride+r-pad, q*stride+s-pad, c]
// shapes  x [N,H,W,C]  w [K,R,S,C]  y [N,P,Q,K], P = (H + 2 pad - R)/stride + 1, Q likewise
// types   x, y, z, dx, dy f32 | bf16 (one type per call; products in that type, sums f32). w: f32, or bf16 where the activations are.
//         CPU: either. CUDA: w, dw and bias have the type of the activations, because that is what cuDNN's fast kernels take and give.
// work    2*N*P*Q*K*R*S*C flops each; moves each tensor once
// Who does it: on CUDA cuDNN, by a plan made once per shape. On the CPU one of our own algorithms or oneDNN (conv_algorithm.h), chosen once per shape, below.
// A library's reference loop is refused rather than taken silently (it looks like a hang).
#pragma once
#include <memory>

#include "engine/base/dispatch.h"
#include "kernels/common/accumulate.h"

namespace kd {

struct ConvShape {
  int64_t n, h, w, c, k, r, s;
  int64_t stride = 1, pad = 0;
  int64_t p() const { return (h + 2 * pad - r) / stride + 1; }
  int64_t q() const { return (w + 2 * pad - s) / stride + 1; }
  double flops() const { return 2.0 * double(n * p() * q()) * double(k * r * s * c); }
  bool operator==(const ConvShape&) const = default;
};
std::string to_string(const ConvShape&);  // "n128h32w32c64k64r3s3st1p1"

enum class Epilogue : unsigned char { none, relu };

// CPU: a filter already in the layout that the chosen algorithm reads; filled on first use. Whoever changes the weights empties it.
struct PackedFilter {
  std::shared_ptr<Storage> data;
  const void* owner = nullptr;  // the algorithm
  ConvShape shape{};
  DType type = DType::f32;
};

struct ConvFpropArgs {
  ConvShape shape;
  DType type;  // of x, y and z
  const void* x;
  const void* w;
  DType w_type = DType::f32;
  void* y;
  const void* z = nullptr;  // residual, added before the ReLU; may be y
  const void* bias = nullptr;
  DType bias_type = DType::f32;
  Epilogue epilogue = Epilogue::none;
  PackedFilter* packed = nullptr;  // inference: repack only when empty
  // Training: sums over y for the norm behind it, while y is in registers: partial[part][0][k] = sum (y - shift[k]), [part][1][k] = sum (y - shift[k])^2, of y
  // before it is rounded. Null: not wanted.
  float* partial = nullptr;      // [conv_sum_parts,2,K]
  const float* shift = nullptr;  // [K]
};
void conv_fprop(Stream, const ConvFpropArgs&);
// 0: whoever does this shape here makes no sums, and the norm must read y for them.
int64_t conv_sum_parts(Stream, const ConvShape&, DType);

struct ConvDgradArgs {
  ConvShape shape;
  DType type;  // of dy and dx
  const void* dy;
  const void* w;
  DType w_type = DType::f32;
  void* dx;
  Accumulate accumulate = Accumulate::no;
};
void conv_dgrad(Stream, const ConvDgradArgs&);

struct ConvWgradArgs {
  ConvShape shape;
  DType type;  // of x and dy
  const void *x, *dy;
  void* dw;
  DType dw_type = DType::f32;
  Accumulate accumulate = Accumulate::yes;
};
void conv_wgrad(Stream, const ConvWgradArgs&);

// How the CPU backend chooses (conv_choice.cpp). The algorithms round differently, so a run that should have the bits of another must take its choices:
// training writes them into the run directory and takes them from there when it goes on.
enum class ConvMath : unsigned char { fast, exact };  // exact: sums of the products in the definition above, no Winograd (errors about 5 times smaller)
void set_conv_math(ConvMath);                         // of the calls from here on, in this process
// fixed: the first algorithm in a fixed order of preference. timed: the fastest for the shape on this machine, by a short run of each before the first use,
// kept in a text file per instruction set and number of threads, in the folder $KD_CONV_CACHE, else retort/ below $XDG_CACHE_HOME or ~/.cache.
enum class ConvTuning : unsigned char { fixed, timed };
void set_conv_tuning(ConvTuning);  // a process begins with fixed

// The choices made so far, a line each: "fprop f32 n32h32w32c64k64r3s3st1p1 fast winograd.avx2".
std::string conv_choices();
// Takes such lines as given. `where` names the file in errors: a line that cannot be read, or an algorithm that this machine lacks.
void pin_conv_choices(std::string_view lines, const std::string& where);

// Whether the CPU backend can do all three convolutions of a shape here.
bool can_convolve(const ConvShape&, DType);

// One line per plan: op, type, shape, who does it.
std::string conv_plans(Device = Device::cpu);

}  // namespace kd
