// Kernels with deliberate faults: each must be reported, by the executor, by a sanitizer, or as a result that depends on the schedule. A fault that a build
// cannot see has no test in that build. The last part removes the barriers of good kernels one at a time.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "simt/simt.h"

#if defined(__SANITIZE_ADDRESS__)
#define KD_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KD_ASAN 1
#endif
#endif

// The first race ends a death test, and any race that nobody expects ends the program.
extern "C" const char* __tsan_default_options() { return "halt_on_error=1"; }

namespace {

// "faults_test.cpp:N", N being the line that ends with the comment "// <mark>".
std::string at(const std::string& mark) {
  std::ifstream source(__FILE__);
  int number = 0;
  for (std::string line; std::getline(source, line);) {
    ++number;
    const std::string end = "// <" + mark + ">";
    if (line.size() > end.size() && line.compare(line.size() - end.size(), end.size(), end) == 0) return "faults_test.cpp:" + std::to_string(number);
  }
  ADD_FAILURE() << "no line is marked " << mark;
  return "?";
}
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const simt::Error& e) {
    return e.what();
  }
  return "no error";
}
#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text) << "\nlacks\n" << (part)

class Faults : public testing::Test {
 protected:
  // The child starts the program afresh instead of forking one with fibers in it.
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};
using Reported = Faults;   // reported in every build
using Schedules = Faults;  // a result that is wrong, or differs, without ThreadSanitizer
using Memory = Faults;     // AddressSanitizer, UndefinedBehaviorSanitizer
using Races = Faults;      // ThreadSanitizer

// ---- reported in every build ----------------------------------------------------------------------------------------------------------------------------

__global__ void divergent_kernel(int n) {
  if (int(threadIdx.x) < n) __syncthreads();  // <divergent barrier>
}
TEST_F(Reported, DivergentBarrier) {
  const std::string got = error_of([] {
    simt::launch(divergent_kernel, 1, 128, 0, nullptr, 100);  // <divergent launch>
  });
  EXPECT_EQ(got, "kernel launched at " + at("divergent launch") +
                     ": divergent barrier in block (0,0,0), thread (127,0,0) was last to run:\n  threads 0-99 wait at __syncthreads, " +
                     at("divergent barrier") + "\n  threads 100-127 returned");
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x % 2 == 0)
    __syncthreads();  // <even barrier>
  else
    __syncthreads_or(1);  // <odd barrier>
}
TEST_F(Reported, DifferentBarriersDoNotMeet) {
  const std::string got = error_of([] { simt::launch(two_barriers_kernel, dim3(1, 2), dim3(2, 2), 0, nullptr); });
  EXPECT_CONTAINS(got, "divergent barrier in block (0,0,0), thread (1,1,0) was last to run:\n  threads 0, 2 wait at __syncthreads, " + at("even barrier") +
                           "\n  threads 1, 3 wait at __syncthreads_or, " + at("odd barrier"));
}

__global__ void two_barriers_on_a_line_kernel(int* out) { *out = threadIdx.x == 0 ? __syncthreads_and(1) : __syncthreads_or(1); }
TEST_F(Reported, DifferentBarriersOnOneLineDoNotMeet) {
  int out = 0;
  EXPECT_CONTAINS(error_of([&] { simt::launch(two_barriers_on_a_line_kernel, 1, 3, 0, nullptr, &out); }), "\n  threads 1-2 wait at __syncthreads_or, ");
}

__global__ void waits_for_lanes_kernel() {
  if (threadIdx.x < 16)
    __shfl_xor_sync(0xffffffffu, 1.0f, 1);  // <full mask>
  else
    __syncwarp(0xffff0000u), __syncthreads();  // <elsewhere>
}
TEST_F(Reported, ShuffleWaitsForLanesThatAreElsewhere) {
  const std::string got = error_of([] { simt::launch(waits_for_lanes_kernel, 1, 32, 0, nullptr); });
  EXPECT_CONTAINS(got, "\n  threads 0-15 wait at __shfl_xor_sync for the lanes 0xffffffff, " + at("full mask") + "\n  threads 16-31 wait at __syncthreads, " +
                           at("elsewhere"));
}

