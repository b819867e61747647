#include "data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "data/shapes.h"
#include "engine/base/hash.h"

namespace kd {
namespace {

Dataset tiny_set(std::vector<int32_t> labels, int64_t classes) {
  Dataset set;
  set.name = "tiny";
  set.classes = classes;
  for (int64_t c = 0; c < classes; ++c) set.class_names.push_back(fmt::format("c{}", c));
  set.labels = std::move(labels);
  set.images = Tensor::empty({set.size(), 2, 2, 3}, DType::u8);
  for (int64_t i = 0; i < set.images.elements(); ++i) set.images.data<uint8_t>()[i] = uint8_t(i / 12);  // every image shows its index
  return set;
}
int64_t shown_index(const Dataset& set, int64_t i) { return set.images.data<uint8_t>()[i * 12]; }

TEST(Hash, KnownAnswers) {
  EXPECT_EQ(hex(fnv1a("")), "cbf29ce484222325");
  EXPECT_EQ(hex(fnv1a("a")), "af63dc4c8601ec8c");
  EXPECT_EQ(hex(fnv1a("foobar")), "85944171f73967e8");
  EXPECT_EQ(hex(10), "000000000000000a");
}

TEST(Dataset, HashSeesEveryPart) {
  Dataset set = make_shapes(10, 0, true);
  const std::string before = set.hash();
  EXPECT_EQ(before.size(), 16u);
  auto changed = [&](auto&& change) {
    Dataset other = set;
    other.images = set.images.clone();
    other.masks = set.masks.clone();
    change(other);
    return other.hash() != before;
  };
  EXPECT_FALSE(changed([](Dataset&) {}));
  EXPECT_TRUE(changed([](Dataset& d) { d.images.data<uint8_t>()[d.images.elements() - 1] ^= 1; }));
  EXPECT_TRUE(changed([](Dataset& d) { d.masks.data<uint8_t>()[0] ^= 1; }));
  EXPECT_TRUE(changed([](Dataset& d) { std::swap(d.labels[3], d.labels[4]); }));
}

// The published lists of the long-tailed CIFAR-100 sets.
TEST(Imbalance, CountsEqualThePublishedLists) {
  auto head = [](const std::vector<int64_t>& counts, size_t n) { return std::vector<int64_t>(counts.begin(), counts.begin() + int64_t(n)); };
  auto sum = [](const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t(0)); };
  auto between = [](const std::vector<int64_t>& counts, int64_t low, int64_t high) {
    return std::count_if(counts.begin(), counts.end(), [&](int64_t n) { return n >= low && n <= high; });
  };
  const auto imb100 = imbalance_counts(500, 100, 100), imb50 = imbalance_counts(500, 100, 50), imb10 = imbalance_counts(500, 100, 10);
  EXPECT_EQ(sum(imb100), 10847);
  EXPECT_EQ(sum(imb50), 12608);
  EXPECT_EQ(sum(imb10), 19573);
  EXPECT_EQ(head(imb100, 10), (std::vector<int64_t>{500, 477, 455, 434, 415, 396, 378, 361, 344, 328}));
  EXPECT_EQ(head(imb50, 5), (std::vector<int64_t>{500, 480, 462, 444, 426}));
  EXPECT_EQ(head(imb10, 5), (std::vector<int64_t>{500, 488, 477, 466, 455}));
  EXPECT_EQ(imb100.back(), 5);
  EXPECT_EQ(imb50.back(), 10);
  EXPECT_EQ(imb10.back(), 50);
  const std::vector<std::vector<int64_t>> groups = {{35, 35, 30}, {41, 41, 18}, {69, 31, 0}};  // many > 100, medium 20..100, few < 20
  size_t row = 0;
  for (const auto& counts : {imb100, imb50, imb10}) {
    EXPECT_EQ((std::vector<int64_t>{between(counts, 101, 500), between(counts, 20, 100), between(counts, 0, 19)}), groups[row++]);
  }
  EXPECT_EQ(imbalance_counts(500, 100, 1), std::vector<int64_t>(100, 500));
  EXPECT_EQ(imbalance_counts(7, 1, 10), std::vector<int64_t>{7});
}

// The published counts of many, medium and few classes, of the three lists.
TEST(Shots, GroupsOfThePublishedLists) {
  const std::vector<std::vector<int64_t>> groups = {{35, 35, 30}, {41, 41, 18}, {69, 31, 0}};
  size_t row = 0;
  for (const double ratio : {100., 50., 10.}) {
    std::vector<int64_t> count(3);
    for (const Shots shots : class_shots(imbalance_counts(500, 100, ratio))) ++count[size_t(shots)];
    EXPECT_EQ(count, groups[row++]) << ratio;
  }
  EXPECT_EQ(class_shots(std::vector<int64_t>{101, 100, 20, 19, 0}), (std::vector<Shots>{Shots::many, Shots::medium, Shots::medium, Shots::few, Shots::few}));
}

TEST(Shots, CountTheHoldoutToo) {
  const Splits splits = load_splits({.imbalance = 5, .holdout = .2, .train_size = 500, .test_size = 10});
  EXPECT_EQ(splits.train_counts(), imbalance_counts(50, 10, 5));
}

TEST(Imbalance, SetsAreNestedAcrossRatios) {
  std::vector<int32_t> labels;
  for (int i = 0; i < 200; ++i) labels.push_back(i % 4);
  const Dataset full = tiny_set(labels, 4);
  auto indices = [](const Dataset& set) {
    std::vector<int64_t> shown;
    for (int64_t i = 0; i < set.size(); ++i) shown.push_back(shown_index(set, i));
    return shown;
  };
  const Dataset mild = make_imbalanced(full, 5, 1), hard = make_imbalanced(full, 50, 1);
  EXPECT_EQ(mild.class_counts(), imbalance_counts(50, 4, 5));
  EXPECT_EQ(hard.class_counts(), imbalance_counts(50, 4, 50));
  const auto wide = indices(mild), narrow = indices(hard);
  EXPECT_TRUE(std::is_sorted(wide.begin(), wide.end()));
  EXPECT_TRUE(std::is_sorted(narrow.begin(), narrow.end()));
  EXPECT_TRUE(std::includes(wide.begin(), wide.end(), narrow.begin(), narrow.end()));
  for (int64_t i = 0; i < hard.size(); ++i) EXPECT_EQ(hard.labels[size_t(i)], labels[size_t(narrow[size_t(i)])]);

  EXPECT_EQ(make_imbalanced(full, 50, 1).hash(), hard.hash());
  EXPECT_NE(make_imbalanced(full, 50, 2).hash(), hard.hash());
  EXPECT_THROW(make_imbalanced(full, 51, 1), Error);  // the last class would be empty
}

TEST(Holdout, IsStratifiedExactly) {
  std::vector<int32_t> labels;
  const std::vector<int64_t> sizes = {50, 15, 14, 5, 4, 1, 0};
  for (size_t c = 0; c < sizes.size(); ++c) labels.insert(labels.end(), size_t(sizes[c]), int32_t(c));
  auto [train, holdout] = stratified_holdout(labels, 7, .1, 3);
  std::vector<int64_t> counts(7);
  for (int64_t i : holdout) ++counts[size_t(labels[size_t(i)])];
  EXPECT_EQ(counts, (std::vector<int64_t>{5, 2, 1, 1, 0, 0, 0}));  // round(n / 10), halves up

  EXPECT_TRUE(std::is_sorted(train.begin(), train.end()));
  EXPECT_TRUE(std::is_sorted(holdout.begin(), holdout.end()));
  std::vector<int64_t> all, expected(labels.size());
  std::merge(train.begin(), train.end(), holdout.begin(), holdout.end(), std::back_inserter(all));
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(all, expected);

  EXPECT_EQ(stratified_holdout(labels, 7, .1, 3).second, holdout);
  EXPECT_NE(stratified_holdout(labels, 7, .1, 4).second, holdout);
  EXPECT_TRUE(stratified_holdout(labels, 7, 0, 3).second.empty());
  // Nearly everything held out: one image of each class still stays.
  EXPECT_EQ(stratified_holdout(labels, 7, .99, 3).first.size(), 6u);
}

TEST(Subset, TakesRowsInTheGivenOrder) {
  const Dataset set = make_shapes(20, 0, true);
  const std::vector<int64_t> rows = {7, 0, 7, 19};
  const Dataset part = subset(set, rows);
  ASSERT_EQ(part.images.shape(), Shape({4, 32, 32, 3}));
  ASSERT_EQ(part.masks.shape(), Shape({4, 32, 32}));
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(part.labels[i], set.labels[size_t(rows[i])]);
    EXPECT_EQ(std::memcmp(part.images.data<uint8_t>() + int64_t(i) * 3072, set.images.data<uint8_t>() + rows[i] * 3072, 3072), 0);
    EXPECT_EQ(std::memcmp(part.masks.data<uint8_t>() + int64_t(i) * 1024, set.masks.data<uint8_t>() + rows[i] * 1024, 1024), 0);
  }
  EXPECT_EQ(subset(set, {}).px(), 32);
  EXPECT_THROW(subset(set, std::vector<int64_t>{20}), Error);
}

