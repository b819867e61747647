#include "engine/graph.h"

#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "engine/base/memory.h"

#if defined(KD_WITH_CUDA)
#include "engine/base/cuda_check.h"
#endif

namespace kd {
namespace {

#if defined(KD_WITH_CUDA)
cudaStream_t cuda_stream() { return static_cast<cudaStream_t>(current_stream(Device::cuda).handle); }

// Pinned host memory: the copy engine reads and writes it while the host goes on.
class PinnedBlock {
 public:
  explicit PinnedBlock(int64_t bytes) { KD_CUDA(cudaMallocHost(&data_, size_t(bytes))); }
  ~PinnedBlock() {
    if (cudaFreeHost(data_) != cudaSuccess) cudaGetLastError();
  }
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

class Event {
 public:
  Event() { KD_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() {
    if (cudaEventDestroy(event_) != cudaSuccess) cudaGetLastError();
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record() { KD_CUDA(cudaEventRecord(event_, cuda_stream())); }
  void wait() { KD_CUDA(cudaEventSynchronize(event_)); }
  bool is_done() {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    KD_CUDA(status);
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};
#endif

}  // namespace

// ---- StepGraph -----------------------------------------------------------------------------------------------------------------------

struct StepGraph::State {
  bool capture;
  bool warm = false;
  std::optional<StepArena> arena;  // CPU
#if defined(KD_WITH_CUDA)
  std::shared_ptr<MemoryPool> pool = make_pool(Device::cuda);
  cudaGraphExec_t executable = nullptr;
  ~State() {
    if (executable && cudaGraphExecDestroy(executable) != cudaSuccess) cudaGetLastError();
  }

  void record(const std::function<void()>& work) {
    release_cached_memory(Device::cuda);  // the warm-up's blocks: the graph gets its own
    PoolScope scope(pool);
    // Relaxed: blocks that the pool lacks are allocated while the stream records.
    KD_CUDA(cudaStreamBeginCapture(cuda_stream(), cudaStreamCaptureModeRelaxed));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      if (cudaStreamEndCapture(cuda_stream(), &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    KD_CUDA(cudaStreamEndCapture(cuda_stream(), &graph));
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    KD_CUDA(status);
  }
#endif
};

StepGraph::StepGraph(Device device, Launch launch) : state_(std::make_unique<State>()) {
  state_->capture = device == Device::cuda && launch == Launch::graph;
  if (device == Device::cpu && launch == Launch::graph) state_->arena.emplace();
}
StepGraph::~StepGraph() = default;
StepGraph::StepGraph(StepGraph&&) noexcept = default;
StepGraph& StepGraph::operator=(StepGraph&&) noexcept = default;

StepGraph::Ran StepGraph::run(const std::function<void()>& work) {
  if (!state_->capture || !state_->warm) {
    state_->arena ? state_->arena->run(work) : work();
    state_->warm = true;
    return Ran::by_host;
  }
#if defined(KD_WITH_CUDA)
  const bool first = !state_->executable;
  if (first) state_->record(work);
  KD_CUDA(cudaGraphLaunch(state_->executable, cuda_stream()));
  return first ? Ran::by_host : Ran::replayed;
#else
  KD_FAIL("a graph without CUDA");
#endif
}

// ---- StepInputs ----------------------------------------------------------------------------------------------------------------------

struct StepInputs::Ring {
  std::vector<std::byte> plain;  // devices whose copies are over when they return need one block
#if defined(KD_WITH_CUDA)
  static constexpr size_t kSlots = 8;
  std::array<std::unique_ptr<PinnedBlock>, kSlots> blocks;
  std::array<std::unique_ptr<Event>, kSlots> copied;
  size_t slot = 0;
#endif
};

StepInputs::StepInputs(int64_t bytes, Device device) : block_(Tensor::empty({bytes}, DType::u8, device)), ring_(std::make_unique<Ring>()) {
  if (device != Device::cuda) {
    ring_->plain.resize(size_t(bytes));
    return;
  }
#if defined(KD_WITH_CUDA)
  for (size_t i = 0; i < Ring::kSlots; ++i) {
    ring_->blocks[i] = std::make_unique<PinnedBlock>(bytes);
    ring_->copied[i] = std::make_unique<Event>();
  }
#endif
}
StepInputs::~StepInputs() = default;

std::byte* StepInputs::host() {
  if (block_.device() != Device::cuda) return ring_->plain.data();
#if defined(KD_WITH_CUDA)
  ring_->slot = (ring_->slot + 1) % Ring::kSlots;
  ring_->copied[ring_->slot]->wait();  // returns at once for an event that was never recorded
  return ring_->blocks[ring_->slot]->data();
#else
  KD_FAIL("step inputs on CUDA without CUDA");
#endif
}

void StepInputs::upload() {
  if (block_.device() != Device::cuda) return copy_bytes(block_.raw(), block_.device(), ring_->plain.data(), Device::cpu, block_.bytes());
#if defined(KD_WITH_CUDA)
  KD_CUDA(cudaMemcpyAsync(block_.raw(), ring_->blocks[ring_->slot]->data(), size_t(block_.bytes()), cudaMemcpyHostToDevice, cuda_stream()));
  ring_->copied[ring_->slot]->record();
#endif
}

// ---- Readback ------------------------------------------------------------------------------------------------------------------------

struct Readback::State {
  Tensor source;
  std::vector<std::byte> latest;
#if defined(KD_WITH_CUDA)
  std::unique_ptr<PinnedBlock> arriving;
  std::unique_ptr<Event> arrived;
  bool under_way = false;

  void ask() {
    KD_CUDA(cudaMemcpyAsync(arriving->data(), source.raw(), latest.size(), cudaMemcpyDeviceToHost, cuda_stream()));
    arrived->record();
    under_way = true;
  }
  void take() {
    std::memcpy(latest.data(), arriving->data(), latest.size());
    under_way = false;
  }
#endif
  bool on_cuda() const { return source.device() == Device::cuda; }
  void copy() { copy_bytes(latest.data(), Device::cpu, source.raw(), source.device(), source.bytes()); }
};

Readback::Readback(Tensor source) : state_(std::make_unique<State>()) {
  state_->latest.resize(size_t(source.bytes()));
#if defined(KD_WITH_CUDA)
  if (source.device() == Device::cuda) {
    state_->arriving = std::make_unique<PinnedBlock>(source.bytes());
    state_->arrived = std::make_unique<Event>();
  }
#endif
  state_->source = std::move(source);
}
Readback::~Readback() = default;

void Readback::poll() {
  if (!state_->on_cuda()) return state_->copy();
#if defined(KD_WITH_CUDA)
  if (state_->under_way && !state_->arrived->is_done()) return;
  if (state_->under_way) state_->take();
  state_->ask();
#endif
}

const std::byte* Readback::latest() const { return state_->latest.data(); }

const std::byte* Readback::wait() {
  if (!state_->on_cuda()) {
    state_->copy();
    return latest();
  }
#if defined(KD_WITH_CUDA)
  state_->ask();
  state_->arrived->wait();
  state_->take();
#endif
  return latest();
}

}  // namespace kd
