#include "data/packed.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "data/image_set.h"
#include "data/loader.h"
#include "tests/data/files.h"

// What happens while somebody is about to take a lock. This flock is the program's: it comes before the C library's.
static std::function<void()> before_flock;
extern "C" int flock(int fd, int operation) noexcept {
  if (before_flock) std::exchange(before_flock, nullptr)();
  return int(::syscall(SYS_flock, fd, operation));
}

namespace kd {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kImages = 600;  // three segments

class Packed : public FolderTest {
 protected:
  // Image i is (5 + i % 7) x (3 + i % 5) pixels of picture i; class i % 3.
  static int64_t width(int64_t i) { return 5 + i % 7; }
  static int64_t height(int64_t i) { return 3 + i % 5; }

  void make_pictures(int64_t n = kImages) {
    for (int64_t i = 0; i < n; ++i) {
      list_.paths.push_back(fmt::format("train/c{}/{}.png", i % 3, i));
      list_.labels.push_back(int32_t(i % 3));
      put(root_ / list_.paths.back(), png_picture(i, width(i), height(i)));
    }
    list_.class_names = {"c0", "c1", "c2"};
  }
  Path pack() const { return root_ / "p" / "train.kdpack"; }
  void build(const PackOptions& options = {}) { build_pack(pack(), root_, list_, options); }
  void damage(const std::function<void(Bytes&)>& change, const std::vector<std::string>& parts) {
    Bytes bytes = read_bytes(pack());
    change(bytes);
    put(root_ / "damaged", bytes);
    expect_error([&] { PackedImages::open(root_ / "damaged"); }, parts);
  }

  ImageList list_;
};

TEST_F(Packed, HoldsWhatTheFilesHold) {
  make_pictures();
  build();
  const auto packed = PackedImages::open(pack());
  ASSERT_EQ(packed->size(), kImages);
  EXPECT_EQ(packed->class_names(), list_.class_names);
  EXPECT_EQ(packed->list_hash(), list_.hash());
  EXPECT_EQ(packed->short_side(), 0);
  EXPECT_EQ(packed->decoder(), jpeg_decoder());
  for (int64_t i = 0; i < kImages; ++i) {
    const ImageView image = packed->image(i);
    ASSERT_EQ(image.w, width(i));
    ASSERT_EQ(image.h, height(i));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(image.rgb) % 64, 0u);
    for (int64_t p = 0; p < image.bytes(); ++p) ASSERT_EQ(image.rgb[p], picture_byte(i, p)) << i;
    EXPECT_EQ(packed->label(i), i % 3);
    EXPECT_EQ(packed->name(i), list_.paths[size_t(i)]);
    EXPECT_EQ(packed->source_bytes(i), kd::file_size(root_ / list_.paths[size_t(i)]));
    EXPECT_TRUE(packed->intact(i));
    packed->will_need(i);
  }
  EXPECT_THROW(packed->image(kImages), Error);
  EXPECT_FALSE(fs::exists(pack().string() + ".part"));
  EXPECT_FALSE(fs::exists(pack().string() + ".journal"));
}

TEST_F(Packed, ShrinksAsAsked) {
  put(root_ / "train/c0/0.jpg", read_bytes(Path(KD_GOLDEN_DIR) / "images" / "large.jpg"));
  list_ = {.paths = {"train/c0/0.jpg"}, .labels = {0}, .class_names = {"c0"}};
  build({.short_side = 23});
  const auto packed = PackedImages::open(pack());
  EXPECT_EQ(packed->short_side(), 23);
  const RgbImage want = shrink(read_image(root_ / list_.paths[0]), 23);
  ASSERT_EQ(packed->image(0).bytes(), 35 * 23 * 3);
  EXPECT_EQ(std::memcmp(packed->image(0).rgb, want.pixels.data(), want.pixels.size()), 0);
}

// Stopped after every possible number of commits, then continued: the same bytes as without interruption, and nothing packed twice.
TEST_F(Packed, GoesOnAfterAKill) {
  make_pictures();
  build();
  const Bytes want = read_bytes(pack());
  struct Killed {};
  for (const int64_t stop : {0, 256, 512, 600}) {
    fs::remove_all(root_ / "p");
    EXPECT_THROW(build({.commit_seconds = 0,
                        .progress =
                            [&](int64_t done, int64_t) {
                              if (done == stop) throw Killed();
                            }}),
                 Killed);
    EXPECT_FALSE(fs::exists(pack()));
    int64_t first = -1;
    build({.progress = [&](int64_t done, int64_t) { first = first < 0 ? done : first; }});
    EXPECT_EQ(first, stop);
    EXPECT_EQ(read_bytes(pack()), want) << stop;
  }
}

