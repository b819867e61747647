// What device code means, for everything that simt.h offers. Compiled for both targets, so that the executor is held against the GPU wherever there is one.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <type_traits>

#include "tests/simt/target.h"

namespace kd {
namespace KD_GPU {
namespace {

// ---- indices and arguments ------------------------------------------------------------------------------------------------------------------------------

struct Where {
  uint3 thread, block;
  dim3 threads, blocks;
};
__global__ void indices_kernel(Where* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = {threadIdx, blockIdx, blockDim, gridDim};
}
TARGET_TEST(Indices) {
  const dim3 grid(3, 2, 2), block(5, 3, 2);
  Buffer<Where> out(12 * 30);
  simt::launch(indices_kernel, grid, block, 0, nullptr, out.data());
  const std::vector<Where> got = out.values();
  size_t i = 0;
  for (unsigned bz = 0; bz < 2; ++bz)
    for (unsigned by = 0; by < 2; ++by)
      for (unsigned bx = 0; bx < 3; ++bx)
        for (unsigned tz = 0; tz < 2; ++tz)
          for (unsigned ty = 0; ty < 3; ++ty)
            for (unsigned tx = 0; tx < 5; ++tx, ++i) {
              const Where& w = got[i];
              ASSERT_TRUE(w.thread.x == tx && w.thread.y == ty && w.thread.z == tz && w.block.x == bx && w.block.y == by && w.block.z == bz) << i;
              ASSERT_TRUE(w.threads.x == 5 && w.threads.y == 3 && w.threads.z == 2 && w.blocks.x == 3 && w.blocks.y == 2 && w.blocks.z == 2) << i;
            }
}

struct Large {
  double value[200];
};
__constant__ const int kTable[3] = {1, 20, 300};
__host__ __device__ __forceinline__ int plus_one(int x) { return x + 1; }
template <class T>
__global__ void __launch_bounds__(64, 1) arguments_kernel(T* out, const __grid_constant__ Large large, int64_t wide, float narrow, const int* none) {
  out[0] = T(large.value[199]);
  out[1] = T(wide + plus_one(kTable[2]) - 301);
  out[2] = T(narrow);
  out[3] = T(none == nullptr);
}
__global__ void no_arguments_kernel() {}
TARGET_TEST(ArgumentsConvertAndStructsArrive) {
  Buffer<double> out(4);
  Large large{};
  large.value[199] = 7.5;
  simt::launch(arguments_kernel<double>, 1, 1, 0, nullptr, out.data(), large, -3, 0.5, nullptr);
  EXPECT_EQ(out.values(), (std::vector<double>{7.5, -3, 0.5, 1}));
  simt::launch(no_arguments_kernel, int64_t(2), dim3(2, 2), 0, nullptr);
  simt::launch(no_arguments_kernel, size_t(2), dim3(2, 2), 0, nullptr);
}

// ---- shared memory --------------------------------------------------------------------------------------------------------------------------------------

template <class A, class B>
struct Pair {
  A a;
  B b;
};
struct alignas(128) Line {
  float v[32];
};
template <int kN>
__device__ int* own_variable() {
  SIMT_SHARED(v, int[kN]);
  return v;
}
__global__ void shared_kernel(int* out) {
  SIMT_SHARED(pairs, Pair<int, float>[8]);
  SIMT_SHARED(line, Line);
  SIMT_SHARED(scalar, int);
  SIMT_DYNAMIC_SHARED(int, words);
  SIMT_DYNAMIC_SHARED(float4, quads);
  if (threadIdx.x < 8) pairs[threadIdx.x] = {int(threadIdx.x), 0.5f * threadIdx.x};
  words[threadIdx.x] = int(100 + threadIdx.x);
  if (threadIdx.x == 0) scalar = int(1000 + blockIdx.x);
  line.v[threadIdx.x] = float(threadIdx.x);
  own_variable<32>()[threadIdx.x] = 1;
  own_variable<64>()[threadIdx.x] = 2;
  __syncthreads();
  const int other = 31 - int(threadIdx.x);
  bool ok = pairs[other % 8].a == other % 8 && pairs[other % 8].b == 0.5f * (other % 8) && words[other] == 100 + other && scalar == int(1000 + blockIdx.x);
  ok = ok && line.v[other] == float(other) && own_variable<32>()[other] == 1 && own_variable<64>()[other] == 2;
  ok = ok && reinterpret_cast<uintptr_t>(&line) % 128 == 0 && reinterpret_cast<uintptr_t>(pairs) % 16 == 0 && reinterpret_cast<uintptr_t>(quads) % 16 == 0;
  ok = ok && static_cast<void*>(words) == static_cast<void*>(quads);
  out[blockIdx.x * 32 + threadIdx.x] = ok;
}
TARGET_TEST(SharedMemoryIsOnePerBlockAndVariable) {
  Buffer<int> out(5 * 32);
  simt::launch(shared_kernel, 5, 32, 32 * sizeof(int), nullptr, out.data());
  EXPECT_EQ(out.values(), std::vector<int>(5 * 32, 1));
}

__global__ void large_shared_kernel(unsigned* out, int words) {
  SIMT_DYNAMIC_SHARED(unsigned, v);
  for (int i = int(threadIdx.x); i < words; i += int(blockDim.x)) v[i] = unsigned(i) * 3;
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned sum = 0;
    for (int i = 0; i < words; ++i) sum += v[i];
    out[0] = sum;
  }
}
TARGET_TEST(AllSharedMemoryOfABlock) {
  constexpr int kWords = 227 * 1024 / 4;
  Buffer<unsigned> out(1);
  simt::launch(large_shared_kernel, 1, 64, kWords * 4, nullptr, out.data(), kWords);
  unsigned want = 0;
  for (unsigned i = 0; i < kWords; ++i) want += 3 * i;
  EXPECT_EQ(out.values()[0], want);
}

// ---- block barriers -------------------------------------------------------------------------------------------------------------------------------------

__global__ void votes_of_block_kernel(const int* predicate, int* out) {
  const int p = predicate[threadIdx.x];
  const int count = __syncthreads_count(p);
  const int all = __syncthreads_and(p);
  const int any = __syncthreads_or(p);
  out[threadIdx.x * 3] = count;
  out[threadIdx.x * 3 + 1] = all != 0;
  out[threadIdx.x * 3 + 2] = any != 0;
}
TARGET_TEST(BlockVotes) {
  for (int threads : {1, 33, 256})
    for (int ones : {0, 1, threads}) {
      std::vector<int> predicate(size_t(threads), 0);
      std::fill(predicate.begin(), predicate.begin() + ones, 4);  // any non-zero value counts
      Buffer<int> in(predicate), out(size_t(threads) * 3);
      simt::launch(votes_of_block_kernel, 1, threads, 0, nullptr, in.data(), out.data());
      const std::vector<int> got = out.values();
      for (int t = 0; t < threads; ++t) {
        EXPECT_EQ(got[size_t(t) * 3], ones);
        EXPECT_EQ(got[size_t(t) * 3 + 1], ones == threads);
        EXPECT_EQ(got[size_t(t) * 3 + 2], ones > 0);
      }
    }
}

__global__ void rotate_kernel(const float* in, float* out, int steps) {
  SIMT_DYNAMIC_SHARED(float, row);
  row[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int s = 0; s < steps; ++s) {
    __syncthreads();
    const float next = row[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    row[threadIdx.x] = next;
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = row[threadIdx.x];
}
TARGET_TEST(BarriersOrderSharedMemory) {
  for (int threads : {1, 31, 64, 1024}) {
    std::vector<float> values(size_t(threads) * 3);
    std::iota(values.begin(), values.end(), 0.0f);
    Buffer<float> in(values), out(values.size());
    simt::launch(rotate_kernel, 3, threads, size_t(threads) * sizeof(float), nullptr, in.data(), out.data(), 5);
    const std::vector<float> got = out.values();
    for (int b = 0; b < 3; ++b)
      for (int t = 0; t < threads; ++t) ASSERT_EQ(got[size_t(b * threads + t)], float(b * threads + (t + 5) % threads));
  }
}

// ---- warp functions -------------------------------------------------------------------------------------------------------------------------------------

enum Shuffle { idx, up, down, bfly, kShuffles };
template <class T>
__global__ void shuffle_kernel(Shuffle op, const T* in, const int* argument, int width, unsigned mask, T* out) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned own_mask = mask >> lane & 1 ? mask : ~mask;
  const T value = in[threadIdx.x];
  const int a = argument[threadIdx.x];
  T result = 0;
  if (own_mask == mask) {  // the two halves of the warp are in different calls
    if (op == idx) result = __shfl_sync(own_mask, value, a, width);
    if (op == up) result = __shfl_up_sync(own_mask, value, unsigned(a), width);
    if (op == down) result = __shfl_down_sync(own_mask, value, unsigned(a), width);
    if (op == bfly) result = __shfl_xor_sync(own_mask, value, a, width);
  } else {
    if (op == idx) result = __shfl_sync(own_mask, value, a, width);
    if (op == up) result = __shfl_up_sync(own_mask, value, unsigned(a), width);
    if (op == down) result = __shfl_down_sync(own_mask, value, unsigned(a), width);
    if (op == bfly) result = __shfl_xor_sync(own_mask, value, a, width);
  }
  out[threadIdx.x] = result;
}
// PTX ISA, shfl.sync, its pseudo code, with the operand c that CUDA's functions pass: the lane that is read.
int ptx_source(Shuffle op, int lane, int b, int width) {
  const int c = (32 - width) << 8 | (op == up ? 0 : 0x1f);
  const int segmask = c >> 8 & 31, cval = c & 31, bval = b & 31;
  const int max_lane = (lane & segmask) | (cval & ~segmask & 31), min_lane = lane & segmask;
  int j = 0;
  bool p = false;
  if (op == up) j = lane - bval, p = j >= max_lane;
  if (op == down) j = lane + bval, p = j <= max_lane;
  if (op == bfly) j = lane ^ bval, p = j <= max_lane;
  if (op == idx) j = min_lane | (bval & ~segmask & 31), p = j <= max_lane;
  return p ? j : lane;
}
template <class T>
void check_shuffles(unsigned seed, int cases) {
  std::mt19937 random(seed);
  int compared = 0;
  for (int n = 0; n < cases; ++n) {
    const Shuffle op = Shuffle(random() % kShuffles);
    const int threads = int(random() % 3 == 0 ? 1 + random() % 70 : 32 * (1 + random() % 2)), width = 1 << random() % 6;
    const unsigned mask = random() % 3 == 0 ? 0xffffffffu : random();
    std::vector<T> value;
    std::vector<int> argument;
    const int common = int(random() % 33);
    for (int t = 0; t < threads; ++t) {
      value.push_back(T(random() % 100000));
      argument.push_back(op == bfly || random() % 2 ? common : int(random() % 33));
    }
    Buffer<T> in(value), out(value.size());
    Buffer<int> arguments(argument);
    simt::launch(shuffle_kernel<T>, 1, threads, 0, nullptr, op, in.data(), arguments.data(), width, mask, out.data());
    const std::vector<T> got = out.values();
    for (int t = 0; t < threads; ++t) {
      const int lane = t % 32, source = ptx_source(op, lane, argument[size_t(t)], width), from = t - lane + source;
      const bool takes_part = from < threads && (mask >> source & 1) == (mask >> lane & 1);
      if (!takes_part) continue;  // undefined
      ASSERT_EQ(got[size_t(t)], value[size_t(from)]) << "op " << op << " thread " << t << " of " << threads << " width " << width << " mask " << mask;
      ++compared;
    }
  }
  EXPECT_GT(compared, 16 * cases);
}
TARGET_TEST(ShufflesOfInt) { check_shuffles<int>(1, 1000); }
TARGET_TEST(ShufflesOfUnsigned) { check_shuffles<unsigned>(2, 500); }
TARGET_TEST(ShufflesOfLongLong) { check_shuffles<long long>(3, 500); }
TARGET_TEST(ShufflesOfLong) { check_shuffles<int64_t>(4, 500); }
TARGET_TEST(ShufflesOfFloat) { check_shuffles<float>(5, 1000); }
TARGET_TEST(ShufflesOfDouble) { check_shuffles<double>(6, 500); }

__global__ void warp_votes_kernel(const int* value, unsigned mask, unsigned* out) {
  const unsigned lane = threadIdx.x % warpSize;
  const int v = value[threadIdx.x];
  unsigned* o = out + threadIdx.x * 5;
  if (!(mask >> lane & 1)) return;  // lanes that have returned are not waited for: the functions below name them all
  o[0] = __ballot_sync(0xffffffffu, v);
  o[1] = __any_sync(0xffffffffu, v) != 0;
  o[2] = __all_sync(0xffffffffu, v) != 0;
  o[3] = __match_any_sync(mask, v);
  o[4] = __match_any_sync(mask, (long long)(v) << 40);
}
TARGET_TEST(WarpVotesAndReturnedLanes) {
  std::mt19937 random(7);
  for (int n = 0; n < 300; ++n) {
    const int threads = n % 3 == 0 ? 1 + int(random() % 64) : 64;
    const unsigned mask = n % 4 == 0 ? 0xffffffffu : random() | 1u;
    std::vector<int> value;
    const unsigned kinds = 1 + random() % 3;
    for (int t = 0; t < threads; ++t) value.push_back(n % 5 == 0 ? n % 2 : int(random() % kinds));
    Buffer<int> in(value);
    Buffer<unsigned> out(value.size() * 5);
    simt::launch(warp_votes_kernel, 1, threads, 0, nullptr, in.data(), mask, out.data());
    const std::vector<unsigned> got = out.values();
    for (int t = 0; t < threads; ++t) {
      if (!(mask >> t % 32 & 1)) continue;
      unsigned ballot = 0, present = 0, match = 0;
      for (int lane = 0, other = t - t % 32; lane < 32 && other < threads; ++lane, ++other)
        if (mask >> lane & 1) {
          present |= 1u << lane;
          ballot |= unsigned(value[size_t(other)] != 0) << lane;
          match |= unsigned(value[size_t(other)] == value[size_t(t)]) << lane;
        }
      const unsigned* o = &got[size_t(t) * 5];
      ASSERT_EQ(o[0], ballot) << n;
      ASSERT_EQ(o[1], unsigned(ballot != 0)) << n;
      ASSERT_EQ(o[2], unsigned(ballot == present)) << n;
      ASSERT_EQ(o[3], match) << n;
      ASSERT_EQ(o[4], match) << n;
    }
  }
}

__global__ void syncwarp_kernel(int* out) {
  SIMT_SHARED(v, int[96]);
  const int lane = int(threadIdx.x) % 32, tile = lane / 8 * 8;
  const unsigned mask = 0xffu << tile;  // four tiles of eight lanes, each at its own pace
  int sum = 0;
  for (int step = 0; step <= tile / 8 + int(threadIdx.x) / 32; ++step) {
    v[threadIdx.x] = step * 100 + lane;
    __syncwarp(mask);
    sum += v[threadIdx.x - lane + tile + (lane + 1) % 8];
    __syncwarp(mask);
  }
  out[threadIdx.x] = sum;
}
TARGET_TEST(WarpBarriersOrderSharedMemory) {
  Buffer<int> out(96);
  simt::launch(syncwarp_kernel, 1, 96, 0, nullptr, out.data());
  const std::vector<int> got = out.values();
  for (int t = 0; t < 96; ++t) {
    const int lane = t % 32, tile = lane / 8 * 8, steps = tile / 8 + t / 32 + 1, neighbour = tile + (lane + 1) % 8;
    EXPECT_EQ(got[size_t(t)], steps * neighbour + 100 * (steps * (steps - 1) / 2)) << t;
  }
}

__global__ void different_functions_kernel(int* out) {
  const unsigned lane = threadIdx.x;
  if (lane < 16)
    out[lane] = int(__ballot_sync(0xffffu, lane % 2 == 0));
  else
    out[lane] = __shfl_xor_sync(0xffff0000u, int(lane), 1);
  __syncwarp();
}
TARGET_TEST(HalvesOfAWarpInDifferentFunctions) {
  Buffer<int> out(32);
  simt::launch(different_functions_kernel, 1, 32, 0, nullptr, out.data());
  const std::vector<int> got = out.values();
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(got[size_t(lane)], lane < 16 ? 0x5555 : lane ^ 1);
}

// ---- atomics --------------------------------------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void atomic_add_kernel(T* sum, T* before) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  before[i] = atomicAdd(sum, 2);
}
template <class T>
void check_atomic_add() {
  Buffer<T> sum(1), before(3 * 50);
  sum[0] = 5;
  simt::launch(atomic_add_kernel<T>, 3, 50, 0, nullptr, sum.data(), before.data());
  std::vector<T> got = before.values();
  EXPECT_EQ(sum[0], T(305));
  std::sort(got.begin(), got.end());
  for (int i = 0; i < 150; ++i) EXPECT_EQ(got[size_t(i)], T(5 + 2 * i));  // every state was seen by exactly one thread
}
TARGET_TEST(AtomicAdd) {
  check_atomic_add<int>();
  check_atomic_add<unsigned>();
  check_atomic_add<unsigned long long>();
  check_atomic_add<float>();
  check_atomic_add<double>();
}

template <class T>
__global__ void atomic_min_max_kernel(const T* in, T* lowest, T* highest) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicMin(lowest, in[i]);
  atomicMax(highest, in[i]);
}
template <class T>
void check_min_max() {
  std::mt19937_64 random(8);
  std::vector<T> values(100);
  for (T& v : values) v = T(random());
  Buffer<T> in(values), lowest(1), highest(1);
  lowest[0] = highest[0] = values[0];
  simt::launch(atomic_min_max_kernel<T>, 2, 50, 0, nullptr, in.data(), lowest.data(), highest.data());
  EXPECT_EQ(lowest.values()[0], *std::min_element(values.begin(), values.end()));
  EXPECT_EQ(highest.values()[0], *std::max_element(values.begin(), values.end()));
}
TARGET_TEST(AtomicMinMax) {
  check_min_max<int>();
  check_min_max<unsigned>();
  check_min_max<long long>();
  check_min_max<unsigned long long>();
}

template <class T>
__global__ void atomic_bits_kernel(T* v) {
  const T bit = T(1) << (threadIdx.x % (8 * sizeof(T)));
  atomicAnd(&v[0], T(~bit));
  atomicOr(&v[1], bit);
  atomicXor(&v[2], bit);
}
template <class T>
void check_atomic_bits() {
  Buffer<T> v(3);
  v[0] = v[2] = T(~T(0));
  const int threads = 8 * sizeof(T) - 4;
  simt::launch(atomic_bits_kernel<T>, 1, threads, 0, nullptr, v.data());
  const T high = T(T(~T(0)) << threads);
  EXPECT_EQ(v.values(), (std::vector<T>{high, T(~high), high}));
}
TARGET_TEST(AtomicBits) {
  check_atomic_bits<int>();
  check_atomic_bits<unsigned>();
  check_atomic_bits<unsigned long long>();
}

__global__ void atomic_rest_kernel(int* i, unsigned* u, float* f, double* product) {
  atomicSub(&i[0], 3);
  atomicSub(&u[0], 3u);
  atomicInc(&u[1], 6);                                    // counts modulo 7
  atomicDec(&u[2], 6);                                    // counts down modulo 7
  if (atomicCAS(&i[1], 0, 17) == 0) atomicAdd(&i[2], 1);  // only one thread finds the zero
  if (atomicExch(&f[0], 2.5f) == 0.0f) atomicAdd(&i[3], 1);
  // The guide's own example: any update from a compare and swap.
  auto* bits = reinterpret_cast<unsigned long long*>(product);
  unsigned long long old = *static_cast<volatile unsigned long long*>(bits), assumed;
  do {
    assumed = old;
    old = atomicCAS(bits, assumed, (unsigned long long)(__double_as_longlong(__longlong_as_double((long long)(assumed)) * 2.0)));
  } while (old != assumed);
}
TARGET_TEST(AtomicSubIncDecCasExch) {
  Buffer<int> i(4);
  Buffer<unsigned> u(3);
  Buffer<float> f(1);
  Buffer<double> product(1);
  i[0] = 10, u[0] = 1, product[0] = 1;
#if defined(SIMT_TSAN)
  const int threads = 1;  // the plain first read of the example is a race between threads, which is what TSan would say
#else
  const int threads = 40;
#endif
  simt::launch(atomic_rest_kernel, 1, threads, 0, nullptr, i.data(), u.data(), f.data(), product.data());
  Buffer<int>::wait();
  EXPECT_EQ(i[0], 10 - 3 * threads);
  EXPECT_EQ(u[0], 1u - 3u * unsigned(threads));
  EXPECT_EQ(u[1], unsigned(threads) % 7);
  EXPECT_EQ(u[2], unsigned(7 * threads - threads) % 7);
  EXPECT_EQ(i[1], 17);
  EXPECT_EQ(i[2], 1);
  EXPECT_EQ(i[3], 1);
  EXPECT_EQ(f[0], 2.5f);
  EXPECT_EQ(product[0], std::ldexp(1.0, threads));
}

// ---- bits and arithmetic --------------------------------------------------------------------------------------------------------------------------------

__global__ void bits_kernel(const unsigned long long* in, unsigned long long* out, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const unsigned long long x = in[i], y = in[(i + 1) % n];
  const unsigned a = unsigned(x), b = unsigned(y);
  unsigned long long* o = out + i * 16;
  o[0] = (unsigned long long)(__popc(a)) << 32 | unsigned(__popcll(x));
  o[1] = (unsigned long long)(__ffs(int(a))) << 32 | unsigned(__ffsll((long long)(x)));
  o[2] = (unsigned long long)(__clz(int(a))) << 32 | unsigned(__clzll((long long)(x)));
  o[3] = __brev(a);
  o[4] = __brevll(x);
  o[5] = __umulhi(a, b);
  o[6] = unsigned(__mulhi(int(a), int(b)));
  o[7] = __umul64hi(x, y);
  o[8] = unsigned(__mul24(int(a), int(b)));
  o[9] = __umul24(a, b);
  o[10] = __byte_perm(a, b, unsigned(x >> 32) & 0x7777u);
  o[11] = __float_as_uint(__uint_as_float(a & 0x7f7fffffu));  // no NaN: hardware may keep other bits of it
  o[12] = unsigned(__float_as_int(__int_as_float(int(a & 0x7f7fffffu))));
  o[13] = (unsigned long long)(__double_as_longlong(__longlong_as_double((long long)(x & 0x7fefffffffffffffull))));
  o[14] = (unsigned long long)(min(int(a), int(b))) << 32 | max(a, b);
  o[15] = (unsigned long long)(max((long long)(x), (long long)(y)));
}
TARGET_TEST(Bits) {
  std::mt19937_64 random(9);
  std::vector<unsigned long long> values = {0, 1, ~0ull, 1ull << 63, 0x80000000, 0x7fffffff, 0xffffff, 0x800000};
  while (values.size() < 500) values.push_back(random() >> random() % 64);
  const size_t n = values.size();
  Buffer<unsigned long long> in(values), out(n * 16);
  simt::launch(bits_kernel, 8, 64, 0, nullptr, in.data(), out.data(), int(n));
  const auto got = out.values();
  const auto low24 = [](unsigned v) { return int(v << 8) >> 8; };
  for (size_t i = 0; i < n; ++i) {
    const unsigned long long x = values[i], y = values[(i + 1) % n];
    const unsigned a = unsigned(x), b = unsigned(y);
    const auto* o = &got[i * 16];
    unsigned pop = 0, pop64 = 0, first = 0, first64 = 0, leading = 32, leading64 = 64, reversed = 0;
    unsigned long long reversed64 = 0;
    for (unsigned k = 0; k < 64; ++k) {
      const unsigned bit = x >> k & 1;
      pop64 += bit;
      if (bit && !first64) first64 = k + 1;
      if (bit) leading64 = 63 - k;
      reversed64 |= (unsigned long long)(bit) << (63 - k);
      if (k >= 32) continue;
      pop += bit;
      if (bit && !first) first = k + 1;
      if (bit) leading = 31 - k;
      reversed |= bit << (31 - k);
    }
    ASSERT_EQ(o[0], (unsigned long long)(pop) << 32 | pop64) << x;
    ASSERT_EQ(o[1], (unsigned long long)(first) << 32 | first64) << x;
    ASSERT_EQ(o[2], (unsigned long long)(leading) << 32 | leading64) << x;
    ASSERT_EQ(o[3], reversed) << x;
    ASSERT_EQ(o[4], reversed64) << x;
    ASSERT_EQ(o[5], (unsigned long long)(a)*b >> 32) << x;
    ASSERT_EQ(o[6], unsigned((int64_t(int(a)) * int(b)) >> 32)) << x;
    // The schoolbook product of halves, kept apart from the compiler's 128-bit multiplication.
    const unsigned long long xl = unsigned(x), xh = x >> 32, yl = unsigned(y), yh = y >> 32;
    const unsigned long long middle = (xl * yl >> 32) + unsigned(xh * yl) + unsigned(xl * yh);
    ASSERT_EQ(o[7], xh * yh + (xh * yl >> 32) + (xl * yh >> 32) + (middle >> 32)) << x;
    ASSERT_EQ(o[8], unsigned(int64_t(low24(a)) * low24(b))) << x;
    ASSERT_EQ(o[9], unsigned((unsigned long long)(a & 0xffffff) * (b & 0xffffff))) << x;
    unsigned char bytes[8];
    for (int k = 0; k < 4; ++k) bytes[k] = (unsigned char)(a >> 8 * k), bytes[4 + k] = (unsigned char)(b >> 8 * k);
    unsigned permuted = 0;
    for (int k = 0; k < 4; ++k) permuted |= unsigned(bytes[x >> (32 + 4 * k) & 7]) << 8 * k;
    ASSERT_EQ(o[10], permuted) << x;
    ASSERT_EQ(o[11], a & 0x7f7fffffu) << x;
    ASSERT_EQ(o[12], a & 0x7f7fffffu) << x;
    ASSERT_EQ(o[13], x & 0x7fefffffffffffffull) << x;
    ASSERT_EQ(o[14], (unsigned long long)(std::min(int(a), int(b))) << 32 | std::max(a, b)) << x;
    ASSERT_EQ((long long)(o[15]), std::max((long long)(x), (long long)(y))) << x;
  }
}

constexpr int kFloats = 24;
__global__ void arithmetic_kernel(const float* in, float* out, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const float x = in[i], y = in[(i + 1) % n];  // in [0.5, 4]
  float* o = out + i * kFloats;
  o[0] = __expf(x);
  o[1] = __logf(x);
  o[2] = __log2f(x);
  o[3] = __log10f(x);
  o[4] = __powf(x, y);
  o[5] = __sinf(x);
  o[6] = __cosf(x);
  o[7] = rsqrtf(x);
  o[8] = __fdividef(x, y);
  o[9] = __frsqrt_rn(x);
  o[10] = __exp10f(x);
  o[11] = expf(x);
  // Correctly rounded: equal bits everywhere.
  o[12] = __frcp_rn(x);
  o[13] = __fsqrt_rn(x);
  o[14] = __fadd_rn(__fmul_rn(x, y), -x);
  o[15] = __fsub_rn(__fmul_rn(x, x), y);
  o[16] = __fdiv_rn(x, y);
  o[17] = __fmaf_rn(x, y, -x * y);
  o[18] = float(__dsub_rn(__dmul_rn(x, 1e-8), __dadd_rn(y, 1e-9)));
  o[19] = float(__fma_rn(x, y, -1.0) + __ddiv_rn(x, y) + rsqrt(double(y)));
  o[20] = fmaf(x, y, 1.0f);
  o[21] = __saturatef(x - 1.0f);
  o[22] = min(x, y) - max(x, 1.0f);
  o[23] = float(min(double(x), 1.0) + max(double(y), 2.0));
}
TARGET_TEST(Arithmetic) {
  std::mt19937 random(10);
  std::uniform_real_distribution<float> uniform(0.5f, 4.0f);
  std::vector<float> values(300);
  for (float& v : values) v = uniform(random);
  const size_t n = values.size();
  Buffer<float> in(values), out(n * kFloats);
  simt::launch(arithmetic_kernel, 5, 64, 0, nullptr, in.data(), out.data(), int(n));
  const std::vector<float> got = out.values();
  for (size_t i = 0; i < n; ++i) {
    const float x = values[i], y = values[(i + 1) % n];
    const double X = x, Y = y;
    const float* o = &got[i * kFloats];
    // CUDA Math API: errors of a few ulp, or about 2^-21 absolute for the trigonometric and logarithmic ones, in this range; exponents grow errors of exp10.
    const double fast[] = {std::exp(X), std::log(X),      std::log2(X), std::log10(X),    std::pow(X, Y),  std::sin(X),
                           std::cos(X), 1 / std::sqrt(X), X / Y,        1 / std::sqrt(X), std::pow(10, X), std::exp(X)};
    for (size_t k = 0; k < std::size(fast); ++k) ASSERT_NEAR(o[k], fast[k], 1e-5 * std::max(1.0, std::fabs(fast[k]))) << k << " at " << x;
    // A product of two floats, and a quotient's or root's rounding, are exact enough in double to be rounded once more without harm (2p + 2 <= 53 digits).
    ASSERT_EQ(o[12], float(1 / X));
    ASSERT_EQ(o[13], float(std::sqrt(X)));
    ASSERT_EQ(o[14], float(double(float(X * Y)) - X));
    ASSERT_EQ(o[15], float(double(float(X * X)) - Y));
    ASSERT_EQ(o[16], float(X / Y));
    ASSERT_EQ(o[18], float(X * 1e-8 - (Y + 1e-9)));
    ASSERT_NEAR(o[19], X * Y - 1 + X / Y + 1 / std::sqrt(Y), 1e-5);
    ASSERT_EQ(o[21], std::clamp(x - 1.0f, 0.0f, 1.0f));
    ASSERT_EQ(o[22], std::min(x, y) - std::max(x, 1.0f));
    ASSERT_EQ(o[23], float(std::min(X, 1.0) + std::max(Y, 2.0)));
    ASSERT_NEAR(o[20], X * Y + 1, 2e-6);
    ASSERT_LE(std::fabs(o[17]), std::ldexp(X * Y, -24)) << "x * y without rounding, less x * y rounded, is at most half an ulp";
  }
}

__global__ void edges_kernel(float* f, int* i, unsigned* u) {
  const float nan = __int_as_float(0x7fc00000), big = 3e9f;
  f[0] = min(nan, 1.0f), f[1] = max(2.0f, nan), f[2] = __saturatef(nan), f[3] = __saturatef(5.0f);
  i[0] = __float2int_rn(2.5f), i[1] = __float2int_rn(-3.5f), i[2] = __float2int_rz(-2.9f), i[3] = __float2int_rd(-2.1f), i[4] = __float2int_ru(2.1f);
  i[5] = __float2int_rn(big), i[6] = __float2int_rz(-big), i[7] = __float2int_rn(nan), i[8] = __clz(0), i[9] = __ffs(0), i[10] = __popc(0);
  u[0] = __float2uint_rn(-1.0f), u[1] = __float2uint_rn(4.5f), u[2] = __float2uint_rn(1e10f), u[3] = __byte_perm(0x80ff7f01u, 0, 0xba98u);
  f[4] = __int2float_rn(16777217), f[5] = __uint2float_rn(4294967295u);
}
TARGET_TEST(Edges) {
  Buffer<float> f(6);
  Buffer<int> i(11);
  Buffer<unsigned> u(4);
  simt::launch(edges_kernel, 1, 1, 0, nullptr, f.data(), i.data(), u.data());
  EXPECT_EQ(f.values(), (std::vector<float>{1, 2, 0, 1, 16777216, 4294967296.0f}));
  EXPECT_EQ(i.values(), (std::vector<int>{2, -4, -2, -3, 3, 2147483647, -2147483647 - 1, 0, 32, 0, 0}));
  EXPECT_EQ(u.values(), (std::vector<unsigned>{0, 4, 4294967295u, 0xffff0000u}));
}

__global__ void hints_kernel(const float4* in, float4* out, const int* small, int* small_out) {
  const unsigned i = threadIdx.x;
  const float4 a = __ldg(&in[i]), b = __ldcs(&in[i]), c = __ldcg(&in[i]);
  __stcs(&out[2 * i], make_float4(a.x, b.y, c.z, a.w));
  __stcg(&out[2 * i + 1], make_float4(a.w, b.z, c.y, a.x));
  const uint2 both = make_uint2(unsigned(__ldg(&small[i])), 1u);
  const ushort4 halves = make_ushort4(1, 2, 3, (unsigned short)(i));
  small_out[i] = int(both.x + both.y + halves.w) + make_int4(1, 2, 3, 4).w + make_uchar4(1, 2, 3, 4).x + make_char2(-1, 0).x + make_int3(5, 6, 7).z;
  __threadfence_block();
  __threadfence_system();
}
TARGET_TEST(VectorTypesAndCacheHints) {
  std::vector<float4> values;
  std::vector<int> small;
  for (int i = 0; i < 20; ++i) values.push_back(make_float4(float(i), float(i) + 0.25f, float(i) + 0.5f, float(i) + 0.75f)), small.push_back(i * i);
  Buffer<float4> in(values), out(40);
  Buffer<int> small_in(small), small_out(20);
  simt::launch(hints_kernel, 1, 20, 0, nullptr, in.data(), out.data(), small_in.data(), small_out.data());
  const std::vector<float4> got = out.values();
  for (int i = 0; i < 20; ++i) {
    const float4 a = got[size_t(2 * i)], b = got[size_t(2 * i + 1)];
    EXPECT_TRUE(a.x == float(i) && a.y == float(i) + 0.25f && a.z == float(i) + 0.5f && a.w == float(i) + 0.75f);
    EXPECT_TRUE(b.x == a.w && b.y == a.z && b.z == a.y && b.w == a.x);
    EXPECT_EQ(small_out[size_t(i)], i * i + 1 + i + 4 + 1 - 1 + 7);
  }
  static_assert(sizeof(float4) == 16 && alignof(float4) == 16 && sizeof(uint2) == 8 && alignof(uint2) == 8 && sizeof(float3) == 12 && alignof(float3) == 4);
  static_assert(sizeof(ushort4) == 8 && alignof(ushort4) == 8 && alignof(uchar4) == 4 && alignof(double2) == 16 && alignof(longlong2) == 16);
}

// ---- between blocks -------------------------------------------------------------------------------------------------------------------------------------

// Each block passes its value on; after `steps` barriers block b holds what block b - steps had.
__global__ void pass_on_kernel(unsigned* word, int* cells, int steps, unsigned group_blocks) {
  const unsigned group = blockIdx.x / group_blocks, rank = blockIdx.x % group_blocks;
  const bool whole_grid = group_blocks == gridDim.x;
  const auto sync = [&] {
    if (whole_grid)
      simt::grid_sync(word);
    else
      simt::grid_sync(word + group, group_blocks, rank);
  };
  int* row = cells + blockIdx.x * blockDim.x;
  int* from = cells + (group * group_blocks + (rank + group_blocks - 1) % group_blocks) * blockDim.x;
  for (int s = 0; s < steps + int(group); ++s) {  // groups do not keep pace with each other
    sync();
    const int value = __ldcg(&from[blockDim.x - 1 - threadIdx.x]);  // written by another thread of another block
    sync();
    row[threadIdx.x] = value;
  }
  sync();
}
TARGET_TEST(GridSync) {
  Buffer<unsigned> words(4);  // zero, and never touched again: launches with groups of other sizes follow each other
  std::vector<unsigned> flipped(4, 0);
  for (const auto& [blocks, group_blocks, steps] :
       std::vector<std::array<int, 3>>{{4, 4, 3}, {4, 2, 5}, {3, 1, 2}, {2, 2, 1}, {4, 4, 4}, {1, 1, 3}, {4, 2, 2}}) {
    constexpr int kThreads = 40;
    ASSERT_LE(blocks, simt::max_resident_blocks(pass_on_kernel, kThreads, 0));
    Buffer<int> cells(size_t(blocks) * kThreads);
    for (size_t i = 0; i < cells.size(); ++i) cells[i] = int(i);
    simt::launch_cooperative(pass_on_kernel, blocks, kThreads, 0, nullptr, words.data(), cells.data(), steps, unsigned(group_blocks));
    const std::vector<int> got = cells.values();
    for (int b = 0; b < blocks; ++b)
      for (int t = 0; t < kThreads; ++t) {
        const int group = b / group_blocks, rank = b % group_blocks, n = steps + group;
        const int from = group * group_blocks + ((rank - n) % group_blocks + group_blocks) % group_blocks;
        EXPECT_EQ(got[size_t(b * kThreads + t)], from * kThreads + (n % 2 ? kThreads - 1 - t : t)) << b << " " << t;
      }
    for (int group = 0; group < blocks / group_blocks; ++group) flipped[size_t(group)] ^= 0x80000000u;  // an odd number of barriers
    EXPECT_EQ(words.values(), flipped);
  }
}

}  // namespace
}  // namespace KD_GPU
}  // namespace kd
