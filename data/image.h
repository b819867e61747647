// image: one PNG or JPEG file to 8-bit RGB, as Pillow's Image.open(file).convert("RGB") gives it.
//   grey        repeated in all three channels            palette, alpha   expanded; alpha is dropped
//   16 bits     the high byte. Pillow does so for RGB but cuts 16-bit grey off at 255, which turns pictures white; here grey is scaled like the rest
//   CMYK, YCCK  Adobe's inverted values (255: no ink), R = K C / 255 rounded
//   EXIF orientation and colour profiles are ignored
// The content decides, not the name. PNG by stb_image. JPEG by libjpeg-turbo: the format leaves last bits to the decoder, and these are Pillow's;
// stb_image's decoder differs from them and writes outside of its tables when a file is damaged (version 2.27).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "kernels/augment/augment.h"

namespace kd {

// Beyond these an image is refused before anything is allocated for it.
constexpr int64_t kMaxImageSide = 16384, kMaxImagePixels = int64_t(64) << 20;

std::string jpeg_decoder();  // with its version: "libjpeg-turbo 2.1.5"

struct ImageSize {
  int64_t h, w;
};

// Looks at the file's structure only. Input error, beginning with `name`, for what is empty, truncated, damaged, too large, or neither PNG nor JPEG.
// A JPEG without its end marker counts as truncated: decoders fill the missing part with grey and call it success.
ImageSize image_size(std::span<const uint8_t> file, const std::string& name);

RgbImage decode_image(std::span<const uint8_t> file, const std::string& name);
RgbImage read_image(const Path&);

// The size whose short side is min(`short_side`, what it is), long side truncated as torchvision's Resize does; 0 keeps every size.
ImageSize shrunk_size(ImageSize, int64_t short_side);
RgbImage shrink(RgbImage, int64_t short_side);  // Pillow's antialiased bicubic

}  // namespace kd
