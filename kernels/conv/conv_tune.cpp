#include "kernels/conv/conv_tune.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "engine/base/cuda_check.h"
#include "engine/base/rng.h"
#include "kernels/conv/conv_planner.h"

namespace kd::cuda {
namespace {

constexpr size_t kPlansPerSignature = 16;  // as for the embedded book, where one plan in twenty was the 13th to 16th guess
constexpr double kAgreement = 2e-2;        // of the largest output: bf16 results of sums taken in different orders
constexpr int kReplays = 5;
constexpr double kBusyMs = 40;      // until the clocks have risen
constexpr int64_t kMostSets = 256;  // of buffers: a tiny convolution is timed hot rather than with 100,000 of them

// Random numbers on the device; the period is no power of two, so that no tile of a kernel sees the same numbers as its neighbour.
class RandomBlock {
 public:
  RandomBlock() : values_(size_t(1) << 19 | 77) {
    Rng rng(2026, Purpose::test);
    for (float& v : values_) v = rng.uniform(-1.f, 1.f);
  }
  void fill(Storage& storage, DType type, float scale) const {
    std::vector<std::byte> block(values_.size() * size_t(size_of(type)));
    for (size_t i = 0; i < values_.size(); ++i) {
      const float v = values_[i] * scale;
      const bf16 rounded(v);
      std::memcpy(block.data() + i * size_t(size_of(type)), type == DType::f32 ? static_cast<const void*>(&v) : &rounded, size_t(size_of(type)));
    }
    for (int64_t at = 0; at < storage.bytes(); at += int64_t(block.size()))
      copy_bytes(storage.data() + at, Device::cuda, block.data(), Device::cpu, std::min(int64_t(block.size()), storage.bytes() - at));
  }

