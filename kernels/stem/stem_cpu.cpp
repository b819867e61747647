// Where the stem's calls go. The CPU has no kernel of its own: oneDNN computes the stem there, on three channels.
#include <limits>

#include "kernels/common/verified.h"
#include "kernels/stem/stem.h"
#include "kernels/stem/stem_forms.h"

namespace kd {
namespace stem {

void check(const char* kernel, const StemShape& s, std::initializer_list<const void*> pointers) {
  KD_CHECK(s.n >= 1 && s.h >= 2 && s.w >= 2 && s.h % 2 == 0 && s.w % 2 == 0 && s.w <= kStemMaxWidth,
           "{}: images of {}x{}x{} (NxHxW); height and width must be even, the width at most {}", kernel, s.n, s.h, s.w, kStemMaxWidth);
  KD_CHECK(s.n <= std::numeric_limits<int>::max() / s.h, "{}: {} images of {} rows; the kernels number rows with 32 bits", kernel, s.n, s.h);
  for (const void* pointer : pointers)
    KD_CHECK(pointer && reinterpret_cast<uintptr_t>(pointer) % 16 == 0, "{}: a tensor at {}; its address must be a multiple of 16", kernel, pointer);
}

bool can_run(StemForm form, Device device) {
  if (device != Device::cuda) return device == Device::emulated;
#if defined(KD_WITHOUT_HOPPER)  // not compiled for 9.0a
  if (form == StemForm::hopper) return false;
#endif
  const GpuInfo& gpu = gpu_info();
  return form == StemForm::hopper ? gpu.major == 9 && gpu.minor == 0 : gpu.major >= 8;  // wgmma exists in 9.0 only
}

StemForm form_for(Stream stream, const char* kernel, StemForm wanted) {
  if (wanted == StemForm::automatic) {
    const bool hopper = stream.device == Device::cuda && can_run(StemForm::hopper, stream.device) && is_verified(kernel, gpu_info().name);
    wanted = hopper ? StemForm::hopper : StemForm::portable;
  }
  KD_CHECK(can_run(wanted, stream.device), "{}: this GPU, {} with compute capability {}.{}, cannot run the {}", kernel, gpu_info().name, gpu_info().major,
           gpu_info().minor, wanted == StemForm::hopper ? "Hopper form; it needs 9.0 and a build for 90a" : "portable form; it needs 8.0 or newer");
  return wanted;
}

}  // namespace stem

namespace cpu {
namespace {
[[noreturn]] void refuse(const char* kernel) {
  KD_FAIL("{}: the stem's own kernels are for GPUs; the CPU runs conv_fprop and conv_wgrad on 3 channels", kernel);
}
}  // namespace

void stem_fprop(Stream, const StemFpropArgs&) { refuse("stem_fprop"); }
void stem_infer(Stream, const StemInferArgs&) { refuse("stem_infer"); }
void stem_wgrad(Stream, const StemWgradArgs&) { refuse("stem_wgrad"); }
}  // namespace cpu

KD_KERNEL(stem_fprop, StemFpropArgs)
KD_KERNEL(stem_infer, StemInferArgs)
KD_KERNEL(stem_wgrad, StemWgradArgs)

namespace cuda {
int64_t stem_parts(Stream, const StemShape&, StemForm);
}
namespace emulated {
int64_t stem_parts(Stream, const StemShape&, StemForm);
}
int64_t stem_parts(Stream stream, const StemShape& shape, StemForm form) {
  if (stream.device == Device::emulated) return emulated::stem_parts(stream, shape, form);
#if defined(KD_WITH_CUDA)
  if (stream.device == Device::cuda) return cuda::stem_parts(stream, shape, form);
#endif
  cpu::refuse("stem_parts");
}

}  // namespace kd
