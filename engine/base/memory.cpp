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
  virtual ~MemoryPool() { release_locked(); }  // the blocks that are out keep the pool alive
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  Device device() const { return device_; }

  virtual std::byte* take(int64_t asked) {
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

  virtual void give(std::byte* block, int64_t asked) {
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
  static Pools& pools =
      *new Pools{make_pool(Device::cpu), make_pool(Device::cuda), make_pool(Device::emulated)};  // static tensors may outlive every other static
  return pools[size_t(device)];
}

thread_local std::array<std::shared_ptr<MemoryPool>, kDevices> scoped_pools;

}  // namespace

std::shared_ptr<MemoryPool> make_pool(Device device) { return std::make_shared<MemoryPool>(device); }

PoolScope::PoolScope(std::shared_ptr<MemoryPool> pool) : device_(pool->device()) { outer_ = std::exchange(scoped_pools[size_t(device_)], std::move(pool)); }
PoolScope::~PoolScope() { scoped_pools[size_t(device_)] = std::move(outer_); }

// ---- StepArena -----------------------------------------------------------------------------------------------------------------------

namespace {

// The range that all arenas lie in, and which parts of it are in use.
class ArenaMemory {
 public:
  // At least `bytes`, unless blocks in use keep it from growing.
  void reserve(int64_t bytes) {
    std::lock_guard lock(mutex_);
    if (capacity_ >= bytes || !live_.empty()) return;
    const auto& pool = common_pool(Device::cpu);
    if (base_) pool->give(base_, capacity_);
    base_ = nullptr, capacity_ = 0;
    pool->release();  // what the watched step left behind: its blocks are in the plan now
    base_ = pool->take(bytes);
    capacity_ = bytes;
  }
  // Null where the place is taken or beyond the range.
  std::byte* take(int64_t offset, int64_t bytes) {
    std::lock_guard lock(mutex_);
    if (offset + bytes > capacity_) return nullptr;
    const auto next = live_.lower_bound(offset);
    if (next != live_.end() && next->first < offset + bytes) return nullptr;
    if (next != live_.begin() && std::prev(next)->second > offset) return nullptr;
    live_[offset] = offset + bytes;
    return base_ + offset;
  }
  bool give(const std::byte* block) {
    std::lock_guard lock(mutex_);
    return base_ && block >= base_ && block < base_ + capacity_ && live_.erase(block - base_) == 1;
  }

 private:
  std::mutex mutex_;
  std::byte* base_ = nullptr;
  int64_t capacity_ = 0;
  std::map<int64_t, int64_t> live_;  // begin -> end
};

ArenaMemory& arena_memory() {
  static ArenaMemory& memory = *new ArenaMemory;  // as common_pool
  return memory;
}

}  // namespace

class StepArena::Blocks : public MemoryPool {
 public:
  Blocks() : MemoryPool(Device::cpu) {}

  void begin() {
    std::lock_guard lock(mutex_);
    next_ = misses_ = 0;
    watching_ = !planned_;
    if (watching_) lives_.clear(), watched_.clear();  // an earlier step may have ended in an exception
  }
  void end() {
    std::lock_guard lock(mutex_);
    if (watching_) make_plan();
    watching_ = false;
  }

  std::byte* take(int64_t asked) override {
    const int64_t size = std::max<int64_t>(64, (asked + 63) / 64 * 64);
    std::byte* block = nullptr;
    size_t index = 0;
    {
      std::lock_guard lock(mutex_);
      index = next_++;
      if (planned_ && index < lives_.size() && lives_[index].ends()) {
        if (lives_[index].size == size) block = arena_memory().take(lives_[index].offset, size);
        if (!block) ++misses_;
      }
    }
    if (block) {
      if (poison_all) fill_bytes(block, Device::cpu, 0xFF, size);
      return block;
    }
    block = common_pool(Device::cpu)->take(asked);
    std::lock_guard lock(mutex_);
    if (watching_) {
      lives_.resize(std::max(lives_.size(), index + 1));
      lives_[index] = {.size = size, .birth = clock_++};
      watched_[block] = index;
    }
    return block;
  }

  void give(std::byte* block, int64_t asked) override {
    if (arena_memory().give(block)) return;
    {
      std::lock_guard lock(mutex_);
      if (watching_)
        if (const auto found = watched_.find(block); found != watched_.end()) {
          lives_[found->second].death = clock_++;
          watched_.erase(found);
        }
    }
    common_pool(Device::cpu)->give(block, asked);
  }

  Plan plan() {
    std::lock_guard lock(mutex_);
    Plan p = plan_;
    p.misses = int64_t(misses_);
    return p;
  }

 private:
  struct Life {
    int64_t size = 0, birth = 0, death = -1, offset = 0;
    bool ends() const { return death >= 0; }
    bool meets(const Life& other) const { return birth < other.death && other.birth < death; }
  };

  // Largest first, each at the lowest place that is free during its life (Pisarchyk & Lee 2020, greedy by size).
  void make_plan() {
    std::vector<Life*> order, placed;
    for (Life& life : lives_)
      if (life.ends()) order.push_back(&life);
    std::stable_sort(order.begin(), order.end(), [](const Life* a, const Life* b) { return a->size > b->size; });
    plan_ = {.blocks = int64_t(order.size())};
    for (Life* life : order) {
      int64_t at = 0;
      for (const Life* other : placed) {  // by offset
        if (!life->meets(*other) || other->offset + other->size <= at) continue;
        if (other->offset >= at + life->size) break;
        at = other->offset + other->size;
      }
      life->offset = at;
      plan_.bytes = std::max(plan_.bytes, at + life->size);
      placed.insert(std::upper_bound(placed.begin(), placed.end(), life, [](const Life* a, const Life* b) { return a->offset < b->offset; }), life);
    }
    for (const Life* life : order) {  // the sum is largest at somebody's birth
      int64_t live = 0;
      for (const Life* other : order)
        if (other->birth <= life->birth && life->birth < other->death) live += other->size;
      plan_.live_bytes = std::max(plan_.live_bytes, live);
    }
    watched_.clear();
    planned_ = true;
    if (plan_.bytes > 0) arena_memory().reserve(plan_.bytes);
  }

  std::mutex mutex_;
  bool watching_ = false, planned_ = false;
  size_t next_ = 0, misses_ = 0;
  int64_t clock_ = 0;
  std::vector<Life> lives_;
  std::map<const std::byte*, size_t> watched_;
  Plan plan_;
};

StepArena::StepArena() : blocks_(std::make_shared<Blocks>()) {}
StepArena::~StepArena() = default;
StepArena::StepArena(StepArena&&) noexcept = default;
StepArena& StepArena::operator=(StepArena&&) noexcept = default;

void StepArena::run(const std::function<void()>& work) {
  blocks_->begin();
  {
    PoolScope scope(blocks_);
    work();
  }
  blocks_->end();
}

StepArena::Plan StepArena::plan() const { return blocks_->plan(); }

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
