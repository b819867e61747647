// image_list: which image files a dataset consists of and what their labels are, from a list file or from one folder a class. Nothing is decoded here.
//   list    one image a line, "relative/path label", as the published long-tailed sets come. Everything before the last blank is the path.
//   folder  ROOT/train/<class>/**, ROOT/val/<class>/** (or test): the label is the class's rank in the byte order of the training folders' names
// Every label, name and duplicate is checked here: nothing later does.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/base/file.h"

namespace kd {

struct ImageList {
  std::vector<std::string> paths = {};        // relative to the data root, with '/'
  std::vector<int32_t> labels = {};           // in [0, class_names.size())
  std::vector<std::string> class_names = {};  // the folders' where they tell classes apart, else "0", "1", ...
  int64_t skipped = 0;                        // files in class folders that no one would call images, README.txt say

  int64_t size() const { return int64_t(paths.size()); }
  uint64_t hash() const;  // of names and labels in order: the identity of what was asked for
};

// Input errors name the line. For a test list give the training list's class names: labels beyond them are refused. Otherwise (empty) the labels must
// run from 0 without a gap.
ImageList read_image_list(const Path& list, const std::vector<std::string>& class_names = {});

// Folders, sorted by path. For a test part give the training part's class names: another name is refused, a missing one is not.
// Symbolic links are followed; names that begin with a dot are ignored.
ImageList scan_image_folder(const Path& root, const std::string& part, const std::vector<std::string>& class_names = {});

// Input error that names the first few of the files that are missing, no regular files or empty, and their number.
void require_files(const Path& root, const ImageList&);

// done, total
using ImageProgress = std::function<void(int64_t, int64_t)>;

// Decodes every file, in parallel, and returns one line for each that fails, in the list's order.
std::vector<std::string> broken_images(const Path& root, const ImageList&, const ImageProgress&);

}  // namespace kd
