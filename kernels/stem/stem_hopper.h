// stem_hopper: the launchers of stem_hopper.cu, for those of stem_cuda.cu, which have checked the arguments.
#pragma once
#include "kernels/stem/stem.h"
#include "simt/simt.h"

namespace kd {
namespace KD_GPU {

int64_t stem_fprop_parts_hopper(const StemShape&);  // blocks, of which each writes a part of `partial`
void stem_fprop_hopper(Stream, const StemFpropArgs&);
void stem_infer_hopper(Stream, const StemInferArgs&);
int64_t stem_wgrad_parts_hopper(const StemShape&);
void stem_wgrad_hopper(Stream, const StemWgradArgs&, float* partial);  // partial [parts,64,196], out: their sum is dw

}  // namespace KD_GPU
}  // namespace kd
