#include "data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "data/shapes.h"

namespace kd {
namespace {

AugmentConfig augment() { return {.px = 32, .mean = {.5f, .5f, .5f}, .std = {.25f, .25f, .25f}}; }

std::vector<int64_t> epoch_order(Loader& loader, uint32_t epoch) {
  std::vector<int64_t> order;
  Batch batch;
  loader.start(epoch);
  while (loader.next(batch)) order.insert(order.end(), batch.indices.begin(), batch.indices.end());
  return order;
}

std::vector<int64_t> ascending(int64_t n) {
  std::vector<int64_t> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() > 0 && a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), size_t(a.bytes())) == 0;
}

TEST(Loader, EveryEpochIsAnotherPermutationOfTheSet) {
  const Dataset set = make_shapes(50, 0, true);
  Loader loader(set, {.batch = 16, .augment = augment(), .seed = 4, .order = Order::shuffled});
  const auto first = epoch_order(loader, 0), second = epoch_order(loader, 1);
  for (auto order : {first, second}) {
    EXPECT_NE(order, ascending(50));
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, ascending(50));
  }
  EXPECT_NE(first, second);
  EXPECT_EQ(epoch_order(loader, 0), first);  // a pure function of seed and epoch, whatever came before

  Loader same(set, {.batch = 7, .augment = augment(), .seed = 4, .order = Order::shuffled});
  EXPECT_EQ(epoch_order(same, 1), second);
  Loader other(set, {.batch = 16, .augment = augment(), .seed = 5, .order = Order::shuffled});
  EXPECT_NE(epoch_order(other, 0), first);
}

TEST(Loader, FileOrderIsTheFileOrder) {
  Loader loader(make_shapes(10, 0, true), {.batch = 4, .augment = augment()});
  EXPECT_EQ(epoch_order(loader, 3), ascending(10));
}

TEST(Loader, LastBatchIsShortOrDropped) {
  const Dataset set = make_shapes(10, 0, true);
  auto sizes = [&](LastBatch last, int64_t batch_size) {
    Loader loader(set, {.batch = batch_size, .augment = augment(), .last = last});
    std::vector<int64_t> found;
    Batch batch;
    loader.start(0);
    while (loader.next(batch)) {
      EXPECT_EQ(batch.images.shape(), Shape({batch.size(), 32, 32, 3}));
      EXPECT_EQ(batch.labels.shape(), Shape({batch.size()}));
      found.push_back(batch.size());
    }
    EXPECT_EQ(int64_t(found.size()), loader.steps());
    EXPECT_FALSE(batch.images.defined());
    EXPECT_FALSE(loader.next(batch));  // and stays over
    return found;
  };
  EXPECT_EQ(sizes(LastBatch::keep, 4), (std::vector<int64_t>{4, 4, 2}));
  EXPECT_EQ(sizes(LastBatch::drop, 4), (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(sizes(LastBatch::keep, 5), (std::vector<int64_t>{5, 5}));
  EXPECT_EQ(sizes(LastBatch::keep, 64), (std::vector<int64_t>{10}));
}

TEST(Loader, LabelsAndPixelsBelongToTheIndices) {
  const Dataset set = make_shapes(40, 0, true);
  Loader loader(set, {.batch = 16, .view = View::test, .augment = augment(), .order = Order::shuffled});
  loader.start(2);
  Batch batch;
  int64_t seen = 0;
  for (; loader.next(batch); seen += batch.size())
    for (int64_t i = 0; i < batch.size(); ++i) {
      const int64_t row = batch.indices[size_t(i)];
      EXPECT_EQ(batch.labels.data<int32_t>()[i], set.labels[size_t(row)]);
      for (int64_t p = 0; p < 3072; ++p) {  // the test view of a 32-pixel image only normalizes
        const double want = (set.images.data<uint8_t>()[row * 3072 + p] / 255. - .5) / .25, got = batch.images.data<float>()[i * 3072 + p];
        ASSERT_TRUE(std::isfinite(got) && std::abs(got - want) < 1e-5) << "image " << row << " value " << p << ": " << got << ", expected " << want;
      }
    }
  EXPECT_EQ(seen, 40);
}

// Resume: a fresh loader, started at the epoch and taken to the step, makes the same bits, random augmentation included.
TEST(Loader, ResumesBitForBit) {
  const Dataset set = make_shapes(40, 0, true);
  const LoaderConfig config{.batch = 16, .view = View::weak, .augment = augment(), .seed = 8, .order = Order::shuffled};
  auto batch_at = [&](Loader& loader, uint32_t epoch, int step) {
    Batch batch;
    loader.start(epoch);
    for (int i = 0; i <= step; ++i) EXPECT_TRUE(loader.next(batch));
    return batch;
  };
  Loader straight(set, config), resumed(set, config);
  epoch_order(straight, 0);
  const Batch a = batch_at(straight, 1, 1), b = batch_at(resumed, 1, 1), earlier = batch_at(straight, 0, 1);
  EXPECT_EQ(a.indices, b.indices);
  EXPECT_TRUE(same_bits(a.images, b.images));
  EXPECT_FALSE(same_bits(a.images, earlier.images));
}

TEST(Loader, MakesBf16ForBf16Networks) {
  Loader loader(make_shapes(4, 0, true), {.batch = 4, .augment = augment(), .type = DType::bf16}),
      exact(make_shapes(4, 0, true), {.batch = 4, .augment = augment()});
  Batch half, full;
  loader.start(0);
  exact.start(0);
  ASSERT_TRUE(loader.next(half) && exact.next(full));
  for (int64_t i = 0; i < full.images.elements(); ++i) ASSERT_EQ(half.images.data<bf16>()[i].bits, bf16(full.images.data<float>()[i]).bits) << i;
}

TEST(Loader, KeptBatchesAreNotOverwrittenAndDroppedOnesAreReused) {
  Loader loader(make_shapes(12, 0, true), {.batch = 4, .augment = augment()});
  loader.start(0);
  Batch batch;
  ASSERT_TRUE(loader.next(batch));
  const Tensor kept = batch.images, copy = kept.clone();
  ASSERT_TRUE(loader.next(batch));
  EXPECT_TRUE(same_bits(kept, copy));
  const void* block = batch.images.raw();
  ASSERT_TRUE(loader.next(batch));
  EXPECT_EQ(batch.images.raw(), block);
}

TEST(Loader, SaysWhatIsWrong) {
  const Dataset set = make_shapes(10, 0, true);
  EXPECT_THROW(Loader(set, {.batch = 0, .augment = augment()}), Error);
  EXPECT_THROW(Loader(set, {.batch = 11, .augment = augment(), .last = LastBatch::drop}), Error);
  EXPECT_THROW(Loader(subset(set, {}), {.augment = augment()}), Error);
  Loader loader(set, {.augment = augment()});
  Batch batch;
  EXPECT_THROW(loader.next(batch), Error);  // start first
}

}  // namespace
}  // namespace kd
