#include "data/cifar.h"

#include <cstring>

#include "data/shapes.h"
#include "tests/data/pickler.h"

namespace kd {
namespace {

constexpr int64_t kRecord = 3074;  // CIFAR-100

class Cifar : public FolderTest {
 protected:
  // `count` records; record i has fine label i mod 100, coarse label i mod 20 and pixels that depend on image, plane and position.
  static Bytes records(int64_t count, int64_t label_bytes = 2) {
    Bytes bytes;
    for (int64_t i = 0; i < count; ++i) {
      if (label_bytes == 2) bytes.push_back(uint8_t(i % 20));
      bytes.push_back(uint8_t(i % (label_bytes == 2 ? 100 : 10)));
      for (int64_t p = 0; p < 3072; ++p) bytes.push_back(cifar_byte(i, p));
    }
    return bytes;
  }
  // The same as one of CIFAR-100's Python files.
  static Bytes pickled(int64_t count) {
    std::vector<int64_t> labels;
    for (int64_t i = 0; i < count; ++i) labels.push_back(i % 100);
    return cifar_pickle({.labels = labels, .label_key = "fine_labels"});
  }
  static Bytes pickled_names(const char* key, const std::vector<std::string>& names) {
    Pickler pickler;
    pickler.text(key), pickler.list_of(names);
    return pickler.finish();
  }
  static void expect_pixels(const Dataset& set, int64_t row, int64_t image) {
    for (int64_t p : {0, 1, 32, 1023})
      for (int64_t c = 0; c < 3; ++c) EXPECT_EQ(set.images.data<uint8_t>()[(row * 1024 + p) * 3 + c], cifar_byte(image, c * 1024 + p)) << row;
  }

