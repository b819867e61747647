// gpu_check kernels: our own kernels at the sizes of training and inference, timed one by one.
// bytes are what a form must move, by its contract's header; a form that reads twice is charged twice.
#include <algorithm>
#include <map>
#include <tuple>

#include "bench/gpu_check.h"
#include "data/augment.h"
#include "kernels/attention_loss/attention_loss.h"
#include "kernels/batchnorm/batchnorm.h"
#include "kernels/conv/conv.h"
#include "kernels/gemm/gemm.h"
#include "kernels/kd_loss/kd_loss.h"
#include "kernels/metrics/metrics.h"
#include "kernels/pointwise/pointwise.h"
#include "kernels/pool/pool.h"
#include "kernels/sgd/sgd.h"
#include "kernels/stem/stem.h"

#if defined(KD_WITH_CUDA)
#include "bench/gpu_timing.h"
#endif

namespace kd::gpu_check {
namespace {

using cases::Case;
using cases::Cases;
using cases::Work;

// An array of structs, or of numbers that are no tensor type.
template <class T>
Tensor array_of(Device device, int64_t n) {
  return Tensor::zeros({n * int64_t(sizeof(T))}, DType::u8, device);
}
template <class T>
T* data_of(const Tensor& t) {
  return static_cast<T*>(t.raw());
}

Tensor class_labels(Device device, int64_t n, int64_t classes) {
  Tensor labels = Tensor::empty({n}, DType::i32);
  Rng rng(5, Purpose::test);
  for (int64_t i = 0; i < n; ++i) labels.data<int32_t>()[i] = int32_t(rng.below(uint32_t(classes)));
  return labels.to(device);
}

class Builder {
 public:
  Builder(Cases& all, bool tiny) : all_(all), tiny_(tiny) {}
  void add(std::string name, std::function<Work(Stream)> make, std::function<bool(Device)> can_run = {}) {
    all_.push_back({.name = std::move(name), .check = {}, .grad = {}, .perf = std::move(make), .can_run = std::move(can_run)});
  }
  int64_t at_most(int64_t full, int64_t tiny) const { return tiny_ ? std::min(full, tiny) : full; }

