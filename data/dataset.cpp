#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "data/shapes.h"
#include "engine/base/hash.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int64_t kCifarPx = 32, kPlane = kCifarPx * kCifarPx, kPixels = 3 * kPlane;

// Draws of Purpose::split with different `epoch` words, so that who is held out says nothing about who is kept.
constexpr uint32_t kImbalanceStream = 0, kHoldoutStream = 1;

// How one of the two official distributions is laid out.
struct CifarFormat {
  const char *name, *folder, *python_folder, *archive;
  std::vector<const char*> train, test;
  const char* names;
  int64_t label_bytes, classes;

  int64_t record_bytes() const { return label_bytes + kPixels; }
  const std::vector<const char*>& files(bool is_train) const { return is_train ? train : test; }
};

const CifarFormat kCifar10{.name = "cifar10",
                           .folder = "cifar-10-batches-bin",
                           .python_folder = "cifar-10-batches-py",
                           .archive = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                           .train = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"},
                           .test = {"test_batch.bin"},
                           .names = "batches.meta.txt",
                           .label_bytes = 1,
                           .classes = 10};
const CifarFormat kCifar100{.name = "cifar100",
                            .folder = "cifar-100-binary",
                            .python_folder = "cifar-100-python",
                            .archive = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                            .train = {"train.bin"},
                            .test = {"test.bin"},
                            .names = "fine_label_names.txt",
                            .label_bytes = 2,
                            .classes = 100};

bool present(const Path& path) {
  std::error_code code;
  return std::filesystem::exists(path, code);
}

bool is_file(const Path& path) {
  std::error_code code;
  return std::filesystem::is_regular_file(path, code);
}

// The folder that holds `file`: root or its usual sub-folder.
Path find_folder(const CifarFormat& format, const Path& root, const char* file) {
  for (const Path& folder : {root, root / format.folder})
    if (present(folder / file)) return folder;
  std::string python = present(root / format.python_folder) ? fmt::format(" ({} beside it is the Python version, another format)", format.python_folder) : "";
  throw Error(fmt::format("{}: no {} in {} or {}{}; download {}, unpack it and give its folder as data.root", format.name, file, root.string(),
                          (root / format.folder).string(), python, format.archive));
}

std::vector<std::string> read_class_names(const CifarFormat& format, const Path& path) {
  std::vector<std::string> names;
  if (!present(path)) {
    for (int64_t c = 0; c < format.classes; ++c) names.push_back(std::to_string(c));
    return names;
  }
  std::string text = read_text(path);
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string name = text.substr(begin, end - begin);
    while (!name.empty() && (name.back() == '\r' || name.back() == ' ')) name.pop_back();
    if (!name.empty()) names.push_back(std::move(name));
    begin = end + 1;
  }
  KD_INPUT(!names.empty() && int64_t(names.size()) <= format.classes,
           "{}: {} class names, expected 1 to {}, one a line; restore the file from {} or remove it to number the classes", path.string(), names.size(),
           format.classes, format.archive);
  return names;
}

void check_label(const CifarFormat& format, const Path& path, int64_t offset, const char* what, int value, int64_t classes) {
  KD_INPUT(value < classes,
           "{}: byte {}: {} {} where 0 to {} is possible; the file is damaged or not the {} binary version (records of {} bytes), fetch it again from {}",
           path.string(), offset, what, value, classes - 1, format.name, format.record_bytes(), format.archive);
}

// A file's records, whole and with every label checked.
std::vector<uint8_t> read_records(const CifarFormat& format, const Path& path, int64_t classes) {
  std::vector<uint8_t> bytes = read_bytes(path);
  const int64_t size = int64_t(bytes.size()), record = format.record_bytes(), over = size % record;
  KD_INPUT(size > 0, "{}: byte 0: the file is empty; fetch it again from {}", path.string(), format.archive);
  KD_INPUT(over == 0, "{}: byte {}: {} bytes remain where a record has {}; the file is truncated or not the {} binary version, fetch it again from {}",
           path.string(), size - over, over, record, format.name, format.archive);
  for (int64_t at = 0; at < size; at += record) {
    if (format.label_bytes == 2) check_label(format, path, at, "coarse label", bytes[size_t(at)], 20);
    const int64_t label_at = at + format.label_bytes - 1;
    check_label(format, path, label_at, format.label_bytes == 2 ? "fine label" : "label", bytes[size_t(label_at)], classes);
  }
  return bytes;
}

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

std::string Dataset::hash() const {
  Fnv1a hash;
  auto add = [&](const void* data, int64_t bytes) { hash.add({static_cast<const uint8_t*>(data), size_t(bytes)}); };
  add(images.raw(), images.defined() ? images.bytes() : 0);
  add(labels.data(), size() * int64_t(sizeof(int32_t)));
  add(masks.raw(), masks.defined() ? masks.bytes() : 0);
  return hex(hash.value());
}

