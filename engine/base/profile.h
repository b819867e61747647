// profile: which op the time of a CPU step goes to. KD_VERBOSE=1 turns it on; without it a kernel call costs one branch more.
// KD_KERNEL (dispatch.h) times every call, so that no family can be forgotten; what a window's wall time holds beyond its calls is "the rest". On CUDA
// a call only queues work, so calls there are not counted.
#pragma once
#include <chrono>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/base/device.h"

namespace kd::profile {

extern const bool enabled;  // KD_VERBOSE is set and not 0

// What one call works on; calls of an equal `what` share a row. A family that has more to say than its op's name defines, ahead of its KD_KERNEL line,
//   static profile::Work work_of(const ConvFpropArgs&)
// flops and bytes are those of the contract header; 0 where they say nothing.
struct Work {
  std::string what;
  double flops = 0, bytes = 0;
};
template <class Args>
concept Describes = requires(const Args& args) {
  { work_of(args) } -> std::same_as<Work>;
};

// For what is no kernel and takes time all the same.
struct Moved {
  double bytes;
};
inline Work work_of(const Moved& moved) { return {{}, 0, moved.bytes}; }

using Clock = std::chrono::steady_clock;

// While one lives, the calls of its thread are counted and its wall time runs. Whoever opens it says how many steps it held.
class Window {
 public:
  Window();
  ~Window();
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  int64_t steps = 0;

 private:
  Clock::time_point start_;
};

// The table of this thread's windows so far, a step on average; forgets them. Lines that are not indented add up to the share of the last one.
// Empty unless enabled; a line that says so where no step or no call was counted.
std::string take_table();

// Inside a kernel call: the name of the algorithm that does it, for its row. Of several the first counts.
void algorithm(std::string_view);

// One kernel call, from construction to destruction. A call inside a call belongs to the outer one.
class Call {
 public:
  template <class Args>
  Call(const char* op, Stream stream, const Args& args) {
    if (enabled) [[unlikely]]
      start(op, stream.device, &args, describer<Args>());
  }
  template <class Args>
  Call(const char*, Stream, const Args&&) = delete;  // the arguments are read again at the end
  ~Call() {
    if (op_) [[unlikely]]
      stop();
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

 private:
  friend void algorithm(std::string_view);
  using Describe = Work (*)(const void* args);
  template <class Args>
  static Describe describer() {
    if constexpr (Describes<Args>)
      return [](const void* args) { return work_of(*static_cast<const Args*>(args)); };
    else
      return nullptr;
  }
  void start(const char* op, Device, const void* args, Describe);
  void stop();

  const char* op_ = nullptr;  // null: not counted
  const void* args_ = nullptr;
  Describe describe_ = nullptr;
  std::string algorithm_;
  Clock::time_point start_;
};

}  // namespace kd::profile
