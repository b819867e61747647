// dataset: labelled 8-bit images and the ways to get them: CIFAR (cifar.h), folders and lists of image files (image_set.h), the generated shapes set
// (shapes.h), the long-tailed subsets of the ensemble distillation papers, and a held-out part for choosing checkpoints.
// Images of one size lie whole in memory; images of different sizes lie in a packed file that is mapped into memory (packed.h).
//   N images, H = W = px
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/packed.h"
#include "engine/base/file.h"
#include "engine/base/rng.h"
#include "engine/base/tensor.h"

namespace kd {

struct Dataset {
  std::string name = {};  // "shapes", "cifar100", ...
  int64_t classes = 0;
  std::vector<std::string> class_names = {};
  // Exactly one of the two is there.
  Tensor images = {};                               // u8 [N,H,W,3], RGB
  std::shared_ptr<const PackedImages> packed = {};  // image i is packed->image(rows[i])
  std::vector<int64_t> rows = {};                   // N, with `packed` only
  std::vector<int32_t> labels = {};                 // N, in [0, classes): checked where the data enters, so nothing later has to
  Tensor masks = {};                                // u8 [N,H,W], 1 on the object; undefined where the truth is unknown

  int64_t size() const { return int64_t(labels.size()); }
  bool one_size() const { return !packed; }
  int64_t px() const;                // side of all images; contract error if they are `packed`
  ImageView image(int64_t i) const;  // of either kind, in host memory; valid while a copy of the Dataset lives
  std::vector<int64_t> class_counts() const;
  // 16 hex digits over images, labels, masks: the data identity written into run records. Of packed images it takes the recorded sizes and checksums,
  // so it differs where another decoder made other pixels, and costs no reading of the disk.
  std::string hash() const;
};

struct Splits {
  Dataset train, holdout, test;               // holdout has size 0 when the fraction is 0
  std::vector<int64_t> train_counts() const;  // images a class in train and holdout together
};

// Long-tailed results are reported for classes with many (over 100), medium (20 to 100) and few (under 20) training images (Liu et al., CVPR 2019,
// arXiv 1904.05160). They count what the published training set holds: use Splits::train_counts, not those of `train` alone.
enum class Shots : unsigned char { many, medium, few };
std::vector<Shots> class_shots(std::span<const int64_t> train_counts);
std::string to_string(Shots);
std::string describe_shots(std::span<const int64_t> train_counts);  // "35 classes with many training images (over 100), 35 medium (20 to 100), ..."

struct DataConfig {
  std::string name = "shapes";                  // shapes | cifar10 | cifar100 | images | imagenet | imagenet_lt
  std::string root = {};                        // folder of the files; all but shapes
  std::string train_list = {}, test_list = {};  // list files (image_list.h), where not everything in `root` is meant; relative to here or to `root`
  std::string packs = {};                       // images, imagenet*: folder of the packed files; empty: root/packs
  int64_t pack_px = 0;                          // images, imagenet*: short side that larger images are shrunk to when they are packed; 0: none
  int64_t imbalance = 1;                        // largest class / smallest class of the training part; 1 keeps every image
  double holdout = 0.1;                         // share of the training part that is not trained on, in [0, 1)
  int64_t train_size = 6000, test_size = 2000;  // shapes only
  uint64_t seed = 0;
};

// The imbalance is applied first and the holdout taken from what is left, so both parts have the same long tail. The test part is never touched.
Splits load_splits(const DataConfig&);

// `list` itself if it exists, else root / list; input error that names both.
Path find_list(const std::string& root, const std::string& list, const char* key);

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