TEST(Shapes, BitsNeverChange) {
  // Pinned: teachers, caches and published numbers depend on these pictures.
  EXPECT_EQ(make_shapes(64, 0, true).hash(), "20bf89d10e7a4b4b");
  EXPECT_EQ(make_shapes(64, 0, false).hash(), "a92cfa60c87ced1d");
}

TEST(Shapes, ImagesDependOnSeedPartAndIndexOnly) {
  const Dataset set = make_shapes(50, 5, true);
  std::vector<int64_t> first(20);
  std::iota(first.begin(), first.end(), 0);
  EXPECT_EQ(subset(set, first).hash(), make_shapes(20, 5, true).hash());
  std::set<std::string> images;
  for (const Dataset& from : {set, make_shapes(50, 5, false), make_shapes(50, 6, true)})
    for (int64_t i = 0; i < from.size(); ++i) images.insert(subset(from, std::vector<int64_t>{i}).hash());
  EXPECT_EQ(images.size(), 150u);
}

TEST(Shapes, ClassesAreBalancedAndMasksLieOnTheObject) {
  const Dataset set = make_shapes(1000, 1, true);
  EXPECT_EQ(set.classes, 10);
  EXPECT_EQ(set.class_names.size(), 10u);
  EXPECT_EQ(set.class_counts(), std::vector<int64_t>(10, 100));
  for (int64_t i = 0; i < set.size(); ++i) {
    const uint8_t* mask = set.masks.data<uint8_t>() + i * 1024;
    int64_t on = 0;
    for (int p = 0; p < 1024; ++p) {
      ASSERT_LE(mask[p], 1);
      on += mask[p];
    }
    ASSERT_GE(on, 30) << "image " << i;
    ASSERT_LE(on, 700) << "image " << i;
  }
}