__global__ void different_masks_kernel() { __ballot_sync(threadIdx.x < 4 ? 0xffu : 0xfeu, 1); }
TEST_F(Reported, MasksThatDisagree) {
  EXPECT_CONTAINS(error_of([] { simt::launch(different_masks_kernel, 1, 8, 0, nullptr); }),
                  "a warp function that not all lanes reach in block (0,0,0), thread (7,0,0) was last to run:\n  threads 0-3 wait at __ballot_sync for the "
                  "lanes 0x000000ff");
}

__global__ void bad_shuffle_kernel(unsigned mask, int width) {
  __shfl_down_sync(mask, 1, 1, width);  // <bad shuffle>
}
TEST_F(Reported, ShuffleOperands) {
  EXPECT_CONTAINS(error_of([] { simt::launch(bad_shuffle_kernel, 1, 32, 0, nullptr, 0xffu, 32); }),
                  "block (0,0,0), thread (8,0,0): __shfl_down_sync, " + at("bad shuffle") + ": the mask leaves out the lane that calls");
  EXPECT_CONTAINS(error_of([] { simt::launch(bad_shuffle_kernel, 1, 32, 0, nullptr, 0xffffffffu, 12); }),
                  "thread (0,0,0): __shfl_down_sync, " + at("bad shuffle") + ": width 12 is no power of two from 1 to 32");
}

__global__ void throws_kernel() {
  if (blockIdx.x == 1 && threadIdx.x == 3) throw std::runtime_error("a shelf is empty");
}
__global__ void throws_int_kernel() { throw 3; }
__global__ void nothing_kernel() {}
__global__ void launches_kernel() { simt::launch(nothing_kernel, 1, 1, 0, nullptr); }
TEST_F(Reported, ExceptionsInKernels) {
  const std::string got = error_of([] {
    simt::launch(throws_kernel, 2, 8, 0, nullptr);  // <throwing launch>
  });
  EXPECT_EQ(got, "kernel launched at " + at("throwing launch") + ": block (1,0,0), thread (3,0,0): exception: a shelf is empty");
  EXPECT_CONTAINS(error_of([] { simt::launch(throws_int_kernel, 1, 1, 0, nullptr); }), "an exception that is no std::exception");
  EXPECT_CONTAINS(error_of([] { simt::launch(launches_kernel, 1, 1, 0, nullptr); }), "a kernel cannot launch kernels");
}

TEST_F(Reported, ImpossibleShapes) {
  const auto launch = [](simt::Grid grid, dim3 block, size_t smem) { return error_of([=] { simt::launch(nothing_kernel, grid, block, smem, nullptr); }); };
  EXPECT_CONTAINS(launch(0, 32, 0), "no blocks; an empty tensor? (grid 0x1x1, block 32x1x1, 0 bytes of dynamic shared memory)");
  EXPECT_CONTAINS(launch(int64_t(-1), 32, 0), "no blocks");
  EXPECT_CONTAINS(launch(dim3(1, 0), 32, 0), "no blocks");
  EXPECT_CONTAINS(launch(int64_t(1) << 32, 32, 0), "more blocks than CUDA takes");
  EXPECT_CONTAINS(launch(dim3(1, 65536), 32, 0), "more blocks than CUDA takes");
  EXPECT_CONTAINS(launch(1, 0, 0), "no threads");
  EXPECT_CONTAINS(launch(1, 1025, 0), "more threads in a block than CUDA takes");
  EXPECT_CONTAINS(launch(1, dim3(1, 1, 65), 0), "more threads in a block than CUDA takes");
  EXPECT_CONTAINS(launch(1, dim3(32, 33), 0), "more threads in a block than CUDA takes");
  EXPECT_CONTAINS(launch(1, 32, 227 * 1024 + 1), "more than 227 KiB of shared memory");
  EXPECT_EQ(launch(dim3(1, 2), dim3(1, 1, 64), 227 * 1024), "no error");
}

