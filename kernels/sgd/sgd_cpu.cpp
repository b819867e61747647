#include "kernels/common/parallel.h"
#include "kernels/sgd/sgd.h"

namespace kd {
namespace cpu {

void sgd_step(Stream, const SgdArgs& args) {
  const float lr = *args.lr, momentum = args.momentum, decay = args.weight_decay;
  const auto update = [=](float& w, float& v, float g) {
    const float step = momentum * v + (g + decay * w);
    v = step;
    w -= lr * step;
  };
  parallel_ranges(args.n, [&](int64_t begin, int64_t end) {
    float *w = args.w, *g = args.g, *v = args.v;
    int64_t i = begin;
    for (const int64_t end16 = std::min(end, args.n16); i < end16; ++i) {
      update(w[i], v[i], float(args.g16[i]));
      args.w16[i] = bf16(w[i]);
    }
    for (; i < end; ++i) {
      update(w[i], v[i], g[i]);
      g[i] = 0.f;
    }
  });
}

}  // namespace cpu

static profile::Work work_of(const SgdArgs& a) { return {{}, 0, double(24 * a.n - 4 * a.n16)}; }

KD_KERNEL(sgd_step, SgdArgs)

}  // namespace kd