TEST_F(Packed, UnfinishedWorkIsTrustedOnlyWhereItFits) {
  make_pictures();
  build();
  const Bytes want = read_bytes(pack());
  struct Killed {};
  auto killed_at_512 = [&] {
    fs::remove_all(root_ / "p");
    EXPECT_THROW(build({.commit_seconds = 0,
                        .progress =
                            [&](int64_t done, int64_t) {
                              if (done == 512) throw Killed();
                            }}),
                 Killed);
  };
  auto first_of_next = [&](const PackOptions& options = {}) {
    int64_t first = -1;
    build({.short_side = options.short_side, .progress = [&](int64_t done, int64_t) { first = first < 0 ? done : first; }});
    return first;
  };
  const Path part = pack().string() + ".part", journal = pack().string() + ".journal";

  killed_at_512();  // the journal torn in its last block, as by a power failure
  fs::resize_file(journal, fs::file_size(journal) - 1);
  EXPECT_EQ(first_of_next(), 256);
  EXPECT_EQ(read_bytes(pack()), want);

  killed_at_512();  // a flipped bit in the first block
  Bytes bytes = read_bytes(journal);
  bytes[300] ^= 1;
  put(journal, bytes);
  EXPECT_EQ(first_of_next(), 0);
  EXPECT_EQ(read_bytes(pack()), want);

  killed_at_512();  // records that are not there
  fs::resize_file(part, 1000);
  EXPECT_EQ(first_of_next(), 0);
  EXPECT_EQ(read_bytes(pack()), want);

  killed_at_512();  // another size
  EXPECT_EQ(first_of_next({.short_side = 3}), 0);
  EXPECT_EQ(PackedImages::open(pack())->short_side(), 3);

  killed_at_512();  // another list
  std::swap(list_.paths[0], list_.paths[3]);
  EXPECT_EQ(first_of_next(), 0);
  EXPECT_EQ(PackedImages::open(pack())->name(0), "train/c0/3.png");
}

TEST_F(Packed, BrokenImageIsNamedAndTheWorkIsKept) {
  make_pictures();
  put(root_ / list_.paths[300], {1, 2, 3});
  expect_error([&] { build({.commit_seconds = 0}); }, {list_.paths[300], "neither PNG nor JPEG"});
  put(root_ / list_.paths[300], png_picture(300, width(300), height(300)));
  int64_t first = -1;
  build({.progress = [&](int64_t done, int64_t) { first = first < 0 ? done : first; }});
  EXPECT_EQ(first, 256);
  EXPECT_TRUE(PackedImages::open(pack())->intact(300));
}

TEST_F(Packed, OneProcessAtATime) {
  make_pictures(10);
  bool refused = false;
  build({.progress = [&](int64_t done, int64_t) {
    if (done == 0) refused = error_of([&] { build(); }).find("another process") != std::string::npos;
  }});
  EXPECT_TRUE(refused);
}

// The other process renames the file between our opening it and our locking it: what we have locked then is a finished pack.
TEST_F(Packed, APackFinishedMeanwhileIsLeftAlone) {
  make_pictures(10);
  build();
  const Bytes want = read_bytes(pack());
  fs::remove_all(root_ / "p");
  before_flock = [&] { build(); };
  const PackOptions watching{.progress = [&](int64_t, int64_t) { EXPECT_EQ(size_t(kd::file_size(pack())), want.size()) << "cut while others may read it"; }};
  expect_error([&] { build(watching); }, {pack().string(), "another process", "made this pack"});
  EXPECT_EQ(read_bytes(pack()), want);
  EXPECT_FALSE(fs::exists(pack().string() + ".journal"));
  build();
  EXPECT_EQ(read_bytes(pack()), want);
}

TEST_F(Packed, DamageIsNoticed) {
  make_pictures(300);
  build();
  auto footer = [](Bytes& b, size_t at) -> uint8_t& { return b[b.size() - 256 + at]; };
  damage([](Bytes& b) { b.resize(10); }, {"too short", "--rebuild"});
  damage([](Bytes& b) { b.pop_back(); }, {"truncated", "--rebuild"});
  damage([](Bytes& b) { b[0] = 'x'; }, {"not a pack"});
  damage([&](Bytes& b) { footer(b, 8) = 9; }, {"another version", "format 9, this one reads 1", "--rebuild"});
  damage([&](Bytes& b) { footer(b, 16) ^= 1; }, {"footer is damaged"});
  damage([&](Bytes& b) { footer(b, 90) ^= 1; }, {"footer is damaged"});
  damage([](Bytes& b) { b[b.size() - 300] ^= 1; }, {"index is damaged"});
  // A flipped pixel is found by whoever looks.
  Bytes bytes = read_bytes(pack());
  bytes[64 + 7] ^= 1;
  put(root_ / "damaged", bytes);
  const auto packed = PackedImages::open(root_ / "damaged");
  EXPECT_FALSE(packed->intact(0));
  EXPECT_TRUE(packed->intact(1));
  expect_error([&] { PackedImages::open(root_ / "nothing"); }, {"nothing", "No such file"});
}

