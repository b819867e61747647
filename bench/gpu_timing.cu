// The ceilings of a card, by the simplest kernels that could reach them.
#include <algorithm>
#include <chrono>
#include <vector>

#include "bench/gpu_timing.h"
#include "engine/base/cuda_check.h"
#include "engine/base/tensor.h"
#include "engine/graph.h"
#include "simt/simt.h"

namespace kd::bench {
namespace {

constexpr std::chrono::milliseconds kBusy{40};
constexpr int kBlock = 256, kLoads = 4;       // 16-byte loads in flight a thread
constexpr int64_t kBytes = int64_t(1) << 30;  // 16 times the largest L2 cache
constexpr int64_t kVectors = kBytes / int64_t(sizeof(uint4));

__global__ void __launch_bounds__(kBlock) copy_kernel(const uint4* in, uint4* out) {
  const int64_t first = int64_t(blockIdx.x) * (kBlock * kLoads) + threadIdx.x;
  uint4 v[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) v[i] = in[first + i * kBlock];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) out[first + i * kBlock] = v[i];
}

__global__ void __launch_bounds__(kBlock) read_kernel(const uint4* in, unsigned* out) {
  const int64_t first = int64_t(blockIdx.x) * (kBlock * kLoads) + threadIdx.x;
  unsigned all = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const uint4 v = in[first + i * kBlock];
    all |= v.x | v.y | v.z | v.w;
  }
  if (all == 0) *out = 1;  // never true of random numbers, but the compiler cannot know: the loads stay
}

__global__ void empty_kernel() {}

class Event {
 public:
  Event() { KD_CUDA(cudaEventCreate(&event_)); }
  ~Event() {
    if (cudaEventDestroy(event_) != cudaSuccess) cudaGetLastError();
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.size() % 2 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}

Tensor random_gib() {
  // Every bit pattern with the same chance, by a linear congruential step: what the bytes are does not matter, but zeros would be no test.
  Tensor block = Tensor::empty({1 << 20}, DType::i32);
  uint32_t x = 12345;
  for (int64_t i = 0; i < block.elements(); ++i) block.data<int32_t>()[i] = int32_t(x = x * 1664525u + 1013904223u);
  Tensor there = Tensor::empty({kBytes}, DType::u8, Device::cuda);
  for (int64_t at = 0; at < kBytes; at += block.bytes())
    copy_bytes(static_cast<char*>(there.raw()) + at, Device::cuda, block.raw(), Device::cpu, block.bytes());
  return there;
}

double gbps(double bytes, const GpuTime& time) { return bytes / time.us * 1e-3; }

}  // namespace

int64_t copies_beyond_l2(double bytes_moved) { return std::clamp<int64_t>(int64_t(2.0 * double(gpu_info().l2_bytes) / std::max(bytes_moved, 1.0)) + 1, 1, 64); }

GpuTime time_on_gpu(const std::vector<std::function<void()>>& runs, int replays) {
  KD_CHECK(!runs.empty() && replays >= 2, "{} runs, {} replays", runs.size(), replays);
  const size_t launches = std::max<size_t>(16, runs.size());
  StepGraph graph(Device::cuda);
  auto replay = [&] {
    graph.run([&] {
      for (size_t i = 0; i < launches; ++i) runs[i % runs.size()]();
    });
  };
  for (int warm_up = 0; warm_up < 3; ++warm_up) replay();  // by the host, recorded, replayed
  const auto busy_since = std::chrono::steady_clock::now();
  do {  // a card that has been idle runs at half its clock for a while
    replay();
    synchronize(Device::cuda);
  } while (std::chrono::steady_clock::now() - busy_since < kBusy);
  const auto stream = simt::stream_t(current_stream(Device::cuda).handle);
  Event start, stop;
  std::vector<double> us;
  for (int i = 0; i < replays; ++i) {
    KD_CUDA(cudaEventRecord(start.get(), stream));
    replay();
    KD_CUDA(cudaEventRecord(stop.get(), stream));
    KD_CUDA(cudaEventSynchronize(stop.get()));
    float ms = 0;
    KD_CUDA(cudaEventElapsedTime(&ms, start.get(), stop.get()));
    us.push_back(1e3 * double(ms) / double(launches));
  }
  const auto middle = us.begin() + replays / 2;
  const double first = median({us.begin(), middle}), second = median({middle, us.end()}), all = median(us);
  return {all, (first > second ? first - second : second - first) / all};
}

CopyRates measure_copy() {
  const Stream stream = current_stream(Device::cuda);
  const Tensor from = random_gib(), to = Tensor::empty({kBytes}, DType::u8, Device::cuda);
  const GpuTime by_driver = time_on_gpu({[&] { copy_bytes(to.raw(), Device::cuda, from.raw(), Device::cuda, kBytes); }}, 20);
  const GpuTime by_kernel = time_on_gpu({[&] {
                                          simt::launch(copy_kernel, kVectors / (kBlock * kLoads), kBlock, 0, simt::stream_t(stream.handle),
                                                       static_cast<const uint4*>(from.raw()), static_cast<uint4*>(to.raw()));
                                        }},
                                        20);
  return {gbps(2.0 * kBytes, by_driver), gbps(2.0 * kBytes, by_kernel)};
}

double measure_read_gbps() {
  const Stream stream = current_stream(Device::cuda);
  const Tensor from = random_gib(), flag = Tensor::zeros({1}, DType::i32, Device::cuda);
  return gbps(1.0 * kBytes, time_on_gpu({[&] {
                                          simt::launch(read_kernel, kVectors / (kBlock * kLoads), kBlock, 0, simt::stream_t(stream.handle),
                                                       static_cast<const uint4*>(from.raw()), static_cast<unsigned*>(flag.raw()));
                                        }},
                                        20));
}

LaunchCosts measure_launch() {
  constexpr int kLaunches = 1000;
  const Stream stream = current_stream(Device::cuda);
  auto launch = [&] { simt::launch(empty_kernel, 1, 32, 0, simt::stream_t(stream.handle)); };
  const double graph_us = time_on_gpu(std::vector<std::function<void()>>(kLaunches, launch), 20).us;
  synchronize(Device::cuda);
  std::vector<double> eager_us;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < kLaunches; ++k) launch();
    synchronize(Device::cuda);
    eager_us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / kLaunches);
  }
  return {graph_us, median(eager_us)};
}

}  // namespace kd::bench
