// The CPU backend: the algorithm chosen for the shape, and the filter in the layout it reads. The arithmetic is in winograd*, direct* and conv_onednn.cpp.
#include "kernels/conv/conv_choice.h"

namespace kd {
namespace cpu {
namespace {

void check_parameter_type(const ConvShape& s, const char* what, DType of, DType activations) {
  KD_CHECK(of == DType::f32 || of == activations, "conv {}: {} is {}, the activations {}; it may be f32 or have their type", to_string(s), what, to_string(of),
           to_string(activations));
}

// `holder` keeps a filter alive that was packed for this call alone.
const void* packed_filter(const ConvAlgorithm& algorithm, const ConvProblem& problem, const void* w, DType type, std::shared_ptr<Storage>& holder) {
  const int64_t bytes = algorithm.packed_bytes(problem, type);
  if (bytes == 0) return w;
  holder = Storage::allocate(bytes, Device::cpu);
  algorithm.pack(problem, w, type, holder->data());
  return holder->data();
}

}  // namespace

void conv_fprop(Stream, const ConvFpropArgs& args) {
  check_parameter_type(args.shape, "w", args.w_type, args.type);
  check_parameter_type(args.shape, "bias", args.bias_type, args.type);
  const ConvProblem problem{ConvOp::fprop, args.shape, args.type, args.z != nullptr};
  const ConvAlgorithm& algorithm = choose(problem);
  KD_CHECK(!args.partial || algorithm.sum_parts, "conv {}: {} makes no sums", to_string(problem), algorithm.name);
  PackedFilter* kept = args.packed;
  std::shared_ptr<Storage> holder;
  const bool ready = kept && kept->data && kept->owner == &algorithm && kept->shape == args.shape && kept->type == args.type;
  const void* filter = ready ? kept->data->data() : packed_filter(algorithm, problem, args.w, args.w_type, holder);
  if (kept && holder) *kept = {holder, &algorithm, args.shape, args.type};
  algorithm.fprop(args, filter);
  profile::algorithm(algorithm.name);
}

void conv_dgrad(Stream, const ConvDgradArgs& args) {
  check_parameter_type(args.shape, "w", args.w_type, args.type);
  const ConvProblem problem{ConvOp::dgrad, args.shape, args.type, args.accumulate == Accumulate::yes};
  const ConvAlgorithm& algorithm = choose(problem);
  std::shared_ptr<Storage> holder;
  algorithm.dgrad(args, packed_filter(algorithm, problem, args.w, args.w_type, holder));
  profile::algorithm(algorithm.name);
}

void conv_wgrad(Stream, const ConvWgradArgs& args) {
  check_parameter_type(args.shape, "dw", args.dw_type, args.type);
  const ConvAlgorithm& algorithm = choose({ConvOp::wgrad, args.shape, args.type});
  algorithm.wgrad(args);
  profile::algorithm(algorithm.name);
}

}  // namespace cpu

// Every tensor once.
static profile::Work conv_work(const ConvShape& s, DType type, DType filter_type, int64_t residuals = 0) {
  const int64_t x = s.n * s.h * s.w * s.c, y = s.n * s.p() * s.q() * s.k, w = s.k * s.r * s.s * s.c;
  return {to_string(type) + " " + to_string(s), s.flops(), double((x + (1 + residuals) * y) * size_of(type) + w * size_of(filter_type))};
}
static profile::Work work_of(const ConvFpropArgs& args) { return conv_work(args.shape, args.type, args.w_type, args.z ? 1 : 0); }
static profile::Work work_of(const ConvDgradArgs& args) { return conv_work(args.shape, args.type, args.w_type); }
static profile::Work work_of(const ConvWgradArgs& args) { return conv_work(args.shape, args.type, args.dw_type); }

KD_KERNEL(conv_fprop, ConvFpropArgs)
int64_t conv_sum_parts(Stream stream, const ConvShape& shape, DType type) {
  if (stream.device != Device::cpu) return 0;
  const cpu::ConvAlgorithm& algorithm = cpu::choose({cpu::ConvOp::fprop, shape, type});
  return algorithm.sum_parts ? algorithm.sum_parts(shape) : 0;
}
KD_KERNEL(conv_dgrad, ConvDgradArgs)
KD_KERNEL(conv_wgrad, ConvWgradArgs)

#if defined(KD_WITH_CUDA)
namespace cuda {
std::string list_plans();
}
#endif
std::string conv_plans([[maybe_unused]] Device device) {
#if defined(KD_WITH_CUDA)
  if (device == Device::cuda) return cuda::list_plans();
#endif
  return conv_choices();
}

}  // namespace kd
