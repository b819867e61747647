// device: where a tensor lives and where a kernel runs.
//   cpu       our CPU kernels and oneDNN
//   cuda      cuDNN, cuBLASLt and our CUDA kernels on the first NVIDIA GPU
//   emulated  our CUDA kernels, from the same source, run thread by thread on the CPU (simt/README.md), with convolutions and matrix products from the CPU
//             backend; its memory is closed to everything but kernels and copies. For tests, debuggers and readers: thousands of times slower than a GPU.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace kd {

enum class Device : unsigned char { cpu, cuda, emulated };
inline constexpr int kDevices = 3;

// An ordered queue of kernels. On the CPU and emulated a launch runs at once and `handle` is null; on CUDA it holds the cudaStream_t.
struct Stream {
  Device device = Device::cpu;
  void* handle = nullptr;
};

std::string to_string(Device);                   // "cpu", "cuda:0", "emulated"
Device device_from_name(std::string_view name);  // "cpu", "cuda", "emulated", or "auto": cuda where there is one. Throws where the device cannot be had
bool is_available(Device);
// Where all ops of this process run on a device, in order. On CUDA never the legacy default stream, which cannot be captured into a graph.
Stream current_stream(Device);
void synchronize(Device);  // waits for everything launched so far; throws what a kernel left behind

// Bytes between or on devices, in the order of the stream; waits until the bytes are there unless both ends are on the same device.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
void fill_bytes(void* to, Device, unsigned char value, int64_t bytes);

// Lets host code touch emulated memory while it lives; for CPU code that stands in for a CUDA library.
class EmulatedAccess {
 public:
  EmulatedAccess();
  ~EmulatedAccess();
  EmulatedAccess(const EmulatedAccess&) = delete;
  EmulatedAccess& operator=(const EmulatedAccess&) = delete;
};

// What the CPU offers, read by CPUID at run time.
struct CpuInfo {
  std::string name;
  int threads;  // OpenMP threads that kernels will use
  bool avx2, avx512, avx512_bf16, amx_bf16;
};
const CpuInfo& cpu_info();

// Instruction sets that our kernels are compiled for, each with all before it. `none`: code for any machine.
enum class CpuIsa : unsigned char { none, avx2, avx512, avx512_bf16, amx };
std::string to_string(CpuIsa);  // "avx2", as in KD_CPU
// The most that kernels may use: what the machine has, or less where KD_CPU=avx2|avx512|avx512_bf16|amx says so. Throws where KD_CPU asks for more than
// the machine has, or for something unknown.
CpuIsa cpu_isa();

// What the GPU says of itself. Throws where there is none.
struct GpuInfo {
  std::string name;
  int major, minor, multiprocessors;
  int64_t memory_bytes, l2_bytes;
  std::string driver, runtime;  // versions, "13.0"
};
const GpuInfo& gpu_info();

// First thing in every main. Throws when this binary needs instructions that the machine lacks. Bounds how long OpenMP threads spin at a barrier, by
// starting the program again with GOMP_SPINCOUNT set: libgomp reads it before main. With its default (seconds of spinning) a machine with one other busy
// process ran a training step 3.3 times slower (3762 ms against 1128), because the waiting thread burns the time slice that the late one needs.
// GOMP_SPINCOUNT or OMP_WAIT_POLICY set by the user wins. A file size limit (ulimit -f) becomes an error of the write instead of the process's end.
void start_process(char** argv);

}  // namespace kd
