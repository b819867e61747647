// dataset: labelled 8-bit images, whole in memory, and the ways to get them: CIFAR binary files, the generated shapes set (shapes.h),
// the long-tailed subsets of the ensemble distillation papers, and a held-out part for choosing checkpoints.
//   N images, H = W = px
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/file.h"
#include "engine/base/rng.h"
#include "engine/base/tensor.h"

namespace kd {

struct Dataset {
  std::string name = {};  // "shapes", "cifar100", ...
  int64_t classes = 0;
  std::vector<std::string> class_names = {};
  Tensor images = {};                // u8 [N,H,W,3], RGB
  std::vector<int32_t> labels = {};  // N, in [0, classes): checked where the data enters, so nothing later has to
  Tensor masks = {};                 // u8 [N,H,W], 1 on the object; undefined where the truth is unknown

  int64_t size() const { return int64_t(labels.size()); }
  int64_t px() const { return images.dim(1); }
  std::vector<int64_t> class_counts() const;
  std::string hash() const;  // 16 hex digits over images, labels, masks: the data identity written into run records
};

struct Splits {
  Dataset train, holdout, test;  // holdout has size 0 when the fraction is 0
};

struct DataConfig {
  std::string name = "shapes";                  // shapes | cifar10 | cifar100
  std::string root = {};                        // folder of the CIFAR files
  int64_t imbalance = 1;                        // largest class / smallest class of the training part; 1 keeps every image
  double holdout = 0.1;                         // share of the training part that is not trained on, in [0, 1)
  int64_t train_size = 6000, test_size = 2000;  // shapes only
  uint64_t seed = 0;
};

// The imbalance is applied first and the holdout taken from what is left, so both parts have the same long tail. The test part is never touched.
Splits load_splits(const DataConfig&);

// The official binary distributions (Krizhevsky, "Learning multiple layers of features from tiny images", 2009):
//   CIFAR-10   data_batch_1..5.bin | test_batch.bin, batches.meta.txt       record = label, 1024 R, 1024 G, 1024 B          3073 bytes
//   CIFAR-100  train.bin | test.bin, fine_label_names.txt                   record = coarse, fine, 1024 R, 1024 G, 1024 B   3074 bytes
// in `root` or in its sub-folder cifar-10-batches-bin / cifar-100-binary. A file may hold any positive number of records, and a names file fewer
// names than the official one, so that people can bring their own sets. CIFAR-100 labels are the fine ones. Errors name file, byte and remedy.
Dataset read_cifar(const Path& root, bool train, int classes /* 10 | 100 */);

// CIFAR-100 binary, coarse label 0; images must be 32x32. Each file appears whole or not at all.
void write_cifar(const Dataset&, const Path& root, bool train);

Dataset subset(const Dataset&, std::span<const int64_t> indices);

// n_c = floor(n_max * (1/ratio)^(c/(classes-1))): the largest class first, n_max / ratio the last (Cui et al., CVPR 2019, arXiv 1901.05555).
std::vector<int64_t> imbalance_counts(int64_t n_max, int64_t classes, double ratio);

// Keeps, of each class, the first n_c images of a seeded permutation of that class: the set for a larger ratio lies inside that for a smaller
// one. n_max is the size of the largest class. Images stay in file order.
Dataset make_imbalanced(const Dataset&, double ratio, uint64_t seed);

// Train and holdout indices, both ascending. Each class gives round(fraction * its size) images to the holdout, halves up, and keeps at least one.
std::pair<std::vector<int64_t>, std::vector<int64_t>> stratified_holdout(std::span<const int32_t> labels, int64_t classes, double fraction, uint64_t seed);

// Fisher-Yates: moves every order of the values with equal probability into place.
void shuffle(std::span<int64_t>, Rng);

}  // namespace kd
