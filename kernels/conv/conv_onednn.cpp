// Convolutions by oneDNN 2.6 or 3.x: any shape that it has a compiled kernel for. The reference loops that it falls back to otherwise look like a hang and are
// not offered.
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "kernels/common/onednn.h"
#include "kernels/common/parallel.h"
#include "kernels/conv/conv_algorithm.h"

namespace kd::cpu {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

enum class Bias : unsigned char { none, f32, bf16 };

struct PlanKey {
  ConvShape shape;
  DType type;
  ConvOp op;
  DType filter_type = DType::f32;          // wgrad: of dw. The others read filters that `pack` has laid out
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

// A primitive and the filter layout it wants. All forms of one fprop read the layout that the plain one chose, so that a filter is packed once for all.
struct Plan {
  dnnl::primitive primitive;
  memory::desc x, y, filter, bias, scratch;
  memory::desc user_filter;  // wgrad: KRSC in the type of dw
  dnnl::reorder unpack;      // wgrad: filter -> user
  bool unpack_needed = false;
  std::string implementation;
};

memory::desc activation(int64_t n, int64_t c, int64_t h, int64_t w, DType type) { return {{n, c, h, w}, onednn::data_type(type), Tag::nhwc}; }

const Plan& plan_for(const PlanKey& key);

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
  memory::desc any({s.k, s.c, s.r, s.s}, key.op == ConvOp::wgrad ? memory::data_type::f32 : type, Tag::any);
  memory::desc any_forward({s.k, s.c, s.r, s.s}, type, Tag::any);
  auto attr = onednn::user_scratchpad();

  auto adopt = [&](const auto& desc, memory::desc filter) {
    plan.implementation = desc.impl_info_str();
    plan.filter = filter;
    plan.scratch = desc.scratchpad_desc();
  };
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto training = dnnl::prop_kind::forward_training;
  if (key.op == ConvOp::fprop) {
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
    if (!plain) any = plan_for({.shape = s, .type = key.type, .op = key.op}).filter;
    auto kind = plain ? training : dnnl::prop_kind::forward_inference;
    auto desc = key.bias != Bias::none
                    ? onednn::make_desc<dnnl::convolution_forward>(attr, kind, direct, plan.x, any, plan.bias, plan.y, strides, pads, pads_after)
                    : onednn::make_desc<dnnl::convolution_forward>(attr, kind, direct, plan.x, any, plan.y, strides, pads, pads_after);
    adopt(desc, desc.weights_desc());
    plan.primitive = dnnl::convolution_forward(desc);
  } else {
    auto hint =
        onednn::make_desc<dnnl::convolution_forward>(onednn::user_scratchpad(), training, direct, plan.x, any_forward, plan.y, strides, pads, pads_after);
    if (key.op == ConvOp::dgrad) {
      auto desc = onednn::make_backward_desc<dnnl::convolution_backward_data>(hint, attr, direct, plan.x, any, plan.y, strides, pads, pads_after);
      adopt(desc, desc.weights_desc());
      plan.primitive = dnnl::convolution_backward_data(desc);
    } else {
      auto desc = onednn::make_backward_desc<dnnl::convolution_backward_weights>(hint, attr, direct, plan.x, any, plan.y, strides, pads, pads_after);
      adopt(desc, desc.diff_weights_desc());
      plan.primitive = dnnl::convolution_backward_weights(desc);
    }
  }
  KD_CHECK(plan.implementation.find("ref") == std::string::npos, "conv {}: oneDNN has only its reference loop ('{}') for this shape",
           to_string(ConvProblem{key.op, s, key.type}), plan.implementation);
  if (key.op != ConvOp::wgrad) return plan;

