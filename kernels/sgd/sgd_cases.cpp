#include "kernels/common/cases.h"
#include "kernels/sgd/sgd.h"

namespace kd::cases {

void add_sgd_cases(Cases& all) {
  for (int64_t n : {int64_t(1), int64_t(77), int64_t(100003)})
    all.push_back(
        {.name = fmt::format("sgd:f32:{}", n),
         .check = [n](Stream stream) -> std::vector<Checked> {
           Tensor w = random_tensor({n}, DType::f32, 1), v = random_tensor({n}, DType::f32, 3);
           auto ws = to_doubles(w), vs = to_doubles(v);
           for (uint32_t step = 0; step < 3; ++step) {  // three steps: the velocity must carry over
             Tensor g = random_tensor({n}, DType::f32, 10 + step);
             const auto gs = to_doubles(g);
             sgd_step(stream, {.w = w.data<float>(), .g = g.data<float>(), .v = v.data<float>(), .n = n, .lr = 0.1f, .momentum = 0.9f, .weight_decay = 5e-4f});
             for (size_t i = 0; i < ws.size(); ++i) {
               vs[i] = double(0.9f) * vs[i] + gs[i] + double(5e-4f) * ws[i];
               ws[i] -= double(0.1f) * vs[i];
             }
             for (double cleared : to_doubles(g))
               if (cleared != 0) return {{"g cleared", {cleared}, {0}, 0}};
           }
           return {{"w", to_doubles(w), ws, 1e-6}, {"v", to_doubles(v), vs, 1e-6}};
         },
         .grad = {},
         .perf = {}});
  all.push_back({.name = "sgd:f32:11227812", .check = {}, .grad = {}, .perf = [](Stream stream) {
                   constexpr int64_t n = 11227812;  // resnet18, 100 classes
                   auto arena = std::make_shared<Tensor>(Tensor::zeros({3, n}, DType::f32));
                   return Work{.run =
                                   [=] {
                                     float* w = arena->data<float>();
                                     sgd_step(stream, {.w = w, .g = w + n, .v = w + 2 * n, .n = n, .lr = 0.1f, .momentum = 0.9f, .weight_decay = 5e-4f});
                                   },
                               .bytes = 6.0 * 4 * n,
                               .flops = 0};
                 }});
}

}  // namespace kd::cases
