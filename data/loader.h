// loader: the batches of an epoch, augmented and in the network's input layout.
// The order of an epoch and every augmentation are pure functions of (seed, epoch), so a run resumes in the middle bit for bit without saved state.
// On the CPU there are no loader threads: all OpenMP threads make the next batch together just before the step. Extra threads would only take
// cores from the step that they feed, and so the pixels go from the resident 8-bit set straight into the step's input, while it is in cache.
#pragma once
#include <cstdint>
#include <vector>

#include "data/augment.h"
#include "data/dataset.h"

namespace kd {

struct Batch {
  Tensor images;                 // f32|bf16 [B,px,px,3], normalized
  Tensor labels;                 // i32 [B]
  std::vector<int64_t> indices;  // B, rows of the dataset: the key for teacher caches, masks and per-sample records

  int64_t size() const { return int64_t(indices.size()); }
};

enum class Order : unsigned char { file, shuffled };
enum class LastBatch : unsigned char { keep, drop };  // what happens to fewer than `batch` images at the end of an epoch

struct LoaderConfig {
  int64_t batch = 128;
  View view = View::test;
  AugmentConfig augment = {};
  DType type = DType::f32;  // f32 | bf16
  uint64_t seed = 0;
  Order order = Order::file;
  LastBatch last = LastBatch::keep;
};

class Loader {
 public:
  Loader(const Dataset&, LoaderConfig);  // shares the images, so the Dataset object itself may go
  int64_t steps() const;                 // batches an epoch
  void start(uint32_t epoch);            // to the first batch of an epoch, from anywhere
  // Makes the next batch in tensors from the pool, letting go of what `batch` held; false when the epoch is over, and then `batch` is empty.
  bool next(Batch& batch);

 private:
  Dataset set_;
  LoaderConfig config_;
  std::vector<int64_t> order_;
  uint32_t epoch_ = 0;
  int64_t step_ = 0;
};

}  // namespace kd
