// graph: a step that the host only starts. On CUDA its kernels are recorded once and replayed with one call, because launching 150 kernels one by one
// takes longer than they run at 32 px. On the CPU the step is run, its memory laid out once (StepArena). What changes from step to step reaches it through memory:
//   StepInputs   small host data (learning rate, labels, augmentation decisions), copied ahead of each step
//   Readback     small results, read when they happen to be there; the host never waits for a step
#pragma once
#include <functional>
#include <memory>

#include "engine/base/tensor.h"

namespace kd {

enum class Launch : unsigned char { graph, eager };  // eager: every kernel by itself, the same bits; for debugging, and for what cannot be captured

// `work` must launch the same kernels on the same tensors every time and neither copy to the host nor wait. It is run by the first call (which
// makes plans and workspaces) and by the second (which records), not by later ones: what it does to host memory must be done again by the caller
// after a replay.
class StepGraph {
 public:
  explicit StepGraph(Device, Launch = Launch::graph);
  ~StepGraph();
  StepGraph(StepGraph&&) noexcept;
  StepGraph& operator=(StepGraph&&) noexcept;

  enum class Ran : unsigned char { by_host, replayed };
  Ran run(const std::function<void()>& work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// A ring of host blocks and one block on the device. `host` gives the next block, waiting only when all of them are still on their way;
// `upload` copies it to `device_block`, in stream order: the steps before still see what they were given.
class StepInputs {
 public:
  StepInputs(int64_t bytes, Device);
  ~StepInputs();
  StepInputs(const StepInputs&) = delete;
  StepInputs& operator=(const StepInputs&) = delete;

  std::byte* host();
  void upload();
  const Tensor& device_block() const { return block_; }  // u8 [bytes]
  template <class T>
  const T* at(int64_t offset_bytes) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(block_.raw()) + offset_bytes);
  }

 private:
  struct Ring;
  Tensor block_;
  std::unique_ptr<Ring> ring_;
};

// Copies of a small device tensor as it was some steps ago.
class Readback {
 public:
  explicit Readback(Tensor source);
  ~Readback();
  Readback(const Readback&) = delete;
  Readback& operator=(const Readback&) = delete;

  // After a step: takes what has arrived and asks for the next copy if none is under way. Never waits.
  void poll();
  const std::byte* latest() const;  // zeros until something arrived
  const std::byte* wait();          // the value after everything launched so far

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kd
