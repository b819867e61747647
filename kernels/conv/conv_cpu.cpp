#include <algorithm>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "kernels/common/onednn.h"
#include "kernels/conv/conv.h"

namespace kd {

std::string to_string(const ConvShape& s) { return fmt::format("n{}h{}w{}c{}k{}r{}s{}st{}p{}", s.n, s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.pad); }

namespace cpu {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

enum class Op : unsigned char { fprop, dgrad, wgrad };

struct PlanKey {
  ConvShape shape;
  DType type;
  Op op;
  Epilogue epilogue;
  bool bias;
  bool operator==(const PlanKey&) const = default;
};
struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const {
    uint64_t h = 0xcbf29ce484222325u;
    const ConvShape& s = key.shape;
    for (int64_t v : {s.n, s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.pad, int64_t(key.type), int64_t(key.op), int64_t(key.epilogue), int64_t(key.bias)})
      h = (h ^ uint64_t(v)) * 0x100000001b3u;
    return size_t(h);
  }
};

// A primitive, the filter layout it wants, and the reorder between that layout and our f32 KRSC filters.
struct Plan {
  dnnl::primitive primitive;
  memory::desc x, y, filter, user_filter, bias, scratch;
  dnnl::reorder pack;  // fprop, dgrad: user -> filter; wgrad: filter -> user, added
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
  plan.bias = memory::desc({s.k}, memory::data_type::f32, Tag::x);
  plan.user_filter = memory::desc({s.k, s.c, s.r, s.s}, memory::data_type::f32, Tag::ohwi);
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
    if (key.epilogue == Epilogue::add || key.epilogue == Epilogue::add_relu) post.append_sum(1.f);
    if (key.epilogue == Epilogue::relu || key.epilogue == Epilogue::add_relu) {
#if DNNL_VERSION_MAJOR >= 3
      post.append_eltwise(dnnl::algorithm::eltwise_relu, 0.f, 0.f);
#else
      post.append_eltwise(1.f, dnnl::algorithm::eltwise_relu, 0.f, 0.f);
#endif
    }
    attr.set_post_ops(post);
    auto kind = key.bias || key.epilogue != Epilogue::none ? dnnl::prop_kind::forward_inference : training;
    auto desc = key.bias ? onednn::make_desc<dnnl::convolution_forward>(attr, kind, direct, plan.x, any, plan.bias, plan.y, strides, pads, pads_after)
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
  KD_CHECK(plan.implementation.find("ref") == std::string::npos, "conv {} {} {}: oneDNN has only its reference loop ('{}') for this shape",
           key.op == Op::fprop   ? "fprop"
           : key.op == Op::dgrad ? "dgrad"
                                 : "wgrad",
           to_string(s), to_string(key.type), plan.implementation);

  dnnl::primitive_attr pack_attr;
  if (key.op == Op::wgrad) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    pack_attr.set_post_ops(sum);
    plan.pack = dnnl::reorder(dnnl::reorder::primitive_desc(onednn::engine(), plan.filter, onednn::engine(), plan.user_filter, pack_attr));
  } else {
    plan.pack_needed = plan.filter != plan.user_filter;
    if (plan.pack_needed)
      plan.pack = dnnl::reorder(dnnl::reorder::primitive_desc(onednn::engine(), plan.user_filter, onednn::engine(), plan.filter, pack_attr));
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
  plan.primitive.execute(onednn::stream(), args);
  onednn::stream().wait();
  KD_CHECK(*sentinel == kSentinel, "conv {}: oneDNN's '{}' wrote past its scratchpad of {} bytes; memory may be damaged", to_string(shape), plan.implementation,
           plan.scratch.get_size());
}

// The filter in the plan's layout: the user's own memory when the layouts agree, else `holder`, which keeps it alive.
const void* packed_filter(const Plan& plan, const float* w, std::shared_ptr<Storage>& holder) {
  if (!plan.pack_needed) return w;
  holder = Storage::allocate(int64_t(plan.filter.get_size()), Device::cpu);
  auto from = wrap(plan.user_filter, w), to = wrap(plan.filter, holder->data());
  dnnl::reorder(plan.pack).execute(onednn::stream(), from, to);
  onednn::stream().wait();
  return holder->data();
}

}  // namespace

