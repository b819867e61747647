// What the executor promises beyond CUDA: schedules, undefined shared memory, the launch guard, several host threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

#include "simt/simt.h"

namespace {

__global__ void order_kernel(unsigned* count, int* order) {
  const int id = int(blockIdx.x * blockDim.x + threadIdx.x);
  order[atomicAdd(count, 1u)] = id;
  __syncthreads();
  order[atomicAdd(count, 1u)] = 1000 + id;
  __syncwarp();
  order[atomicAdd(count, 1u)] = 2000 + id;
}
std::vector<int> order_of(int schedule) {
  const simt::ScheduleScope scope(schedule);
  unsigned count = 0;
  std::vector<int> order(3 * 3 * 64, -1);
  simt::launch(order_kernel, 3, 64, 0, nullptr, &count, order.data());
  EXPECT_EQ(count, order.size());
  return order;
}
TEST(Schedule, AscendingAndDescending) {
  std::vector<int> up, down;
  for (int block = 0; block < 3; ++block) {
    for (int t = 0; t < 64; ++t) up.push_back(block * 64 + t), down.push_back((2 - block) * 64 + 63 - t);
    for (int warp = 0; warp < 2; ++warp)  // a warp stays together until the next block barrier
      for (int phase : {1000, 2000})
        for (int lane = 0; lane < 32; ++lane)
          up.push_back(phase + block * 64 + warp * 32 + lane), down.push_back(phase + (2 - block) * 64 + 63 - warp * 32 - lane);
  }
  EXPECT_EQ(order_of(0), up);
  EXPECT_EQ(order_of(1), down);
}
TEST(Schedule, RandomRepeatsAndMixesBlocksWarpsAndLanes) {
  const std::vector<int> two = order_of(2), three = order_of(3);
  EXPECT_EQ(two, order_of(2));
  EXPECT_NE(two, three);
  std::vector<int> sorted = two, every = order_of(0);
  std::sort(sorted.begin(), sorted.end());
  std::sort(every.begin(), every.end());
  EXPECT_EQ(sorted, every);
  int blocks_seen_first = 0;
  for (int schedule = 2; schedule < 34; ++schedule) blocks_seen_first |= 1 << order_of(schedule)[0] / 64;
  EXPECT_EQ(blocks_seen_first, 7);
  const auto warp_changes = [](const std::vector<int>& order) {
    int changes = 0;
    for (size_t i = 1; i < order.size(); ++i) changes += order[i] % 1000 / 32 != order[i - 1] % 1000 / 32;
    return changes;
  };
  EXPECT_GT(warp_changes(two), 100);
  EXPECT_LT(warp_changes(order_of(0)), 20);
}
TEST(Schedule, ScopesNestAndBadOnesAreRefused) {
  EXPECT_EQ(simt::schedule(), 0);
  {
    const simt::ScheduleScope outer(1);
    const simt::ScheduleScope inner(7);
    EXPECT_EQ(simt::schedule(), 7);
  }
  EXPECT_EQ(simt::schedule(), 0);
  EXPECT_THROW(simt::set_schedule(-1), simt::Error);
  EXPECT_THROW(simt::set_max_resident_blocks(0), simt::Error);
  EXPECT_EQ(simt::schedule(), 0);
}

__global__ void undefined_kernel(unsigned* out) {
  SIMT_SHARED(fixed, unsigned[64]);
  SIMT_DYNAMIC_SHARED(unsigned, dynamic);
  const unsigned i = blockIdx.x * 64 + threadIdx.x;
  out[i] = fixed[threadIdx.x] & dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 0;
}
TEST(SharedMemory, IsUndefinedAtTheStartOfEveryBlock) {
  for (int launch = 0; launch < 2; ++launch) {
    std::vector<unsigned> out(5 * 64);
    simt::launch(undefined_kernel, 5, 64, 64 * sizeof(unsigned), nullptr, out.data());
    for (unsigned bits : out) {
      ASSERT_EQ(bits, ~0u);
      ASSERT_TRUE(std::isnan(std::bit_cast<float>(bits)));
    }
  }
}

__global__ void absent_lanes_kernel(unsigned* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, threadIdx.x, 4);
}
TEST(WarpFunctions, ReadAllOnesFromAbsentLanes) {
  std::vector<unsigned> out(16);
  simt::launch(absent_lanes_kernel, 1, 32, 0, nullptr, out.data());
  for (unsigned lane = 0; lane < 16; ++lane) EXPECT_EQ(out[lane], lane < 12 ? lane + 4 : ~0u);
}

