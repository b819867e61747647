// target: what a test needs to run on either target of simt.h. A .cu test file is compiled for both; its suites are named after the target.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "simt/simt.h"

#define KD_TARGET_TEST2(target, name) TEST_F(target, name)
#define KD_TARGET_TEST(target, name) KD_TARGET_TEST2(target, name)
#define TARGET_TEST(name) KD_TARGET_TEST(KD_GPU, name)  // "emulated.name" and "cuda.name"

namespace kd {
namespace KD_GPU {

class KD_GPU : public testing::Test {
#if defined(__CUDACC__)
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return;
    const char* required = std::getenv("KD_REQUIRE_CUDA");
    if (required && std::strcmp(required, "1") == 0) FAIL() << "KD_REQUIRE_CUDA=1 and there is no GPU";
    GTEST_SKIP() << "there is no GPU";
  }
#endif
};

// Memory that host and kernels both see, of exactly n elements, so that AddressSanitizer sees one too many.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n) : n_(n) {
    void* p = nullptr;
#if defined(__CUDACC__)
    if (cudaMallocManaged(&p, n * sizeof(T)) != cudaSuccess) throw simt::Error("no managed memory");
#else
    p = std::malloc(n * sizeof(T));
#endif
    p_ = static_cast<T*>(p);
    std::memset(p, 0, n * sizeof(T));
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { std::memcpy(p_, values.data(), n_ * sizeof(T)); }
  ~Buffer() {
#if defined(__CUDACC__)
    cudaFree(p_);
#else
    std::free(p_);
#endif
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() { return p_; }
  T& operator[](size_t i) { return p_[i]; }
  size_t size() const { return n_; }
  // After the kernels that were launched so far.
  std::vector<T> values() {
    wait();
    return {p_, p_ + n_};
  }
  static void wait() {
#if defined(__CUDACC__)
    if (const cudaError_t code = cudaDeviceSynchronize(); code != cudaSuccess) throw simt::Error(cudaGetErrorString(code));
#endif
  }

 private:
  size_t n_;
  T* p_ = nullptr;
};

}  // namespace KD_GPU
}  // namespace kd
