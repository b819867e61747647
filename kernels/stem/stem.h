// stem: the first convolution of an ImageNet ResNet, 7x7 stride 2 padding 3 on 3 channels stored as 4, as own GPU kernels. cuDNN has no good kernel for so few
// channels: it pads them or runs at a quarter of the memory's speed (docs/cuda.md).
//   fprop  y[n,p,q,k]  = sum x[n, 2p+r-3, 2q+s-3, c] w[k,r,s,c], and on the way the channel sums that batch norm needs
//   infer  y           = max over 3x3 windows, stride 2, padding 1, of ReLU(fprop(x) + bias): only the pooled map is written
//   wgrad  dw[k,r,s,c] = sum_{n,p,q} dy[n,p,q,k] x[n, 2p+r-3, 2q+s-3, c]
// shapes  x bf16 [N,H,W,4]   w, dw bf16 [64,7,7,4]   y, dy bf16 [N,P,Q,64], P = (H-1)/2 + 1   infer's y [N,P',Q',64], P' = (P-1)/2 + 1   bias f32 [64]
//         N >= 1; H, W even; W <= 448; pointers are multiples of 16; x is finite (windows are computed 8 pixels wide, one with weight zero)
// sums    f32 products of bf16, in a fixed order: the same bits in every run on a card. The channel sums are of y as it is stored
// errors  kd::Error for a shape or a pointer that is not as above, for Device::cpu, and for a card or form that does not go together
// Two forms with one contract: Hopper (wgmma, bulk copies; taken where `verified` names the card) and portable (mma.sync, compute capability 8.0 and newer).
#pragma once
#include "engine/base/dispatch.h"

namespace kd {

constexpr int64_t kStemChannels = 4, kStemFilters = 64, kStemMaxWidth = 448;

struct StemShape {
  int64_t n, h, w;
  int64_t p() const { return (h - 1) / 2 + 1; }
  int64_t q() const { return (w - 1) / 2 + 1; }
};

// `portable` and `hopper` are for tests and gpu_check; the emulated device runs both.
enum class StemForm : unsigned char { automatic, portable, hopper };

struct StemFpropArgs {
  StemShape shape;
  const bf16 *x, *w;
  bf16* y;
  float* partial = nullptr;      // [stem_parts(stream, shape, form),2,64], out: sums as batchnorm's ChannelSums; null: not wanted
  const float* shift = nullptr;  // [64]
  StemForm form = StemForm::automatic;
};
void stem_fprop(Stream, const StemFpropArgs&);
int64_t stem_parts(Stream, const StemShape&, StemForm = StemForm::automatic);

struct StemInferArgs {
  StemShape shape;
  const bf16 *x, *w;
  const float* bias;
  bf16* y;
  StemForm form = StemForm::automatic;
};
void stem_infer(Stream, const StemInferArgs&);

struct StemWgradArgs {
  StemShape shape;
  const bf16 *x, *dy;
  bf16* dw;
  StemForm form = StemForm::automatic;
};
void stem_wgrad(Stream, const StemWgradArgs&);

}  // namespace kd
