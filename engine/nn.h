// nn: parameters in flat arenas, and the three layers of a ResNet.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/base/rng.h"
#include "engine/ops.h"
#include "kernels/conv/conv.h"

namespace kd {

// All parameters of a model in one f32 array, their gradients in a second, their momentum in a third: one memset, one update, one checkpoint.
// Layers register their parameters while they are constructed; `build` then lays out the arrays, fills them and hands each layer its windows.
class ParamArena {
 public:
  using Init = std::function<float(Rng&)>;
  struct Parameter {
    std::string name;  // as torchvision names it
    Shape shape;
    Init init;
    Var* slot;
    int64_t offset = 0;  // elements, a multiple of 16 (one cache line)
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

  void parameter(std::string name, Shape, Init, Var* slot);
  void buffer(std::string name, Shape, float fill, Tensor* slot);  // running statistics: saved, not trained
  void build(uint64_t seed);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<Buffer>& buffers() const { return buffers_; }
  int64_t parameter_count() const;  // without the padding between windows
  const Tensor& weights() const { return weights_; }
  const Tensor& grads() const { return grads_; }
  const Tensor& momentum() const { return momentum_; }
  int64_t batches_tracked = 0;  // training batches that moved the running statistics (torch: num_batches_tracked)

  // Whatever was derived from the weights (folded filters) is stale when the version moved.
  uint64_t version() const { return version_; }
  void touch() { ++version_; }

 private:
  std::vector<Parameter> parameters_;
  std::vector<Buffer> buffers_;
  Tensor weights_, grads_, momentum_;
  uint64_t version_ = 1;
};

// A convolution without bias and the batch norm after it: the unit every ResNet is made of.
// Training runs conv, then batch norm fused with residual and ReLU. Evaluation folds the norm into the filter (w * gamma * rstd, with
// beta - mean * gamma * rstd as bias) and runs one convolution with bias, residual and ReLU in its epilogue.
class ConvBn {
 public:
  ConvBn(ParamArena&, const std::string& conv_name, const std::string& bn_name, int64_t in, int64_t out, int64_t kernel, int64_t stride);
  Var operator()(const Var& x, Mode, Activation, const Var& residual = {}) const;

 private:
  struct Folded {
    uint64_t version = 0;
    Tensor filter, bias;
    PackedFilter packed;
  };
  Var infer(const Var& x, Activation, const Var& residual) const;

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