int entered = 0, left = 0;
__global__ void guarded_kernel(int* inside) { *inside = entered - left; }
__global__ void throwing_kernel() { throw std::runtime_error("stop"); }
TEST(Guard, IsHeldExactlyWhileKernelsRun) {
  simt::set_launch_guard([] { ++entered; }, [] { ++left; });
  int inside = 0;
  simt::launch(guarded_kernel, 1, 1, 0, nullptr, &inside);
  EXPECT_EQ(inside, 1);
  simt::launch_cooperative(guarded_kernel, 1, 1, 0, nullptr, &inside);
  EXPECT_EQ(left, 2);
  EXPECT_THROW(simt::launch(throwing_kernel, 2, 40, 0, nullptr), simt::Error);
  EXPECT_EQ(entered, 3);
  EXPECT_EQ(left, 3);
  simt::set_launch_guard(nullptr, nullptr);
  simt::launch(guarded_kernel, 1, 1, 0, nullptr, &inside);
  EXPECT_EQ(entered, 3);
  EXPECT_EQ(inside, 0);
}

__global__ void sum_kernel(const float* in, float* out) {
  SIMT_SHARED(part, float[4]);
  float v = in[blockIdx.x * 128 + threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = part[0] + part[1] + part[2] + part[3];
}
TEST(Executor, ServesSeveralHostThreads) {
  std::vector<std::thread> threads;
  std::vector<int> right(4, 0);
  for (int n = 0; n < 4; ++n)
    threads.emplace_back([n, &right] {
      std::vector<float> in(6 * 128, float(n + 1)), out(6);
      for (int i = 0; i < 20; ++i) {
        std::fill(out.begin(), out.end(), 0.0f);
        simt::launch(sum_kernel, 6, 128, 0, nullptr, in.data(), out.data());
        right[size_t(n)] += out == std::vector<float>(6, 128.0f * float(n + 1));
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(right, std::vector<int>(4, 20));
}

__global__ void fails_in_the_middle_kernel() {
  if (threadIdx.x < 70) __syncthreads();
  if (threadIdx.x == 90) throw std::runtime_error("ninety");
}
TEST(Executor, StaysUsableAfterErrors) {
  std::vector<float> in(6 * 128, 0.5f);
  for (int i = 0; i < 10; ++i) {
    const simt::ScheduleScope scope(i);
    EXPECT_THROW(simt::launch(fails_in_the_middle_kernel, 3, 128, 0, nullptr), simt::Error);
    std::vector<float> out(6);
    simt::launch(sum_kernel, 6, 128, 0, nullptr, in.data(), out.data());
    EXPECT_EQ(out, std::vector<float>(6, 64.0f));
  }
}

__global__ void big_frame_kernel(int n, int* out) {
  int local[10000];  // 40 KB
  for (int i = 0; i < n; ++i) local[i] = int(threadIdx.x) + i;
  __syncthreads();
  int sum = 0;
  for (int i = 0; i < n; i += 1000) sum += local[i];
  out[threadIdx.x] = sum;
}
TEST(Executor, EveryThreadHasAStackOfItsOwn) {
  std::vector<int> out(300);
  simt::launch(big_frame_kernel, 1, 300, 0, nullptr, 10000, out.data());
  for (int t = 0; t < 300; ++t) EXPECT_EQ(out[size_t(t)], 10 * t + 45000);
}

__global__ void meet_kernel(unsigned* word, unsigned* count, unsigned* seen) {
  atomicAdd(count, 1u);
  simt::grid_sync(word);
  if (threadIdx.x == 0) seen[blockIdx.x] = *count;
}
TEST(Executor, CooperativeGridOfFullBlocks) {
  unsigned word = 0, count = 0;
  std::vector<unsigned> seen(4);
  for (int schedule = 0; schedule < 4; ++schedule) {
    const simt::ScheduleScope scope(schedule);
    count = 0;
    simt::launch_cooperative(meet_kernel, 4, 1024, 0, nullptr, &word, &count, seen.data());
    EXPECT_EQ(seen, std::vector<unsigned>(4, 4096));
  }
  simt::set_max_resident_blocks(6);
  EXPECT_EQ(simt::max_resident_blocks(meet_kernel, 64, 0), 6);
  seen.resize(6), count = 0;
  simt::launch_cooperative(meet_kernel, 6, 64, 0, nullptr, &word, &count, seen.data());
  EXPECT_EQ(seen, std::vector<unsigned>(6, 384));
  simt::set_max_resident_blocks(4);
}

}  // namespace
