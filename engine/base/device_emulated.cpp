// Memory of the emulated device: host memory that host code cannot touch. A pointer that is dereferenced on the wrong side of the bus would work by
// accident here and crash on a GPU; with the pages closed it crashes here too. Kernels and copies open them (simt::set_launch_guard).
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/device_backend.h"
#include "simt/simt.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KD_EMULATED_ON_HEAP 1  // a sanitizer knows the bounds of heap blocks, and wants their pages readable
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KD_EMULATED_ON_HEAP 1
#endif
#endif

namespace kd::backend::emulated {
namespace {

#if !defined(KD_EMULATED_ON_HEAP)
constexpr int64_t kReserved = int64_t(1) << 38;  // addresses, not memory
constexpr int64_t kPage = 4096, kHugePage = int64_t(2) << 20;

// One range of addresses, opened and closed by one call: hundreds of small ones took half the time of a training step.
struct Region {
  std::mutex mutex;
  std::byte* begin = nullptr;
  int64_t used = 0;
  std::map<int64_t, std::vector<std::byte*>> given_back;  // by size
  int opened = 0;

  Region() {
    void* range = mmap(nullptr, size_t(kReserved), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    KD_CHECK(range != MAP_FAILED, "no room for {} GB of addresses for the emulated device", kReserved >> 30);
    begin = static_cast<std::byte*>(range);
    madvise(begin, size_t(kReserved), MADV_HUGEPAGE);  // fewer pages to open and close; a hint
  }
  void protect(int access) {
    if (used > 0) KD_CHECK(mprotect(begin, size_t(used), access) == 0, "mprotect of {} bytes of emulated device memory failed", used);
  }
};
Region& region() {
  static Region& all = *new Region;
  return all;
}

int64_t rounded(int64_t bytes) {
  const int64_t unit = bytes >= kHugePage ? kHugePage : kPage;
  return (bytes + unit - 1) / unit * unit;
}
#endif

[[maybe_unused]] const bool guard_installed = [] {
  simt::set_launch_guard(open, close);
  return true;
}();

}  // namespace

#if defined(KD_EMULATED_ON_HEAP)
std::byte* map(int64_t bytes) { return static_cast<std::byte*>(std::aligned_alloc(64, size_t((bytes + 63) / 64 * 64))); }
void unmap(std::byte* block, int64_t) { std::free(block); }
void open() {}
void close() {}
#else
std::byte* map(int64_t bytes) {
  Region& r = region();
  std::lock_guard lock(r.mutex);
  bytes = rounded(bytes);
  if (auto& blocks = r.given_back[bytes]; !blocks.empty()) {
    std::byte* block = blocks.back();
    blocks.pop_back();
    return block;
  }
  if (r.used + bytes > kReserved) return nullptr;
  std::byte* block = r.begin + r.used;
  r.used += bytes;
  if (r.opened > 0) r.protect(PROT_READ | PROT_WRITE);
  return block;
}
void unmap(std::byte* block, int64_t bytes) {
  Region& r = region();
  std::lock_guard lock(r.mutex);
  madvise(block, size_t(rounded(bytes)), MADV_DONTNEED);  // the pages go, the addresses stay
  r.given_back[rounded(bytes)].push_back(block);
}
void open() {
  Region& r = region();
  std::lock_guard lock(r.mutex);
  if (r.opened++ == 0) r.protect(PROT_READ | PROT_WRITE);
}
void close() {
  Region& r = region();
  std::lock_guard lock(r.mutex);
  if (--r.opened == 0) r.protect(PROT_NONE);
}
#endif

}  // namespace kd::backend::emulated
