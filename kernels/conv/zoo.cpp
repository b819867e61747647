#include "kernels/conv/zoo.h"

#include <algorithm>

namespace kd {

std::vector<ZooConv> zoo_convs(ZooNet net, ZooStem stem, int64_t batch, int64_t image) {
  std::vector<ZooConv> all;
  auto add = [&](int64_t size, int64_t c, int64_t k, int64_t filter, int64_t stride, bool is_stem = false) {
    const ConvShape shape{.n = batch, .h = size, .w = size, .c = c, .k = k, .r = filter, .s = filter, .stride = stride, .pad = filter / 2};
    auto known = std::find_if(all.begin(), all.end(), [&](const ZooConv& conv) { return conv.shape == shape; });
    if (known == all.end())
      all.push_back({shape, 1, is_stem});
    else
      ++known->layers;
    return shape.p();
  };

  const bool bottleneck = net == ZooNet::resnet50, imagenet = stem == ZooStem::imagenet;
  const int depth[4] = {bottleneck ? 3 : 2, bottleneck ? 4 : 2, bottleneck ? 6 : 2, bottleneck ? 3 : 2};
  int64_t channels = 64, size = add(image, zoo_image_channels(stem), channels, imagenet ? 7 : 3, imagenet ? 2 : 1, true);
  if (imagenet) size = (size - 1) / 2 + 1;
  for (int stage = 0; stage < 4; ++stage) {
    const int64_t mid = int64_t(64) << stage, out = bottleneck ? 4 * mid : mid;
    for (int block = 0; block < depth[stage]; ++block) {
      const int64_t stride = stage > 0 && block == 0 ? 2 : 1, input = size;
      if (bottleneck) {
        add(size, channels, mid, 1, 1);
        size = add(size, mid, mid, 3, stride);
        add(size, mid, out, 1, 1);
      } else {
        size = add(size, channels, mid, 3, stride);
        add(size, mid, out, 3, 1);
      }
      if (stride != 1 || channels != out) add(input, channels, out, 1, stride);
      channels = out;
    }
  }
  return all;
}

}  // namespace kd
