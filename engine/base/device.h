// device: where a tensor lives and where a kernel runs.
#pragma once
#include <string>

namespace kd {

enum class Device : unsigned char { cpu, cuda };

// An ordered queue of kernels. On the CPU a launch runs at once and `handle` is null; on CUDA it holds the cudaStream_t.
struct Stream {
  Device device = Device::cpu;
  void* handle = nullptr;
};

std::string to_string(Device);

// What the CPU offers, read by CPUID at run time.
struct CpuInfo {
  std::string name;
  int threads;  // OpenMP threads that kernels will use
  bool avx2, avx512, avx512_bf16, amx_bf16;
};
const CpuInfo& cpu_info();

// Throws when this binary needs instructions that the machine lacks. Called first in every main.
void require_supported_cpu();

}  // namespace kd
