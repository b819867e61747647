#include "bench/predict.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/pointwise/pointwise.h"

namespace kd {

Score score(const Tensor& logits, std::span<const int32_t> labels) {
  const int64_t n = logits.dim(0), classes = logits.dim(1);
  KD_CHECK(n == int64_t(labels.size()), "score: {} for {} labels", logits.describe("logits"), labels.size());
  Score s{0, 0};
  for (int64_t i = 0; i < n; ++i) {
    const float* z = logits.data<float>() + i * classes;
    const float* top = std::max_element(z, z + classes);
    double sum = 0;
    for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(z[k]) - double(*top));
    s.right += top - z == labels[size_t(i)];
    s.loss_sum += std::log(sum) + double(*top) - double(z[labels[size_t(i)]]);
  }
  return s;
}

Predictions predict(Resnet& net, const Dataset& data, const PredictOptions& options, const OnBatch& on_batch) {
  KD_INPUT(data.size() > 0, "{}: no images to evaluate on", data.name);
  KD_INPUT(data.classes == net.config().classes, "the model has {} classes, {} has {}", net.config().classes, data.name, data.classes);
  NoGrad no_grad;
  Loader loader(data, {.batch = options.batch,
                       .view = options.view,
                       .augment = options.augment,
                       .type = options.type,
                       .channels = net.input_channels(),
                       .seed = options.seed,
                       .last = options.last,
                       .device = net.config().device});
  loader.start(0);
  const int64_t images = options.last == LastBatch::drop ? data.size() / options.batch * options.batch : data.size();
  KD_INPUT(images > 0, "{}: {} images make no whole batch of {}", data.name, data.size(), options.batch);
  Predictions out{Tensor::empty({images, data.classes}, DType::f32), 0, 0};
  int64_t done = 0, right = 0;
  double loss = 0;
  for (Batch batch; loader.next(batch);) {
    const int64_t n = batch.images.dim(0);
    Var features = net.features(Var(batch.images), options.mode);
    const Tensor logits = net.logits(features).value().to(Device::cpu);
    std::memcpy(out.logits.data<float>() + done * data.classes, logits.raw(), size_t(logits.bytes()));
    const Tensor labels = batch.labels.to(Device::cpu);
    Score s = score(logits, {labels.data<int32_t>(), size_t(n)});
    right += s.right;
    loss += s.loss_sum;
    if (on_batch) {
      Tensor f = features.value();
      if (f.dtype() != DType::f32) {
        f = Tensor::empty(f.shape(), DType::f32, f.device());
        pointwise_cast(current_stream(f.device()),
                       {.a = features.value().raw(), .out = f.raw(), .n = f.elements(), .from = features.value().dtype(), .to = DType::f32});
      }
      on_batch(f, labels, logits);
    }
    done += n;
  }
  KD_CHECK(done == images, "predict: {} of {} images", done, images);
  out.top1 = 100.0 * double(right) / double(done);
  out.loss = loss / double(done);
  return out;
}

}  // namespace kd
