// augment: u8 images and host-drawn decisions in, a normalised network input out, in one pass per sample. Bit-equal to Pillow 10.1.
//   out[i] = (view_i / 255 - mean) / std,   view_i = cutout(ops[4](... ops[0](flip(window(resize(crop(images[record_i.image])))))))
// shapes  images u8 [N,H,W,3] resident   out f32|bf16 [B,px,px,C], C = 3, 4 or 8: channels from 3 on are 0, so that a GPU's convolutions get
//         16-byte pixels; or u8 [B,px,px,3], the view itself      B records
// moves   B * px*px*C * sizeof(out) written + the crops read; views live in working memory (CPU: a thread's, GPU: a block's), never in memory as a batch
// One record decides everything about one sample: kernels draw nothing, so backends agree and a batch's make-up cannot matter. All pixel arithmetic is
// written once (augment_pixel.h), and all that needs a cosine or counts on the order of roundings happens in `prepare`, on the host: the bits are the same
// on every device.
#pragma once
#include <array>
#include <vector>

#include "engine/base/dispatch.h"

namespace kd {

enum class Resample : uint8_t { nearest, bilinear, bicubic };

// What an operation does to a u8 RGB image; `value` is the argument named here. Pillow's ImageOps, ImageEnhance and Image.transform.
enum class PixelOp : uint8_t {
  none,
  brightness,    // factor: 0 black, 1 the image itself; the next three alike
  contrast,      // factor: 0 the mean grey of the image
  color,         // factor: 0 the grey image
  sharpness,     // factor: 0 the smoothed image
  autocontrast,  // stretches each channel to 0..255
  equalize,      // flattens each channel's histogram
  invert,
  solarize,      // threshold: values from it on are inverted
  solarize_add,  // amount added to values below 128
  posterize,     // bits kept, 0..8
  shear_x,       // source x = x + value * y
  shear_y,       // source y = y + value * x
  translate_x,   // pixels; positive moves the content left
  translate_y,   // pixels; positive moves the content up
  rotate,        // degrees counter-clockwise about the centre
};
std::string to_string(PixelOp);

struct Rgb {
  uint8_t r = 0, g = 0, b = 0;
  bool operator==(const Rgb&) const = default;
};
constexpr Rgb grey(uint8_t level) { return {level, level, level}; }

struct OpCall {
  PixelOp op = PixelOp::none;
  double value = 0;
  Resample resample = Resample::nearest;  // geometric operations only; shears cannot be nearest
  Rgb fill = {};                          // geometric operations only: where no source pixel falls
};

struct PixelRect {
  int32_t top = 0, left = 0, height = 0, width = 0;
};

constexpr int kViewOps = 5;  // three of ColorJitter and two of RandAugment; other views leave some empty

// The crop is cut out first (resampling never sees pixels outside it) and resized; the output is a px*px window of the result, black outside it.
// So a window at (-3, 2) of an unresized image is the crop of a zero-padded one.
template <class Op>
struct ViewRecord {
  int64_t image = 0;  // index into `images`
  PixelRect crop = {};
  int32_t resized_height = 0, resized_width = 0;
  Resample resample = Resample::bicubic;  // bilinear | bicubic, antialiased
  int32_t window_top = 0, window_left = 0;
  bool flip = false;                                  // mirrors the window's columns
  Op ops[kViewOps] = {Op{}, Op{}, Op{}, Op{}, Op{}};  // in this order; not {}: g++ 12 then takes no braced list for a record
  PixelRect cutout = {};                              // set to black, in output pixels, inside the output
};
using AugmentRecord = ViewRecord<OpCall>;  // as people and policies say it

// 16.16 fixed point, for nearest sampling: output (x, y) comes from ((c + b y + a x) >> 16, (f + e y + d x) >> 16).
struct FixedAffine {
  int32_t a, b, c, d, e, f;
};

// For nearest sampling: output i comes from i + by, and from `carry` on from i + by + 1.
struct PixelShift {
  int32_t by, carry;
};
// Between pixels: output i of a row or column `line` comes from position (i + 1/2) + slope * (line + 1/2) + offset of the same line.
struct LineMap {
  double slope, offset;
};
// About the centre, between pixels.
struct Turn {
  double cosine, sine;
};

// An operation as kernels take it: one member of the union counts, by `op` and `resample`.
struct PreparedOp {
  PixelOp op = PixelOp::none;
  Resample resample = Resample::nearest;  // shear_*, translate_*, rotate
  Rgb fill = {};                          // the same
  union {
    FixedAffine turn_nearest = {};  // rotate, nearest
    Turn turn;                      // rotate, bilinear or bicubic
    PixelShift shift;               // translate_*, nearest
    LineMap line;                   // translate_*, bilinear or bicubic; shear_*
    float factor;                   // brightness, contrast, color, sharpness
    int32_t level;                  // solarize: threshold, solarize_add: amount, posterize: bits
  };
};
static_assert(sizeof(PreparedOp) == 32);
using PreparedRecord = ViewRecord<PreparedOp>;  // as kernels take it: checked, plain bytes that can be copied to a device

struct AugmentShape {
  int64_t n, h, w;  // images
  int64_t px;       // side of the views
};
// Throws where the record does not fit the shape. Kernels check nothing.
PreparedRecord prepare(const AugmentRecord&, const AugmentShape&);

// The first half of a view alone, on the host: crop, resize, window and flip of one image u8 [h,w,3] into window u8 [px,px,3]. For images that are in no
// tensor; what is left to do is whole_window(record) of the windows. Throws where the record does not fit the image.
void make_window(const uint8_t* image, int64_t h, int64_t w, const AugmentRecord&, int64_t px, uint8_t* window);
AugmentRecord whole_window(const AugmentRecord&, int64_t image, int64_t px);  // the operations and the cutout of a record, on window number `image`

struct AugmentRecordsArgs {
  const uint8_t* images;
  AugmentShape shape;
  const PreparedRecord* records;  // in memory of the stream's device, prepared for this shape
  int64_t batch;
  void* out;
  DType type;                      // of out: f32 | bf16 | u8
  int64_t channels = 3;            // of out
  std::array<float, 3> mean, std;  // of x/255, per channel; unused for u8
};
void augment_records(Stream, const AugmentRecordsArgs&);
void check_args(const AugmentRecordsArgs&);  // by every backend

// The pieces, for one host image.
struct RgbImage {  // u8 HWC, 3 channels
  int64_t h = 0, w = 0;
  std::vector<uint8_t> pixels;
};
void apply_op(RgbImage&, const OpCall&);
RgbImage crop_resize(const RgbImage&, const PixelRect& crop, int64_t height, int64_t width, Resample);

}  // namespace kd
