#include "models/resnet.h"

#include <cmath>

namespace kd {

Arch arch_from_name(std::string_view name) {
  if (name == "resnet18") return Arch::resnet18;
  if (name == "resnet50") return Arch::resnet50;
  throw Error(fmt::format("unknown architecture '{}'; known: resnet18, resnet50", name));
}

Stem stem_from_name(std::string_view name) {
  if (name == "imagenet") return Stem::imagenet;
  if (name == "cifar") return Stem::cifar;
  throw Error(fmt::format("unknown stem '{}'; known: imagenet, cifar", name));
}

std::string to_string(Arch arch) { return arch == Arch::resnet18 ? "resnet18" : "resnet50"; }
std::string to_string(Stem stem) { return stem == Stem::imagenet ? "imagenet" : "cifar"; }

int64_t feature_side(Stem stem, int64_t px) {
  for (int halvings = stem == Stem::imagenet ? 5 : 3; halvings > 0; --halvings) px = (px + 1) / 2;  // windows of 3 and 7, padded by 1 and 3
  return px;
}

namespace {

int64_t scaled(int64_t channels, double width) { return std::max<int64_t>(8, std::llround(double(channels) * width / 8) * 8); }

}  // namespace

Resnet::Resnet(const ResnetConfig& config) : config_(config) {
  KD_INPUT(config.classes >= 1, "a classifier needs at least one class, got {}", config.classes);
  KD_INPUT(config.width > 0 && config.width <= 8, "model.width {} is out of range (0, 8]", config.width);
  const bool bottleneck = config.arch == Arch::resnet50;
  const int64_t depth[4] = {bottleneck ? 3 : 2, bottleneck ? 4 : 2, bottleneck ? 6 : 2, bottleneck ? 3 : 2};

  int64_t channels = scaled(64, config.width);
  const bool wide_stem = config.stem == Stem::imagenet;
  const int64_t window = wide_stem ? 7 : 3;
  input_channels_ = stored_input_channels(config.device, config.type, window, channels);
  stem_.emplace(arena_, "conv1", "bn1", 3, channels, window, wide_stem ? 2 : 1, input_channels_);
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t mid = scaled(64 << stage, config.width), out = bottleneck ? 4 * mid : mid;
    for (int64_t i = 0; i < depth[stage]; ++i) {
      const int64_t stride = stage > 0 && i == 0 ? 2 : 1;
      const std::string name = fmt::format("layer{}.{}.", stage + 1, i);
      auto& block = *blocks_.emplace_back(std::make_unique<Block>());
      if (bottleneck) {
        block.conv1.emplace(arena_, name + "conv1", name + "bn1", channels, mid, 1, 1);
        block.conv2.emplace(arena_, name + "conv2", name + "bn2", mid, mid, 3, stride);
        block.conv3.emplace(arena_, name + "conv3", name + "bn3", mid, out, 1, 1);
      } else {
        block.conv1.emplace(arena_, name + "conv1", name + "bn1", channels, mid, 3, stride);
        block.conv2.emplace(arena_, name + "conv2", name + "bn2", mid, out, 3, 1);
      }
      if (stride != 1 || channels != out) block.downsample.emplace(arena_, name + "downsample.0", name + "downsample.1", channels, out, 1, stride);
      channels = out;
    }
  }
  fc_.emplace(arena_, "fc", channels, config.classes);
  arena_.build(config.seed, config.device, config.type);
}

Var Resnet::Block::operator()(Var x, Mode mode) const {
  Var shortcut = downsample ? (*downsample)(x, mode, Activation::none) : x;
  Var y = (*conv1)(x, mode, Activation::relu);
  x = {};  // the shortcut's handle is the only one now
  if (!conv3) return (*conv2)(y, mode, Activation::relu, std::move(shortcut));
  y = (*conv2)(y, mode, Activation::relu);
  return (*conv3)(y, mode, Activation::relu, std::move(shortcut));
}

Var Resnet::features(const Var& x, Mode mode) {
  const Tensor& images = x.value();
  KD_CHECK(images.rank() == 4 && images.dim(3) == input_channels_ && images.device() == config_.device &&
               (images.dtype() == config_.type || config_.device == Device::cpu),
           "{} needs images {}[N,H,W,{}] on {}, got {}", to_string(config_.arch), to_string(config_.type), input_channels_, to_string(config_.device),
           images.describe("x"));
  Var y = config_.stem == Stem::imagenet ? stem_->pooled(x, mode) : (*stem_)(x, mode, Activation::relu);
  for (const auto& block : blocks_) y = (*block)(std::move(y), mode);
  return y;
}

Var Resnet::logits(const Var& features) const { return (*fc_)(global_avg_pool(features)); }

}  // namespace kd