// Just inside the outline and just outside of it the colours differ, in mean over the set, far more than two neighbours elsewhere do.
TEST(Shapes, MaskBordersAreImageEdges) {
  const Dataset set = make_shapes(200, 2, true);
  double at_border = 0, elsewhere = 0;
  int64_t border_pairs = 0, other_pairs = 0;
  for (int64_t i = 0; i < set.size(); ++i)
    for (int y = 0; y < 32; ++y)
      for (int x = 0; x + 2 < 32; ++x) {
        const uint8_t *mask = set.masks.data<uint8_t>() + (i * 32 + y) * 32 + x, *image = set.images.data<uint8_t>() + ((i * 32 + y) * 32 + x) * 3;
        const double step = std::abs(int(image[0]) - image[6]) + std::abs(int(image[1]) - image[7]) + std::abs(int(image[2]) - image[8]);
        (mask[0] != mask[2] ? at_border : elsewhere) += step;
        ++(mask[0] != mask[2] ? border_pairs : other_pairs);
      }
  ASSERT_GT(border_pairs, 1000);
  EXPECT_GT(at_border / double(border_pairs), 2.5 * elsewhere / double(other_pairs));
}

// Colour tells nothing: the best linear rule on an image's object colour would, so the class means must agree within sampling error.
TEST(Shapes, ColourDoesNotDependOnTheClass) {
  const Dataset set = make_shapes(6000, 3, true);
  constexpr int64_t kPerClass = 600;
  for (int64_t channel = 0; channel < 3; ++channel) {
    std::vector<double> mean(10), square(10);
    for (int64_t i = 0; i < set.size(); ++i) {
      double sum = 0, on = 0;
      for (int64_t p = i * 1024; p < (i + 1) * 1024; ++p)
        if (set.masks.data<uint8_t>()[p]) sum += set.images.data<uint8_t>()[p * 3 + channel], ++on;
      mean[size_t(i % 10)] += sum / on / kPerClass;
      square[size_t(i % 10)] += sum / on * (sum / on) / kPerClass;
    }
    const double overall = std::accumulate(mean.begin(), mean.end(), 0.) / 10;
    for (size_t c = 0; c < 10; ++c) {
      const double standard_error = std::sqrt((square[c] - mean[c] * mean[c]) / kPerClass);
      EXPECT_NEAR(mean[c], overall, 4 * standard_error) << "class " << c << " channel " << channel;
      EXPECT_GT(standard_error, 1);  // colours do vary
    }
  }
}

TEST(Splits, PartsAreWhatTheConfigurationSays) {
  const Splits splits = load_splits({.imbalance = 5, .holdout = .2, .train_size = 500, .test_size = 100, .seed = 9});
  const auto counts = imbalance_counts(50, 10, 5);
  const auto train = splits.train.class_counts(), holdout = splits.holdout.class_counts();
  for (size_t c = 0; c < 10; ++c) {
    EXPECT_EQ(train[c] + holdout[c], counts[c]);
    EXPECT_EQ(holdout[c], int64_t(std::floor(.2 * double(counts[c]) + .5)));
  }
  EXPECT_EQ(splits.test.hash(), make_shapes(100, 9, false).hash());

  const Splits plain = load_splits({.holdout = 0, .train_size = 50, .test_size = 10});
  EXPECT_EQ(plain.holdout.size(), 0);
  EXPECT_EQ(plain.train.hash(), make_shapes(50, 0, true).hash());

  EXPECT_THROW(load_splits({.name = "mnist"}), Error);
  EXPECT_THROW(load_splits({.name = "cifar10"}), Error);  // no root
  EXPECT_THROW(load_splits({.holdout = 1}), Error);
  EXPECT_THROW(load_splits({.imbalance = 0}), Error);
  EXPECT_THROW(load_splits({.train_size = 0}), Error);
}

}  // namespace
}  // namespace kd
