// Convolutions of the emulated device: the CPU's, under the rules of the CUDA backend, so that whoever calls them is held to what a GPU will ask for.
// bf16 goes through f32: the products are exact there too, and it runs on CPUs for which oneDNN has no bf16 convolution.
#include <algorithm>

#include "kernels/conv/conv.h"

namespace kd {
namespace cpu {
void conv_fprop(Stream, const ConvFpropArgs&);
void conv_dgrad(Stream, const ConvDgradArgs&);
void conv_wgrad(Stream, const ConvWgradArgs&);
}  // namespace cpu

namespace emulated {
namespace {

int64_t x_elements(const ConvShape& s) { return s.n * s.h * s.w * s.c; }
int64_t y_elements(const ConvShape& s) { return s.n * s.p() * s.q() * s.k; }
int64_t filter_elements(const ConvShape& s) { return s.k * s.r * s.s * s.c; }

void check_type(const ConvShape& s, const char* what, DType of, DType activations) {
  KD_CHECK(of == activations, "conv {}: {} is {}, the activations {}; on a GPU they have one type", to_string(s), what, to_string(of), to_string(activations));
}
void check_pointers(const ConvShape& s, std::initializer_list<std::pair<const char*, const void*>> operands) {
  for (auto [what, p] : operands) {
    KD_CHECK(p, "conv {}: {} is missing", to_string(s), what);
    KD_CHECK(reinterpret_cast<uintptr_t>(p) % 16 == 0, "conv {}: {} at {} is not aligned to 16 bytes, as cuDNN's kernels need it", to_string(s), what, p);
  }
}

// A tensor as the CPU convolution sees it: itself where it is f32, else a copy. `write_back` is for outputs.
class InF32 {
 public:
  InF32(const void* from, DType type, int64_t n) : f32_(static_cast<float*>(const_cast<void*>(from))), n_(n) {
    if (!from || type == DType::f32) return;
    bf16_ = static_cast<bf16*>(const_cast<void*>(from));
    copy_ = Storage::allocate(n * size_of(DType::f32), Device::cpu);
    f32_ = reinterpret_cast<float*>(copy_->data());
    std::transform(bf16_, bf16_ + n, f32_, [](bf16 x) { return float(x); });
  }
  float* get() const { return f32_; }
  void write_back() const {
    if (bf16_) std::transform(f32_, f32_ + n_, bf16_, [](float x) { return bf16(x); });
  }

 private:
  float* f32_;
  bf16* bf16_ = nullptr;
  int64_t n_;
  std::shared_ptr<Storage> copy_;
};

}  // namespace

void conv_fprop(Stream, const ConvFpropArgs& args) {
  const ConvShape& s = args.shape;
  check_type(s, "w", args.w_type, args.type);
  check_pointers(s, {{"x", args.x}, {"w", args.w}, {"y", args.y}});
  if (args.z) check_pointers(s, {{"z", args.z}});
  if (args.bias) {
    check_type(s, "bias", args.bias_type, args.type);
    check_pointers(s, {{"bias", args.bias}});
  }
  EmulatedAccess access;
  const InF32 x(args.x, args.type, x_elements(s)), w(args.w, args.type, filter_elements(s)), y(args.y, args.type, y_elements(s)),
      z(args.z, args.type, y_elements(s)), bias(args.bias, args.type, s.k);
  cpu::conv_fprop({Device::cpu},
                  {.shape = s, .type = DType::f32, .x = x.get(), .w = w.get(), .y = y.get(), .z = z.get(), .bias = bias.get(), .epilogue = args.epilogue});
  y.write_back();
}

void conv_dgrad(Stream, const ConvDgradArgs& args) {
  const ConvShape& s = args.shape;
  check_type(s, "w", args.w_type, args.type);
  check_pointers(s, {{"dy", args.dy}, {"w", args.w}, {"dx", args.dx}});
  EmulatedAccess access;
  const InF32 dy(args.dy, args.type, y_elements(s)), w(args.w, args.type, filter_elements(s)), dx(args.dx, args.type, x_elements(s));
  cpu::conv_dgrad({Device::cpu}, {.shape = s, .type = DType::f32, .dy = dy.get(), .w = w.get(), .dx = dx.get(), .accumulate = args.accumulate});
  dx.write_back();
}

void conv_wgrad(Stream, const ConvWgradArgs& args) {
  const ConvShape& s = args.shape;
  check_type(s, "dw", args.dw_type, args.type);
  check_pointers(s, {{"x", args.x}, {"dy", args.dy}, {"dw", args.dw}});
  EmulatedAccess access;
  const InF32 x(args.x, args.type, x_elements(s)), dy(args.dy, args.type, y_elements(s)), dw(args.dw, args.type, filter_elements(s));
  cpu::conv_wgrad({Device::cpu}, {.shape = s, .type = DType::f32, .x = x.get(), .dy = dy.get(), .dw = dw.get(), .accumulate = args.accumulate});
  dw.write_back();
}

}  // namespace emulated
}  // namespace kd
