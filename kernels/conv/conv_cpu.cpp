#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "kernels/common/onednn.h"
#include "kernels/common/parallel.h"
#include "kernels/conv/conv.h"

namespace kd {

std::string to_string(const ConvShape& s) { return fmt::format("n{}h{}w{}c{}k{}r{}s{}st{}p{}", s.n, s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.pad); }

namespace cpu {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

enum class Op : unsigned char { fprop, dgrad, wgrad };
enum class Bias : unsigned char { none, f32, bf16 };

struct PlanKey {
  ConvShape shape;
  DType type, filter_type;
  Op op;
  Accumulate accumulate = Accumulate::no;  // fprop: into y; wgrad: into dw
  Bias bias = Bias::none;
  Epilogue epilogue = Epilogue::none;
  bool operator==(const PlanKey&) const = default;
};
struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const {
    uint64_t h = 0xcbf29ce484222325u;
    const ConvShape& s = key.shape;
    for (int64_t v : {s.n, s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.pad, int64_t(key.type), int64_t(key.filter_type), int64_t(key.op), int64_t(key.accumulate),
                      int64_t(key.bias), int64_t(key.epilogue)})
      h = (h ^ uint64_t(v)) * 0x100000001b3u;
    return size_t(h);
  }
};

const char* name_of(Op op) { return op == Op::fprop ? "fprop" : op == Op::dgrad ? "dgrad" : "wgrad"; }

// A primitive, the filter layout it wants, and the reorder between that layout and our KRSC filters.
struct Plan {
  dnnl::primitive primitive;
  memory::desc x, y, filter, user_filter, bias, scratch;
  dnnl::reorder pack;  // fprop, dgrad: user -> filter; wgrad: filter -> user
  bool pack_needed = true;
  std::string implementation;
};

memory::desc activation(int64_t n, int64_t c, int64_t h, int64_t w, DType type) { return {{n, c, h, w}, onednn::data_type(type), Tag::nhwc}; }

Plan make_plan(const PlanKey& key) {
  const ConvShape& s = key.shape;
  memory::dims strides{s.stride, s.stride}, pads{s.pad, s.pad};
  // Right and bottom padding may exceed what the last window reads when the stride does not divide: oneDNN wants the exact amount.
  memory::dims pads_after{(s.p() - 1) * s.stride + s.r - s.h - s.pad, (s.q() - 1) * s.stride + s.s - s.w - s.pad};
  auto type = onednn::data_type(key.type);
  Plan plan;
  plan.x = activation(s.n, s.c, s.h, s.w, key.type);
  plan.y = activation(s.n, s.k, s.p(), s.q(), key.type);
  plan.bias = memory::desc({s.k}, key.bias == Bias::bf16 ? memory::data_type::bf16 : memory::data_type::f32, Tag::x);
  plan.user_filter = memory::desc({s.k, s.c, s.r, s.s}, onednn::data_type(key.filter_type), Tag::ohwi);
  // wgrad sums in f32, also for bf16 activations; the other two multiply in the activation type.
  memory::desc any({s.k, s.c, s.r, s.s}, key.op == Op::wgrad ? memory::data_type::f32 : type, Tag::any);
  memory::desc any_forward({s.k, s.c, s.r, s.s}, type, Tag::any);
  auto attr = onednn::user_scratchpad();

  auto adopt = [&](const auto& desc, memory::desc filter) {
    plan.implementation = desc.impl_info_str();
    plan.filter = filter;
    plan.scratch = desc.scratchpad_desc();
  };
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto training = dnnl::prop_kind::forward_training;
  if (key.op == Op::fprop) {
    dnnl::post_ops post;
    if (key.accumulate == Accumulate::yes) post.append_sum(1.f);
    if (key.epilogue == Epilogue::relu) {
#if DNNL_VERSION_MAJOR >= 3
      post.append_eltwise(dnnl::algorithm::eltwise_relu, 0.f, 0.f);
#else
      post.append_eltwise(1.f, dnnl::algorithm::eltwise_relu, 0.f, 0.f);
#endif
    }
    attr.set_post_ops(post);
    const bool plain = key.bias == Bias::none && key.epilogue == Epilogue::none && key.accumulate == Accumulate::no;
    auto kind = plain ? training : dnnl::prop_kind::forward_inference;
    auto desc = key.bias != Bias::none
                    ? onednn::make_desc<dnnl::convolution_forward>(attr, kind, direct, plan.x, any, plan.bias, plan.y, strides, pads, pads_after)
                    : onednn::make_desc<dnnl::convolution_forward>(attr, kind, direct, plan.x, any, plan.y, strides, pads, pads_after);
    adopt(desc, desc.weights_desc());
    plan.primitive = dnnl::convolution_forward(desc);
  } else {
    auto hint =
        onednn::make_desc<dnnl::convolution_forward>(onednn::user_scratchpad(), training, direct, plan.x, any_forward, plan.y, strides, pads, pads_after);
    if (key.op == Op::dgrad) {
      auto desc = onednn::make_backward_desc<dnnl::convolution_backward_data>(hint, attr, direct, plan.x, any, plan.y, strides, pads, pads_after);
      adopt(desc, desc.weights_desc());
      plan.primitive = dnnl::convolution_backward_data(desc);
    } else {
      auto desc = onednn::make_backward_desc<dnnl::convolution_backward_weights>(hint, attr, direct, plan.x, any, plan.y, strides, pads, pads_after);
      adopt(desc, desc.diff_weights_desc());
      plan.primitive = dnnl::convolution_backward_weights(desc);
    }
  }
  KD_CHECK(plan.implementation.find("ref") == std::string::npos, "conv {} {} {}: oneDNN has only its reference loop ('{}') for this shape", name_of(key.op),
           to_string(s), to_string(key.type), plan.implementation);

  const bool adds = key.op == Op::wgrad && key.accumulate == Accumulate::yes;
  plan.pack_needed = adds || plan.filter != plan.user_filter;
  if (plan.pack_needed) {
    dnnl::primitive_attr pack_attr;
    if (adds) {
      dnnl::post_ops sum;
      sum.append_sum(1.f);
      pack_attr.set_post_ops(sum);
    }
    const auto &from = key.op == Op::wgrad ? plan.filter : plan.user_filter, &to = key.op == Op::wgrad ? plan.user_filter : plan.filter;
    plan.pack = dnnl::reorder(dnnl::reorder::primitive_desc(onednn::engine(), from, onednn::engine(), to, pack_attr));
  }
  return plan;
}

struct PlanCache {
  std::mutex mutex;
  std::unordered_map<PlanKey, std::unique_ptr<Plan>, PlanKeyHash> plans;
};
PlanCache& plan_cache() {
  static PlanCache cache;
  return cache;
}

const Plan& plan_for(const PlanKey& key) {
  std::lock_guard lock(plan_cache().mutex);
  auto& plan = plan_cache().plans[key];
  if (!plan) {
    try {
      plan = std::make_unique<Plan>(make_plan(key));
    } catch (const dnnl::error& e) {
      plan_cache().plans.erase(key);
      KD_FAIL("conv {} {}: oneDNN has no kernel for this on this CPU ({}){}", to_string(key.shape), to_string(key.type), e.message,
              key.type == DType::bf16 ? "; use precision=fp32" : "");
    }
  }
  return *plan;
}

memory wrap(const memory::desc& desc, const void* data) { return memory(desc, onednn::engine(), const_cast<void*>(data)); }

// A word after the scratchpad must survive: a library that needs more than it asked for damages memory far from here.
void run(const Plan& plan, const ConvShape& shape, std::unordered_map<int, memory> args) {
  constexpr uint64_t kSentinel = 0x5afe5afe5afe5afe;
  const int64_t bytes = (int64_t(plan.scratch.get_size()) + 7) / 8 * 8;
  auto scratch = Storage::allocate(bytes + int64_t(sizeof kSentinel), Device::cpu);
  auto* sentinel = reinterpret_cast<uint64_t*>(scratch->data() + bytes);
  *sentinel = kSentinel;
  args.insert({DNNL_ARG_SCRATCHPAD, wrap(plan.scratch, scratch->data())});
  profile::algorithm(plan.implementation);
  plan.primitive.execute(onednn::stream(), args);
  onednn::stream().wait();
  KD_CHECK(*sentinel == kSentinel, "conv {}: oneDNN's '{}' wrote past its scratchpad of {} bytes; memory may be damaged", to_string(shape), plan.implementation,
           plan.scratch.get_size());
}

// The filter in the plan's layout: the user's own memory when the layouts agree, else `holder`, which keeps it alive.
const void* packed_filter(const Plan& plan, const void* w, std::shared_ptr<Storage>& holder) {
  if (!plan.pack_needed) return w;
  holder = Storage::allocate(int64_t(plan.filter.get_size()), Device::cpu);
  auto from = wrap(plan.user_filter, w), to = wrap(plan.filter, holder->data());
  dnnl::reorder(plan.pack).execute(onednn::stream(), from, to);
  onednn::stream().wait();
  return holder->data();
}

void check_parameter_type(const ConvShape& s, const char* what, DType of, DType activations) {
  KD_CHECK(of == DType::f32 || of == activations, "conv {}: {} is {}, the activations {}; it may be f32 or have their type", to_string(s), what, to_string(of),
           to_string(activations));
}

}  // namespace

