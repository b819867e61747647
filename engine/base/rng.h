// rng: counter-based random numbers, Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
// A draw is a pure function of (seed, counter): nothing is carried from one sample or step to the next, so runs resume bit for bit and
// CPU and CUDA draw the same numbers. Checked against the authors' known-answer vectors in tests/engine/rng_test.cpp.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

#include "engine/base/bf16.h"

namespace kd {

struct Philox4 {
  uint32_t v[4];
};

KD_HOST_DEVICE inline Philox4 philox4x32(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    uint64_t a = uint64_t(0xD2511F53u) * counter.v[0];
    uint64_t b = uint64_t(0xCD9E8D57u) * counter.v[2];
    counter = {{uint32_t(b >> 32) ^ counter.v[1] ^ key0, uint32_t(b), uint32_t(a >> 32) ^ counter.v[3] ^ key1, uint32_t(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// What a stream of draws is for. Streams with different purposes never overlap.
enum class Purpose : uint32_t { weak_view, strong_view, base_view, test_view, shuffle, init, split, shapes, control, test, bootstrap };

// A stream of draws for one (seed, sample, epoch, purpose); draw i of a stream is always the same number.
class Rng {
 public:
  KD_HOST_DEVICE Rng(uint64_t seed, Purpose purpose, uint32_t sample = 0, uint32_t epoch = 0)
      : seed_(seed), sample_(sample), epoch_(epoch), purpose_(uint32_t(purpose)) {}

  KD_HOST_DEVICE uint32_t next_u32() {
    if (draw_ % 4 == 0) block_ = philox4x32({{sample_, epoch_, purpose_, draw_ / 4}}, uint32_t(seed_), uint32_t(seed_ >> 32));
    return block_.v[draw_++ % 4];
  }
  KD_HOST_DEVICE float uniform() { return float(next_u32() >> 8) * 0x1p-24f; }  // [0,1), 24 bits
  KD_HOST_DEVICE double uniform_double() {                                      // [0,1), 53 bits
    uint64_t high = next_u32();
    return double((high << 21) ^ (uint64_t(next_u32()) >> 11)) * 0x1p-53;
  }
  KD_HOST_DEVICE float uniform(float low, float high) { return low + (high - low) * uniform(); }
  KD_HOST_DEVICE bool coin(float p) { return uniform() < p; }
  // Uniform in [0, n), exactly: a draw that would favour small results is drawn again (Lemire 2019).
  KD_HOST_DEVICE uint32_t below(uint32_t n) {
    uint64_t product = uint64_t(next_u32()) * n;
    if (uint32_t(product) < n) {
      uint32_t threshold = uint32_t(-n) % n;
      while (uint32_t(product) < threshold) product = uint64_t(next_u32()) * n;
    }
    return uint32_t(product >> 32);
  }
  double normal() {  // Box-Muller, one value per call
    double u = 1.0 - uniform_double(), angle = 6.283185307179586 * uniform_double();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
  }

 private:
  uint64_t seed_;
  uint32_t sample_, epoch_, purpose_, draw_ = 0;
  Philox4 block_{};
};

}  // namespace kd
