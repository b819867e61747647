// cifar: CIFAR-10 and CIFAR-100 (Krizhevsky, "Learning multiple layers of features from tiny images", 2009) in either official form, and lists of their images.
//              binary                                                            Python (pickle.h)
//   CIFAR-10   data_batch_1..5.bin | test_batch.bin, batches.meta.txt            data_batch_1..5 | test_batch, batches.meta
//              record = label, 1024 R, 1024 G, 1024 B               3073 bytes
//   CIFAR-100  train.bin | test.bin, fine_label_names.txt                        train | test, meta
//              record = coarse, fine, 1024 R, 1024 G, 1024 B        3074 bytes
#pragma once
#include <string>
#include <vector>

#include "data/dataset.h"

namespace kd {

// The files lie in `root` or in its sub-folder cifar-10-batches-bin, -py / cifar-100-binary, -python; the binary form is taken where both are there.
// A file may hold any positive number of images, and a names file fewer names than the official one, so that people can bring their own sets.
// CIFAR-100 labels are the fine ones. Errors name file, byte and remedy.
Dataset read_cifar(const Path& root, bool train, int classes /* 10 | 100 */);

// The images that a list file names (image_list.h), in its order. They come from the Python form where `root` has it, by their original names
// ("train/49/cattle_s_000001.png" is the training image of that name and label 49), otherwise from 32x32 PNG files below `root`.
// `class_names`: for a test list, those of the training part; otherwise empty.
Dataset read_cifar_list(const Path& root, const Path& list, bool train, int classes, const std::vector<std::string>& class_names = {});

// CIFAR-100 binary, coarse label 0; images must be 32x32. Each file appears whole or not at all.
void write_cifar(const Dataset&, const Path& root, bool train);

// Where a dataset's files are fetched from.
struct CifarArchive {
  std::string file, url, md5, folder;  // folder: what unpacking makes
};
std::vector<CifarArchive> cifar_archives(int classes);  // binary, then Python

// One line about each file of the form that read_cifar takes: whether its bytes are the official ones.
std::vector<std::string> compare_with_official(const Path& root, int classes);

}  // namespace kd
