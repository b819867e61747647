// loader: the batches of an epoch, augmented and in the network's input layout.
// The order of an epoch and every augmentation are pure functions of (seed, epoch), so a run resumes in the middle bit for bit without saved state, and
// every device makes the same bits.
// On the CPU there are no loader threads: all OpenMP threads make the next batch together just before the step. Extra threads would only take
// cores from the step that they feed, and so the pixels go from the resident 8-bit set straight into the step's input, while it is in cache.
// An image costs microseconds here and milliseconds in the step (docs/augmentation.md, Speed), so there is little to hide.
// On a device the 8-bit set is resident too; the host draws the decisions and sends those, under 250 bytes an image.
// A set of images of different sizes (Dataset::packed) is resident nowhere: the host cuts the windows of a batch out of the mapped file, and those are sent.
#pragma once
#include <cstdint>
#include <vector>

#include "data/augment.h"
#include "data/dataset.h"

namespace kd {

struct Batch {
  Tensor images;                 // f32|bf16 [B,px,px,C], normalized
  Tensor labels;                 // i32 [B], on the same device
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
  int64_t channels = 3;     // 3, 4 or 8; those from 3 on are 0
  uint64_t seed = 0;
  Order order = Order::file;
  LastBatch last = LastBatch::keep;
  Device device = Device::cpu;
};

class Loader {
 public:
  Loader(const Dataset&, LoaderConfig);  // shares the images, or copies them to the device once, so the Dataset object itself may go
  int64_t steps() const;                 // batches an epoch
  void start(uint32_t epoch);            // to the first batch of an epoch, from anywhere
  // Makes the next batch in tensors from the pool, letting go of what `batch` held; false when the epoch is over, and then `batch` is empty.
  bool next(Batch& batch);

  // The same in two halves, for a step that is captured in a CUDA graph: the host draws, the caller copies, the graph makes.
  // The inputs of a batch: a PreparedRecord for each of `batch` images, their int32 labels, and of a packed set their windows u8 [batch,px,px,3]; each
  // part starts at a multiple of 16 bytes.
  int64_t input_bytes() const;
  // Writes the inputs of the next batch to 16-byte aligned host memory and returns its number of images; 0 when the epoch is over.
  int64_t draw(std::byte* host);
  const std::vector<int64_t>& last_indices() const { return indices_; }  // of the batch drawn last
  // Fills images [n,px,px,C] and labels [n] from inputs in memory of the loader's device. Launches and nothing else.
  void make(const std::byte* inputs, int64_t n, const Tensor& images, const Tensor& labels) const;

 private:
  int64_t labels_offset() const;
  int64_t windows_offset() const;

  Dataset set_;  // images on the device
  LoaderConfig config_;
  std::vector<int64_t> order_, indices_;
  std::vector<std::byte> host_inputs_;
  uint32_t epoch_ = 0;
  int64_t step_ = 0;
};

// What a network is shown of these images, before it is normalised: u8 [B,px,px,3] on the host. For people to look at.
Tensor views_u8(const Dataset&, std::span<const int64_t> indices, View, const AugmentConfig&, uint64_t seed, uint32_t epoch);

}  // namespace kd
