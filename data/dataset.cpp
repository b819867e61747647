#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <tuple>

#include "data/cifar.h"
#include "data/image_set.h"
#include "data/shapes.h"
#include "engine/base/hash.h"

namespace kd {
namespace {

// Draws of Purpose::split with different `epoch` words, so that who is held out says nothing about who is kept.
constexpr uint32_t kImbalanceStream = 0, kHoldoutStream = 1;

std::vector<std::vector<int64_t>> indices_by_class(std::span<const int32_t> labels, int64_t classes) {
  std::vector<std::vector<int64_t>> members(static_cast<size_t>(classes));
  for (size_t i = 0; i < labels.size(); ++i) {
    KD_CHECK(labels[i] >= 0 && labels[i] < classes, "label {} at {} with {} classes", labels[i], i, classes);
    members[size_t(labels[i])].push_back(int64_t(i));
  }
  return members;
}

}  // namespace

std::vector<int64_t> Dataset::class_counts() const {
  std::vector<int64_t> counts;
  for (const auto& members : indices_by_class(labels, classes)) counts.push_back(int64_t(members.size()));
  return counts;
}

int64_t Dataset::px() const {
  KD_CHECK(images.defined(), "{}: its images have different sizes", name);
  return images.dim(1);
}

ImageView Dataset::image(int64_t i) const {
  KD_CHECK(i >= 0 && i < size(), "image {} of {} with {}", i, name, size());
  if (packed) return packed->image(rows[size_t(i)]);
  const int64_t h = images.dim(1), w = images.dim(2);
  return {.rgb = images.data<uint8_t>() + i * h * w * 3, .h = h, .w = w};
}

std::string Dataset::hash() const {
  Fnv1a hash;
  auto add = [&](const void* data, int64_t bytes) { hash.add({static_cast<const uint8_t*>(data), size_t(bytes)}); };
  add(images.raw(), images.defined() ? images.bytes() : 0);
  for (int64_t row : rows) {
    const ImageView image = packed->image(row);
    const uint64_t words[3] = {uint64_t(image.h), uint64_t(image.w), packed->checksum(row)};
    add(words, sizeof(words));
  }
  add(labels.data(), size() * int64_t(sizeof(int32_t)));
  add(masks.raw(), masks.defined() ? masks.bytes() : 0);
  return hex(hash.value());
}

std::vector<int64_t> Splits::train_counts() const {
  std::vector<int64_t> counts = train.class_counts();
  const std::vector<int64_t> more = holdout.class_counts();
  for (size_t c = 0; c < counts.size(); ++c) counts[c] += more[c];
  return counts;
}

std::vector<Shots> class_shots(std::span<const int64_t> train_counts) {
  std::vector<Shots> shots;
  for (int64_t count : train_counts) shots.push_back(count > 100 ? Shots::many : count >= 20 ? Shots::medium : Shots::few);
  return shots;
}

std::string to_string(Shots shots) { return shots == Shots::many ? "many" : shots == Shots::medium ? "medium" : "few"; }

std::string describe_shots(std::span<const int64_t> train_counts) {
  int64_t classes[3] = {};
  for (const Shots shots : class_shots(train_counts)) ++classes[size_t(shots)];
  return fmt::format("{} classes with many training images (over 100), {} medium (20 to 100), {} few (under 20)", classes[0], classes[1], classes[2]);
}

Path find_list(const std::string& root, const std::string& list, const char* key) {
  for (const Path& path : {Path(list), Path(root) / list})
    if (std::filesystem::is_regular_file(path)) return path;
  throw Error(fmt::format("{}: no file {} here or in {}", key, list, root));
}

Splits load_splits(const DataConfig& config) {
  KD_INPUT(config.imbalance >= 1, "data.imbalance: {}; give largest class / smallest class, 1 or more", config.imbalance);
  KD_INPUT(config.holdout >= 0 && config.holdout < 1, "data.holdout: {}; give a share of the training images, at least 0 and below 1", config.holdout);
  KD_INPUT(config.imbalance == 1 || config.train_list.empty(), "data.imbalance and data.train_list both choose training images; give one of them");
  Splits splits;
  if (config.name == "shapes") {
    splits.train = make_shapes(config.train_size, config.seed, true);
    splits.test = make_shapes(config.test_size, config.seed, false);
  } else {
    const bool cifar = config.name == "cifar10" || config.name == "cifar100";
    KD_INPUT(cifar || is_image_set(config.name), "data.name: \"{}\" is not a dataset; use shapes, cifar10, cifar100, images, imagenet or imagenet_lt",
             config.name);
    KD_INPUT(!config.root.empty(), "data.root: {} is read from a folder; give it as data.root=FOLDER", config.name);
    if (cifar) {
      const int classes = config.name == "cifar10" ? 10 : 100;
      splits.train = config.train_list.empty() ? read_cifar(config.root, true, classes)
                                               : read_cifar_list(config.root, find_list(config.root, config.train_list, "data.train_list"), true, classes);
      splits.test = config.test_list.empty()
                        ? read_cifar(config.root, false, classes)
                        : read_cifar_list(config.root, find_list(config.root, config.test_list, "data.test_list"), false, classes, splits.train.class_names);
      KD_INPUT(splits.train.classes == splits.test.classes,
               "{}: {} classes in the training part and {} in the test part; give lists for both parts or for none", config.name, splits.train.classes,
               splits.test.classes);
    } else {
      std::tie(splits.train, splits.test) = load_image_set(config);
    }
  }
  if (config.imbalance > 1) splits.train = make_imbalanced(splits.train, double(config.imbalance), config.seed);
  auto [train, holdout] = stratified_holdout(splits.train.labels, splits.train.classes, config.holdout, config.seed);
  splits.holdout = subset(splits.train, holdout);
  if (!holdout.empty()) splits.train = subset(splits.train, train);
  return splits;
}

Dataset subset(const Dataset& set, std::span<const int64_t> indices) {
  Dataset part{.name = set.name, .classes = set.classes, .class_names = set.class_names};
  auto gather = [&](const Tensor& from) {
    const int64_t row = from.bytes() / std::max<int64_t>(set.size(), 1);
    Shape shape =
        from.rank() == 4 ? Shape{int64_t(indices.size()), from.dim(1), from.dim(2), from.dim(3)} : Shape{int64_t(indices.size()), from.dim(1), from.dim(2)};
    Tensor to = Tensor::empty(shape, DType::u8);
    for (size_t i = 0; i < indices.size(); ++i) std::memcpy(to.data<uint8_t>() + int64_t(i) * row, from.data<uint8_t>() + indices[i] * row, size_t(row));
    return to;
  };
  for (int64_t i : indices) {
    KD_CHECK(i >= 0 && i < set.size(), "subset: index {} of {} with {} images", i, set.name, set.size());
    part.labels.push_back(set.labels[size_t(i)]);
  }
  part.packed = set.packed;
  if (set.packed)
    for (int64_t i : indices) part.rows.push_back(set.rows[size_t(i)]);
  else
    part.images = gather(set.images);
  if (set.masks.defined()) part.masks = gather(set.masks);
  return part;
}

std::vector<int64_t> imbalance_counts(int64_t n_max, int64_t classes, double ratio) {
  KD_CHECK(n_max > 0 && classes > 0 && ratio >= 1, "imbalance_counts: n_max {}, classes {}, ratio {}", n_max, classes, ratio);
  std::vector<int64_t> counts;
  for (int64_t c = 0; c < classes; ++c) {
    double position = classes > 1 ? double(c) / double(classes - 1) : 0.;
    counts.push_back(int64_t(std::floor(double(n_max) * std::pow(1. / ratio, position))));
  }
  return counts;
}

Dataset make_imbalanced(const Dataset& set, double ratio, uint64_t seed) {
  auto members = indices_by_class(set.labels, set.classes);
  int64_t n_max = 0;
  for (const auto& own : members) n_max = std::max(n_max, int64_t(own.size()));
  KD_INPUT(double(n_max) >= ratio, "data.imbalance: {} leaves the last class of {} empty, its largest has {} images; give {} or less", ratio, set.name, n_max,
           n_max);
  const std::vector<int64_t> counts = imbalance_counts(n_max, set.classes, ratio);
  std::vector<int64_t> kept;
  for (size_t c = 0; c < members.size(); ++c) {
    auto& own = members[c];
    shuffle(own, Rng(seed, Purpose::split, uint32_t(c), kImbalanceStream));
    own.resize(std::min(own.size(), size_t(counts[c])));  // a class that was small before stays as it is
    kept.insert(kept.end(), own.begin(), own.end());
  }
  std::sort(kept.begin(), kept.end());
  return subset(set, kept);
}

std::pair<std::vector<int64_t>, std::vector<int64_t>> stratified_holdout(std::span<const int32_t> labels, int64_t classes, double fraction, uint64_t seed) {
  KD_CHECK(fraction >= 0 && fraction < 1, "stratified_holdout: fraction {}", fraction);
  std::vector<int64_t> train, holdout;
  auto members = indices_by_class(labels, classes);
  for (size_t c = 0; c < members.size(); ++c) {
    auto& own = members[c];
    if (own.empty()) continue;
    shuffle(own, Rng(seed, Purpose::split, uint32_t(c), kHoldoutStream));
    const int64_t out = std::min(int64_t(std::floor(fraction * double(own.size()) + .5)), int64_t(own.size()) - 1);
    holdout.insert(holdout.end(), own.begin(), own.begin() + out);
    train.insert(train.end(), own.begin() + out, own.end());
  }
  std::sort(train.begin(), train.end());
  std::sort(holdout.begin(), holdout.end());
  return {train, holdout};
}

void shuffle(std::span<int64_t> values, Rng rng) {
  for (size_t left = values.size(); left > 1; --left) std::swap(values[left - 1], values[rng.below(uint32_t(left))]);
}

}  // namespace kd