  const bool adds = key.accumulate == Accumulate::yes;
  plan.unpack_needed = adds || plan.filter != plan.user_filter;
  if (plan.unpack_needed) {
    dnnl::primitive_attr attributes;
    if (adds) {
      dnnl::post_ops sum;
      sum.append_sum(1.f);
      attributes.set_post_ops(sum);
    }
    plan.unpack = dnnl::reorder(dnnl::reorder::primitive_desc(onednn::engine(), plan.filter, onednn::engine(), plan.user_filter, attributes));
  }
  return plan;
}

struct PlanCache {
  std::recursive_mutex mutex;  // a form of fprop asks for the plain one
  std::unordered_map<PlanKey, std::unique_ptr<Plan>, PlanKeyHash> plans;
};
PlanCache& plan_cache() {
  static PlanCache cache;
  return cache;
}

const Plan& plan_for(const PlanKey& key) {
  std::lock_guard lock(plan_cache().mutex);
  if (auto found = plan_cache().plans.find(key); found != plan_cache().plans.end()) return *found->second;
  try {
    auto plan = std::make_unique<Plan>(make_plan(key));
    return *(plan_cache().plans[key] = std::move(plan));
  } catch (const dnnl::error& e) {
    KD_FAIL("conv {}: oneDNN has no kernel for this on this CPU ({})", to_string(ConvProblem{key.op, key.shape, key.type}), e.message);
  }
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
  if (profile::enabled) profile::algorithm("onednn " + plan.implementation);
  plan.primitive.execute(onednn::stream(), args);
  onednn::stream().wait();
  KD_CHECK(*sentinel == kSentinel, "conv {}: oneDNN's '{}' wrote past its scratchpad of {} bytes; memory may be damaged", to_string(shape), plan.implementation,
           plan.scratch.get_size());
}

memory::desc krsc(const ConvShape& s, DType type) { return memory::desc({s.k, s.c, s.r, s.s}, onednn::data_type(type), Tag::ohwi); }

bool offers(const ConvProblem& problem) {
  try {
    plan_for({.shape = problem.shape, .type = problem.type, .op = problem.op});
    return true;
  } catch (const Error&) {
    return false;
  }
}

const memory::desc& layout_of(const ConvProblem& problem) { return plan_for({.shape = problem.shape, .type = problem.type, .op = problem.op}).filter; }

int64_t packed_bytes(const ConvProblem& problem, DType filter_type) {
  const memory::desc& layout = layout_of(problem);
  return layout == krsc(problem.shape, filter_type) ? 0 : int64_t(layout.get_size());
}

void pack(const ConvProblem& problem, const void* w, DType filter_type, void* packed) {
  auto from = wrap(krsc(problem.shape, filter_type), w), to = wrap(layout_of(problem), packed);
  dnnl::reorder(from, to).execute(onednn::stream(), from, to);
  onednn::stream().wait();
}

void fprop(const ConvFpropArgs& args, const void* packed) {
  const ConvShape& s = args.shape;
  const Plan& plan = plan_for({.shape = s,
                               .type = args.type,
                               .op = ConvOp::fprop,
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
  std::unordered_map<int, memory> call{
      {DNNL_ARG_SRC, wrap(plan.x, args.x)}, {DNNL_ARG_WEIGHTS, wrap(plan.filter, packed)}, {DNNL_ARG_DST, wrap(plan.y, args.y)}};
  if (args.bias) call.insert({DNNL_ARG_BIAS, wrap(plan.bias, args.bias)});
  run(plan, s, std::move(call));
}

void dgrad(const ConvDgradArgs& args, const void* packed) {
  const ConvShape& s = args.shape;
  const Plan& plan = plan_for({.shape = s, .type = args.type, .op = ConvOp::dgrad});
  std::shared_ptr<Storage> sum;
  void* dx = args.dx;
  const int64_t elements = s.n * s.h * s.w * s.c;
  if (args.accumulate == Accumulate::yes) {  // oneDNN's backward has no post-ops
    sum = Storage::allocate(elements * size_of(args.type), Device::cpu);
    dx = sum->data();
  }
  run(plan, s, {{DNNL_ARG_DIFF_DST, wrap(plan.y, args.dy)}, {DNNL_ARG_WEIGHTS, wrap(plan.filter, packed)}, {DNNL_ARG_DIFF_SRC, wrap(plan.x, dx)}});
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

void wgrad(const ConvWgradArgs& args) {
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
    ConvWgradArgs same = args;
    same.shape = {.n = s.n, .h = s.p(), .w = s.q(), .c = s.c, .k = s.k, .r = 1, .s = 1, .stride = 1, .pad = 0};
    same.x = gathered->data();
    return wgrad(same);
  }
  const Plan& plan = plan_for({.shape = s, .type = args.type, .op = ConvOp::wgrad, .filter_type = args.dw_type, .accumulate = args.accumulate});
  std::shared_ptr<Storage> scratch;
  if (plan.unpack_needed) scratch = Storage::allocate(int64_t(plan.filter.get_size()), Device::cpu);
  auto dw = wrap(plan.filter, scratch ? scratch->data() : args.dw);
  run(plan, s, {{DNNL_ARG_SRC, wrap(plan.x, args.x)}, {DNNL_ARG_DIFF_DST, wrap(plan.y, args.dy)}, {DNNL_ARG_DIFF_WEIGHTS, dw}});
  if (!plan.unpack_needed) return;
  auto user = wrap(plan.user_filter, args.dw);
  dnnl::reorder(plan.unpack).execute(onednn::stream(), dw, user);
  onednn::stream().wait();
}

}  // namespace

ConvAlgorithms onednn_algorithms() {
  static const ConvAlgorithm table[] = {{.name = "onednn",
                                         .isa = CpuIsa::none,
                                         .exact = true,
                                         .offers = offers,
                                         .packed_bytes = packed_bytes,
                                         .pack = pack,
                                         .fprop = fprop,
                                         .dgrad = dgrad,
                                         .wgrad = wgrad}};
  return {std::begin(table), std::end(table)};
}

}  // namespace kd::cpu