  // The one line that reading the training part of a damaged set must end with.
  void refused(const std::vector<std::string>& parts, int classes = 100) const {
    expect_error([&] { read_cifar(root_, true, classes); }, parts);
  }
};

TEST_F(Cifar, WriteThenReadIsTheSameSet) {
  Dataset set = make_shapes(70, 0, true);
  write_cifar(set, root_, true);
  write_cifar(make_shapes(30, 0, false), root_, false);
  EXPECT_EQ(kd::file_size(root_ / "train.bin"), 70 * kRecord);
  const Dataset back = read_cifar(root_, true, 100);
  set.masks = {};  // the format has no masks
  EXPECT_EQ(back.hash(), set.hash());
  EXPECT_EQ(back.classes, 10);
  EXPECT_EQ(back.class_names, set.class_names);
  EXPECT_FALSE(back.masks.defined());
  EXPECT_EQ(read_cifar(root_, false, 100).size(), 30);
  for (const auto& entry : std::filesystem::directory_iterator(root_)) EXPECT_NE(entry.path().extension(), ".tmp");
}

TEST_F(Cifar, PlanarBytesBecomeInterleavedPixels) {
  put(root_ / "cifar-100-binary" / "train.bin", records(120));  // found in the usual sub-folder
  const Dataset set = read_cifar(root_, true, 100);
  ASSERT_EQ(set.images.shape(), Shape({120, 32, 32, 3}));
  EXPECT_EQ(set.classes, 100);
  EXPECT_EQ(set.class_names.size(), 100u);
  for (int64_t i : {0, 1, 119}) {
    EXPECT_EQ(set.labels[size_t(i)], i % 100);
    expect_pixels(set, i, i);
  }
}

TEST_F(Cifar, Cifar10JoinsItsFiveFiles) {
  const Path folder = root_ / "cifar-10-batches-bin";
  for (int part = 1; part <= 5; ++part) put(folder / fmt::format("data_batch_{}.bin", part), records(10 + part, 1));
  put(folder / "test_batch.bin", records(3, 1));
  write_atomically(folder / "batches.meta.txt", "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n");
  const Dataset set = read_cifar(root_, true, 10);
  EXPECT_EQ(set.size(), 11 + 12 + 13 + 14 + 15);
  EXPECT_EQ(set.class_names.at(9), "truck");
  EXPECT_EQ(set.labels[11], 0);  // the second file starts over
  EXPECT_EQ(set.images.data<uint8_t>()[11 * 3072 + 1], cifar_byte(0, 1024));
  EXPECT_EQ(read_cifar(root_, false, 10).size(), 3);

  std::filesystem::remove(folder / "data_batch_3.bin");
  refused({"data_batch_3.bin", "missing"}, 10);
}

TEST_F(Cifar, MissingFilesSayWhereAndHow) {
  refused({"cifar100", "train.bin", root_.string(), "cifar-100-binary", "https://", "data.root"});
  refused({"cifar10", "data_batch_1.bin", "cifar-10-batches-bin"}, 10);
  put(root_ / "cifar-100-python.tar.gz", {1});
  refused({"cifar-100-python.tar.gz", "not unpacked", "kd_bench data fetch cifar100 --root " + root_.string()});
}

// ---- The Python form. ----

TEST_F(Cifar, PythonFormIsTheSameSet) {
  put(root_ / "binary" / "train.bin", records(120));
  put(root_ / "cifar-100-python" / "train", pickled(120));
  put(root_ / "cifar-100-python" / "test", pickled(30));
  const Dataset set = read_cifar(root_, true, 100);
  EXPECT_EQ(set.hash(), read_cifar(root_ / "binary", true, 100).hash());
  EXPECT_EQ(set.classes, 100);
  EXPECT_EQ(read_cifar(root_ / "cifar-100-python", false, 100).size(), 30);  // the folder itself

  std::vector<std::string> names;
  for (int i = 0; i < 100; ++i) names.push_back(fmt::format("name_{}", i));
  put(root_ / "cifar-100-python" / "meta", pickled_names("fine_label_names", names));
  EXPECT_EQ(read_cifar(root_, true, 100).class_names.at(42), "name_42");
  put(root_ / "train.bin", records(7));  // the binary form is preferred where both are
  EXPECT_EQ(read_cifar(root_, true, 100).size(), 7);
}

TEST_F(Cifar, Python10JoinsItsFiveFiles) {
  const Path folder = root_ / "cifar-10-batches-py";
  for (int part = 1; part <= 5; ++part)
    put(folder / fmt::format("data_batch_{}", part), cifar_pickle({.labels = {part, 9}, .label_key = "labels", .first = 2 * part}));
  put(folder / "test_batch", cifar_pickle({.labels = {0}, .label_key = "labels"}));
  put(folder / "batches.meta", pickled_names("label_names", {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}));
  const Dataset set = read_cifar(root_, true, 10);
  EXPECT_EQ(set.labels, (std::vector<int32_t>{1, 9, 2, 9, 3, 9, 4, 9, 5, 9}));
  EXPECT_EQ(set.class_names.at(9), "j");
  for (int64_t row : {0, 1, 9}) expect_pixels(set, row, row + 2);
  EXPECT_EQ(read_cifar(root_, false, 10).size(), 1);
  std::filesystem::remove(folder / "data_batch_4");
  refused({"data_batch_4", "missing"}, 10);
}

TEST_F(Cifar, PythonFilesAreChecked) {
  const Path file = root_ / "train";
  put(file, cifar_pickle({.labels = {1, 100}, .label_key = "fine_labels"}));
  refused({"train: image 1: 'fine_labels' is 100", "0 to 99"});
  put(file, cifar_pickle({.labels = {1, 2}, .label_key = "labels"}));
  refused({"has no 'fine_labels'"});
  Pickler wrong;
  wrong.text("fine_labels"), wrong.list_of(std::vector<int64_t>{1, 2, 3});
  wrong.text("data"), wrong.array({2, 3072}, Bytes(2 * 3072));
  put(file, wrong.finish());
  refused({"3 labels for 2 images"});
  Pickler narrow;
  narrow.text("data"), narrow.array({2, 3071}, Bytes(2 * 3071));
  put(file, narrow.finish());
  refused({"'data' is 2 x 3071", "images x 3072"});
  put(file, {0x80, 2, 'c', 'o', 's', '\n', 's', 'y', 's', 't', 'e', 'm', '\n', '.'});
  refused({"asks for code (os.system)"});
}

// ---- Lists. ----

TEST_F(Cifar, ListByNameFromThePythonForm) {
  put(root_ / "cifar-100-python" / "train",
      cifar_pickle({.labels = {1, 0, 1, 0, 1}, .label_key = "fine_labels", .names = {"ape.png", "bee.png", "ant.png", "ape.png", "ape.png"}}));
  write_atomically(root_ / "imb.txt", "train/1/ant.png 1\ntrain/0/ape.png 0\ntrain/1/ape.png 1\n");
  const Dataset set = read_cifar_list(root_, root_ / "imb.txt", true, 100);
  EXPECT_EQ(set.labels, (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(set.classes, 100);
  expect_pixels(set, 0, 2);
  expect_pixels(set, 1, 3);
  expect_pixels(set, 2, 4);  // of two images with one name and label the later, as in a folder of files
  write_atomically(root_ / "imb.txt", "train/1/bee.png 1\ntrain/0/bee.png 0\n");
  expect_error([&] { read_cifar_list(root_, root_ / "imb.txt", true, 100); }, {"imb.txt", "1 of 2 images", "'train/1/bee.png 1'"});
}

TEST_F(Cifar, ListOfPngFiles) {
  for (int i = 0; i < 4; ++i) put(root_ / fmt::format("train/{}/{}.png", i % 2, i), png_picture(i, 32, 32));
  write_atomically(root_ / "imb.txt", "train/1/3.png 1\ntrain/0/0.png 0\ntrain/1/1.png 1\n");
  const Dataset set = read_cifar_list(root_, root_ / "imb.txt", true, 100);
  EXPECT_EQ(set.labels, (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(set.classes, 2);
  for (int64_t p = 0; p < 3072; ++p) ASSERT_EQ(set.images.data<uint8_t>()[p], picture_byte(3, p));

  const Splits splits = load_splits({.name = "cifar100", .root = root_.string(), .train_list = "imb.txt", .test_list = "imb.txt", .holdout = 0});
  EXPECT_EQ(splits.train.hash(), set.hash());
  EXPECT_EQ(splits.test.hash(), set.hash());

  put(root_ / "train/1/1.png", png_picture(0, 32, 31));
  expect_error([&] { read_cifar_list(root_, root_ / "imb.txt", true, 100); }, {"1.png", "32 x 31 pixels", "data.name=images"});
  std::filesystem::remove(root_ / "train/1/1.png");
  expect_error([&] { read_cifar_list(root_, root_ / "imb.txt", true, 100); }, {"1 of 3 images are missing", "train/1/1.png"});
}

TEST_F(Cifar, OfficialBytesAreRecognised) {
  put(root_ / "train", pickled(3));
  put(root_ / "test", pickled(2));
  const auto lines = compare_with_official(root_, 100);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[0].find("NOT the official file's 16019d7e3df5f24257cddd939b257f8d"), std::string::npos) << lines[0];
}

// ---- Damaged binary files. ----

TEST_F(Cifar, EmptyFile) {
  put(root_ / "train.bin", {});
  refused({"train.bin", "byte 0", "empty", "https://"});
}

TEST_F(Cifar, TruncatedFile) {
  auto bytes = records(3);
  bytes.pop_back();
  put(root_ / "train.bin", bytes);
  refused({"train.bin", fmt::format("byte {}", 2 * kRecord), "3073 bytes", "3074", "https://"});
}

TEST_F(Cifar, OneByteTooMany) {
  auto bytes = records(3);
  bytes.push_back(0);
  put(root_ / "train.bin", bytes);
  refused({"train.bin", fmt::format("byte {}", 3 * kRecord), "1 bytes", "3074", "https://"});
}

TEST_F(Cifar, FineLabelOutOfRange) {
  auto bytes = records(3);
  bytes[size_t(2 * kRecord + 1)] = 100;
  put(root_ / "train.bin", bytes);
  refused({"train.bin", fmt::format("byte {}", 2 * kRecord + 1), "fine label 100", "0 to 99", "https://"});
}

TEST_F(Cifar, FineLabelWithoutAName) {
  put(root_ / "train.bin", records(3));
  write_atomically(root_ / "fine_label_names.txt", "apple\nbee\n");
  refused({"train.bin", "fine label 2", "0 to 1"});
}

TEST_F(Cifar, CoarseLabelOutOfRange) {
  auto bytes = records(3);
  bytes[size_t(kRecord)] = 20;
  put(root_ / "train.bin", bytes);
  refused({"train.bin", fmt::format("byte {}", kRecord), "coarse label 20", "0 to 19", "https://"});
}

TEST_F(Cifar, DirectoryInPlaceOfAFile) {
  make_directories(root_ / "train.bin");
  refused({"train.bin", "not a regular file"});
}

TEST_F(Cifar, NamesFileOfTheWrongLength) {
  put(root_ / "train.bin", records(3));
  write_atomically(root_ / "fine_label_names.txt", "\n");
  refused({"fine_label_names.txt", "0 class names"});
}

TEST_F(Cifar, WriterRefusesWhatTheFormatCannotHold) {
  Dataset small{.name = "small", .classes = 2, .class_names = {"a", "b"}, .images = Tensor::zeros({2, 2, 2, 3}, DType::u8), .labels = {0, 1}};
  EXPECT_THROW(write_cifar(small, root_, true), Error);
  EXPECT_THROW(write_cifar(subset(make_shapes(10, 0, true), {}), root_, true), Error);
  Dataset broken = make_shapes(10, 0, true);
  broken.class_names[3] = "two\nlines";  // a folder's name may be that; the file of names would hold a class too many
  expect_error([&] { write_cifar(broken, root_, true); }, {root_.string(), "two\\x0alines", "line break", "rename"});
  EXPECT_FALSE(std::filesystem::exists(root_ / "train.bin"));
}

}  // namespace
}  // namespace kd