template <int kBytes>
__global__ void static_shared_kernel() {
  SIMT_SHARED(a, char[kBytes]);
  a[0] = 1;
}
TEST_F(Reported, TooMuchSharedMemory) {
  EXPECT_CONTAINS(error_of([] { simt::launch(static_shared_kernel<48 * 1024 + 1>, 1, 1, 0, nullptr); }), "too much shared memory: 49153 bytes");
  EXPECT_CONTAINS(error_of([] { simt::launch(static_shared_kernel<1024>, 1, 1, 227 * 1024, nullptr); }), "too much shared memory: 1024 bytes");
  EXPECT_EQ(error_of([] { simt::launch(static_shared_kernel<48 * 1024>, 1, 1, 179 * 1024, nullptr); }), "no error");
}

enum class Sync { missing_block, same_rank, other_count, rank_too_large, other_word };
__global__ void grid_sync_kernel(Sync fault, unsigned* words) {
  const unsigned b = blockIdx.x;
  if (fault == Sync::missing_block && b == 1) return;
  unsigned count = 3, rank = b;
  if (fault == Sync::same_rank && b == 2) rank = 1;
  if (fault == Sync::other_count && b == 2) count = 2, rank = 1;
  if (fault == Sync::rank_too_large) rank = b + 1;
  simt::grid_sync(words + (fault == Sync::other_word ? threadIdx.x : 0), count, rank);  // <grid barrier>
}
TEST_F(Reported, GridSync) {
  const auto error = [](Sync fault) {
    unsigned words[8] = {};
    return error_of([&] { simt::launch_cooperative(grid_sync_kernel, 3, 8, 0, nullptr, fault, words); });
  };
  EXPECT_CONTAINS(error(Sync::missing_block),
                  "a barrier between blocks that not all reach in block (2,0,0), thread (7,0,0) was last to run:\n  blocks 0, 2:\n    threads 0-7 wait at "
                  "grid_sync for 3 blocks, " +
                      at("grid barrier") + "\n  block 1:\n    threads 0-7 returned");
  const std::string here = "grid_sync, " + at("grid barrier") + ": ";
  EXPECT_CONTAINS(error(Sync::same_rank), here + "blocks (1,0,0) and (2,0,0) both say that they are rank 1");
  EXPECT_CONTAINS(error(Sync::other_count), here + "blocks disagree on the size of their group, 3 or 2");
  EXPECT_CONTAINS(error(Sync::rank_too_large), here + "rank 3 of 3 blocks, in a grid of 3");
  EXPECT_CONTAINS(error(Sync::other_word), here + "threads of one block disagree on its word or rank");
  unsigned word = 17;
  EXPECT_CONTAINS(error_of([&] { simt::launch_cooperative(grid_sync_kernel, 3, 8, 0, nullptr, Sync::same_rank, &word); }),
                  here + "its word holds 17; it must be set to zero");
  word = 0;
  EXPECT_CONTAINS(error_of([&] { simt::launch(grid_sync_kernel, 3, 8, 0, nullptr, Sync::same_rank, &word); }), here + "only launch_cooperative guarantees");
  EXPECT_CONTAINS(error_of([&] { simt::launch_cooperative(grid_sync_kernel, 5, 8, 0, nullptr, Sync::same_rank, &word); }),
                  "a cooperative grid of more blocks than are resident at once, 4");
}

__global__ void half_grid_kernel(unsigned* word) {
  if (threadIdx.x < 4)
    simt::grid_sync(word);
  else
    __syncthreads();
}
TEST_F(Reported, GridSyncNeedsAllThreadsOfABlock) {
  unsigned word = 0;
  EXPECT_CONTAINS(error_of([&] { simt::launch_cooperative(half_grid_kernel, 2, 8, 0, nullptr, &word); }),
                  "divergent barrier in block (1,0,0), thread (7,0,0) was last to run:\n  blocks 0-1:\n    threads 0-3 wait at grid_sync for 2 blocks, ");
}

