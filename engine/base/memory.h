// memory: pooled storage. Freed blocks go back to a pool and are handed out again, so that a training step of fixed shapes
// asks the operating system for nothing after its first run: fresh pages cost a page fault each.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/base/device.h"

namespace kd {

class Storage {
 public:
  static std::shared_ptr<Storage> allocate(int64_t bytes, Device);  // 64-byte aligned, contents undefined
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  Storage(std::byte* data, int64_t bytes, Device device) : data_(data), bytes_(bytes), device_(device) {}
  std::byte* data_;
  int64_t bytes_;
  Device device_;
};

struct MemoryStats {
  int64_t live_bytes, peak_bytes, cached_bytes;  // handed out now; most ever handed out; waiting in the pool
};
MemoryStats memory_stats();
// Fills every block with 0xFF (NaN, -1) before it is handed out: a kernel that leaves part of its output unwritten is then seen by the tests
// instead of repeating the previous run's right answer.
void poison_new_blocks(bool);
void release_cached_memory();  // gives pooled blocks back to the operating system

}  // namespace kd
