#include "kernels/common/parallel.h"
#include "kernels/pointwise/pointwise.h"

namespace kd {
namespace cpu {

void pointwise_add(Stream, const PointwiseAddArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto *a = static_cast<const T*>(args.a), *b = static_cast<const T*>(args.b);
    auto* out = static_cast<T*>(args.out);
    parallel_ranges(args.n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = T(float(a[i]) + float(b[i]));
    });
  });
}

void pointwise_scale(Stream, const PointwiseScaleArgs& args) {
  with_float_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    auto* a = static_cast<const T*>(args.a);
    auto* out = static_cast<T*>(args.out);
    const float factor = args.by ? args.factor * *args.by : args.factor;
    parallel_ranges(args.n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = T(float(a[i]) * factor);
    });
  });
}

void pointwise_cast(Stream, const PointwiseCastArgs& args) {
  with_float_type(args.from, [&](auto zero_from) {
    with_float_type(args.to, [&](auto zero_to) {
      using From = decltype(zero_from);
      using To = decltype(zero_to);
      auto* a = static_cast<const From*>(args.a);
      auto* out = static_cast<To*>(args.out);
      parallel_ranges(args.n, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = To(float(a[i]));
      });
    });
  });
}

}  // namespace cpu

static profile::Work work_of(const PointwiseAddArgs& a) { return {to_string(a.type), 0, double(3 * a.n * size_of(a.type))}; }
static profile::Work work_of(const PointwiseScaleArgs& a) { return {to_string(a.type), 0, double(2 * a.n * size_of(a.type))}; }
static profile::Work work_of(const PointwiseCastArgs& a) {
  return {to_string(a.from) + " to " + to_string(a.to), 0, double(a.n * (size_of(a.from) + size_of(a.to)))};
}

KD_KERNEL(pointwise_add, PointwiseAddArgs)
KD_KERNEL(pointwise_scale, PointwiseScaleArgs)
KD_KERNEL(pointwise_cast, PointwiseCastArgs)

}  // namespace kd