 private:
  Cases& all_;
  bool tiny_;
};

// ---- batch norm ----------------------------------------------------------------------------------------------------------------------

struct NormSize {
  int64_t n, side, c;
  std::string name() const { return fmt::format("n{}h{}w{}c{}", n, side, side, c); }
};

// The tensors of one layer, after a forward pass.
struct Norm {
  Norm(const NormSize& size, bool with_residual, BatchNormForm form, Stream s)
      : stream(s),
        rows(size.n * size.side * size.side),
        c(size.c),
        x(random_on(s.device, {rows, c}, DType::bf16)),
        y(Tensor::empty({rows, c}, DType::bf16, s.device)),
        gamma(random_on(s.device, {c}, DType::f32, 0.5f, 1.5f)),
        beta(random_on(s.device, {c}, DType::f32)) {
    for (Tensor* t : {&mean, &rstd, &dgamma, &dbeta, &running_mean}) *t = Tensor::zeros({c}, DType::f32, s.device);
    running_var = random_on(s.device, {c}, DType::f32, 0.5f, 1.5f);
    if (with_residual) residual = random_on(s.device, {rows, c}, DType::bf16), mask = Tensor::empty({rows, (c + 7) / 8}, DType::u8, s.device);
    forward(form);
  }
  void forward(BatchNormForm form) const {
    batchnorm_train(stream, {.x = x.raw(),
                             .residual = residual.raw(),
                             .y = y.raw(),
                             .mask = mask.defined() ? mask.data<uint8_t>() : nullptr,
                             .gamma = gamma.data<float>(),
                             .beta = beta.data<float>(),
                             .mean = mean.data<float>(),
                             .rstd = rstd.data<float>(),
                             .running_mean = running_mean.data<float>(),
                             .running_var = running_var.data<float>(),
                             .rows = rows,
                             .c = c,
                             .type = DType::bf16,
                             .activation = Activation::relu,
                             .form = form});
  }
  Stream stream;
  int64_t rows, c;
  Tensor x, y, gamma, beta, mean, rstd, dgamma, dbeta, running_mean, running_var, residual, mask;
};

void add_norms(Builder& to) {
  // The layers of ResNet-18 at 224 px, two of ResNet-50's, the stem's size, and ResNet-18's layers at 32 px.
  const NormSize sizes[] = {{256, 112, 64}, {256, 56, 64},  {256, 28, 128}, {256, 14, 256}, {256, 7, 512},  {256, 56, 256}, {256, 14, 1024},
                            {128, 56, 64},  {128, 28, 128}, {512, 32, 64},  {128, 32, 64},  {128, 16, 128}, {128, 8, 256},  {128, 4, 512}};
  for (NormSize size : sizes) {
    size = {to.at_most(size.n, 2), to.at_most(size.side, 8), to.at_most(size.c, 128)};  // the emulated device holds few blocks at once
    for (bool residual : {false, true})
      for (BatchNormForm form : {BatchNormForm::two_pass, BatchNormForm::one_pass}) {
        const bool twice = form == BatchNormForm::two_pass;
        const std::string name = fmt::format("{}{}:{}", size.name(), residual ? ":add" : "", twice ? "two_pass" : "one_pass");
        to.add("batchnorm:train:" + name, [=](Stream s) {
          auto norm = std::make_shared<Norm>(size, residual, form, s);
          const double z = double(norm->x.bytes());
          return Work{.run = [=] { norm->forward(form); }, .bytes = (twice ? 3 : 2) * z + (residual ? z + double(norm->mask.bytes()) : 0)};
        });
        to.add("batchnorm:bwd:" + name, [=](Stream s) {
          auto norm = std::make_shared<Norm>(size, residual, form, s);
          const Tensor dy = random_on(s.device, norm->x.shape(), DType::bf16), dx = norm->y, dresidual = norm->residual;  // outputs over what is not read again
          const double z = double(norm->x.bytes()), mask = double(norm->mask.bytes());
          return Work{.run =
                          [=] {
                            batchnorm_bwd(s, {.x = norm->x.raw(),
                                              .dy = dy.raw(),
                                              .dx = dx.raw(),
                                              .dresidual = dresidual.raw(),
                                              .mask = norm->mask.defined() ? norm->mask.data<uint8_t>() : nullptr,
                                              .gamma = norm->gamma.data<float>(),
                                              .beta = norm->beta.data<float>(),
                                              .mean = norm->mean.data<float>(),
                                              .rstd = norm->rstd.data<float>(),
                                              .dgamma = norm->dgamma.data<float>(),
                                              .dbeta = norm->dbeta.data<float>(),
                                              .rows = norm->rows,
                                              .c = norm->c,
                                              .type = DType::bf16,
                                              .activation = Activation::relu,
                                              .form = form});
                          },
                      .bytes = (twice ? 5 : 3) * z + (residual ? z + (twice ? 2 : 1) * mask : 0)};
        });
      }
  }
}

// ---- the stem ------------------------------------------------------------------------------------------------------------------------

struct PooledNorm {
  PooledNorm(int64_t batch, int64_t extent, Stream s)
      : stream(s),
        n(batch),
        side(extent),
        x(random_on(s.device, {n, side, side, kStemFilters}, DType::bf16)),
        y(Tensor::empty({n, out_side(), out_side(), kStemFilters}, DType::bf16, s.device)),
        arg(Tensor::empty(y.shape(), DType::u8, s.device)),
        gamma(random_on(s.device, {kStemFilters}, DType::f32, 0.5f, 1.5f)),
        beta(random_on(s.device, {kStemFilters}, DType::f32)) {
    for (Tensor* t : {&mean, &rstd, &dgamma, &dbeta, &running_mean, &running_var, &shift}) *t = Tensor::zeros({kStemFilters}, DType::f32, s.device);
    // As many parts as the stem's convolution leaves: one a resident block.
    partial = random_on(s.device, {256, 2, kStemFilters}, DType::f32, 1.f, 2.f);
    forward({});
  }
  int64_t out_side() const { return (side - 1) / 2 + 1; }
  void forward(const ChannelSums& sums) const {
    batchnorm_pool_train(stream, {.x = x.raw(),
                                  .y = y.raw(),
                                  .arg = arg.data<uint8_t>(),
                                  .gamma = gamma.data<float>(),
                                  .beta = beta.data<float>(),
                                  .mean = mean.data<float>(),
                                  .rstd = rstd.data<float>(),
                                  .running_mean = running_mean.data<float>(),
                                  .running_var = running_var.data<float>(),
                                  .n = n,
                                  .h = side,
                                  .w = side,
                                  .c = kStemFilters,
                                  .type = DType::bf16,
                                  .sums = sums});
  }
  Stream stream;
  int64_t n, side;
  Tensor x, y, arg, gamma, beta, mean, rstd, dgamma, dbeta, running_mean, running_var, shift, partial;
};

void add_stem(Builder& to) {
  for (int64_t full : {256, 128}) {
    const int64_t n = to.at_most(full, 2), px = to.at_most(224, 32), side = px / 2;
    const std::string size = fmt::format("n{}h{}w{}", n, px, px);
    const StemShape shape{.n = n, .h = px, .w = px};
    for (StemForm form : {StemForm::portable, StemForm::hopper}) {
      auto add = [&](const char* kernel, std::function<Work(Stream)> make) {
        to.add(fmt::format("stem:{}:{}:{}", kernel, size, form == StemForm::hopper ? "hopper" : "portable"), std::move(make), [form](Device device) {
          return device == Device::emulated || (device == Device::cuda && (form == StemForm::portable || (gpu_info().major == 9 && gpu_info().minor == 0)));
        });
      };
      add("fprop", [=](Stream s) {
        const Tensor x = random_on(s.device, {n, px, px, kStemChannels}, DType::bf16),
                     w = random_on(s.device, {kStemFilters, 7, 7, kStemChannels}, DType::bf16);
        const Tensor y = Tensor::empty({n, side, side, kStemFilters}, DType::bf16, s.device), shift = random_on(s.device, {kStemFilters}, DType::f32);
        const Tensor partial = Tensor::empty({stem_parts(s, shape, form), 2, kStemFilters}, DType::f32, s.device);
        return Work{.run =
                        [=] {
                          stem_fprop(s, {.shape = shape,
                                         .x = x.data<bf16>(),
                                         .w = w.data<bf16>(),
                                         .y = y.data<bf16>(),
                                         .partial = partial.data<float>(),
                                         .shift = shift.data<float>(),
                                         .form = form});
                        },
                    .bytes = double(x.bytes() + y.bytes())};
      });
      add("infer", [=](Stream s) {
        const Tensor x = random_on(s.device, {n, px, px, kStemChannels}, DType::bf16),
                     w = random_on(s.device, {kStemFilters, 7, 7, kStemChannels}, DType::bf16);
        const Tensor y = Tensor::empty({n, side / 2, side / 2, kStemFilters}, DType::bf16, s.device), bias = random_on(s.device, {kStemFilters}, DType::f32);
        return Work{.run =
                        [=] {
                          stem_infer(s,
                                     {.shape = shape, .x = x.data<bf16>(), .w = w.data<bf16>(), .bias = bias.data<float>(), .y = y.data<bf16>(), .form = form});
                        },
                    .bytes = double(x.bytes() + y.bytes())};
      });
      add("wgrad", [=](Stream s) {
        const Tensor x = random_on(s.device, {n, px, px, kStemChannels}, DType::bf16), dy = random_on(s.device, {n, side, side, kStemFilters}, DType::bf16);
        const Tensor dw = Tensor::empty({kStemFilters, 7, 7, kStemChannels}, DType::bf16, s.device);
        return Work{.run = [=] { stem_wgrad(s, {.shape = shape, .x = x.data<bf16>(), .dy = dy.data<bf16>(), .dw = dw.data<bf16>(), .form = form}); },
                    .bytes = double(x.bytes() + dy.bytes())};
      });
    }
    // The opponent: the same convolution by cuDNN, as it is and as 4x4 of stride 1 on an image whose 2x2 squares became channels.
    const ConvShape as_it_is{.n = n, .h = px, .w = px, .c = kStemChannels, .k = kStemFilters, .r = 7, .s = 7, .stride = 2, .pad = 3};
    const ConvShape squares{.n = n, .h = side + 3, .w = side + 3, .c = 16, .k = kStemFilters, .r = 4, .s = 4, .stride = 1, .pad = 0};
    for (const auto& [form, conv] : {std::pair{"7x7c4", as_it_is}, std::pair{"4x4c16", squares}})
      for (bool backward : {false, true})
        to.add(
            fmt::format("stem:cudnn_{}:{}:{}", backward ? "wgrad" : "fprop", form, size),
            [=, c = conv](Stream s) {
              const Tensor x = random_on(s.device, {c.n, c.h, c.w, c.c}, DType::bf16);
              const Tensor w = random_on(s.device, {c.k, c.r, c.s, c.c}, DType::bf16);
              const Tensor y = random_on(s.device, {c.n, c.p(), c.q(), c.k}, DType::bf16);
              const ConvFpropArgs fprop{.shape = c, .type = DType::bf16, .x = x.raw(), .w = w.raw(), .w_type = DType::bf16, .y = y.raw()};
              const ConvWgradArgs wgrad{
                  .shape = c, .type = DType::bf16, .x = x.raw(), .dy = y.raw(), .dw = w.raw(), .dw_type = DType::bf16, .accumulate = Accumulate::no};
              return Work{.run = [=, keep = std::make_tuple(x, w, y)] { backward ? conv_wgrad(s, wgrad) : conv_fprop(s, fprop); },
                          .bytes = double(x.bytes() + y.bytes())};
            },
            [](Device device) { return device == Device::cuda; });
    const std::string map = fmt::format("n{}h{}w{}c{}", n, side, side, kStemFilters);
    to.add("batchnorm:pool_train:" + map, [=](Stream s) {
      auto norm = std::make_shared<PooledNorm>(n, side, s);
      return Work{.run = [=] { norm->forward({}); }, .bytes = 2.0 * double(norm->x.bytes()) + double(norm->y.bytes() + norm->arg.bytes())};
    });
    to.add("batchnorm:pool_train:" + map + ":sums", [=](Stream s) {
      auto norm = std::make_shared<PooledNorm>(n, side, s);
      return Work{.run =
                      [=] {
                        norm->forward({norm->partial.data<float>(), norm->shift.data<float>(), norm->partial.dim(0)});
                      },
                  .bytes = double(norm->x.bytes() + norm->y.bytes() + norm->arg.bytes())};
    });
    // The sums need x only where a window's maximum was: a quarter of it at most, which is left out here.
    to.add("batchnorm:pool_bwd:" + map, [=](Stream s) {
      auto norm = std::make_shared<PooledNorm>(n, side, s);
      const Tensor dy = random_on(s.device, norm->y.shape(), DType::bf16), dx = Tensor::empty(norm->x.shape(), DType::bf16, s.device);
      return Work{.run =
                      [=] {
                        batchnorm_pool_bwd(s, {.x = norm->x.raw(),
                                               .dy = dy.raw(),
                                               .arg = norm->arg.data<uint8_t>(),
                                               .dx = dx.raw(),
                                               .gamma = norm->gamma.data<float>(),
                                               .beta = norm->beta.data<float>(),
                                               .mean = norm->mean.data<float>(),
                                               .rstd = norm->rstd.data<float>(),
                                               .dgamma = norm->dgamma.data<float>(),
                                               .dbeta = norm->dbeta.data<float>(),
                                               .n = n,
                                               .h = side,
                                               .w = side,
                                               .c = kStemFilters,
                                               .type = DType::bf16});
                      },
                  .bytes = 2.0 * double(norm->x.bytes()) + 2.0 * double(dy.bytes() + norm->arg.bytes())};
    });
  }
}

// ---- optimizer, losses, small passes -------------------------------------------------------------------------------------------------

void add_sgd(Builder& to) {
  // Weights of convolutions and head, which have bf16 copies; batch norms and biases, which have not.
  for (auto [net, n16, rest] : {std::tuple{"resnet18", int64_t(11218112), int64_t(9700)}, {"resnet50", int64_t(23659712), int64_t(53220)}}) {
    const int64_t with_copies = to.at_most(n16, 4096), n = with_copies + to.at_most(rest, 100);
    to.add(fmt::format("sgd:{}:{}", net, n), [=](Stream s) {
      const Tensor w = random_on(s.device, {n}, DType::f32), g = random_on(s.device, {n}, DType::f32), v = random_on(s.device, {n}, DType::f32);
      const Tensor w16 = random_on(s.device, {with_copies}, DType::bf16), g16 = random_on(s.device, {with_copies}, DType::bf16);
      const Tensor lr = Tensor::of<float>({1}, {1e-4f}).to(s.device);
      return Work{.run =
                      [=] {
                        sgd_step(s, {.w = w.data<float>(),
                                     .g = g.data<float>(),
                                     .v = v.data<float>(),
                                     .n = n,
                                     .w16 = w16.data<bf16>(),
                                     .g16 = g16.data<bf16>(),
                                     .n16 = with_copies,
                                     .lr = lr.data<float>(),
                                     .momentum = 0.9f,
                                     .weight_decay = 5e-4f});
                      },
                  .bytes = 20.0 * double(with_copies) + 24.0 * double(n - with_copies)};
    });
  }
}

void add_kd_loss(Builder& to) {
  for (auto [rows, classes] : {std::pair<int64_t, int64_t>{128, 100}, {256, 1000}})
    for (Combine combine : {Combine::mean_loss, Combine::mean_logits}) {
      const int64_t n = to.at_most(rows, 8), k = classes;
      to.add(fmt::format("kd_loss:{}x{}:3_teachers:{}", n, k, combine == Combine::mean_loss ? "mean_loss" : "mean_logits"), [=](Stream s) {
        std::vector<Tensor> logits;
        for (int i = 1; i <= 4; ++i) logits.push_back(random_on(s.device, {n, k}, DType::f32, -4.f, 4.f, uint32_t(i)));
        const Tensor ds = Tensor::empty({n, k}, DType::f32, s.device), labels = class_labels(s.device, n, k), records = array_of<KdRecord>(s.device, n);
        const Tensor sums = array_of<KdSums>(s.device, 1), loss = Tensor::empty({1}, DType::f32, s.device);
        return Work{.run =
                        [=] {
                          KdLossArgs args{.s = logits[0].data<float>(),
                                          .labels = labels.data<int32_t>(),
                                          .n_teachers = 3,
                                          .ds = ds.data<float>(),
                                          .records = data_of<KdRecord>(records),
                                          .n = n,
                                          .k = k,
                                          .combine = combine,
                                          .alpha = 0.6f,
                                          .soft_weight = 0.4f,
                                          .tau = 3.f};
                          for (int i = 0; i < 3; ++i) args.teachers[i] = logits[size_t(i) + 1].data<float>();
                          kd_loss(s, args);
                          kd_loss_sums(s, {.records = data_of<KdRecord>(records),
                                           .n = n,
                                           .hard_weight = 0.6f,
                                           .soft_weight = 0.4f,
                                           .loss = loss.data<float>(),
                                           .sums = data_of<KdSums>(sums)});
                        },
                    .bytes = 4.0 * 5 * double(n * k)};
      });
    }
}

void add_attention_loss(Builder& to) {
  const int64_t n = to.at_most(128, 4), positions = 49, k = 512, teacher_k = 2048;
  to.add(fmt::format("attention_loss:bf16:{}x{}x{}:2_references_of_{}", n, positions, k, teacher_k), [=](Stream s) {
    const Tensor f = random_on(s.device, {n, positions, k}, DType::bf16, 0.f, 1.f, 1), df = Tensor::empty(f.shape(), DType::bf16, s.device);
    const Tensor a = random_on(s.device, {n, positions, teacher_k}, DType::bf16, 0.f, 1.f, 2), b = random_on(s.device, a.shape(), DType::bf16, 0.f, 1.f, 3);
    const Tensor values = Tensor::empty({n}, DType::f32, s.device), loss = Tensor::empty({1}, DType::f32, s.device);
    return Work{.run =
                    [=] {
                      attention_loss(s, {.trained = {f.raw(), k},
                                         .references = {{a.raw(), teacher_k}, {b.raw(), teacher_k}},
                                         .n_references = 2,
                                         .df = df.raw(),
                                         .values = values.data<float>(),
                                         .n = n,
                                         .positions = positions,
                                         .type = DType::bf16,
                                         .mode = AttentionMode::similarity,
                                         .weight = 1});
                      attention_loss_sums(s, {.values = values.data<float>(), .n = n, .weight = 1, .loss = loss.data<float>()});
                    },
                .bytes = 2.0 * double(n * positions * (2 * k + 2 * teacher_k))};
  });
}

void add_small_passes(Builder& to) {
  for (int64_t c : {512, 2048}) {
    const int64_t n = to.at_most(256, 4);
    for (bool backward : {false, true})
      to.add(fmt::format("pool:average_{}:n{}hw49c{}", backward ? "bwd" : "fwd", n, c), [=](Stream s) {
        const Tensor map = random_on(s.device, {n, 49, c}, DType::bf16), vector = random_on(s.device, {n, c}, DType::bf16);
        return Work{.run =
                        [=] {
                          if (backward)
                            global_avg_pool_bwd(s, {.n = n, .hw = 49, .c = c, .type = DType::bf16, .in = vector.raw(), .out = map.raw()});
                          else
                            global_avg_pool_fwd(s, {.n = n, .hw = 49, .c = c, .type = DType::bf16, .in = map.raw(), .out = vector.raw()});
                        },
                    .bytes = double(map.bytes() + vector.bytes())};
      });
  }
  const int64_t n = to.at_most(256 * 56 * 56 * 64, 5000);
  to.add(fmt::format("pointwise:add:bf16:{}", n), [=](Stream s) {
    const Tensor a = random_on(s.device, {n}, DType::bf16), b = random_on(s.device, {n}, DType::bf16), out = Tensor::empty({n}, DType::bf16, s.device);
    return Work{.run = [=] { pointwise_add(s, {.a = a.raw(), .b = b.raw(), .out = out.raw(), .n = n, .type = DType::bf16}); }, .bytes = 6.0 * double(n)};
  });
  to.add(fmt::format("pointwise:cast:f32:bf16:{}", n), [=](Stream s) {
    const Tensor a = random_on(s.device, {n}, DType::f32), out = Tensor::empty({n}, DType::bf16, s.device);
    return Work{.run = [=] { pointwise_cast(s, {.a = a.raw(), .out = out.raw(), .n = n, .from = DType::f32, .to = DType::bf16}); }, .bytes = 6.0 * double(n)};
  });
  for (int64_t columns : {100, 1000}) {
    const int64_t rows = to.at_most(256, 8);
    to.add(fmt::format("gemm:column_sums:{}x{}", rows, columns), [=](Stream s) {
      const Tensor in = random_on(s.device, {rows, columns}, DType::f32), out = Tensor::zeros({columns}, DType::f32, s.device);
      return Work{.run = [=] { column_sums(s, {.in = in.data<float>(), .out = out.data<float>(), .rows = rows, .columns = columns}); },
                  .bytes = double(in.bytes())};
    });
  }
}

// ---- input and evaluation ------------------------------------------------------------------------------------------------------------

void add_augment(Builder& to) {
  for (View view : {View::weak, View::strong, View::test})
    for (auto [px, channels, full] : {std::tuple<int64_t, int64_t, int64_t>{224, 4, 256}, {32, 8, 512}}) {
      const int64_t batch = to.at_most(full, 2), images = to.at_most(1000, 8);
      to.add(fmt::format("augment:{}:32x32:px{}:b{}", to_string(view), px, batch), [=, px = px, channels = channels](Stream s) {
        Tensor set = Tensor::empty({images, 32, 32, 3}, DType::u8);
        Rng rng(9, Purpose::test);
        for (int64_t i = 0; i < set.elements(); ++i) set.data<uint8_t>()[i] = uint8_t(rng.below(256));
        std::vector<int64_t> indices;
        for (int64_t i = 0; i < batch; ++i) indices.push_back(int64_t(rng.below(uint32_t(images))));
        const AugmentConfig config{.px = px};
        Tensor records = array_of<PreparedRecord>(Device::cpu, batch);
        draw_records(set.shape(), indices, view, config, 1, 0, data_of<PreparedRecord>(records));
        set = set.to(s.device), records = records.to(s.device);
        const Tensor out = Tensor::empty({batch, px, px, channels}, DType::bf16, s.device);
        return Work{.run = [=] { make_views(set, data_of<PreparedRecord>(records), config, out); }, .bytes = double(out.bytes()) + double(batch) * 32 * 32 * 3};
      });
    }
}

void add_metrics(Builder& to) {
  const int64_t n = to.at_most(10000, 16);
  for (int64_t c : {100, 1000}) {
    to.add(fmt::format("metrics:logit_records:{}x{}", n, c), [=](Stream s) {
      const Tensor logits = random_on(s.device, {n, c}, DType::f32, -4.f, 4.f), out = array_of<LogitRecord>(s.device, n);
      return Work{.run = [=] { metrics_logit_records(s, {.logits = logits.data<float>(), .out = data_of<LogitRecord>(out), .n = n, .c = c}); },
                  .bytes = double(logits.bytes() + out.bytes())};
    });
    to.add(fmt::format("metrics:pair_records:{}x{}", n, c), [=](Stream s) {
      const Tensor a = random_on(s.device, {n, c}, DType::f32, -4.f, 4.f), b = random_on(s.device, {n, c}, DType::f32, -3.f, 5.f),
                   out = array_of<PairRecord>(s.device, n);
      return Work{.run = [=] { metrics_pair_records(s, {.a = a.data<float>(), .b = b.data<float>(), .out = data_of<PairRecord>(out), .n = n, .c = c}); },
                  .bytes = double(a.bytes() + b.bytes() + out.bytes())};
    });
  }
  to.add(fmt::format("metrics:joint_counts:{}:c100", n), [=](Stream s) {
    const Tensor a = class_labels(s.device, n, 100), b = class_labels(s.device, n, 100), counts = Tensor::zeros({100, 100}, DType::i64, s.device);
    return Work{.run = [=] { metrics_joint_counts(s, {.a = a.data<int32_t>(), .b = b.data<int32_t>(), .counts = counts.data<int64_t>(), .n = n, .c = 100}); },
                .bytes = double(a.bytes() + b.bytes() + counts.bytes())};
  });
  to.add(fmt::format("metrics:soft_joint:{}x100", n), [=](Stream s) {
    const Tensor a = random_on(s.device, {n, 100}, DType::f32, -4.f, 4.f), b = random_on(s.device, {n, 100}, DType::f32, -3.f, 5.f),
                 out = array_of<double>(s.device, 10000);
    return Work{.run = [=] { metrics_soft_joint(s, {.a = a.data<float>(), .b = b.data<float>(), .joint = data_of<double>(out), .n = n, .c = 100}); },
                .bytes = double(a.bytes() + b.bytes() + out.bytes())};
  });
  for (int64_t k : {512, 2048}) {
    const int64_t batch = to.at_most(128, 2), c = 100;
    to.add(fmt::format("metrics:class_map:n{}h7w7k{}c{}", batch, k, c), [=](Stream s) {
      const Tensor features = random_on(s.device, {batch, 7, 7, k}, DType::f32, 0.f, 2.f), weight = random_on(s.device, {c, k}, DType::f32),
                   bias = random_on(s.device, {c}, DType::f32);
      Tensor alpha = Tensor::zeros({batch, c}, DType::f32);
      for (int64_t i = 0; i < batch; ++i) alpha.data<float>()[i * c + i % c] = 1;
      alpha = alpha.to(s.device);
      const Tensor map = Tensor::empty({batch, 7, 7}, DType::f32, s.device);
      return Work{.run =
                      [=] {
                        metrics_class_map(s, {.features = features.data<float>(),
                                              .weight = weight.data<float>(),
                                              .bias = bias.data<float>(),
                                              .alpha = alpha.data<float>(),
                                              .map = map.data<float>(),
                                              .n = batch,
                                              .h = 7,
                                              .w = 7,
                                              .k = k,
                                              .c = c});
                      },
                  .bytes = double(features.bytes() + map.bytes())};
    });
  }
  const int64_t batch = to.at_most(128, 2);
  to.add(fmt::format("metrics:mask_counts:n{}:2x7x7:px224", batch), [=](Stream s) {
    const Tensor a = random_on(s.device, {batch, 7, 7}, DType::f32), b = random_on(s.device, {batch, 7, 7}, DType::f32),
                 out = array_of<MaskCounts>(s.device, batch);
    return Work{.run =
                    [=] {
                      metrics_mask_counts(s, {.maps = {{a.data<float>(), 7, 7}, {b.data<float>(), 7, 7}},
                                              .models = 2,
                                              .out = data_of<MaskCounts>(out),
                                              .n = batch,
                                              .px = 224,
                                              .thresholds = {0.4},
                                              .cuts = 1});
                    },
                .bytes = double(a.bytes() + b.bytes() + out.bytes())};
  });
}

}  // namespace

Tensor random_on(Device device, Shape shape, DType type, float low, float high, uint32_t stream) {
  constexpr int64_t kBlock = (int64_t(1) << 19) + 77;  // no power of two: tiles of a kernel see different numbers
  static std::map<std::tuple<Device, DType, float, float, uint32_t>, Tensor> blocks;
  Tensor& block = blocks[{device, type, low, high, stream}];
  if (!block.defined()) block = cases::random_tensor({kBlock}, type, stream, low, high).to(device);
  const Tensor out = Tensor::empty(shape, type, device);
  auto* bytes = static_cast<std::byte*>(out.raw());
  const int64_t first = std::min(block.bytes(), out.bytes());
  copy_bytes(bytes, device, block.raw(), device, first);
  for (int64_t done = first; done < out.bytes(); done *= 2) copy_bytes(bytes + done, device, bytes, device, std::min(done, out.bytes() - done));
  return out;
}

cases::Cases gpu_sized_cases(bool tiny) {
  Cases all;
  Builder to(all, tiny);
  add_norms(to);
  add_stem(to);
  add_sgd(to);
  add_kd_loss(to);
  add_attention_loss(to);
  add_small_passes(to);
  add_augment(to);
  add_metrics(to);
  return all;
}

// ---- the part ------------------------------------------------------------------------------------------------------------------------

namespace {

#if defined(KD_WITH_CUDA)
int time_all(const Cases& chosen, const Options& o) {
  const bench::CopyRates copy = bench::measure_copy();
  release_cached_memory(Device::cuda);
  fmt::print("copy {:.0f} GB/s by the driver, {:.0f} by a kernel; % is of the larger\n", copy.memcpy_gbps, copy.kernel_gbps);
  Table table(o.out / "kernels.csv", {{"kernel", -52}, {"us", 10}, {"spread %", 10}, {"MB", 10}, {"GB/s", 9}, {"% of copy", 11}, {"buffers", 9}});
  int failed = 0;
  for (const Case& c : chosen) {
    try {
      const Stream stream = current_stream(Device::cuda);
      std::vector<std::function<void()>> runs;
      const Work first = c.perf(stream);
      runs.push_back(first.run);
      for (int64_t i = bench::copies_beyond_l2(first.bytes); i > 1; --i) runs.push_back(c.perf(stream).run);
      const bench::GpuTime time = bench::time_on_gpu(runs);
      const double gbps = first.bytes / time.us * 1e-3;
      table.row({c.name, fmt::format("{:.2f}", time.us), fmt::format("{:.1f}", 100 * time.spread), fmt::format("{:.2f}", first.bytes * 1e-6),
                 fmt::format("{:.0f}", gbps), fmt::format("{:.1f}", 100 * gbps / copy.best()), std::to_string(runs.size())});
    } catch (const std::exception& e) {
      ++failed;
      fmt::print("FAILED {}: {}\n", c.name, e.what());
    }
    release_cached_memory(Device::cuda);
  }
  return failed;
}
#endif

// Where there is no clock worth reading: that every call is one its kernel accepts.
int run_all(const Cases& chosen, const Options& o) {
  int failed = 0;
  for (const Case& c : chosen) try {
      c.perf(current_stream(o.device)).run();
    } catch (const std::exception& e) {
      ++failed;
      fmt::print("FAILED {}: {}\n", c.name, e.what());
    }
  synchronize(o.device);
  fmt::print("{} kernels run once, {} failed; times are taken on a GPU without --tiny\n", chosen.size(), failed);
  return failed;
}

}  // namespace

int kernels(const Options& o) {
  KD_INPUT(o.tiny || o.device == Device::cuda, "kernels: times need a GPU; --tiny runs each kernel once on any device");
  const Cases chosen = choose(gpu_sized_cases(o.tiny), o);
#if defined(KD_WITH_CUDA)
  if (!o.tiny) return time_all(chosen, o);
#endif
  return run_all(chosen, o);
}

}  // namespace kd::gpu_check