void conv_fprop(Stream, const ConvFpropArgs& args) {
  const Plan& plan = plan_for({args.shape, args.type, Op::fprop, args.epilogue, args.bias != nullptr});
  std::shared_ptr<Storage> holder;
  const void* filter = nullptr;
  PackedFilter* packed = args.packed;
  if (packed && packed->data && packed->shape == args.shape && packed->type == args.type) {
    filter = packed->data->data();
  } else {
    filter = packed_filter(plan, args.w, holder);
    if (packed && holder) *packed = {holder, args.shape, args.type};
  }
  std::unordered_map<int, memory> call{
      {DNNL_ARG_SRC, wrap(plan.x, args.x)}, {DNNL_ARG_WEIGHTS, wrap(plan.filter, filter)}, {DNNL_ARG_DST, wrap(plan.y, args.y)}};
  if (args.bias) call.insert({DNNL_ARG_BIAS, wrap(plan.bias, args.bias)});
  run(plan, args.shape, std::move(call));
}

void conv_dgrad(Stream, const ConvDgradArgs& args) {
  const Plan& plan = plan_for({args.shape, args.type, Op::dgrad, Epilogue::none, false});
  std::shared_ptr<Storage> holder;
  const void* filter = packed_filter(plan, args.w, holder);
  run(plan, args.shape,
      {{DNNL_ARG_DIFF_DST, wrap(plan.y, args.dy)}, {DNNL_ARG_WEIGHTS, wrap(plan.filter, filter)}, {DNNL_ARG_DIFF_SRC, wrap(plan.x, args.dx)}});
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
    return cpu::conv_wgrad(stream, ConvWgradArgs{.shape = dense, .type = args.type, .x = gathered->data(), .dy = args.dy, .dw = args.dw});
  }
  const Plan& plan = plan_for({args.shape, args.type, Op::wgrad, Epilogue::none, false});
  auto scratch = Storage::allocate(int64_t(plan.filter.get_size()), Device::cpu);
  auto dw = wrap(plan.filter, scratch->data());
  run(plan, args.shape, {{DNNL_ARG_SRC, wrap(plan.x, args.x)}, {DNNL_ARG_DIFF_DST, wrap(plan.y, args.dy)}, {DNNL_ARG_DIFF_WEIGHTS, dw}});
  auto sum = wrap(plan.user_filter, args.dw);
  dnnl::reorder(plan.pack).execute(onednn::stream(), dw, sum);
  onednn::stream().wait();
}

std::string list_plans() {
  std::lock_guard lock(plan_cache().mutex);
  std::vector<std::string> lines;
  for (auto& [key, plan] : plan_cache().plans) {
    const char* op[] = {"fprop", "dgrad", "wgrad"};
    lines.push_back(fmt::format("{} {} {} {}\n", op[size_t(key.op)], to_string(key.type), to_string(key.shape), plan->implementation));
  }
  std::sort(lines.begin(), lines.end());
  return fmt::format("{}", fmt::join(lines, ""));
}

}  // namespace cpu

void conv_fprop(Stream stream, const ConvFpropArgs& args) { KD_DISPATCH(stream, conv_fprop, args); }
void conv_dgrad(Stream stream, const ConvDgradArgs& args) { KD_DISPATCH(stream, conv_dgrad, args); }
void conv_wgrad(Stream stream, const ConvWgradArgs& args) { KD_DISPATCH(stream, conv_wgrad, args); }
std::string conv_plans() { return cpu::list_plans(); }

}  // namespace kd
