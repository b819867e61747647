#include "engine/base/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "engine/base/check.h"

namespace kd {
namespace {

constexpr int64_t kHugePage = int64_t(2) << 20;

// Eight size classes per power of two: at most 12.5 % waste, and a step's shapes always find their own blocks again.
int64_t size_class(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 64);
  int64_t step = std::max<int64_t>(64, int64_t(std::bit_floor(uint64_t(bytes))) / 8);
  return (bytes + step - 1) / step * step;
}

class CpuPool {
 public:
  std::byte* take(int64_t asked) {
    KD_CHECK(asked >= 0, "allocation of {} bytes", asked);
    int64_t size = size_class(asked);
    std::lock_guard lock(mutex_);
    auto& free_blocks = free_[size];
    std::byte* block = nullptr;
    if (!free_blocks.empty()) {
      block = free_blocks.back();
      free_blocks.pop_back();
      cached_ -= size;
    } else {
      block = map(size);
      if (!block) {
        release_locked();
        block = map(size);
      }
      if (!block)
        throw Error(fmt::format("out of memory: asked for {:.1f} MB with {:.1f} MB in use; try a smaller batch (optim.batch=) or model.width=",
                                double(asked) / 1e6, double(live_) / 1e6));
    }
    live_ += size;
    peak_ = std::max(peak_, live_);
    if (poison_) std::memset(block, 0xFF, size_t(size));
    return block;
  }

  void give(std::byte* block, int64_t asked) {
    int64_t size = size_class(asked);
    std::lock_guard lock(mutex_);
    free_[size].push_back(block);
    cached_ += size;
    live_ -= size;
  }

  void poison(bool on) {
    std::lock_guard lock(mutex_);
    poison_ = on;
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return {live_, peak_, cached_};
  }

  void release() {
    std::lock_guard lock(mutex_);
    release_locked();
  }

 private:
  static std::byte* map(int64_t size) {
    int64_t align = size >= kHugePage ? kHugePage : 64;
    void* block = std::aligned_alloc(size_t(align), size_t((size + align - 1) / align * align));
    if (block && size >= kHugePage) madvise(block, size_t(size), MADV_HUGEPAGE);  // a hint; refusal changes nothing
    return static_cast<std::byte*>(block);
  }

  void release_locked() {
    for (auto& [size, blocks] : free_)
      for (std::byte* block : blocks) std::free(block);
    free_.clear();
    cached_ = 0;
  }

  std::mutex mutex_;
  std::map<int64_t, std::vector<std::byte*>> free_;
  int64_t live_ = 0, peak_ = 0, cached_ = 0;
  bool poison_ = false;
};

CpuPool& cpu_pool() {
  static CpuPool& pool = *new CpuPool;  // never destroyed: static tensors may outlive every other static
  return pool;
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(int64_t bytes, Device device) {
  KD_CHECK(device == Device::cpu, "storage on {}: this binary was built without CUDA", to_string(device));
  return std::shared_ptr<Storage>(new Storage(cpu_pool().take(bytes), bytes, device));
}

Storage::~Storage() { cpu_pool().give(data_, bytes_); }

MemoryStats memory_stats() { return cpu_pool().stats(); }
void poison_new_blocks(bool on) { cpu_pool().poison(on); }
void release_cached_memory() { cpu_pool().release(); }

}  // namespace kd