void conv_fprop(Stream, const ConvFpropArgs& args) {
  const ConvShape& s = args.shape;
  check_parameter_type(s, "w", args.w_type, args.type);
  check_parameter_type(s, "bias", args.bias_type, args.type);
  const Plan& plan = plan_for({.shape = s,
                               .type = args.type,
                               .filter_type = args.w_type,
                               .op = Op::fprop,
                               .accumulate = args.z ? Accumulate::yes : Accumulate::no,
                               .bias = !args.bias                      ? Bias::none
                                       : args.bias_type == DType::bf16 ? Bias::bf16
                                                                       : Bias::f32,
                               .epilogue = args.epilogue});
  // oneDNN adds to what y holds without another pass over it. Its post-op that reads a second tensor instead is not offered by every kernel.
  if (args.z && args.z != args.y)
    parallel_ranges(s.n * s.p() * s.q() * s.k * size_of(args.type), [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<std::byte*>(args.y) + begin, static_cast<const std::byte*>(args.z) + begin, size_t(end - begin));
    });
  std::shared_ptr<Storage> holder;
  const void* filter = nullptr;
  PackedFilter* packed = args.packed;
  if (packed && packed->data && packed->shape == s && packed->type == args.type) {
    filter = packed->data->data();
  } else {
    filter = packed_filter(plan, args.w, holder);
    if (packed && holder) *packed = {holder, s, args.type};
  }
  std::unordered_map<int, memory> call{
      {DNNL_ARG_SRC, wrap(plan.x, args.x)}, {DNNL_ARG_WEIGHTS, wrap(plan.filter, filter)}, {DNNL_ARG_DST, wrap(plan.y, args.y)}};
  if (args.bias) call.insert({DNNL_ARG_BIAS, wrap(plan.bias, args.bias)});
  run(plan, s, std::move(call));
}

