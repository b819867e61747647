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

// First thing in every main. Throws when this binary needs instructions that the machine lacks. Bounds how long OpenMP threads spin at a barrier, by
// starting the program again with GOMP_SPINCOUNT set: libgomp reads it before main. With its default (seconds of spinning) a machine with one other busy
// process ran a training step 3.3 times slower (3762 ms against 1128), because the waiting thread burns the time slice that the late one needs.
// GOMP_SPINCOUNT or OMP_WAIT_POLICY set by the user wins.
void start_process(char** argv);

}  // namespace kd