__global__ void uses_stack_kernel(int bytes, int* out) {
  volatile char local[1 << 20];
  for (int i = 0; i < bytes; ++i) local[i] = char(i);
  *out = local[bytes / 2];
}
TEST_F(Reported, MegabyteOfLocalVariables) {
  int out = 0;
#if defined(KD_ASAN) || defined(SIMT_TSAN)
  EXPECT_DEATH(simt::launch(uses_stack_kernel, 1, 2, 0, nullptr, 1 << 20, &out), "stack-overflow.*uses_stack_kernel");
#else
  EXPECT_EXIT(simt::launch(uses_stack_kernel, 1, 2, 0, nullptr, 1 << 20, &out), testing::KilledBySignal(SIGSEGV), "");
#endif
}

// ---- results ---------------------------------------------------------------------------------------------------------------------------------------------

__global__ void read_too_early_kernel(const float* in, float* out) {
  SIMT_SHARED(tile, float[64]);
  tile[threadIdx.x] = in[threadIdx.x];        // <early write>
  out[threadIdx.x] = tile[63 - threadIdx.x];  // <early read>
}
__global__ void write_too_early_kernel(const float* in, float* out) {
  SIMT_SHARED(tile, float[64]);
  float sum = 0;
  for (int step = 0; step < 2; ++step) {
    tile[threadIdx.x] = in[threadIdx.x] + float(step);  // <late write>
    __syncthreads();
    sum += tile[threadIdx.x > 0 ? threadIdx.x - 1 : 0];  // <late read>
  }
  out[threadIdx.x] = sum;
}
__global__ void two_blocks_write_kernel(const float* in, float* out) {
  if (threadIdx.x == 0) out[0] = in[blockIdx.x];  // <two blocks>
}
// The last block to come adds up what the others left.
template <bool kFence>
__global__ void ticket_kernel(const float* in, float* out) {
  SIMT_SHARED(last, bool);
  unsigned* ticket = reinterpret_cast<unsigned*>(out + 63);
  if (threadIdx.x == 0) {
    out[1 + blockIdx.x] = in[blockIdx.x];  // <ticket write>
    if constexpr (kFence) __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += __ldcg(&out[1 + b]);  // <ticket read>
    out[0] = sum;
  }
}

// Block 1 takes what block 0 left, if it comes later.
template <bool kFence>
__global__ void mailbox_kernel(const float* in, float* out) {
  unsigned* full = reinterpret_cast<unsigned*>(out + 63);
  if (blockIdx.x == 0) {
    out[1] = in[5];  // <mailbox write>
    __threadfence();
    atomicExch(full, 1u);
  } else if (atomicAdd(full, 0u) == 1) {
    if constexpr (kFence) __threadfence();
    out[0] = __ldcg(&out[1]);  // <mailbox read>
  }
}

using Kernel = void(const float*, float*);
std::vector<float> run(Kernel* kernel, int blocks, int threads, int schedule) {
  const simt::ScheduleScope scope(schedule);
  std::vector<float> in(64), out(64);
  for (size_t i = 0; i < in.size(); ++i) in[i] = float(i * i);
  simt::launch(kernel, blocks, threads, 0, nullptr, in.data(), out.data());
  return out;
}

// The fences do order: no report.
TEST_F(Reported, NothingAboutGoodFences) {
  for (int schedule = 0; schedule < 8; ++schedule) EXPECT_EQ(run(ticket_kernel<true>, 4, 32, schedule)[0], 0 + 1 + 4 + 9);
  EXPECT_EQ(run(mailbox_kernel<true>, 2, 1, 0)[0], 25);
  EXPECT_EQ(run(mailbox_kernel<true>, 2, 1, 1)[0], 0);
}

