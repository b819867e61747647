// zoo: the convolutions of the model zoo as plain shapes, for tests, benchmarks and tuning that need "every convolution a network asks for" without
// building the network.
#pragma once
#include <vector>

#include "kernels/conv/conv.h"

namespace kd {

enum class ZooNet : unsigned char { resnet18, resnet50 };
enum class ZooStem : unsigned char { imagenet, cifar };  // 7x7 stride 2 and a 3x3 stride-2 pool; 3x3 stride 1, no pool

struct ZooConv {
  ConvShape shape;
  int layers;    // of the network that have this shape
  bool is_stem;  // its input is the image: no dgrad
};

// Channels of an image in GPU memory: 3, padded with zeros to what 16-byte loads can take.
inline constexpr int64_t zoo_image_channels(ZooStem stem) { return stem == ZooStem::imagenet ? 4 : 8; }

// The distinct convolutions of one forward pass in the order of their first use; `image` is the input's height and width in pixels.
std::vector<ZooConv> zoo_convs(ZooNet, ZooStem, int64_t batch, int64_t image);

}  // namespace kd
