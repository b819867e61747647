#include "data/image_list.h"

#include "tests/data/files.h"

namespace kd {
namespace {

namespace fs = std::filesystem;

class ImageLists : public FolderTest {
 protected:
  ImageList read(const std::string& text, const std::vector<std::string>& class_names = {}) {
    write_atomically(root_ / "list.txt", text);
    return read_image_list(root_ / "list.txt", class_names);
  }
  void refused(const std::string& text, std::vector<std::string> parts, const std::vector<std::string>& class_names = {}) {
    parts.push_back("list.txt");
    expect_error([&] { read(text, class_names); }, parts);
  }
  void picture(const Path& path, int64_t seed = 0) { put(root_ / path, png_picture(seed, 3, 2)); }
};

TEST_F(ImageLists, OfficialFormat) {
  const ImageList list = read("train/n02/b 1.JPEG 1\ntrain/n01/a.JPEG\t0\r\n\n  train/n02/c.JPEG   1  \n");
  EXPECT_EQ(list.paths, (std::vector<std::string>{"train/n02/b 1.JPEG", "train/n01/a.JPEG", "train/n02/c.JPEG"}));
  EXPECT_EQ(list.labels, (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(list.class_names, (std::vector<std::string>{"n01", "n02"}));                                       // by the folders
  EXPECT_EQ(read("a.png 0\nb.png 1").class_names, (std::vector<std::string>{"0", "1"}));                       // no folders
  EXPECT_EQ(read("t/x/a.png 0\nt/y/b.png 0\nt/z/c.png 1").class_names, (std::vector<std::string>{"0", "1"}));  // two folders of one class
  EXPECT_EQ(read("t/x/a.png 0\nt/x/b.png 1").class_names, (std::vector<std::string>{"0", "1"}));               // one folder of two classes
  EXPECT_EQ(read("v/a.png 1", {"cat", "dog"}).class_names, (std::vector<std::string>{"cat", "dog"}));
}

TEST_F(ImageLists, HashIsOfNamesLabelsAndOrder) {
  const uint64_t hash = read("a.png 0\nb.png 1\n").hash();
  EXPECT_EQ(read("a.png\t0\r\nb.png 1").hash(), hash);
  EXPECT_NE(read("b.png 1\na.png 0\n").hash(), hash);
  EXPECT_NE(read("a.png 1\nb.png 0\n").hash(), hash);
  EXPECT_NE(read("a.png 0\nc.png 1\n").hash(), hash);
}

TEST_F(ImageLists, BadLinesAreNamed) {
  refused("a.png 0\nb.png\n", {":2:", "expected 'relative/path label'", "'b.png'"});
  refused("a.png x\n", {":1:", "expected"});
  refused("a.png 1.5\n", {":1:"});
  refused("a.png 99999999999\n", {":1:"});
  refused("a.png -1\n", {":1:", "label -1"});
  refused("a.png 100000\n", {":1:", "label 100000"});
  refused("a.png 0\n/etc/passwd 0\n", {":2:", "not a path below the data root"});
  EXPECT_EQ(read("..new/a.png 0\nold/../b.png 0\n").size(), 2) << "a name may begin with dots";
  refused("a/../../b.png 0\n", {":1:", "not a path below"});
  refused("", {"names no image"});
  refused("\n\n", {"names no image"});
  refused("a.png 0\nb.png 0\na.png 0\nb.png 0\n", {"2 lines repeat", "'a.png' in lines 1 and 3"});
  refused("a.png 0\nb.png 3\n", {"labels run to 3", "2 of them have no image: 1, 2"});
  refused("a.png 2\n", {":1:", "label 2", "classes 0 to 1"}, {"cat", "dog"});
  EXPECT_EQ(read("a/..b.png 0\na/b/../c.png 0").size(), 2);
}

TEST_F(ImageLists, FoldersAreSortedByBytes) {
  for (const char* path : {"train/b/2.png", "train/b/10.jpg", "train/B/x.JPEG", "train/a/deep/er/y.png", "val/b/z.png"}) picture(path);
  put(root_ / "train/a/README.txt", {1});
  put(root_ / "train/a/.DS_Store", {1});
  put(root_ / "train/.cache/x.png", {1});
  put(root_ / "train/stray.png", {1});
  const ImageList train = scan_image_folder(root_, "train");
  EXPECT_EQ(train.class_names, (std::vector<std::string>{"B", "a", "b"}));
  EXPECT_EQ(train.paths, (std::vector<std::string>{"train/B/x.JPEG", "train/a/deep/er/y.png", "train/b/10.jpg", "train/b/2.png"}));
  EXPECT_EQ(train.labels, (std::vector<int32_t>{0, 1, 2, 2}));
  EXPECT_EQ(train.skipped, 1);
  const ImageList val = scan_image_folder(root_, "val", train.class_names);  // a class may be missing here, and labels stay the training part's
  EXPECT_EQ(val.labels, std::vector<int32_t>{2});
  EXPECT_EQ(val.class_names, train.class_names);
}

TEST_F(ImageLists, FolderErrors) {
  expect_error([&] { scan_image_folder(root_, "train"); }, {"train", "no such folder"});
  make_directories(root_ / "train");
  expect_error([&] { scan_image_folder(root_, "train"); }, {"has no folders"});
  picture("train/a/x.png");
  make_directories(root_ / "train/empty");
  expect_error([&] { scan_image_folder(root_, "train"); }, {"1 classes have no images: empty"});
  picture("val/a/x.png");
  picture("val/zebra/x.png");
  expect_error([&] { scan_image_folder(root_, "val", {"a", "b"}); }, {"1 folders are no classes of the training part: zebra"});
  fs::remove_all(root_ / "train/empty");
  fs::create_directory_symlink(root_ / "train", root_ / "train/a/loop");
  expect_error([&] { scan_image_folder(root_, "train"); }, {"nested deeper"});
}

TEST_F(ImageLists, LinkedFoldersAreFollowed) {
  picture("elsewhere/x.png");
  make_directories(root_ / "train");
  fs::create_directory_symlink(root_ / "elsewhere", root_ / "train/a");
  EXPECT_EQ(scan_image_folder(root_, "train").paths, std::vector<std::string>{"train/a/x.png"});
}

TEST_F(ImageLists, MissingAndEmptyFilesAreCounted) {
  picture("train/a/0.png");
  const ImageList list = read("train/a/0.png 0\ntrain/a/1.png 0\ntrain/a/2.png 0\ntrain/a/3.png 0\ntrain/a/4.png 0\n");
  expect_error([&] { require_files(root_, list); }, {"4 of 5 images are missing", "train/a/1.png, train/a/2.png, train/a/3.png, ...", "data.root"});
  for (int i = 1; i < 5; ++i) put(root_ / fmt::format("train/a/{}.png", i), {});
  expect_error([&] { require_files(root_, list); }, {"4 of 5 images are empty files", "train/a/1.png"});
  for (int i = 1; i < 5; ++i) picture(fmt::format("train/a/{}.png", i));
  require_files(root_, list);
}

TEST_F(ImageLists, BrokenImagesAreAllFoundInOrder) {
  std::string text;
  for (int i = 0; i < 40; ++i) {
    picture(fmt::format("{:02}.png", i), i);
    text += fmt::format("{:02}.png 0\n", i);
  }
  put(root_ / "07.png", {1, 2, 3});
  put(root_ / "31.png", {});
  fs::remove(root_ / "39.png");
  int64_t last = 0;
  const auto broken = broken_images(root_, read(text), [&](int64_t done, int64_t total) {
    EXPECT_EQ(done, last + 1);
    EXPECT_EQ(total, 40);
    last = done;
  });
  EXPECT_EQ(last, 40);
  ASSERT_EQ(broken.size(), 3u);
  EXPECT_NE(broken[0].find("07.png: neither PNG nor JPEG"), std::string::npos) << broken[0];
  EXPECT_NE(broken[1].find("31.png: the file is empty"), std::string::npos) << broken[1];
  EXPECT_NE(broken[2].find("39.png: cannot open"), std::string::npos) << broken[2];
}

}  // namespace
}  // namespace kd