// ---- Datasets of image files. ----

class ImageSet : public FolderTest {
 protected:
  void picture(const std::string& path, int64_t seed, int64_t w, int64_t h) { put(root_ / path, png_picture(seed, w, h)); }
  void make_folders(int64_t train, int64_t val) {
    for (int64_t i = 0; i < train; ++i) picture(fmt::format("train/c{}/{:04}.png", i % 2, i), i, 6 + i % 3, 5);
    for (int64_t i = 0; i < val; ++i) picture(fmt::format("val/c{}/{:04}.png", i % 2, i), 1000 + i, 4, 5 + i % 2);
    config_.root = root_.string();
  }
  void pack(Rebuild rebuild = Rebuild::no) {
    pack_image_set(config_, rebuild, [](const std::string&, int64_t, int64_t) {});
  }
  ImageSetReport verify() {
    return verify_image_set(config_, [](const std::string&, int64_t, int64_t) {});
  }

  DataConfig config_{.name = "images", .holdout = 0.25};
};

TEST_F(ImageSet, SplitsOfDifferentSizes) {
  make_folders(40, 10);
  expect_error([&] { load_splits(config_); }, {"train.kdpack", "not made yet", "kd_bench data pack --name images --root " + root_.string()});
  pack();
  const Splits splits = load_splits(config_);
  EXPECT_EQ(splits.train.size(), 30);
  EXPECT_EQ(splits.holdout.size(), 10);
  EXPECT_EQ(splits.test.size(), 10);
  EXPECT_EQ(splits.train.class_names, (std::vector<std::string>{"c0", "c1"}));
  EXPECT_EQ(splits.train_counts(), (std::vector<int64_t>{20, 20}));
  std::set<int64_t> seen;
  for (const Dataset* part : {&splits.train, &splits.holdout}) {
    EXPECT_FALSE(part->one_size());
    EXPECT_THROW(part->px(), Error);
    for (int64_t i = 0; i < part->size(); ++i) {
      const ImageView image = part->image(i);
      const int64_t number = std::stoll(std::string(part->packed->name(part->rows[size_t(i)])).substr(9));
      EXPECT_EQ(part->labels[size_t(i)], number % 2);
      EXPECT_EQ(image.w, 6 + number % 3);
      for (int64_t p = 0; p < image.bytes(); ++p) ASSERT_EQ(image.rgb[p], picture_byte(number, p));
      EXPECT_TRUE(seen.insert(number).second);
    }
  }
  EXPECT_EQ(seen.size(), 40u);
  EXPECT_NE(splits.train.hash(), splits.holdout.hash());
  EXPECT_EQ(splits.train.hash(), load_splits(config_).train.hash());
  const Splits narrow = load_splits({.name = "images", .root = config_.root, .imbalance = 4, .holdout = 0});
  EXPECT_EQ(narrow.train.class_counts(), (std::vector<int64_t>{20, 5}));
}

