#include "engine/base/device.h"

#include <omp.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/base/check.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace kd {

std::string to_string(Device device) { return device == Device::cpu ? "cpu" : "cuda:0"; }

namespace {

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

CpuInfo probe() {
  CpuInfo info{.name = cpu_name(), .threads = omp_get_max_threads(), .avx2 = false, .avx512 = false, .avx512_bf16 = false, .amx_bf16 = false};
#if defined(__x86_64__)
  __builtin_cpu_init();
  info.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  info.avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (info.avx512 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) info.avx512_bf16 = (a >> 5) & 1u;
  if (info.avx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d)) info.amx_bf16 = (d >> 22) & 1u;
#endif
  return info;
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo info = probe();
  return info;
}

void start_process(char** argv) {
#if defined(__AVX2__)
  KD_INPUT(cpu_info().avx2, "this build needs a CPU with AVX2 and FMA, and '{}' has none; rebuild with -DKD_MARCH=x86-64-v2", cpu_info().name);
#endif
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  ::setenv("GOMP_SPINCOUNT", "20000", 0);  // long enough to bridge the gap between two parallel regions of a step
  std::error_code code;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", code);
  if (!code) ::execv(self.c_str(), argv);  // returns only if it failed, and then we go on as we are
}

}  // namespace kd
