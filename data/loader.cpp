#include "data/loader.h"

#include <algorithm>
#include <numeric>

namespace kd {
namespace {

int64_t multiple_of_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

std::vector<ImageView> images_of(const Dataset& set, std::span<const int64_t> indices) {
  std::vector<ImageView> images;
  for (int64_t index : indices) images.push_back(set.image(index));
  return images;
}

}  // namespace

Loader::Loader(const Dataset& set, LoaderConfig config) : set_(set), config_(config) {
  KD_INPUT(config.batch > 0, "batch size {}; give 1 or more", config.batch);
  KD_INPUT(steps() > 0, "{} has {} images, too few for one batch of {}; lower the batch size", set.name, set.size(), config.batch);
  if (set_.one_size()) set_.images = set.images.to(config.device);
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
  batch = {};  // first, so that the pool can hand the same blocks out again
  host_inputs_.resize(size_t(input_bytes()));
  const int64_t n = draw(host_inputs_.data()), px = config_.augment.px;
  if (n == 0) return false;
  batch.indices = indices_;
  batch.images = Tensor::empty({n, px, px, config_.channels}, config_.type, config_.device);
  batch.labels = Tensor::empty({n}, DType::i32, config_.device);
  Tensor inputs = Tensor::empty({input_bytes()}, DType::u8, config_.device);
  copy_bytes(inputs.raw(), config_.device, host_inputs_.data(), Device::cpu, inputs.bytes());
  make(static_cast<const std::byte*>(inputs.raw()), n, batch.images, batch.labels);
  return true;
}

int64_t Loader::labels_offset() const { return multiple_of_16(config_.batch * int64_t(sizeof(PreparedRecord))); }

int64_t Loader::windows_offset() const { return labels_offset() + multiple_of_16(config_.batch * int64_t(sizeof(int32_t))); }

int64_t Loader::input_bytes() const {
  const int64_t px = config_.augment.px;
  return windows_offset() + (set_.one_size() ? 0 : multiple_of_16(config_.batch * px * px * 3));
}

int64_t Loader::draw(std::byte* host) {
  KD_CHECK(!order_.empty(), "Loader: a batch before the first Loader::start");
  indices_.clear();
  if (step_ == steps()) return 0;
  const int64_t first = step_++ * config_.batch, n = std::min(config_.batch, set_.size() - first);
  indices_.assign(order_.begin() + first, order_.begin() + first + n);
  auto* records = reinterpret_cast<PreparedRecord*>(host);
  if (set_.one_size()) {
    draw_records(set_.images.shape(), indices_, config_.view, config_.augment, config_.seed, epoch_, records);
  } else {
    draw_windows(images_of(set_, indices_), indices_, config_.view, config_.augment, config_.seed, epoch_, reinterpret_cast<uint8_t*>(host + windows_offset()),
                 records);
    const int64_t ahead = std::min(config_.batch, set_.size() - first - n);  // the next batch is read while this one is trained on
    for (int64_t i = 0; i < ahead; ++i) set_.packed->will_need(set_.rows[size_t(order_[size_t(first + n + i)])]);
  }
  auto* labels = reinterpret_cast<int32_t*>(host + labels_offset());
  for (int64_t index : indices_) *labels++ = set_.labels[size_t(index)];
  return n;
}

void Loader::make(const std::byte* inputs, int64_t n, const Tensor& images, const Tensor& labels) const {
  const bool fits = images.defined() && images.dim(0) == n && labels.shape() == Shape{n} && labels.dtype() == DType::i32 && labels.device() == config_.device;
  KD_CHECK(fits, "Loader::make: {} and {} for {} images on {}", images.describe("images"), labels.describe("labels"), n, to_string(config_.device));
  const auto* records = reinterpret_cast<const PreparedRecord*>(inputs);
  const int64_t px = config_.augment.px;
  if (set_.one_size())
    make_views(set_.images, records, config_.augment, images);
  else
    make_views(reinterpret_cast<const uint8_t*>(inputs + windows_offset()), {n, px, px, 3}, records, config_.augment, images);
  copy_bytes(labels.raw(), config_.device, inputs + labels_offset(), config_.device, labels.bytes());
}

Tensor views_u8(const Dataset& set, std::span<const int64_t> indices, View view, const AugmentConfig& config, uint64_t seed, uint32_t epoch) {
  const Shape shape{int64_t(indices.size()), config.px, config.px, 3};
  const Tensor views = Tensor::empty(shape, DType::u8);
  if (set.one_size()) {
    augment_u8(set.images, indices, view, config, seed, epoch, views);
    return views;
  }
  const Tensor windows = Tensor::empty(shape, DType::u8);
  std::vector<PreparedRecord> records(indices.size());
  draw_windows(images_of(set, indices), indices, view, config, seed, epoch, windows.data<uint8_t>(), records.data());
  make_views(windows, records.data(), config, views);
  return views;
}

}  // namespace kd
