#include "data/loader.h"

#include <gtest/gtest.h>
#include <omp.h>

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

bool same_bits(const Tensor& on_a, const Tensor& on_b) {
  const Tensor a = on_a.to(Device::cpu), b = on_b.to(Device::cpu);
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

TEST(Loader, AnyNumberOfThreadsMakesTheSameBits) {
  const Dataset set = make_shapes(40, 0, true);
  const int threads = omp_get_max_threads();
  for (View view : {View::weak, View::strong}) {
    std::vector<Tensor> made;
    for (int n : {1, 2, 5}) {
      omp_set_num_threads(n);
      Loader loader(set, {.batch = 33, .view = view, .augment = augment(), .seed = 3, .order = Order::shuffled});
      Batch batch;
      loader.start(4);
      ASSERT_TRUE(loader.next(batch));
      made.push_back(batch.images);
    }
    omp_set_num_threads(threads);
    EXPECT_TRUE(same_bits(made[1], made[0])) << to_string(view);
    EXPECT_TRUE(same_bits(made[2], made[0])) << to_string(view);
  }
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

std::vector<Device> devices() {
  std::vector<Device> all{Device::cpu, Device::emulated};
  if (is_available(Device::cuda)) all.push_back(Device::cuda);
  return all;
}

TEST(Loader, EveryDeviceMakesTheSameBatches) {
  const Dataset set = make_shapes(20, 0, true);
  for (int64_t channels : {3, 8}) {
    LoaderConfig config{.batch = 8, .view = View::strong, .augment = augment(), .type = DType::bf16, .channels = channels, .order = Order::shuffled};
    Loader reference(set, config);
    for (Device device : devices()) {
      config.device = device;
      Loader loader(set, config);
      for (uint32_t epoch : {0, 1}) {
        reference.start(epoch);
        loader.start(epoch);
        for (Batch want, got; reference.next(want);) {
          ASSERT_TRUE(loader.next(got));
          EXPECT_EQ(got.indices, want.indices);
          EXPECT_EQ(got.images.device(), device);
          EXPECT_EQ(got.images.shape(), Shape({got.size(), 32, 32, channels}));
          EXPECT_TRUE(same_bits(got.images, want.images)) << to_string(device);
          EXPECT_TRUE(same_bits(got.labels, want.labels)) << to_string(device);
        }
        Batch none;
        EXPECT_FALSE(loader.next(none));
      }
    }
  }
}

TEST(Loader, DrawAndMakeAreNext) {
  const Dataset set = make_shapes(22, 0, true);
  for (Device device : devices()) {
    const LoaderConfig config{.batch = 8, .view = View::weak, .augment = augment(), .channels = 4, .order = Order::shuffled, .device = device};
    Loader whole(set, config), halves(set, config);
    whole.start(3);
    halves.start(3);
    std::vector<std::byte> host(size_t(halves.input_bytes()));
    const Tensor inputs = Tensor::empty({halves.input_bytes()}, DType::u8, device);
    std::vector<int64_t> sizes;
    for (Batch want; whole.next(want);) {
      const int64_t n = halves.draw(host.data());
      ASSERT_EQ(n, want.size());
      EXPECT_EQ(halves.last_indices(), want.indices);
      copy_bytes(inputs.raw(), device, host.data(), Device::cpu, inputs.bytes());
      const Tensor images = Tensor::empty(want.images.shape(), DType::f32, device), labels = Tensor::empty({n}, DType::i32, device);
      halves.make(static_cast<const std::byte*>(inputs.raw()), n, images, labels);
      EXPECT_TRUE(same_bits(images, want.images)) << to_string(device);
      EXPECT_TRUE(same_bits(labels, want.labels)) << to_string(device);
      sizes.push_back(n);
    }
    EXPECT_EQ(sizes, (std::vector<int64_t>{8, 8, 6}));
    EXPECT_EQ(halves.draw(host.data()), 0);
    EXPECT_TRUE(halves.last_indices().empty());
    EXPECT_THROW(
        halves.make(static_cast<const std::byte*>(inputs.raw()), 8, Tensor::empty({7, 32, 32, 4}, DType::f32, device), Tensor::empty({8}, DType::i32, device)),
        Error);
  }
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
