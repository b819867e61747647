// memory: pooled storage. Freed blocks go back to a pool and are handed out again, so that a training step of fixed shapes asks the operating
// system or the driver for nothing after its first run: fresh pages cost a page fault each, and cudaMalloc waits for the device.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "engine/base/device.h"

namespace kd {

// Blocks of one device. All work of a device runs in one stream, so a block may be handed out again while kernels that read it are still queued.
class MemoryPool;
std::shared_ptr<MemoryPool> make_pool(Device);

// While it lives, this thread's allocations on the pool's device come from `pool`. A captured graph has a pool of its own: its kernels
// will write to the addresses of their capture for as long as the graph lives, so nobody else may be given those blocks.
class PoolScope {
 public:
  explicit PoolScope(std::shared_ptr<MemoryPool> pool);
  ~PoolScope();
  PoolScope(const PoolScope&) = delete;
  PoolScope& operator=(const PoolScope&) = delete;

 private:
  std::shared_ptr<MemoryPool> outer_;
  Device device_;
};

// The blocks of a step of fixed shapes, laid out once in one arena: blocks whose lives do not meet share memory, whatever their sizes. The first step is watched
// (which block lives from when to when), the second and later ones take addresses from the plan; blocks that outlive a step stay with the common pool.
// All arenas of a process share one range of huge pages, as one step runs at a time. A step that asks for something else than the one that was planned, or
// still holds what should be free, gets that block from the common pool: more memory, never a wrong address.
class StepArena {
 public:
  StepArena();  // of Device::cpu
  ~StepArena();
  StepArena(StepArena&&) noexcept;
  StepArena& operator=(StepArena&&) noexcept;

  // Runs `work` with this thread's CPU allocations from the arena.
  void run(const std::function<void()>& work);

  struct Plan {
    int64_t blocks = 0, bytes = 0;  // of the arena
    int64_t live_bytes = 0;         // the most that lived at once: no plan can need less
    int64_t misses = 0;             // blocks of the latest run that came from the common pool although the plan had them
  };
  Plan plan() const;  // zeros before the second run

 private:
  class Blocks;
  std::shared_ptr<Blocks> blocks_;
};

class Storage {
 public:
  static std::shared_ptr<Storage> allocate(int64_t bytes, Device);  // 64-byte aligned (CUDA: 256), contents undefined
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage(std::shared_ptr<MemoryPool> pool, std::byte* data, int64_t bytes, Device device)
      : pool_(std::move(pool)), data_(data), bytes_(bytes), device_(device) {}
  std::shared_ptr<MemoryPool> pool_;
  std::byte* data_;
  int64_t bytes_;
  Device device_;
};

struct MemoryStats {
  int64_t live_bytes, peak_bytes, cached_bytes;  // handed out now; most ever handed out; waiting in the pool
};
MemoryStats memory_stats(Device = Device::cpu);  // of the device's common pool
// Fills every block with 0xFF (NaN, -1) before it is handed out: a kernel that leaves part of its output unwritten is then seen by the tests
// instead of repeating the previous run's right answer.
void poison_new_blocks(bool);
void release_cached_memory(Device = Device::cpu);  // gives pooled blocks back

}  // namespace kd
