#include "engine/base/device.h"

#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "engine/base/check.h"
#include "engine/base/device_backend.h"
#include "engine/base/profile.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace kd {

namespace {

#if !defined(KD_WITH_CUDA)
constexpr const char* kNoCuda = "this binary was built without CUDA";
#endif

std::string why_no_cuda() {
  std::string why;
#if defined(KD_WITH_CUDA)
  backend::cuda::available(&why);
#else
  why = kNoCuda;
#endif
  return why;
}

bool on_host(Device device) { return device != Device::cuda; }

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

// Linux gives a process the tiles' 8 KiB of state only when asked (since 5.16).
[[maybe_unused]] bool amx_permitted() {
#if defined(__x86_64__) && defined(SYS_arch_prctl)
  constexpr int kArchReqXcompPerm = 0x1023, kXfeatureXtiledata = 18;
  return ::syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
#else
  return false;
#endif
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
  if (info.avx512 && __get_cpuid_count(7, 0, &a, &b, &c, &d)) info.amx_bf16 = (d >> 22) & 1u && amx_permitted();
#endif
  return info;
}

}  // namespace

std::string to_string(Device device) {
  switch (device) {
    case Device::cpu: return "cpu";
    case Device::cuda: return "cuda:0";
    case Device::emulated: return "emulated";
  }
  KD_FAIL("device {}", int(device));
}

Device device_from_name(std::string_view name) {
  if (name == "cpu") return Device::cpu;
  if (name == "emulated") return Device::emulated;
  if (name == "auto") return is_available(Device::cuda) ? Device::cuda : Device::cpu;
  KD_INPUT(name == "cuda", "unknown device '{}'; known: auto, cpu, cuda, emulated", name);
  KD_INPUT(is_available(Device::cuda), "device cuda: {}; use --device cpu", why_no_cuda());
  return Device::cuda;
}

bool is_available(Device device) {
#if defined(KD_WITH_CUDA)
  static const bool cuda = backend::cuda::available(nullptr);
#else
  constexpr bool cuda = false;
#endif
  return device != Device::cuda || cuda;
}

Stream current_stream(Device device) {
  if (on_host(device)) return {device};
#if defined(KD_WITH_CUDA)
  return backend::cuda::stream();
#else
  KD_FAIL("{}", kNoCuda);
#endif
}

void synchronize(Device device) {
  if (on_host(device)) return;
#if defined(KD_WITH_CUDA)
  backend::cuda::synchronize();
#endif
}

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  if (bytes == 0) return;
  const profile::Moved moved{2 * double(bytes)};
  const profile::Call call("copy_bytes", {on_host(to_device) ? from_device : to_device}, moved);
#if defined(KD_WITH_CUDA)
  if (!on_host(to_device) || !on_host(from_device)) return backend::cuda::copy(to, from, bytes, to_device == from_device);
#else
  KD_CHECK(on_host(to_device) && on_host(from_device), "{}", kNoCuda);
#endif
  if (to_device == from_device && to_device == Device::cpu) {
    std::memcpy(to, from, size_t(bytes));
  } else {
    EmulatedAccess access;
    std::memcpy(to, from, size_t(bytes));
  }
}

void fill_bytes(void* to, Device device, unsigned char value, int64_t bytes) {
  if (bytes == 0) return;
  const profile::Moved moved{double(bytes)};
  const profile::Call call("fill_bytes", {device}, moved);
  if (device == Device::cpu) {
    std::memset(to, value, size_t(bytes));
  } else if (device == Device::emulated) {
    EmulatedAccess access;
    std::memset(to, value, size_t(bytes));
  } else {
#if defined(KD_WITH_CUDA)
    backend::cuda::fill(to, value, bytes);
#else
    KD_FAIL("{}", kNoCuda);
#endif
  }
}

EmulatedAccess::EmulatedAccess() { backend::emulated::open(); }
EmulatedAccess::~EmulatedAccess() { backend::emulated::close(); }

const GpuInfo& gpu_info() {
#if defined(KD_WITH_CUDA)
  KD_INPUT(is_available(Device::cuda), "no GPU: {}", why_no_cuda());
  static const GpuInfo info = backend::cuda::info();
  return info;
#else
  KD_FAIL("no GPU: {}", kNoCuda);
#endif
}

const CpuInfo& cpu_info() {
  static const CpuInfo info = probe();
  return info;
}

std::string to_string(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::none: return "none";
    case CpuIsa::avx2: return "avx2";
    case CpuIsa::avx512: return "avx512";
    case CpuIsa::avx512_bf16: return "avx512_bf16";
    case CpuIsa::amx: return "amx";
  }
  KD_FAIL("instruction set {}", int(isa));
}

CpuIsa cpu_isa() {
  static const CpuIsa allowed = [] {
    const CpuInfo& cpu = cpu_info();
    const CpuIsa has = cpu.amx_bf16 && cpu.avx512_bf16 ? CpuIsa::amx
                       : cpu.avx512_bf16               ? CpuIsa::avx512_bf16
                       : cpu.avx512                    ? CpuIsa::avx512
                       : cpu.avx2                      ? CpuIsa::avx2
                                                       : CpuIsa::none;
    const char* wanted = std::getenv("KD_CPU");
    if (!wanted || !*wanted) return has;
    for (CpuIsa isa : {CpuIsa::none, CpuIsa::avx2, CpuIsa::avx512, CpuIsa::avx512_bf16, CpuIsa::amx})
      if (to_string(isa) == wanted) {
        KD_INPUT(isa <= has, "KD_CPU={}: '{}' offers {} at most; unset KD_CPU or ask for less", wanted, cpu.name, to_string(has));
        return isa;
      }
    throw Error(fmt::format("KD_CPU={}: unknown; known: none, avx2, avx512, avx512_bf16, amx", wanted));
  }();
  return allowed;
}

void start_process(char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond `ulimit -f` then fails like one on a full disk, in a line that names the file
  cpu_isa();                      // a wrong KD_CPU is said before anything is done
#if defined(__AVX2__)
  KD_INPUT(cpu_info().avx2, "this build needs a CPU with AVX2 and FMA, and '{}' has none; rebuild with -DKD_MARCH=x86-64-v2", cpu_info().name);
#endif
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) {
    if (const int threads = omp_get_max_threads(), cores = omp_get_num_procs(); threads > cores)
      fmt::print(stderr, "note: {} OpenMP threads share {} cores and wait for each other; OMP_NUM_THREADS={} is faster\n", threads, cores, cores);
    return;
  }
  ::setenv("GOMP_SPINCOUNT", "20000", 0);  // long enough to bridge the gap between two parallel regions of a step
  std::error_code code;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", code);
  if (!code) ::execv(self.c_str(), argv);  // returns only if it failed, and then we go on as we are
}

}  // namespace kd