// Every image of a batch is what it would be alone in a tensor, on every device, whole or in halves, and after a start from the middle.
TEST_F(ImageSet, LoaderMakesViewsOfImagesOfDifferentSizes) {
  make_folders(40, 10);
  pack();
  const Dataset train = load_splits(config_).train;  // without the holdout: its rows are not 0, 1, 2, ...
  constexpr int64_t px = 6;                          // some images are larger, some smaller
  const AugmentConfig augment{.px = px, .mean = {.5f, .5f, .5f}, .std = {.25f, .25f, .25f}, .pipeline = Pipeline::imagenet};
  std::vector<Device> devices{Device::cpu, Device::emulated};
  if (is_available(Device::cuda)) devices.push_back(Device::cuda);
  for (Device device : devices)
    for (View view : {View::strong, View::weak, View::test}) {
      if (device != Device::cpu && view != View::strong) break;
      LoaderConfig config{.batch = 8, .view = view, .augment = augment, .channels = 4, .seed = 3, .order = Order::shuffled, .device = device};
      Loader whole(train, config), halves(train, config);
      std::vector<std::byte> host(size_t(halves.input_bytes()));
      const Tensor inputs = Tensor::empty({halves.input_bytes()}, DType::u8, device);
      std::vector<int64_t> order;
      for (uint32_t epoch : {1, 2}) {
        whole.start(epoch);
        halves.start(epoch);
        order.clear();
        for (Batch batch; whole.next(batch);) {
          const int64_t n = batch.size();
          const Tensor got = batch.images.to(Device::cpu), labels = batch.labels.to(Device::cpu), u8 = views_u8(train, batch.indices, view, augment, 3, epoch);
          ASSERT_EQ(got.shape(), Shape({n, px, px, 4}));
          for (int64_t i = 0; i < n; ++i) {
            const int64_t index = batch.indices[size_t(i)];
            EXPECT_EQ(labels.data<int32_t>()[i], train.labels[size_t(index)]);
            const ImageView image = train.image(index);
            const Tensor alone = Tensor::of<uint8_t>({1, image.h, image.w, 3}, {image.rgb, image.rgb + image.bytes()});
            AugmentRecord record = draw_record(image.h, image.w, index, view, augment, 3, epoch);
            record.image = 0;
            const PreparedRecord prepared = prepare(record, {.n = 1, .h = image.h, .w = image.w, .px = px});
            const Tensor want = Tensor::empty({1, px, px, 4}, DType::f32), want_u8 = Tensor::empty({1, px, px, 3}, DType::u8);
            make_views(alone, &prepared, augment, want);
            make_views(alone, &prepared, augment, want_u8);
            ASSERT_EQ(std::memcmp(want.raw(), got.data<float>() + i * px * px * 4, size_t(want.bytes())), 0) << to_string(view) << " " << to_string(device);
            ASSERT_EQ(std::memcmp(want_u8.raw(), u8.data<uint8_t>() + i * px * px * 3, size_t(want_u8.bytes())), 0) << to_string(view);
          }
          ASSERT_EQ(halves.draw(host.data()), n);
          copy_bytes(inputs.raw(), device, host.data(), Device::cpu, inputs.bytes());
          const Tensor images = Tensor::empty({n, px, px, 4}, DType::f32, device), same_labels = Tensor::empty({n}, DType::i32, device);
          halves.make(static_cast<const std::byte*>(inputs.raw()), n, images, same_labels);
          EXPECT_EQ(std::memcmp(images.to(Device::cpu).raw(), got.raw(), size_t(got.bytes())), 0);
          order.insert(order.end(), batch.indices.begin(), batch.indices.end());
        }
        EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 30u);
      }
      Loader resumed(train, config);
      resumed.start(2);
      Batch batch;
      ASSERT_TRUE(resumed.next(batch));
      EXPECT_EQ(batch.indices, std::vector<int64_t>(order.begin(), order.begin() + 8));
    }
  LoaderConfig cifar{.batch = 8, .view = View::test, .augment = augment};
  cifar.augment.pipeline = Pipeline::cifar, cifar.augment.px = 7;  // smaller than some
  Loader loader(train, cifar);
  loader.start(0);
  Batch batch;
  expect_error(
      [&] {
        while (loader.next(batch)) continue;
      },
      {"px 7 is smaller than the"});
}

TEST_F(ImageSet, OneSizeBecomesATensor) {
  for (int64_t i = 0; i < 12; ++i) picture(fmt::format("train/c{}/{}.png", i % 3, i), i, 8, 8);
  for (int64_t i = 0; i < 3; ++i) picture(fmt::format("test/c{}/{}.png", i, i), 50 + i, 8, 8);  // a test folder in place of val
  config_.root = root_.string();
  config_.holdout = 0;
  pack();
  const Splits splits = load_splits(config_);
  EXPECT_TRUE(splits.train.one_size());
  ASSERT_EQ(splits.train.images.shape(), Shape({12, 8, 8, 3}));
  EXPECT_EQ(splits.test.px(), 8);
  for (int64_t p = 0; p < 192; ++p) ASSERT_EQ(splits.test.images.data<uint8_t>()[192 + p], picture_byte(51, p));
  EXPECT_EQ(splits.test.image(1).rgb, splits.test.images.data<uint8_t>() + 192);
}

TEST_F(ImageSet, PackedFilesAloneAreEnough) {
  make_folders(8, 4);
  pack();
  const std::string hash = load_splits(config_).train.hash();
  fs::remove_all(root_ / "train");
  fs::remove_all(root_ / "val");
  EXPECT_EQ(load_splits(config_).train.hash(), hash);
  EXPECT_TRUE(verify().problems.empty());
}

