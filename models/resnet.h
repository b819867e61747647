// resnet: ResNet-18 and ResNet-50 v1.5 (He et al. 2016, arXiv 1512.03385; v1.5 puts a stage's stride on the 3x3 convolution), with
// torchvision's parameter names. Parameters at width 1: resnet18 11,227,812 / 11,689,512 and resnet50 23,712,932 / 25,557,032 for 100 / 1000
// classes with the imagenet stem. One image forward, multiply-adds x 2: resnet18 3.6 GFLOP and resnet50 8.2 GFLOP at 224 px; 1.1 and 2.6 at 32 px with the
// cifar stem.
#pragma once
#include <memory>
#include <optional>

#include "engine/nn.h"

namespace kd {

enum class Arch { resnet18, resnet50 };
// imagenet: 7x7 stride 2, then 3x3 stride-2 max-pool; the map shrinks 32-fold.  cifar: 3x3 stride 1, no pool; 8-fold.
enum class Stem { imagenet, cifar };
Arch arch_from_name(std::string_view);
Stem stem_from_name(std::string_view);
std::string to_string(Arch);
std::string to_string(Stem);

int64_t feature_side(Stem, int64_t px);  // h = w of the last stage's map of images of px by px

struct ResnetConfig {
  Arch arch = Arch::resnet18;
  Stem stem = Stem::cifar;
  int64_t classes = 100;
  double width = 1.0;  // all channel counts times this, rounded to a multiple of 8
  uint64_t seed = 0;   // of the random initialisation
  Device device = Device::cpu;
  DType type = DType::f32;  // of activations and matrix products, f32 | bf16; the CPU takes either, whatever this says
};

class Resnet {
 public:
  explicit Resnet(const ResnetConfig&);

  // Channels of an input pixel in memory, zero from the fourth on: 3 on the CPU; on a GPU 8, or 4 for the stem with kernels of its own (kernels/stem).
  int64_t input_channels() const { return input_channels_; }
  Var features(const Var& x, Mode);       // x [N,H,W,input_channels()] -> last stage [N,h,w,K], after its ReLU
  Var logits(const Var& features) const;  // [N,h,w,K] -> f32 [N,classes]
  Var operator()(const Var& x, Mode mode) { return logits(features(x, mode)); }

  ParamArena& params() { return arena_; }
  const ResnetConfig& config() const { return config_; }
  const Linear& head() const { return *fc_; }
  int64_t feature_channels() const { return fc_->weight.shape()[1]; }

 private:
  // A residual block: conv1, conv2 (and conv3 in the bottleneck), plus a projection where the shape changes.
  struct Block {
    std::optional<ConvBn> conv1, conv2, conv3, downsample;
    Var operator()(Var x, Mode mode) const;  // x given away may be overwritten: ConvBn
  };
  ResnetConfig config_;
  int64_t input_channels_;
  ParamArena arena_;
  std::optional<ConvBn> stem_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::optional<Linear> fc_;
};

}  // namespace kd
