// predict: a network over a whole dataset in evaluation mode.
#pragma once
#include <functional>

#include "data/loader.h"
#include "models/resnet.h"

namespace kd {

struct PredictOptions {
  View view = View::test;
  AugmentConfig augment;
  DType type = DType::f32;
  uint64_t seed = 0;  // of random views; every model that is compared must get the same one
  int64_t batch = 128;
  Mode mode = Mode::eval;            // train: batch norms use the statistics of each batch (and move their averages, which that does not read)
  LastBatch last = LastBatch::keep;  // drop: images after the last whole batch are left out
};

struct Predictions {
  Tensor logits;  // f32 [N,C], N images of the dataset, fewer where the last batch is dropped
  double top1;    // percent
  double loss;    // mean cross-entropy, nats
};

// on_batch, if given, sees each batch's last feature maps f32 [B,h,w,K] on the network's device and, on the CPU, labels i32 [B] and logits f32 [B,C]: attention
// maps are made there, so that the features of a whole dataset (4 GB for 10,000 images of resnet50 at 224 px) never exist at once.
using OnBatch = std::function<void(const Tensor& features, const Tensor& labels, const Tensor& logits)>;
Predictions predict(Resnet&, const Dataset&, const PredictOptions&, const OnBatch& on_batch = {});

// Classes right and mean cross-entropy of logits [N,C] for labels; argmax ties go to the lowest class.
struct Score {
  int64_t right;
  double loss_sum;
};
Score score(const Tensor& logits, std::span<const int32_t> labels);

}  // namespace kd