TEST_F(ImageSet, ListsChooseAndLabel) {
  make_folders(20, 6);
  write_atomically(root_ / "lt_train.txt", "train/c0/0000.png 0\ntrain/c0/0002.png 0\ntrain/c1/0001.png 1\n");
  write_atomically(root_ / "lt_test.txt", "train/c1/0001.png 1\nval/c0/0000.png 0\n");
  config_.train_list = "lt_train.txt";
  config_.test_list = (root_ / "lt_test.txt").string();
  config_.packs = (root_ / "cache").string();
  config_.holdout = 0;
  pack();
  EXPECT_TRUE(fs::exists(root_ / "cache/train-lt_train.kdpack"));
  const Splits splits = load_splits(config_);
  EXPECT_EQ(splits.train.class_counts(), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(splits.train.class_names, (std::vector<std::string>{"c0", "c1"}));
  EXPECT_EQ(splits.test.labels, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(splits.test.image(1).rgb[5], picture_byte(1000, 5));
  const ImageSetReport report = verify();
  EXPECT_TRUE(report.problems.empty());
  EXPECT_EQ(report.notes[report.notes.size() - 2], "  0 classes with many training images (over 100), 0 medium (20 to 100), 2 few (under 20)");
  EXPECT_NE(report.notes.back().find("1 of 2 test images are training images too"), std::string::npos) << report.notes.back();

  config_.imbalance = 2;
  expect_error([&] { load_splits(config_); }, {"data.imbalance and data.train_list both choose"});
  config_.imbalance = 1;
  config_.test_list = "nowhere.txt";
  expect_error([&] { load_splits(config_); }, {"data.test_list", "nowhere.txt"});
}

TEST_F(ImageSet, AnOutdatedPackIsRefusedAndRebuilt) {
  make_folders(8, 4);
  pack();
  const auto packed = fs::last_write_time(pack_path(config_, true));
  pack();  // nothing to do
  EXPECT_EQ(fs::last_write_time(pack_path(config_, true)), packed);
  picture("train/c0/9999.png", 1, 3, 3);
  expect_error([&] { load_splits(config_); }, {"train.kdpack", "other images or labels (8 images, now 9)", "--rebuild"});
  expect_error([&] { pack(); }, {"other images or labels", "--rebuild"});
  EXPECT_EQ(verify().problems.size(), 1u);
  pack(Rebuild::yes);
  EXPECT_EQ(load_splits(config_).train.size() + load_splits(config_).holdout.size(), 9);
  // Another size lies in another file.
  config_.pack_px = 4;
  pack();
  EXPECT_TRUE(fs::exists(root_ / "packs/train-4px.kdpack"));
  EXPECT_EQ(load_splits(config_).train.image(0).h, 4);
  fs::rename(root_ / "packs/train.kdpack", root_ / "packs/train-4px.kdpack");
  expect_error([&] { load_splits(config_); }, {"packed with data.pack_px=0, not 4"});
}

TEST_F(ImageSet, VerifyFindsEverything) {
  make_folders(30, 6);
  pack();
  EXPECT_TRUE(verify().problems.empty());
  picture("train/c1/0001.png", 77, 20, 20);                       // changed since
  put(root_ / "train/c0/0002.png", png_of_chunks(5, 5, {1, 2}));  // broken since
  Bytes bytes = read_bytes(pack_path(config_, false));
  bytes[64] ^= 1;
  put(pack_path(config_, false), bytes);
  const ImageSetReport report = verify();
  auto count = [&](const char* text) {
    return std::count_if(report.problems.begin(), report.problems.end(), [&](const std::string& line) { return line.find(text) != line.npos; });
  };
  EXPECT_EQ(report.problems.size(), 4u);
  EXPECT_EQ(count("0002.png: cannot be decoded"), 1);
  EXPECT_EQ(count("has changed since it was packed"), 2);
  EXPECT_EQ(count("image 0 (val/c0/0000.png) is damaged"), 1);
  fs::remove(root_ / "val/c0/0000.png");
  EXPECT_GE(verify().problems.size(), 4u);
}

TEST_F(ImageSet, ImagenetHasAThousandClasses) {
  make_folders(8, 4);
  config_.name = "imagenet";
  expect_error([&] { pack(); }, {"2 classes where 1000 are expected"});
  config_.name = "imagenet_lt";
  expect_error([&] { pack(); }, {"imagenet_lt", "data.train_list and data.test_list"});
}

}  // namespace
}  // namespace kd
