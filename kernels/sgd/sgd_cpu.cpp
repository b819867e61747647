#include "kernels/common/parallel.h"
#include "kernels/sgd/sgd.h"

namespace kd {
namespace cpu {

void sgd_step(Stream, const SgdArgs& args) {
  parallel_ranges(args.n, [&](int64_t begin, int64_t end) {
    float *w = args.w, *g = args.g, *v = args.v;
    const float lr = args.lr, momentum = args.momentum, decay = args.weight_decay;
    for (int64_t i = begin; i < end; ++i) {
      float step = momentum * v[i] + (g[i] + decay * w[i]);
      v[i] = step;
      w[i] -= lr * step;
      g[i] = 0.f;
    }
  });
}

}  // namespace cpu

void sgd_step(Stream stream, const SgdArgs& args) { KD_DISPATCH(stream, sgd_step, args); }

}  // namespace kd
