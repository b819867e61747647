// doctor: what this machine can do, before anything is started on it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <oneapi/dnnl/dnnl.hpp>

#include "bench/verbs.h"
#include "engine/base/device.h"

namespace kd {
namespace {

double memory_gb(const std::string& key) {
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind(key + ":", 0) == 0) return std::strtod(line.c_str() + key.size() + 1, nullptr) * 1024 / 1e9;
  return 0;
}

void row(const char* what, const std::string& value) { fmt::print(" {:<10} {}\n", what, value); }
const char* yes(bool b) { return b ? "yes" : "no"; }

}  // namespace

int doctor() {
  const CpuInfo& cpu = cpu_info();
  const dnnl_version_t* onednn = dnnl_version();
  row("cpu", fmt::format("{}, {} OpenMP threads", cpu.name, cpu.threads));
  row("vectors", fmt::format("AVX2 {}, AVX-512 {}, AVX512_BF16 {}, AMX-BF16 {}", yes(cpu.avx2), yes(cpu.avx512), yes(cpu.avx512_bf16), yes(cpu.amx_bf16)));
  row("kernels", fmt::format("for {}{}", to_string(cpu_isa()), std::getenv("KD_CPU") ? ", as KD_CPU says" : ""));
  row("precision", cpu_isa() >= CpuIsa::avx512_bf16 ? "fp32, bf16" : cpu_isa() >= CpuIsa::avx2 ? "fp32, bf16 (products in f32: half the memory, not faster)" : "fp32");
  row("memory", fmt::format("{:.1f} GB, {:.1f} GB available", memory_gb("MemTotal"), memory_gb("MemAvailable")));
  std::error_code code;
  auto space = std::filesystem::space(".", code);
  row("disk", code ? "unknown" : fmt::format("{:.1f} GB free here", double(space.available) / 1e9));
  row("oneDNN", fmt::format("{}.{}.{}", onednn->major, onednn->minor, onednn->patch));
#if defined(KD_WITH_CUDA)
  if (is_available(Device::cuda)) {
    const GpuInfo& gpu = gpu_info();
    row("cuda", fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GB, driver for CUDA {}, runtime {}", gpu.name, gpu.major, gpu.minor,
                            gpu.multiprocessors, double(gpu.memory_bytes) / 1e9, gpu.driver, gpu.runtime));
  } else {
    std::string why;
    try {
      device_from_name("cuda");
    } catch (const Error& e) {
      why = e.what();
    }
    row("cuda", "built in, but " + why);
  }
#else
  row("cuda", "not in this build: --device cuda is refused, everything runs on the CPU");
#endif
  row("data", "shapes: built in, generated on the spot; CIFAR: put the binary distribution anywhere and set data.root");
#if defined(__AVX2__)
  if (!cpu.avx2) {
    fmt::print("This build needs AVX2 and this CPU has none; rebuild with -DKD_MARCH=x86-64-v2.\n");
    return 1;
  }
#endif
  fmt::print("Ready. Next: kd_bench demo\n");
  return 0;
}

}  // namespace kd
