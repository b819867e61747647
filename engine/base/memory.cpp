#include "engine/base/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/base/check.h"
#include "engine/base/device_backend.h"

namespace kd {
namespace {

constexpr int64_t kHugePage = int64_t(2) << 20;

// Eight size classes per power of two: at most 12.5 % waste, and a step's shapes always find their own blocks again.
int64_t size_class(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 64);
  int64_t step = std::max<int64_t>(64, int64_t(std::bit_floor(uint64_t(bytes))) / 8);
  return (bytes + step - 1) / step * step;
}

std::byte* map(Device device, int64_t size) {
  if (device == Device::emulated) return backend::emulated::map(size);
#if defined(KD_WITH_CUDA)
  if (device == Device::cuda) return backend::cuda::map(size);
#endif
  KD_CHECK(device == Device::cpu, "storage on {}: this binary was built without CUDA", to_string(device));
  int64_t align = size >= kHugePage ? kHugePage : 64;
  void* block = std::aligned_alloc(size_t(align), size_t((size + align - 1) / align * align));
  if (block && size >= kHugePage) madvise(block, size_t(size), MADV_HUGEPAGE);  // a hint; refusal changes nothing
  return static_cast<std::byte*>(block);
}

void unmap(Device device, std::byte* block, [[maybe_unused]] int64_t size) {
  if (device == Device::emulated) return backend::emulated::unmap(block, size);
#if defined(KD_WITH_CUDA)
  if (device == Device::cuda) return backend::cuda::unmap(block, size);
#endif
  std::free(block);
}

std::string free_memory(Device device) {
#if defined(KD_WITH_CUDA)
  if (device == Device::cuda) {
    const auto [free, total] = backend::cuda::memory();
    return fmt::format(", {:.1f} of {:.1f} MB free on {}", double(free) / 1e6, double(total) / 1e6, to_string(device));
  }
#endif
  return device == Device::cpu ? "" : " on " + to_string(device);
}

std::atomic<bool> poison_all{false};

}  // namespace

class MemoryPool {
 public:
  explicit MemoryPool(Device device) : device_(device) {}
  ~MemoryPool() { release_locked(); }  // the blocks that are out keep the pool alive
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  Device device() const { return device_; }

  std::byte* take(int64_t asked) {
    KD_CHECK(asked >= 0, "allocation of {} bytes", asked);
    int64_t size = size_class(asked);
    std::byte* block = nullptr;
    {
      std::lock_guard lock(mutex_);
      auto& free_blocks = free_[size];
      if (!free_blocks.empty()) {
        block = free_blocks.back();
        free_blocks.pop_back();
        cached_ -= size;
      } else {
        block = map(device_, size);
        if (!block) {
          release_locked();
          block = map(device_, size);
        }
        if (!block)
          throw Error(fmt::format("out of memory: asked for {:.1f} MB with {:.1f} MB in use{}; try a smaller batch (optim.batch=) or model.width=",
                                  double(asked) / 1e6, double(live_) / 1e6, free_memory(device_)));
      }
      live_ += size;
      peak_ = std::max(peak_, live_);
    }
    if (poison_all) fill_bytes(block, device_, 0xFF, size);
    return block;
  }

  void give(std::byte* block, int64_t asked) {
    int64_t size = size_class(asked);
    std::lock_guard lock(mutex_);
    free_[size].push_back(block);
    cached_ += size;
    live_ -= size;
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
  void release_locked() {
    for (auto& [size, blocks] : free_)
      for (std::byte* block : blocks) unmap(device_, block, size);
    free_.clear();
    cached_ = 0;
  }

  const Device device_;
  std::mutex mutex_;
  std::map<int64_t, std::vector<std::byte*>> free_;
  int64_t live_ = 0, peak_ = 0, cached_ = 0;
};

namespace {

const std::shared_ptr<MemoryPool>& common_pool(Device device) {
  using Pools = std::array<std::shared_ptr<MemoryPool>, kDevices>;
  static Pools& pools = *new Pools{make_pool(Device::cpu), make_pool(Device::cuda), make_pool(Device::emulated)};  // static tensors may outlive every other static
  return pools[size_t(device)];
}

thread_local std::array<std::shared_ptr<MemoryPool>, kDevices> scoped_pools;

}  // namespace

std::shared_ptr<MemoryPool> make_pool(Device device) { return std::make_shared<MemoryPool>(device); }

PoolScope::PoolScope(std::shared_ptr<MemoryPool> pool) : device_(pool->device()) {
  outer_ = std::exchange(scoped_pools[size_t(device_)], std::move(pool));
}
PoolScope::~PoolScope() { scoped_pools[size_t(device_)] = std::move(outer_); }

std::shared_ptr<Storage> Storage::allocate(int64_t bytes, Device device) {
  const auto& scoped = scoped_pools[size_t(device)];
  const auto& pool = scoped ? scoped : common_pool(device);
  return std::shared_ptr<Storage>(new Storage(pool, pool->take(bytes), bytes, device));
}

Storage::~Storage() { pool_->give(data_, bytes_); }

MemoryStats memory_stats(Device device) { return common_pool(device)->stats(); }
void poison_new_blocks(bool on) { poison_all = on; }
void release_cached_memory(Device device) { common_pool(device)->release(); }

}  // namespace kd