void conv_dgrad(Stream, const ConvDgradArgs& args) {
  const ConvShape& s = args.shape;
  check_parameter_type(s, "w", args.w_type, args.type);
  const Plan& plan = plan_for({.shape = s, .type = args.type, .filter_type = args.w_type, .op = Op::dgrad});
  std::shared_ptr<Storage> holder, sum;
  const void* filter = packed_filter(plan, args.w, holder);
  void* dx = args.dx;
  const int64_t elements = s.n * s.h * s.w * s.c;
  if (args.accumulate == Accumulate::yes) {  // oneDNN's backward has no post-ops
    sum = Storage::allocate(elements * size_of(args.type), Device::cpu);
    dx = sum->data();
  }
  run(plan, s, {{DNNL_ARG_DIFF_DST, wrap(plan.y, args.dy)}, {DNNL_ARG_WEIGHTS, wrap(plan.filter, filter)}, {DNNL_ARG_DIFF_SRC, wrap(plan.x, dx)}});
  if (sum)
    with_float_type(args.type, [&](auto zero) {
      using T = decltype(zero);
      auto* from = static_cast<const T*>(dx);
      auto* to = static_cast<T*>(args.dx);
      parallel_ranges(elements, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = T(float(to[i]) + float(from[i]));
      });
    });
}

void conv_wgrad(Stream stream, const ConvWgradArgs& args) {
  const ConvShape& s = args.shape;
  if (s.r == 1 && s.s == 1 && s.pad == 0 && s.stride > 1 && s.c % 16 != 0) {
    // oneDNN 2.6.3 gets these wrong: it copies the rows it needs with channels rounded up to 16 into a scratchpad sized without the rounding, so its
    // threads overwrite each other and the heap. The pixels that a strided 1x1 filter sees, gathered, make it an ordinary 1x1 convolution.
    const int64_t pixel = s.c * size_of(args.type);
    auto gathered = Storage::allocate(s.n * s.p() * s.q() * pixel, Device::cpu);
    auto* from = static_cast<const std::byte*>(args.x);
    for (int64_t row = 0; row < s.n * s.p(); ++row)
      for (int64_t q = 0; q < s.q(); ++q)
        std::memcpy(gathered->data() + (row * s.q() + q) * pixel, from + ((row / s.p() * s.h + row % s.p() * s.stride) * s.w + q * s.stride) * pixel,
                    size_t(pixel));
    const ConvShape dense{.n = s.n, .h = s.p(), .w = s.q(), .c = s.c, .k = s.k, .r = 1, .s = 1, .stride = 1, .pad = 0};
    ConvWgradArgs same = args;
    same.shape = dense;
    same.x = gathered->data();
    return cpu::conv_wgrad(stream, same);
  }
  check_parameter_type(s, "dw", args.dw_type, args.type);
  const Plan& plan = plan_for({.shape = s, .type = args.type, .filter_type = args.dw_type, .op = Op::wgrad, .accumulate = args.accumulate});
  std::shared_ptr<Storage> scratch;
  if (plan.pack_needed) scratch = Storage::allocate(int64_t(plan.filter.get_size()), Device::cpu);
  auto dw = wrap(plan.filter, scratch ? scratch->data() : args.dw);
  run(plan, s, {{DNNL_ARG_SRC, wrap(plan.x, args.x)}, {DNNL_ARG_DIFF_DST, wrap(plan.y, args.dy)}, {DNNL_ARG_DIFF_WEIGHTS, dw}});
  if (!plan.pack_needed) return;
  auto user = wrap(plan.user_filter, args.dw);
  dnnl::reorder(plan.pack).execute(onednn::stream(), dw, user);
  onednn::stream().wait();
}

std::string list_plans() {
  std::lock_guard lock(plan_cache().mutex);
  std::vector<std::string> lines;
  for (auto& [key, plan] : plan_cache().plans) {
    lines.push_back(fmt::format("{} {} {} {}\n", name_of(key.op), to_string(key.type), to_string(key.shape), plan->implementation));
  }
  std::sort(lines.begin(), lines.end());
  return fmt::format("{}", fmt::join(lines, ""));
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
  return cpu::list_plans();
}

}  // namespace kd
