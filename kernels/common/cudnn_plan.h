// cudnn_plan: convolutions through cuDNN's backend interface (cudnn_graph.h): operation graph -> engines proposed by the heuristics -> finalised plans.
// Nothing here needs a GPU except `of_gpu` and `execute`: cuDNN >= 9.8 plans for a device that it knows only by description, so the plans that a card
// gets can be listed, checked and chosen on any machine.
//   conv fprop        y = relu?((conv(x, w) + z?) + bias?)   one kernel; cuDNN's Hopper engines know exactly this order of the epilogue
//   dgrad, wgrad      result, or target += result (accumulate)
// layout  tensors are dense and channels-last; extents are given in cuDNN's order: x {N,C,H,W}, w {K,C,R,S}, y {N,K,P,Q}
// types   x, w, y, z, bias and the gradients share one type; sums are f32. f32 products are exact: engines that round inputs to TF32 are left out
// errors  kd::Error with the call, cuDNN's status and its own explanation; callers add the operation and shape
#pragma once
#include <cudnn_graph.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/tensor.h"

#if CUDNN_VERSION < 90800
#error "Retort needs cuDNN 9.8 or newer: older ones cannot plan for a described device"
#endif

#define KD_CUDNN(call) ::kd::cudnn::check((call), #call, __FILE__, __LINE__)

namespace kd::cudnn {

void check(cudnnStatus_t, const char* call, const char* file, int line);

// Owner of one backend descriptor.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t);
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  cudnnBackendDescriptor_t raw() const { return raw_; }

  void set(cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t count, const void* values);
  void set(cudnnBackendAttributeName_t, const Descriptor&);
  void finalize();
  // For what may well be unsupported.
  cudnnStatus_t try_set(cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t count, const void* values);
  cudnnStatus_t try_finalize();
  // Copies the attribute's elements and returns their number. Without `values` the number alone, which cuDNN gives as an upper bound, and as 0 for knobs.
  int64_t get(cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t capacity, void* values) const;

 private:
  cudnnBackendDescriptor_t raw_ = nullptr;
};

// What cuDNN has to know of a GPU in order to plan for it. As JSON: cuDNN's own text, see tests/cuda/devices.
class DeviceDescription {
 public:
  static DeviceDescription of_gpu(int device);
  static DeviceDescription from_json(std::string_view json);

  const std::string& name() const { return name_; }           // "NVIDIA H100 80GB HBM3"
  const std::string& device_class() const { return class_; }  // "sm90"
  const std::string& json() const { return json_; }
  const Descriptor& descriptor() const { return descriptor_; }

 private:
  explicit DeviceDescription(Descriptor);
  Descriptor descriptor_;
  std::string json_, name_, class_;
};

enum class ConvOp : unsigned char { fprop, dgrad, wgrad };
std::string to_string(ConvOp);

struct ConvGraphSpec {
  ConvOp op;
  DType type;
  std::array<int64_t, 4> x, w, y;
  int64_t stride, pad;
  bool z = false, bias = false, relu = false;  // fprop
  bool accumulate = false;                     // dgrad, wgrad
};

// Every pointer of a call must be a multiple of this: the graphs promise it, and cuDNN picks 128-bit loads by it.
inline constexpr int64_t kAlignmentBytes = 16;

// An engine and its knobs name one kernel; with the graph they rebuild its plan. Text: "62 TILE_SIZE:4,TILEK:0" or "58 -".
struct EngineChoice {
  int64_t engine = 0;
  std::vector<std::pair<int, int64_t>> knobs;  // (cudnnBackendKnobType_t, value)
  bool operator==(const EngineChoice&) const = default;
  bool hopper() const;  // has thread-block-cluster knobs, which only kernels written for sm_90 and newer have
};
std::string to_string(const EngineChoice&);
std::string knobs_text(const EngineChoice&);
// Throws kd::Error: an unknown knob, a value that is no number.
EngineChoice parse_choice(std::string_view engine, std::string_view knobs);

struct ConvPointers {
  const void *x = nullptr, *w = nullptr, *y = nullptr, *z = nullptr, *bias = nullptr;  // fprop writes y, dgrad x, wgrad w
};

class Plan {
 public:
  const EngineChoice& choice() const { return choice_; }
  int64_t workspace_bytes() const { return workspace_bytes_; }
  void execute(cudnnHandle_t, const ConvPointers&, void* workspace) const;  // asynchronous, in the handle's stream

 private:
  friend class ConvGraph;
  Plan(Descriptor plan, EngineChoice choice, int64_t workspace_bytes);
  Descriptor plan_;
  EngineChoice choice_;
  int64_t workspace_bytes_;
};

enum class Heuristic { a, b, fallback };

class ConvGraph {
 public:
  // `device` is used by every call and must outlive the graph.
  ConvGraph(const ConvGraphSpec&, const DeviceDescription& device);
  // What cuDNN would try, best first; not yet checked for support.
  std::vector<EngineChoice> proposals(Heuristic) const;
  // The plan, or nothing and the reason: refused by cuDNN, not deterministic, f32 not exact, more workspace than the cap.
  std::optional<Plan> build(const EngineChoice&, int64_t workspace_cap_bytes, std::string* why_not = nullptr) const;

 private:
  ConvGraphSpec spec_;
  const DeviceDescription& device_;
  Descriptor graph_;
};

}  // namespace kd::cudnn