#if !defined(SIMT_TSAN)
int count_nan(const std::vector<float>& v) {
  int n = 0;
  for (float x : v) n += std::isnan(x);
  return n;
}
TEST_F(Schedules, SharedMemoryReadTooEarlyIsNan) {
  EXPECT_EQ(count_nan(run(read_too_early_kernel, 1, 64, 0)), 32);  // the upper half was not there yet
  EXPECT_EQ(count_nan(run(read_too_early_kernel, 1, 64, 1)), 32);
}
TEST_F(Schedules, SharedMemoryOverwrittenTooEarly) {
  std::vector<float> right(64);
  for (int i = 0; i < 64; ++i) right[size_t(i)] = float(2 * (i ? i - 1 : 0) * (i ? i - 1 : 0) + 1);
  int wrong = 0;
  for (int schedule : {0, 1, 2, 3}) wrong += run(write_too_early_kernel, 1, 64, schedule) != right;
  EXPECT_GE(wrong, 3);
}
TEST_F(Schedules, TwoBlocksWriteOneAddress) { EXPECT_NE(run(two_blocks_write_kernel, 3, 32, 0)[0], run(two_blocks_write_kernel, 3, 32, 1)[0]); }
#endif

// ---- AddressSanitizer, UndefinedBehaviorSanitizer --------------------------------------------------------------------------------------------------------

#if defined(KD_ASAN)
__global__ void global_out_of_bounds_kernel(float* out, int i) {
  out[i] = 1;  // <global bounds>
}
__global__ void shared_index_kernel(float* out, int i) {
  SIMT_SHARED(tile, float[33]);
  SIMT_SHARED(next, float[33]);
  tile[i] = next[0] = 1;  // <shared index>
  out[0] = tile[0];
}
__global__ void shared_pointer_kernel(float* out, int i) {
  SIMT_SHARED(tile, float[33]);
  SIMT_SHARED(next, float[33]);
  float* p = tile;
  next[0] = 1;
  out[0] = p[i];  // <shared bounds>
}
__global__ void dynamic_out_of_bounds_kernel(float* out, int i) {
  SIMT_DYNAMIC_SHARED(float, row);
  out[0] = row[i];  // <dynamic bounds>
}
TEST_F(Memory, OutOfBounds) {
  std::vector<float> v(10);
  const auto dies = [&](auto* kernel, size_t smem, int i, const std::string& what, const std::string& mark) {
    EXPECT_DEATH(simt::launch(kernel, 1, 1, smem, nullptr, v.data(), i), what + ".*" + at(mark)) << mark << " " << i;
  };
  dies(global_out_of_bounds_kernel, 0, 10, "heap-buffer-overflow", "global bounds");
  for (int i : {33, 48, -1}) {
    dies(shared_pointer_kernel, 0, i, "use-after-poison", "shared bounds");
    EXPECT_DEATH(simt::launch(shared_index_kernel, 1, 1, 0, nullptr, v.data(), i), at("shared index") + ".*out of bounds for type") << i;
  }
  dies(dynamic_out_of_bounds_kernel, 7 * sizeof(float), 7, "use-after-poison", "dynamic bounds");
  dies(dynamic_out_of_bounds_kernel, 0, 0, "use-after-poison", "dynamic bounds");
  EXPECT_EQ(error_of([&] { simt::launch(shared_index_kernel, 1, 1, 0, nullptr, v.data(), 32); }), "no error");
}

#if !defined(__clang__)  // clang 14 does not check the copy of a struct
__global__ void misaligned_kernel(const float* in, float4* out) {
  *out = *reinterpret_cast<const float4*>(in + 1);  // <misaligned>
}
TEST_F(Memory, MisalignedVector) {
  alignas(16) float in[8] = {};
  float4 out;
  EXPECT_DEATH(simt::launch(misaligned_kernel, 1, 1, 0, nullptr, in, &out), at("misaligned") + ".*misaligned address");
}
#endif
#endif

// ---- ThreadSanitizer ------------------------------------------------------------------------------------------------------------------------------------

