// image_set: datasets of image files. What is meant (list or folder) is checked on every start; the pixels come from packed files that
// `kd_bench data pack` makes once.
//   images       any such set                                   ROOT/train/<class>/, ROOT/val/<class>/ (or test), each replaceable by a list
//   imagenet     ILSVRC 2012: as above, 1000 classes
//   imagenet_lt  its long-tailed subset: 1000 classes; needs data.train_list and data.test_list
#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.h"

namespace kd {

bool is_image_set(const std::string& name);

struct ImageSetLists {
  ImageList train, test;
};
// Reads lists or looks into the folders; does not look at the images.
ImageSetLists list_image_set(const DataConfig&);

Path pack_path(const DataConfig&, bool train);

// Train and test. Where the packed files are and the folders are not, the packed files are enough. A set whose images all have one square size and fit
// `kResidentBytes` comes as a tensor.
constexpr int64_t kResidentBytes = int64_t(2) << 30;
std::pair<Dataset, Dataset> load_image_set(const DataConfig&);

// what ("packing train"), done, total
using ImageSetProgress = std::function<void(const std::string&, int64_t, int64_t)>;

enum class Rebuild : unsigned char { no, yes };
// Makes the packed files that are missing. One that was made from another list or with another size is an input error, or is made again.
void pack_image_set(const DataConfig&, Rebuild, const ImageSetProgress&);

// Decodes every image and reads every packed record. Input error where the set as a whole makes no sense (a list that does not parse, say).
struct ImageSetReport {
  std::vector<std::string> notes;     // what is there, and what may surprise
  std::vector<std::string> problems;  // a line each
};
ImageSetReport verify_image_set(const DataConfig&, const ImageSetProgress&);

}  // namespace kd
