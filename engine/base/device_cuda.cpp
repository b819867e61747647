#include <cuda_runtime_api.h>

#include "engine/base/cuda_check.h"
#include "engine/base/device_backend.h"

namespace kd::backend::cuda {
namespace {

cudaStream_t as_cuda(Stream s) { return static_cast<cudaStream_t>(s.handle); }

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

}  // namespace

bool available(std::string* why_not) {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaSuccess && devices > 0) return true;
  cudaGetLastError();
  if (why_not) *why_not = status == cudaSuccess ? "the driver finds no GPU" : cudaGetErrorString(status);
  return false;
}

GpuInfo info() {
  cudaDeviceProp properties{};
  int driver = 0, runtime = 0;
  KD_CUDA(cudaGetDeviceProperties(&properties, 0));
  KD_CUDA(cudaDriverGetVersion(&driver));
  KD_CUDA(cudaRuntimeGetVersion(&runtime));
  return {.name = properties.name,
          .major = properties.major,
          .minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .memory_bytes = int64_t(properties.totalGlobalMem),
          .l2_bytes = properties.l2CacheSize,
          .driver = version(driver),
          .runtime = version(runtime)};
}

Stream stream() {
  static const cudaStream_t one = [] {
    cudaStream_t s = nullptr;
    KD_CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
  }();
  return {Device::cuda, one};
}

void synchronize() { KD_CUDA(cudaStreamSynchronize(as_cuda(stream()))); }

void copy(void* to, const void* from, int64_t bytes, bool both_on_device) {
  KD_CUDA(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDefault, as_cuda(stream())));
  if (!both_on_device) synchronize();
}

void fill(void* to, unsigned char value, int64_t bytes) { KD_CUDA(cudaMemsetAsync(to, value, size_t(bytes), as_cuda(stream()))); }

std::byte* map(int64_t bytes) {
  void* block = nullptr;
  const cudaError_t status = cudaMalloc(&block, size_t(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  KD_CUDA(status);
  return static_cast<std::byte*>(block);
}

// Blocks may outlive the driver's own shutdown in static objects; there is nobody left to tell then.
void unmap(std::byte* block, int64_t) {
  if (cudaFree(block) != cudaSuccess) cudaGetLastError();
}

Memory memory() {
  size_t free = 0, total = 0;
  KD_CUDA(cudaMemGetInfo(&free, &total));
  return {int64_t(free), int64_t(total)};
}

}  // namespace kd::backend::cuda
