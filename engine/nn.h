// nn: parameters in flat arenas, and the three layers of a ResNet.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/base/rng.h"
#include "engine/ops.h"
#include "kernels/conv/conv.h"

namespace kd {

// All parameters of a model in one f32 array, their gradients in a second, their momentum in a third: one update, one checkpoint.
// Layers register their parameters while they are constructed; `build` then lays out the arrays, fills them and hands each layer its windows.
// Matrices and filters come first. A bf16 network on a GPU has them a second time in bf16, written by the optimizer, and their gradients in bf16 only:
// those are the operands and results that tensor cores take and give, and an update moves 20 bytes a weight instead of 28.
class ParamArena {
 public:
  using Init = std::function<float(Rng&)>;
  struct Parameter {
    std::string name;  // as torchvision names it
    Shape shape;
    Init init;
    Var* slot;
    // Channels in memory of a filter that reads padded pixels, from shape's last extent on always 0: 0 meets the input's padding, and so its gradient is 0.
    int64_t stored_channels = 0;
    int64_t offset = 0;  // elements, a multiple of 16 (one cache line)
    Shape stored() const;
  };
  struct Buffer {
    std::string name;
    Tensor* slot;
    Shape shape;
    float fill;
  };

  ParamArena() = default;
  ParamArena(const ParamArena&) = delete;  // layers hold pointers into it
  ParamArena& operator=(const ParamArena&) = delete;

  void parameter(std::string name, Shape, Init, Var* slot, int64_t stored_channels = 0);
  void buffer(std::string name, Shape, float fill, Tensor* slot);  // running statistics: saved, not trained
  void build(uint64_t seed, Device = Device::cpu, DType activations = DType::f32);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<Buffer>& buffers() const { return buffers_; }
  int64_t parameter_count() const;  // without the padding between windows
  const Tensor& weights() const { return weights_; }
  const Tensor& grads() const { return grads_; }
  const Tensor& momentum() const { return momentum_; }
  const Tensor& rounded() const { return rounded_; }            // bf16, the first elements of weights; undefined where there are none
  const Tensor& rounded_grads() const { return rounded_grads_; }
  int64_t batches_tracked = 0;  // training batches that moved the running statistics (torch: num_batches_tracked)

  // Whatever was derived from the weights (folded filters) is stale when the version moved.
  uint64_t version() const { return version_; }
  void touch() { ++version_; }
  // The weights were written from outside: the bf16 copy follows.
  void weights_changed();
  // A training step's effect on what the host keeps. `sgd` calls it; who replays a captured step calls it for the replay.
  void stepped() { ++batches_tracked, ++version_; }

 private:
  std::vector<Parameter> parameters_;
  std::vector<Buffer> buffers_;
  Tensor weights_, grads_, momentum_, rounded_, rounded_grads_;
  uint64_t version_ = 1;
};

// A convolution without bias and the batch norm after it: the unit every ResNet is made of.
// Training is one op, conv_bn. Evaluation folds the norm into the filter (w * gamma * rstd, with
// beta - mean * gamma * rstd as bias) and runs one convolution with bias, residual and ReLU in its epilogue.
class ConvBn {
 public:
  // stored_in: channels of x in memory where they are padded with zeros, else 0.
  ConvBn(ParamArena&, const std::string& conv_name, const std::string& bn_name, int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t stored_in = 0);
  // A residual that nobody else holds is overwritten by the result in evaluation on the CPU: one tensor less is moved.
  Var operator()(const Var& x, Mode, Activation, Var residual = {}) const;
  // With ReLU, then a 3x3 max-pool of stride 2: the stem at 224 px. Its full-size map is the largest tensor of a ResNet; it is neither normalised
  // nor, in evaluation on a GPU, written at all.
  Var pooled(const Var& x, Mode) const;

 private:
  struct Folded {
    uint64_t version = 0;
    Tensor filter, bias;
    PackedFilter packed;
  };
  Var infer(const Var& x, Activation, Var residual) const;
  const Folded& folded(DType activations) const;

  ParamArena& arena_;
  int64_t kernel_, stride_;
  Var filter_;
  BatchNormParams bn_;
  mutable Folded folded_;
};

class Linear {
 public:
  Linear(ParamArena&, const std::string& name, int64_t in, int64_t out);
  Var operator()(const Var& x) const { return linear(x, weight, bias); }
  Var weight, bias;  // f32 [out,in], [out]
};

}  // namespace kd
