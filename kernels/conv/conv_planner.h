// conv_planner: the cuDNN plan for a convolution, made once and kept. In order of preference: the person's plan book (KD_PLAN_BOOK=path), the book in this
// binary, the first plan that cuDNN's heuristics offer (mode A, then its fallback list). A plan is taken only if it is deterministic, exact for f32 (no TF32)
// and content with the common workspace; a book's plan that this cuDNN refuses is passed over.
#pragma once
#include <memory>
#include <mutex>
#include <optional>

#include "kernels/conv/plan_book.h"

namespace kd::cuda {

// Reserved once per device and never grown: a captured graph keeps the address. Of 9,280 measured plans the fastest for their shape never wanted more than 17
// MB.
inline constexpr int64_t kConvWorkspaceBytes = int64_t(64) << 20;

struct PlanStats {
  int64_t hits = 0, misses = 0;        // of the cache
  int64_t from_book = 0, refused = 0;  // of the misses: taken from a book; a book's plan that cuDNN would not build
};

struct NamedBook {
  std::string name;  // as listings show it
  PlanBook book;
};
// The person's book if KD_PLAN_BOOK names one, then the embedded one. What is wrong with the person's book goes to stderr; a missing file throws.
std::vector<NamedBook> default_books();

// For one device, which may be one that is only described. Thread-safe.
class ConvPlanner {
 public:
  // `cudnn_major` exists for tests; books have plans for one major version.
  ConvPlanner(cudnn::DeviceDescription, std::vector<NamedBook>, int cudnn_major = int(cudnnGetVersion() / 10000));
  ConvPlanner(const ConvPlanner&) = delete;

  // Lives as long as the planner. Throws when cuDNN has no acceptable plan; the message has its reasons.
  const cudnn::Plan& plan(const ConvKey&);
  // The books' plan for exactly this, where there is one that cuDNN takes.
  std::optional<cudnn::Plan> booked(const ConvKey&) const;
  // All acceptable plans that the heuristics offer, best guess first, at most `limit`.
  std::vector<cudnn::Plan> candidates(const ConvKey&, size_t limit) const;

  const cudnn::DeviceDescription& device() const { return device_; }
  int cudnn_major() const { return cudnn_major_; }
  PlanStats stats() const;
  std::string list() const;  // one line per plan made: op, type, shape, engine and knobs, workspace, where it came from

 private:
  struct Made {
    cudnn::Plan plan;
    std::string source;
  };
  Made make(const ConvKey&);

  cudnn::DeviceDescription device_;
  std::vector<NamedBook> books_;
  int cudnn_major_;
  mutable std::mutex mutex_;
  std::unordered_map<ConvKey, std::unique_ptr<Made>, ConvKeyHash> plans_;
  PlanStats stats_;
};

}  // namespace kd::cuda
