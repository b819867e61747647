// Devices: tensors that live elsewhere, pools that keep a graph's blocks to themselves, and what reaches a step that the host only starts.
// Device::emulated is a device without a GPU: its memory is closed to the host. The same tests run on CUDA where there is one.
#include "engine/base/device.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "engine/base/memory.h"
#include "engine/base/rng.h"
#include "engine/graph.h"
#include "tests/harness/error_of.h"

namespace kd {
namespace {

std::vector<Device> devices() {
  std::vector<Device> all{Device::cpu, Device::emulated};
  if (is_available(Device::cuda)) all.push_back(Device::cuda);
  return all;
}

Tensor counting(int64_t n) {
  Tensor t = Tensor::empty({n}, DType::i32);
  std::iota(t.data<int32_t>(), t.data<int32_t>() + n, 1);
  return t;
}

std::vector<int32_t> values(const Tensor& t) {
  const Tensor host = t.to(Device::cpu);
  return {host.data<int32_t>(), host.data<int32_t>() + host.elements()};
}

TEST(Device, TensorsTravel) {
  for (Device device : devices()) {
    const Tensor host = counting(1000), there = counting(1000).to(device);
    EXPECT_EQ(there.device(), device);
    EXPECT_EQ(values(there), values(host));
    EXPECT_EQ(values(there.slice(10, {3})), (std::vector<int32_t>{11, 12, 13}));
    const Tensor copy = there.clone();
    EXPECT_EQ(copy.device(), device);
    there.zero_();
    EXPECT_EQ(values(there), std::vector<int32_t>(1000, 0));
    EXPECT_EQ(values(copy), values(host)) << "a clone shares nothing";
    there.slice(5, {2}).copy_from(counting(2));
    EXPECT_EQ(values(there.slice(4, {4})), (std::vector<int32_t>{0, 1, 2, 0}));
    EXPECT_THROW(there.copy_from(counting(3)), Error);
  }
}

TEST(Device, NamesAndErrors) {
  EXPECT_EQ(device_from_name("cpu"), Device::cpu);
  EXPECT_EQ(device_from_name("emulated"), Device::emulated);
  EXPECT_EQ(device_from_name("auto"), is_available(Device::cuda) ? Device::cuda : Device::cpu);
  EXPECT_NE(error_of([] { device_from_name("gpu"); }).find("unknown device 'gpu'; known: auto, cpu, cuda, emulated"), std::string::npos);
  if (!is_available(Device::cuda)) {
    const std::string text = error_of([] { device_from_name("cuda"); });
    EXPECT_NE(text.find("device cuda: "), std::string::npos) << text;
    EXPECT_NE(text.find("use --device cpu"), std::string::npos) << text;
    EXPECT_THROW(Tensor::empty({1}, DType::f32, Device::cuda), Error);
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(DeviceDeathTest, HostCodeCannotTouchDeviceMemory) {
  const Tensor t = counting(4).to(Device::emulated);
  const auto* p = static_cast<const volatile int32_t*>(t.raw());
  EXPECT_DEATH({ [[maybe_unused]] int32_t v = *p; }, "");
  EmulatedAccess access;
  EXPECT_EQ(*p, 1);
}
#endif

TEST(MemoryPool, AGraphsBlocksAreItsOwn) {
  for (Device device : devices()) {
    auto pool = make_pool(device);
    const void* inside = nullptr;
    {
      PoolScope scope(pool);
      inside = Tensor::empty({12345}, DType::f32, device).raw();
      EXPECT_EQ(Tensor::empty({12345}, DType::f32, device).raw(), inside) << "a freed block of the scope is handed out again";
    }
    std::vector<Tensor> outside;
    for (int i = 0; i < 4; ++i) outside.push_back(Tensor::empty({12345}, DType::f32, device));
    for (const Tensor& t : outside) EXPECT_NE(t.raw(), inside) << to_string(device);
    PoolScope scope(pool);
    EXPECT_EQ(Tensor::empty({12345}, DType::f32, device).raw(), inside);
  }
}

// total += input, once a step; the input arrives by StepInputs and the total leaves by Readback.
TEST(StepGraph, EveryStepSeesItsInputsAndCountsOnce) {
  for (Device device : devices())
    for (Launch launch : {Launch::graph, Launch::eager}) {
      Tensor history = Tensor::zeros({16}, DType::i32, device), slot = Tensor::zeros({1}, DType::i32, device);
      StepInputs inputs(4, device);
      Readback readback(history);
      StepGraph graph(device, launch);
      int by_host = 0;
      for (int32_t step = 0; step < 12; ++step) {
        const int32_t value = 100 + step;
        std::memcpy(inputs.host(), &value, 4);
        inputs.upload();
        // Shifts the history by one and puts the input in front: out of order or done twice, it shows.
        by_host += graph.run([&] {
          Tensor shifted = Tensor::empty({15}, DType::i32, device);
          copy_bytes(shifted.raw(), device, history.raw(), device, shifted.bytes());
          copy_bytes(history.slice(1, {15}).raw(), device, shifted.raw(), device, shifted.bytes());
          copy_bytes(history.raw(), device, inputs.device_block().raw(), device, 4);
        }) == StepGraph::Ran::by_host;
        readback.poll();
      }
      EXPECT_EQ(by_host, device == Device::cuda && launch == Launch::graph ? 2 : 12);
      int32_t now[16];
      std::memcpy(now, readback.wait(), sizeof now);
      for (int32_t i = 0; i < 12; ++i) EXPECT_EQ(now[i], 111 - i) << to_string(device);
      EXPECT_EQ(now[12], 0);
    }
}

// A step that holds up to eight blocks of random sizes at a time, fills each with its own number and looks whether it is still there when the block goes.
struct RandomStep {
  uint64_t seed;
  std::vector<const void*> places = {};
  int64_t wrong = 0;
  void operator()() {
    places.clear();
    Rng rng(seed, Purpose::test);
    std::vector<Tensor> held;
    auto drop = [&](size_t i) {
      const Tensor& t = held[i];
      for (int64_t k = 0; k < t.elements(); ++k) wrong += t.data<int32_t>()[k] != t.data<int32_t>()[0];
      held.erase(held.begin() + ptrdiff_t(i));
    };
    for (int32_t n = 0; n < 60; ++n) {
      if (held.size() == 8 || (held.size() > 1 && rng.below(3) == 0)) drop(rng.below(uint32_t(held.size())));
      held.push_back(Tensor::empty({1 + int64_t(rng.below(5000))}, DType::i32));
      std::fill_n(held.back().data<int32_t>(), held.back().elements(), n);
      places.push_back(held.back().raw());
    }
    while (!held.empty()) drop(0);
  }
};

TEST(StepArena, BlocksThatLiveTogetherNeverShare) {
  StepArena arena;
  RandomStep step{.seed = 7};
  for (int run = 0; run < 4; ++run) {
    arena.run([&] { step(); });
    EXPECT_EQ(step.wrong, 0) << "run " << run;
    EXPECT_EQ(arena.plan().misses, 0) << "run " << run;
  }
  const StepArena::Plan plan = arena.plan();
  EXPECT_EQ(plan.blocks, 60);
  EXPECT_GE(plan.bytes, plan.live_bytes);
  EXPECT_LE(double(plan.bytes), 1.3 * double(plan.live_bytes)) << "the plan wastes more than the pool's size classes would";
}

TEST(StepArena, EveryStepFindsItsBlocksWhereTheyWere) {
  StepArena arena;
  RandomStep step{.seed = 8};
  arena.run([&] { step(); });
  arena.run([&] { step(); });
  const auto places = step.places;
  arena.run([&] { step(); });
  EXPECT_EQ(step.places, places);
}

TEST(StepArena, AnotherStepThanThePlannedOneStaysRight) {
  StepArena arena;
  RandomStep step{.seed = 9};
  arena.run([&] { step(); });
  arena.run([&] { step(); });
  step.seed = 10;  // other sizes, other lives
  arena.run([&] { step(); });
  EXPECT_EQ(step.wrong, 0);
  EXPECT_GT(arena.plan().misses, 0);
}

TEST(StepArena, WhatOutlivesAStepIsNotInTheArena) {
  StepArena arena;
  Tensor kept;
  for (int32_t run = 1; run <= 3; ++run) {
    arena.run([&] {
      const Tensor scratch = Tensor::empty({1000}, DType::i32);
      std::fill_n(scratch.data<int32_t>(), 1000, -1);
      kept = Tensor::empty({1000}, DType::i32);
      std::fill_n(kept.data<int32_t>(), 1000, run);
    });
    arena.run([] { std::fill_n(Tensor::empty({1000}, DType::i32).data<int32_t>(), 1000, -1); });
    EXPECT_EQ(kept.data<int32_t>()[999], run);
  }
}

TEST(StepArena, AStepThatThrewIsWatchedAgain) {
  StepArena arena;
  RandomStep step{.seed = 11};
  EXPECT_THROW(arena.run([&] {
    const Tensor block = Tensor::empty({10}, DType::i32);
    throw Error("stop");
  }),
               Error);
  for (int run = 0; run < 3; ++run) arena.run([&] { step(); });
  EXPECT_EQ(step.wrong, 0);
  EXPECT_EQ(arena.plan().blocks, 60);
  EXPECT_EQ(arena.plan().misses, 0);
}

}  // namespace
}  // namespace kd
