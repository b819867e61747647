#include "data/loader.h"

#include <algorithm>
#include <numeric>

namespace kd {

Loader::Loader(const Dataset& set, LoaderConfig config) : set_(set), config_(config) {
  KD_INPUT(config.batch > 0, "batch size {}; give 1 or more", config.batch);
  KD_INPUT(steps() > 0, "{} has {} images, too few for one batch of {}; lower the batch size", set.name, set.size(), config.batch);
}

int64_t Loader::steps() const {
  const int64_t full = set_.size() / config_.batch;
  return config_.last == LastBatch::keep && set_.size() % config_.batch != 0 ? full + 1 : full;
}

void Loader::start(uint32_t epoch) {
  epoch_ = epoch;
  step_ = 0;
  order_.resize(size_t(set_.size()));
  std::iota(order_.begin(), order_.end(), 0);
  if (config_.order == Order::shuffled) shuffle(order_, Rng(config_.seed, Purpose::shuffle, 0, epoch));
}

bool Loader::next(Batch& batch) {
  KD_CHECK(!order_.empty(), "Loader::next before Loader::start");
  batch = {};  // first, so that the pool can hand the same blocks out again
  if (step_ == steps()) return false;
  const int64_t first = step_++ * config_.batch, size = std::min(config_.batch, set_.size() - first);
  batch.indices.assign(order_.begin() + first, order_.begin() + first + size);
  batch.labels = Tensor::empty({size}, DType::i32);
  for (int64_t i = 0; i < size; ++i) batch.labels.data<int32_t>()[i] = set_.labels[size_t(batch.indices[size_t(i)])];
  batch.images = Tensor::empty({size, config_.augment.px, config_.augment.px, 3}, config_.type);
  augment_batch(set_.images, batch.indices, config_.view, config_.augment, config_.seed, epoch_, batch.images);
  return true;
}

}  // namespace kd
