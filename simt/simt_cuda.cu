// simt_cuda: launches on the GPU. Compiled by nvcc only; simt.cpp is its counterpart. (No fmt here: nvcc 13 cannot evaluate fmt 9's checked formats.)
#include <cxxabi.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "simt/simt.h"

namespace simt {
inline namespace KD_GPU {
namespace detail {
namespace {

std::string name_of(const void* kernel) {
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || !mangled) {
    cudaGetLastError();  // or the next launch would be blamed for it
    return "kernel";
  }
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : mangled;
}

std::string text_of(cudaError_t code) { return std::string(cudaGetErrorName(code)) + ", " + cudaGetErrorString(code); }

[[noreturn]] void fail(const Launch& how, const void* kernel, const std::string& what) {
  const char* slash = std::strrchr(how.grid.file, '/');
  const auto extents = [](auto x, auto y, auto z) { return std::to_string(x) + "x" + std::to_string(y) + "x" + std::to_string(z); };
  throw Error(name_of(kernel) + " launched at " + (slash ? slash + 1 : how.grid.file) + ":" + std::to_string(how.grid.line) + " (grid " +
              extents(how.grid.x, how.grid.y, how.grid.z) + ", block " + extents(how.block.x, how.block.y, how.block.z) + ", " +
              std::to_string(how.dynamic_smem) + " bytes of dynamic shared memory): " + what);
}

// More than 48 KiB of shared memory, static and dynamic together, must be asked for, once per kernel and device; more than was asked for before, again.
// Asked from 32 KiB on, for the static part is not known here.
cudaError_t allow_dynamic_smem(const void* kernel, size_t bytes) {
  if (bytes <= 32 << 10) return cudaSuccess;
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;
  int device = 0;
  if (const cudaError_t code = cudaGetDevice(&device); code != cudaSuccess) return code;
  std::lock_guard lock(mutex);
  size_t& so_far = allowed[{kernel, device}];
  if (bytes <= so_far) return cudaSuccess;
  const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  if (code == cudaSuccess) so_far = bytes;
  return code;
}

// KD_SYNC=1 in the environment.
bool waits_after_launch() {
  static const bool waits = [] {
    const char* text = std::getenv("KD_SYNC");
    return text && std::strcmp(text, "1") == 0;
  }();
  return waits;
}
}  // namespace

void run(const Launch& how, const void* kernel, void** arguments) {
  const Grid& g = how.grid;
  if (g.x < 1 || g.y < 1 || g.z < 1) fail(how, kernel, "no blocks; an empty tensor?");
  if (g.x > 2147483647 || g.y > 65535 || g.z > 65535) fail(how, kernel, "more blocks than CUDA takes, 2147483647x65535x65535");

  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(g.x), unsigned(g.y), unsigned(g.z));
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.dynamic_smem;
  config.stream = how.stream;
  config.attrs = &cooperative;
  config.numAttrs = how.blocks == Blocks::cooperative ? 1 : 0;

  cudaError_t code = allow_dynamic_smem(kernel, how.dynamic_smem);
  if (code == cudaSuccess) code = cudaLaunchKernelExC(&config, kernel, arguments);  // its own verdict, whatever error somebody else left unread
  if (code != cudaSuccess) {
    cudaGetLastError();  // clears it, so that it is not found again by an unrelated check
    fail(how, kernel,
         text_of(code) + (waits_after_launch() ? "" : " (an earlier kernel's fault may surface here: KD_SYNC=1 in the environment names the right one)"));
  }

  if (!waits_after_launch()) return;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  code = cudaStreamIsCapturing(how.stream, &capture);
  if (code == cudaSuccess && capture == cudaStreamCaptureStatusNone) code = cudaStreamSynchronize(how.stream);
  if (code != cudaSuccess) fail(how, kernel, "while it ran: " + text_of(code));
}

int max_resident_blocks(const void* kernel, int block_threads, size_t dynamic_smem) {
  int device = 0, multiprocessors = 0, per_multiprocessor = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess) code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (code == cudaSuccess) {
    code = allow_dynamic_smem(kernel, dynamic_smem);
    if (code == cudaErrorInvalidValue) {  // more than a block can have: it does not fit
      cudaGetLastError();
      return 0;
    }
  }
  if (code == cudaSuccess) code = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, block_threads, dynamic_smem);
  if (code != cudaSuccess) {
    cudaGetLastError();
    throw Error(name_of(kernel) + " with " + std::to_string(block_threads) + " threads in a block and " + std::to_string(dynamic_smem) +
                " bytes of dynamic shared memory: max_resident_blocks: " + text_of(code));
  }
  return multiprocessors * per_multiprocessor;
}

}  // namespace detail
}  // namespace KD_GPU
}  // namespace simt