#if defined(SIMT_TSAN)
__global__ void shuffle_orders_nothing_kernel(const float* in, float* out) {
  SIMT_SHARED(tile, float[32]);
  tile[threadIdx.x] = in[threadIdx.x];  // <shuffle write>
  __shfl_xor_sync(0xffffffffu, 0, 1);
  out[threadIdx.x] = tile[31 - threadIdx.x];  // <shuffle read>
}
__global__ void add_without_atomic_kernel(const float*, float* out) {
  out[0] += 1;  // <no atomic>
}
constexpr int kTsanExit = 66;
// The report names both lines, in either order.
#define EXPECT_RACE(statement, mark, other_mark) \
  EXPECT_EXIT(statement, testing::ExitedWithCode(kTsanExit), "data race.*(" + at(mark) + ".*" + at(other_mark) + "|" + at(other_mark) + ".*" + at(mark) + ")")
TEST_F(Races, MissingBarrier) {
  for (int schedule : {0, 1, 2}) {
    EXPECT_RACE(run(read_too_early_kernel, 1, 64, schedule), "early write", "early read");
    EXPECT_RACE(run(write_too_early_kernel, 1, 64, schedule), "late write", "late read");
  }
}
TEST_F(Races, ShuffleOrdersNothing) { EXPECT_RACE(run(shuffle_orders_nothing_kernel, 1, 32, 0), "shuffle write", "shuffle read"); }
TEST_F(Races, TwoBlocksWriteOneAddress) { EXPECT_RACE(run(two_blocks_write_kernel, 3, 32, 0), "two blocks", "two blocks"); }
TEST_F(Races, MissingAtomic) {
  EXPECT_RACE(run(add_without_atomic_kernel, 1, 2, 0), "no atomic", "no atomic");
  EXPECT_RACE(run(add_without_atomic_kernel, 2, 1, 0), "no atomic", "no atomic");
}
TEST_F(Races, MissingFence) {
  EXPECT_RACE(run(ticket_kernel<false>, 2, 32, 0), "ticket write", "ticket read");
  EXPECT_RACE(run(mailbox_kernel<false>, 2, 1, 0), "mailbox write", "mailbox read");
}
#endif

// ---- mutations ------------------------------------------------------------------------------------------------------------------------------------------

// Good kernels, and the same without one of the things that make them good.
enum Missing {
  nothing,
  barrier_after_partials,
  barrier_before_reuse,
  fence_before_ticket,
  barrier_after_ticket,
  grid_sync_after_write,
  grid_sync_before_reuse,
  syncwarp_after_write,
  syncwarp_before_reuse,
  kMissing
};