 private:
  std::vector<float> values_;
};

// The tensors of one signature.
struct Buffers {
  std::shared_ptr<Storage> x, w, y, z, bias;
  cudnn::ConvPointers pointers() const {
    return {.x = x->data(), .w = w->data(), .y = y->data(), .z = z ? z->data() : nullptr, .bias = bias ? bias->data() : nullptr};
  }
  Storage& output(cudnn::ConvOp op) const { return op == cudnn::ConvOp::fprop ? *y : op == cudnn::ConvOp::dgrad ? *x : *w; }
};

int64_t elements(const std::array<int64_t, 4>& dims) { return dims[0] * dims[1] * dims[2] * dims[3]; }

Buffers make_buffers(const cudnn::ConvGraphSpec& spec, const RandomBlock& random) {
  auto make = [&](int64_t count, float scale) {
    auto storage = Storage::allocate(count * size_of(spec.type), Device::cuda);
    random.fill(*storage, spec.type, scale);
    return storage;
  };
  // Outputs of order one, whatever the shape: each is a sum of this many products.
  const float filter_scale = 1.f / std::sqrt(float(spec.w[1] * spec.w[2] * spec.w[3]));
  return {.x = make(elements(spec.x), 1.f),
          .w = make(elements(spec.w), filter_scale),
          .y = make(elements(spec.y), 1.f),
          .z = spec.z ? make(elements(spec.y), 1.f) : nullptr,
          .bias = spec.bias ? make(spec.y[1], 1.f) : nullptr};
}

int64_t bytes_of(const cudnn::ConvGraphSpec& spec) {
  return size_of(spec.type) * (elements(spec.x) + elements(spec.w) + elements(spec.y) * (spec.z ? 2 : 1) + (spec.bias ? spec.y[1] : 0));
}

// A sample of an output as floats: 16 pieces of up to 64 Ki elements, evenly spread, both ends among them.
std::vector<float> sample(const Storage& storage, DType type) {
  constexpr int64_t kPieces = 16, kPiece = 65536;
  const int64_t width = size_of(type), count = storage.bytes() / width, piece = std::min(count, kPiece);
  std::vector<float> values;
  std::vector<std::byte> raw(size_t(piece * width));
  for (int64_t i = 0; i < (count <= piece ? 1 : kPieces); ++i) {
    copy_bytes(raw.data(), Device::cpu, storage.data() + (count - piece) * i / (kPieces - 1) * width, Device::cuda, piece * width);
    for (int64_t j = 0; j < piece; ++j) {
      if (type == DType::f32) {
        float v;
        std::memcpy(&v, raw.data() + j * 4, 4);
        values.push_back(v);
      } else {
        bf16 v;
        std::memcpy(&v, raw.data() + j * 2, 2);
        values.push_back(float(v));
      }
    }
  }
  return values;
}

bool agree(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = 0;
  for (float v : a) largest = std::max(largest, std::abs(v));
  return a.size() == b.size() && std::isfinite(largest) && largest > 0 &&
         std::equal(a.begin(), a.end(), b.begin(), [&](float u, float v) { return std::abs(u - v) <= kAgreement * largest; });  // false for a NaN
}

struct Owned {  // CUDA objects that the timing makes
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaEvent_t start = nullptr, stop = nullptr;
  ~Owned() {
    if (exec) cudaGraphExecDestroy(exec);
    if (graph) cudaGraphDestroy(graph);
    if (start) cudaEventDestroy(start);
    if (stop) cudaEventDestroy(stop);
  }
};

// Microseconds per launch, after at least `busy_ms` of the same.
double time_plan(const cudnn::Plan& plan, cudnnHandle_t handle, cudaStream_t stream, const std::vector<Buffers>& sets, void* workspace, double busy_ms) {
  const size_t launches = std::max<size_t>(16, sets.size());
  Owned own;
  KD_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  try {
    for (size_t i = 0; i < launches; ++i) plan.execute(handle, sets[i % sets.size()].pointers(), workspace);
  } catch (...) {
    if (cudaStreamEndCapture(stream, &own.graph) != cudaSuccess) cudaGetLastError();  // the first error is the one to tell
    throw;
  }
  KD_CUDA(cudaStreamEndCapture(stream, &own.graph));
  KD_CUDA(cudaGraphInstantiate(&own.exec, own.graph, 0));
  KD_CUDA(cudaEventCreate(&own.start));
  KD_CUDA(cudaEventCreate(&own.stop));
  std::vector<double> us;
  while (us.size() < size_t(kReplays)) {
    KD_CUDA(cudaEventRecord(own.start, stream));
    KD_CUDA(cudaGraphLaunch(own.exec, stream));
    KD_CUDA(cudaEventRecord(own.stop, stream));
    KD_CUDA(cudaEventSynchronize(own.stop));
    float ms = 0;
    KD_CUDA(cudaEventElapsedTime(&ms, own.start, own.stop));
    if (busy_ms <= 0) us.push_back(1e3 * double(ms) / double(launches));
    busy_ms -= double(ms);
  }
  std::nth_element(us.begin(), us.begin() + kReplays / 2, us.end());
  return us[kReplays / 2];
}

// Adds the fastest of the plans to `result`; throws when two of them disagree.
void tune_one(const ConvPlanner& planner, const ConvKey& key, cudnnHandle_t handle, const RandomBlock& random, const std::string& date, TuneResult& result) {
  const auto spec = graph_spec(key);
  auto plans = planner.candidates(key, kPlansPerSignature);
  KD_CHECK(!plans.empty(), "no plan");
  const cudnn::Plan* by_book = nullptr;
  if (auto booked = planner.booked(key)) {
    auto at = std::find_if(plans.begin(), plans.end(), [&](const cudnn::Plan& p) { return p.choice() == booked->choice(); });
    if (at == plans.end()) at = plans.insert(at, std::move(*booked));
    by_book = &*at;
  }
  const auto stream = static_cast<cudaStream_t>(current_stream(Device::cuda).handle);
  auto workspace = Storage::allocate(kConvWorkspaceBytes, Device::cuda);

  const Buffers first = make_buffers(spec, random);
  Storage& output = first.output(spec.op);
  auto before = Storage::allocate(output.bytes(), Device::cuda);
  copy_bytes(before->data(), Device::cuda, output.data(), Device::cuda, output.bytes());
  std::vector<float> reference;
  for (const cudnn::Plan& plan : plans) {
    // What is not added to must be overwritten: NaN would show.
    if (spec.accumulate)
      copy_bytes(output.data(), Device::cuda, before->data(), Device::cuda, output.bytes());
    else
      fill_bytes(output.data(), Device::cuda, 0xFF, output.bytes());
    plan.execute(handle, first.pointers(), workspace->data());
    auto got = sample(output, key.type);
    if (reference.empty()) reference = got;
    KD_CHECK(agree(reference, got), "engines {} and {} disagree by more than {} of the largest output", cudnn::to_string(plans[0].choice()),
             cudnn::to_string(plan.choice()), kAgreement);
  }
  copy_bytes(output.data(), Device::cuda, before->data(), Device::cuda, output.bytes());
  before.reset();

  // As many copies as it takes to leave nothing useful in the L2 cache when the first one comes round again.
  std::vector<Buffers> sets{first};
  const int64_t wanted = std::min<int64_t>(kMostSets, 2 * gpu_info().l2_bytes / bytes_of(spec) + 1);
  while (int64_t(sets.size()) < wanted) sets.push_back(make_buffers(spec, random));
  PlanEntry best{
      .device = planner.device().device_class(), .cudnn = planner.cudnn_major(), .key = key, .choice = {}, .workspace_bytes = 0, .us = INFINITY, .date = date};
  double first_us = 0, book_us = 0;
  for (const cudnn::Plan& plan : plans) {
    const bool is_first = &plan == &plans.front();
    const double us = time_plan(plan, handle, stream, sets, workspace->data(), is_first ? kBusyMs : 1e-3);
    ++result.plans;
    if (is_first) first_us = us;
    if (&plan == by_book) book_us = us;
    if (us >= best.us) continue;
    best.choice = plan.choice();
    best.workspace_bytes = plan.workspace_bytes();
    best.us = us;
  }
  result.times.push_back({.key = key, .first_us = first_us, .best_us = best.us, .book_us = book_us});
  result.book.add(std::move(best));
}

}  // namespace

TuneResult tune(const TuneRequest& request, const std::string& date) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  auto elapsed_ms = [&] { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); };
  int device = 0;
  KD_CUDA(cudaGetDevice(&device));
  const ConvPlanner planner(cudnn::DeviceDescription::of_gpu(device), default_books());
  cudnnHandle_t raw = nullptr;
  KD_CUDNN(cudnnCreate(&raw));
  const std::unique_ptr<cudnnContext, cudnnStatus_t (*)(cudnnHandle_t)> handle(raw, cudnnDestroy);
  KD_CUDNN(cudnnSetStream(raw, static_cast<cudaStream_t>(current_stream(Device::cuda).handle)));

  const RandomBlock random;
  TuneResult result;
  for (DType type : request.types)
    for (const ConvShape& shape : request.shapes)
      for (char op : request.ops) {
        const ConvKey key{op, type, shape};
        if (elapsed_ms() > request.budget_ms) {
          result.messages.push_back(to_string(key) + ": no time left");
          continue;
        }
        try {
          tune_one(planner, key, raw, random, date, result);
          ++result.signatures;
        } catch (const Error& e) {
          result.messages.push_back(fmt::format("{}: {}", to_string(key), e.what()));
        }
      }
  return result;
}

}  // namespace kd::cuda