Splits load_splits(const DataConfig& config) {
  KD_INPUT(config.imbalance >= 1, "data.imbalance: {}; give largest class / smallest class, 1 or more", config.imbalance);
  KD_INPUT(config.holdout >= 0 && config.holdout < 1, "data.holdout: {}; give a share of the training images, at least 0 and below 1", config.holdout);
  Splits splits;
  if (config.name == "shapes") {
    splits.train = make_shapes(config.train_size, config.seed, true);
    splits.test = make_shapes(config.test_size, config.seed, false);
  } else {
    KD_INPUT(config.name == "cifar10" || config.name == "cifar100", "data.name: \"{}\" is not a dataset; use shapes, cifar10 or cifar100", config.name);
    KD_INPUT(!config.root.empty(), "data.root: {} is read from a folder; give it as data.root=FOLDER", config.name);
    const int classes = config.name == "cifar10" ? 10 : 100;
    splits.train = read_cifar(config.root, true, classes);
    splits.test = read_cifar(config.root, false, classes);
  }
  if (config.imbalance > 1) splits.train = make_imbalanced(splits.train, double(config.imbalance), config.seed);
  auto [train, holdout] = stratified_holdout(splits.train.labels, splits.train.classes, config.holdout, config.seed);
  splits.holdout = subset(splits.train, holdout);
  if (!holdout.empty()) splits.train = subset(splits.train, train);
  return splits;
}

Dataset read_cifar(const Path& root, bool train, int classes) {
  KD_CHECK(classes == 10 || classes == 100, "read_cifar: {} classes; there are CIFAR-10 and CIFAR-100", classes);
  const CifarFormat& format = classes == 10 ? kCifar10 : kCifar100;
  const Path folder = find_folder(format, root, format.files(train)[0]);

  Dataset set;
  set.name = format.name;
  set.class_names = read_class_names(format, folder / format.names);
  set.classes = int64_t(set.class_names.size());

  // One file at a time: the planar bytes of a file are let go before the next is read.
  int64_t expected = 0, done = 0;
  for (const char* file : format.files(train)) {
    KD_INPUT(is_file(folder / file), "{}: missing or not a regular file; unpack {} again", (folder / file).string(), format.archive);
    expected += kd::file_size(folder / file) / format.record_bytes();
  }
  set.images = Tensor::empty({expected, kCifarPx, kCifarPx, 3}, DType::u8);
  auto* images = set.images.data<uint8_t>();
  for (const char* file : format.files(train)) {
    const std::vector<uint8_t> bytes = read_records(format, folder / file, set.classes);
    const int64_t records = int64_t(bytes.size()) / format.record_bytes();
    KD_INPUT(done + records <= expected, "{}: the file grew while it was read; try again when nothing writes to it", (folder / file).string());
    for (int64_t i = 0; i < records; ++i) set.labels.push_back(bytes[size_t(i * format.record_bytes() + format.label_bytes - 1)]);
    parallel_for(records, [&](int64_t i) {
      const uint8_t* planes = bytes.data() + i * format.record_bytes() + format.label_bytes;
      uint8_t* image = images + (done + i) * kPixels;
      for (int64_t p = 0; p < kPlane; ++p)
        for (int64_t c = 0; c < 3; ++c) image[3 * p + c] = planes[c * kPlane + p];
    });
    done += records;
  }
  KD_INPUT(done == expected, "{}: the files became shorter while they were read; try again when nothing writes to them", folder.string());
  return set;
}

void write_cifar(const Dataset& set, const Path& root, bool train) {
  KD_INPUT(set.size() > 0, "{}: nothing to write, the set is empty", root.string());
  KD_INPUT(set.images.shape() == Shape({set.size(), kCifarPx, kCifarPx, 3}), "{}: the CIFAR format holds 32x32 RGB images, this is {}", root.string(),
           set.images.describe(set.name.c_str()));
  KD_INPUT(set.classes <= kCifar100.classes, "{}: the CIFAR-100 format holds at most {} classes, {} has {}", root.string(), kCifar100.classes, set.name,
           set.classes);
  make_directories(root);
  std::string names;
  for (const std::string& name : set.class_names) names += name + "\n";
  write_atomically(root / kCifar100.names, names);
  write_atomically(root / kCifar100.files(train)[0], [&](FileWriter& out) {
    constexpr int64_t kChunk = 1024;  // records a write
    std::vector<uint8_t> bytes;
    for (int64_t first = 0; first < set.size(); first += kChunk) {
      const int64_t records = std::min(kChunk, set.size() - first);
      bytes.assign(size_t(records * kCifar100.record_bytes()), 0);
      for (int64_t i = 0; i < records; ++i) {
        uint8_t* record = bytes.data() + i * kCifar100.record_bytes();
        const uint8_t* image = set.images.data<uint8_t>() + (first + i) * kPixels;
        record[1] = uint8_t(set.labels[size_t(first + i)]);
        for (int64_t p = 0; p < kPlane; ++p)
          for (int64_t c = 0; c < 3; ++c) record[2 + c * kPlane + p] = image[3 * p + c];
      }
      out.write(bytes);
    }
  });
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