template <Missing kM>
float block_sum(float v, float* partial) {
  for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
  if constexpr (kM != barrier_after_partials) __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
  if constexpr (kM != barrier_before_reuse) __syncthreads();
  return sum;
}
// out[0] = the sum of in[0..n), by whichever block comes last.
template <Missing kM>
__global__ void sum_kernel(const float* in, int n, float* block_sums, unsigned* ticket, float* out) {
  SIMT_SHARED(partial, float[32]);
  SIMT_SHARED(last, int);  // no bool: UBSan would end the program where it is read too early
  float sum = 0;
  for (int row = int(blockIdx.x * blockDim.x); row < n; row += int(gridDim.x * blockDim.x))
    sum += block_sum<kM>(row + int(threadIdx.x) < n ? in[row + int(threadIdx.x)] : 0.0f, partial);
  if (threadIdx.x == 0) {
    block_sums[blockIdx.x] = sum;
    if constexpr (kM != fence_before_ticket) __threadfence();
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  if constexpr (kM != barrier_after_ticket) __syncthreads();
  if (!last) return;
  sum = block_sum<kM>(threadIdx.x < gridDim.x ? __ldcg(&block_sums[threadIdx.x]) : 0.0f, partial);
  if (threadIdx.x == 0) out[0] = sum, *ticket = 0;
}
// out[b] = the sum of in[0..gridDim), twice, for every block b.
template <Missing kM>
__global__ void cooperative_kernel(const float* in, float* cells, unsigned* word, float* out) {
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) cells[blockIdx.x] = in[blockIdx.x];
    if constexpr (kM != grid_sync_after_write) simt::grid_sync(word);
    for (unsigned b = 0; b < gridDim.x; ++b) sum += __ldcg(&cells[b]);
    if constexpr (kM != grid_sync_before_reuse) simt::grid_sync(word);
    if (threadIdx.x == 0) cells[blockIdx.x] = -1000.0f;
    if constexpr (kM != grid_sync_after_write) simt::grid_sync(word);
  }
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
template <Missing kM>
__global__ void warp_kernel(const float* in, float* out) {
  SIMT_SHARED(cell, float[64]);
  const unsigned neighbour = threadIdx.x ^ 31u;
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    cell[threadIdx.x] = in[threadIdx.x] + float(round);
    if constexpr (kM != syncwarp_after_write) __syncwarp();
    sum += cell[neighbour];
    if constexpr (kM != syncwarp_before_reuse) __syncwarp();
  }
  out[threadIdx.x] = sum;
}
// Whether all three kernels give what they should.
template <Missing kM>
bool right(int schedule) {
  const simt::ScheduleScope scope(schedule);
  bool ok = true;
  std::vector<float> in(4 * 96), cells(4), out(64);
  for (size_t i = 0; i < in.size(); ++i) in[i] = float(i % 7);  // small integers: sums are exact in any order
  unsigned ticket = 0, word = 0;
  float want = 0;
  for (size_t i = 0; i < 370; ++i) want += in[i];
  for (int repeat = 0; repeat < 2; ++repeat) {
    simt::launch(sum_kernel<kM>, 3, 64, 0, nullptr, in.data(), 370, cells.data(), &ticket, out.data());
    ok = ok && out[0] == want && ticket == 0;
  }
  simt::launch_cooperative(cooperative_kernel<kM>, 4, 32, 0, nullptr, in.data(), cells.data(), &word, out.data());
  for (size_t b = 0; b < 4; ++b) ok = ok && out[b] == 2 * (0 + 1 + 2 + 3);
  simt::launch(warp_kernel<kM>, 1, 64, 0, nullptr, in.data(), out.data());
  for (size_t t = 0; t < 64; ++t) ok = ok && out[t] == 2 * in[t ^ 31] + 1;
  return ok;
}
class Mutations : public Faults {};

TEST_F(Mutations, NoneIsRight) {
  for (int schedule = 0; schedule < 8; ++schedule) EXPECT_TRUE(right<nothing>(schedule)) << schedule;
}

template <Missing kM>
void expect_seen() {
#if defined(SIMT_TSAN)
  EXPECT_EXIT(right<kM>(0), testing::ExitedWithCode(kTsanExit), "data race.*faults_test.cpp");
#else
  int seen = 0;
  for (int schedule = 0; schedule < 4; ++schedule) {
    bool ok = false;
    seen += error_of([&] { ok = right<kM>(schedule); }) != "no error" || !ok;
  }
  EXPECT_GT(seen, 0);
#endif
}
TEST_F(Mutations, BarrierAfterPartials) { expect_seen<barrier_after_partials>(); }
TEST_F(Mutations, BarrierBeforeReuse) { expect_seen<barrier_before_reuse>(); }
TEST_F(Mutations, BarrierAfterTicket) { expect_seen<barrier_after_ticket>(); }
TEST_F(Mutations, GridSyncAfterWrite) { expect_seen<grid_sync_after_write>(); }
TEST_F(Mutations, GridSyncBeforeReuse) { expect_seen<grid_sync_before_reuse>(); }
TEST_F(Mutations, SyncwarpAfterWrite) { expect_seen<syncwarp_after_write>(); }
TEST_F(Mutations, SyncwarpBeforeReuse) { expect_seen<syncwarp_before_reuse>(); }
#if defined(SIMT_TSAN)  // on one OS thread every write is seen at once
TEST_F(Mutations, FenceBeforeTicket) { expect_seen<fence_before_ticket>(); }
#endif

}  // namespace
