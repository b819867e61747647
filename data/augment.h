// augment: the training views. Policy here (which crop, which operations), pixels in kernels/augment; all image arithmetic equals Pillow 10.1's.
// Pipeline cifar, for images of one small size:
//   enlarged, px > source: weak   RandomResizedCrop(scale .2-1, bicubic), flip, rotation +-15 deg     (ImageNet-style crops of small images)
//                          strong RandomResizedCrop, flip, AutoAugment CIFAR-10 (Cubuk et al. 2019), Cutout (DeVries and Taylor 2017)
//                          base   RandomResizedCrop                test   short side to px (bilinear), centre crop
//   native, px == source:  weak   crop of the image padded by 4 black pixels, flip, rotation +-15 deg
//                          strong padded crop, flip, AutoAugment, Cutout      base padded crop      test the image itself
// Pipeline imagenet, for images of any size:
//   weak   RandomResizedCrop(scale .08-1, bilinear), flip, ColorJitter(.4, .4, .4)      base   RandomResizedCrop
//   strong the same, then RandAugment, two operations at magnitude 10 +- .5             test   short side to px 256/224, centre crop
#pragma once
#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "data/packed.h"
#include "engine/base/rng.h"
#include "engine/base/tensor.h"
#include "kernels/augment/augment.h"

namespace kd {

enum class View { weak, strong, base, test };
View view_from_name(std::string_view);  // "weak" | "strong" | "base" | "test"; anything else is an input error that lists them
std::string to_string(View);

enum class Pipeline : unsigned char { cifar, imagenet };

// How RandAugment's level becomes an argument (docs/augmentation.md): timm_old is what arXiv 2405.00739 trained with, where brightness, contrast, color and
// sharpness only ever increase and solarize at level 10 does nothing; increasing is timm's "inc" variant of these five, stronger with the level in both
// directions.
enum class RandAugment : unsigned char { timm_old, increasing };

struct AugmentConfig {
  int64_t px = 32;                                    // output height and width
  std::array<float, 3> mean{.5071f, .4867f, .4408f};  // of x/255; CIFAR-100's own
  std::array<float, 3> std{.2675f, .2565f, .2761f};
  int64_t cutout_length = 16;  // cifar: side of the black square of the strong view, in output pixels; 0: none
  Pipeline pipeline = Pipeline::cifar;
  RandAugment randaugment = RandAugment::increasing;  // imagenet
  Resample test_resample = Resample::bilinear;        // of the test view: bilinear | bicubic
};

// Writes out[i] = view of images[indices[i]].   images u8 [N,H,W,3], on any device, out on the same   out f32|bf16 [B,px,px,C]   B = indices.size()
// C = 3, 4 or 8: channels from 3 on are 0.
// A pure function of (seed, epoch, index, view): the rest of the batch, its order, the thread count and the device do not matter.
// Input error when px is smaller than the images and the pipeline is cifar.
void augment_batch(const Tensor& images, std::span<const int64_t> indices, View, const AugmentConfig&, uint64_t seed, uint32_t epoch, const Tensor& out);

// The same views before normalisation, u8 [B,px,px,3]; Cutout shows black.
void augment_u8(const Tensor& images, std::span<const int64_t> indices, View, const AugmentConfig&, uint64_t seed, uint32_t epoch, const Tensor& out_u8);

// The two halves of the above, for a loop that replays the second as part of a CUDA graph.
// On the host: writes the decisions for image_shape = [N,H,W,3] and indices[i] to records[i].
void draw_records(const Shape& image_shape, std::span<const int64_t> indices, View, const AugmentConfig&, uint64_t seed, uint32_t epoch,
                  PreparedRecord* records);
// On the images' device: out[i] from records[i], which lie in that device's memory. out u8 [B,px,px,3] or f32|bf16 [B,px,px,C]. Launches and nothing else.
void make_views(const Tensor& images, const PreparedRecord* records, const AugmentConfig&, const Tensor& out);
void make_views(const uint8_t* images, const Shape& image_shape, const PreparedRecord* records, const AugmentConfig&, const Tensor& out);

// The same for images in host memory that each have a size of their own (packed.h): the host cuts their windows (crop, resize, flip), all threads at once,
// and make_views of the windows does the rest, on any device. windows u8 [n,px,px,3]; records[i] is about window i, drawn for indices[i].
void draw_windows(std::span<const ImageView> images, std::span<const int64_t> indices, View, const AugmentConfig&, uint64_t seed, uint32_t epoch,
                  uint8_t* windows, PreparedRecord* records);

// The decisions behind the pixels.
AugmentRecord draw_record(int64_t h, int64_t w, int64_t index, View, const AugmentConfig&, uint64_t seed, uint32_t epoch);

// One attempt of torchvision's RandomResizedCrop: area uniform in [low, high] of the image's, log aspect uniform in [ln 3/4, ln 4/3]; none if it does not fit.
struct AreaScale {
  float low, high;
};
std::optional<PixelRect> try_random_crop(Rng&, int64_t h, int64_t w, AreaScale);
// Up to ten attempts, then the largest centred crop of an allowed aspect.
PixelRect random_resized_crop(Rng&, int64_t h, int64_t w, AreaScale);

// Row 0..24 of AutoAugment's CIFAR-10 policy for an image of side px: each operation with its probability, signs uniform.
constexpr int kAutoAugmentRows = 25;
std::array<OpCall, 2> draw_autoaugment_row(Rng&, int row, int64_t px);

// torchvision's ColorJitter(.4, .4, .4): brightness, contrast and color in a random order, each by a factor uniform in [0.6, 1.4].
std::array<OpCall, 3> draw_color_jitter(Rng&);

// timm's rand-m10-n2-mstd0.5 for an image of side px: twice one of 15 operations, uniformly and with replacement, each left out with probability 1/2.
std::array<OpCall, 2> draw_randaugment(Rng&, RandAugment, int64_t px);

}  // namespace kd
