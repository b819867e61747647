#include "data/image.h"

#include <jpeglib.h>
#include <zlib.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {
// A PNG of a few megabytes can inflate to gigabytes whatever size its header claims, so no single allocation may be larger than an honest image of that size
// needs.
thread_local size_t stb_most_bytes = 0;
void* stb_allocate(size_t bytes) { return bytes <= stb_most_bytes ? std::malloc(bytes) : nullptr; }
void* stb_reallocate(void* old, size_t bytes) { return bytes <= stb_most_bytes ? std::realloc(old, bytes) : nullptr; }
}  // namespace

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG
#define STBI_MALLOC(bytes) stb_allocate(bytes)
#define STBI_REALLOC(old, bytes) stb_reallocate(old, bytes)
#define STBI_FREE(p) std::free(p)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

namespace kd {
namespace {

using Bytes = std::span<const uint8_t>;

// A progressive image may be sent in any number of passes over all its pixels; encoders use about ten.
constexpr int kMaxScans = 100;
constexpr uint8_t kPngSignature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

struct Structure {
  ImageSize size = {};
  bool jpeg = false;
  int channels = 0;  // JPEG: 1, 3 or 4
};

bool begins_with(Bytes file, Bytes start) { return file.size() >= start.size() && std::memcmp(file.data(), start.data(), start.size()) == 0; }
uint32_t big_endian(Bytes file, size_t at, int bytes) {
  uint32_t value = 0;
  for (int i = 0; i < bytes; ++i) value = value << 8 | file[at + size_t(i)];
  return value;
}

void check_size(const std::string& name, ImageSize size) {
  KD_INPUT(size.h > 0 && size.w > 0, "{}: claims to be {} x {} pixels; the file is damaged", name, size.w, size.h);
  KD_INPUT(size.h <= kMaxImageSide && size.w <= kMaxImageSide && size.h * size.w <= kMaxImagePixels,
           "{}: claims to be {} x {} pixels; sides over {} and images over {} megapixels are refused", name, size.w, size.h, kMaxImageSide,
           kMaxImagePixels >> 20);
}

Structure png_structure(Bytes file, const std::string& name) {
  Structure png;
  bool ended = false;
  for (size_t at = sizeof(kPngSignature); !ended;) {
    KD_INPUT(file.size() - at >= 12, "{}: truncated PNG: it ends at byte {} before its last chunk; restore or remove it", name, file.size());
    const uint64_t length = big_endian(file, at, 4);
    KD_INPUT(length <= file.size() - at - 12, "{}: truncated PNG: a chunk of {} bytes at byte {}, {} bytes are left; restore or remove it", name, length, at,
             file.size() - at - 12);
    const uint8_t* type = file.data() + at + 4;
    const bool critical = (type[0] & 0x20) == 0;
    if (critical) {
      const uint32_t sum = uint32_t(crc32(0, type, uInt(length + 4)));
      KD_INPUT(sum == big_endian(file, at + 8 + length, 4), "{}: damaged PNG: the checksum of the chunk at byte {} is wrong; restore or remove it", name, at);
    }
    auto is = [&](const char* want) { return std::memcmp(type, want, 4) == 0; };
    if (at == sizeof(kPngSignature)) {
      KD_INPUT(is("IHDR") && length == 13, "{}: damaged PNG: it does not begin with its size; restore or remove it", name);
      png.size = {.h = big_endian(file, at + 12, 4), .w = big_endian(file, at + 8, 4)};
    }
    ended = is("IEND");
    at += 12 + size_t(length);
  }
  return png;
}

Structure jpeg_structure(Bytes file, const std::string& name) {
  Structure jpeg{.jpeg = true};
  const size_t end = file.size();
  int scans = 0;
  auto need = [&](bool there) { KD_INPUT(there, "{}: truncated JPEG: {} bytes and no end marker; restore or remove it", name, end); };
  for (size_t at = 2;;) {
    // The next marker: 0xff and something that is neither a stuffed zero nor a fill byte. Bytes before it are compressed pixels, or rubbish that
    // every decoder skips.
    while (at < end && file[at] != 0xff) {
      const void* next = std::memchr(file.data() + at, 0xff, end - at);
      at = next ? size_t(static_cast<const uint8_t*>(next) - file.data()) : end;
    }
    while (at < end && file[at] == 0xff) ++at;
    need(at < end);
    const int marker = file[at++];
    if (marker == 0xd9) break;                                                       // end of image
    if (marker == 0 || marker == 1 || (marker >= 0xd0 && marker <= 0xd8)) continue;  // stuffing, and markers without a body
    need(end - at >= 2);
    const size_t length = big_endian(file, at, 2);
    KD_INPUT(length >= 2, "{}: damaged JPEG: an empty segment at byte {}; restore or remove it", name, at);
    need(end - at >= length);
    const bool frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (frame) {
      KD_INPUT(marker <= 0xc2, "{}: a JPEG of a rare kind (lossless, hierarchical or arithmetic, marker ff{:02x}); save it again as an ordinary one", name,
               marker);
      KD_INPUT(length >= 8 && jpeg.channels == 0, "{}: damaged JPEG: its frame header at byte {} is wrong; restore or remove it", name, at);
      KD_INPUT(file[at + 2] == 8, "{}: a JPEG of {} bits a channel; save it again with 8", name, file[at + 2]);
      jpeg.size = {.h = big_endian(file, at + 3, 2), .w = big_endian(file, at + 5, 2)};
      jpeg.channels = file[at + 7];
      KD_INPUT(jpeg.channels == 1 || jpeg.channels == 3 || jpeg.channels == 4, "{}: a JPEG of {} channels; 1, 3 and 4 are known", name, jpeg.channels);
    }
    if (marker == 0xda) KD_INPUT(++scans <= kMaxScans, "{}: a JPEG of more than {} scans, made to waste time; refused", name, kMaxScans);
    at += length;
  }
  KD_INPUT(jpeg.channels > 0 && scans > 0, "{}: damaged JPEG: it has an end but no pixels; restore or remove it", name);
  return jpeg;
}

Structure structure_of(Bytes file, const std::string& name) {
  KD_INPUT(!file.empty(), "{}: the file is empty; restore or remove it", name);
  Structure found;
  if (begins_with(file, kPngSignature)) {
    found = png_structure(file, name);
  } else {
    const uint8_t jpeg[3] = {0xff, 0xd8, 0xff};
    KD_INPUT(begins_with(file, jpeg), "{}: neither PNG nor JPEG (it begins with {:02x}); convert or remove it", name,
             fmt::join(file.first(std::min<size_t>(file.size(), 4)), " "));
    found = jpeg_structure(file, name);
  }
  check_size(name, found.size);
  return found;
}

RgbImage decode_png(Bytes file, const std::string& name, const Structure& structure) {
  // Four channels of 16 bits and a byte a row, in a buffer that grows by doubling; the file's compressed bytes in another.
  stb_most_bytes = std::max(size_t((structure.size.h + 64) * (structure.size.w + 64) * 16), 4 * file.size());
  int w = 0, h = 0, channels = 0;
  const std::unique_ptr<uint8_t, decltype(&std::free)> pixels(stbi_load_from_memory(file.data(), int(file.size()), &w, &h, &channels, 3), &std::free);
  KD_INPUT(pixels, "{}: cannot be decoded ({}); restore or remove it", name, stbi_failure_reason());
  KD_CHECK(h == structure.size.h && w == structure.size.w, "{}: decoded to {} x {}", name, w, h);
  return {.h = h, .w = w, .pixels = {pixels.get(), pixels.get() + int64_t(h) * w * 3}};
}

struct JpegErrors {
  jpeg_error_mgr manager;  // first: libjpeg hands out a pointer to it
  std::jmp_buf back;
  char message[JMSG_LENGTH_MAX];
};

// Pillow's conversion of inverted CMYK: the values of Adobe's files are amounts of light, 255 for no ink.
void cmyk_to_rgb(const uint8_t* cmyk, int64_t pixels, uint8_t* rgb) {
  for (int64_t i = 0; i < pixels; ++i, cmyk += 4, rgb += 3)
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[c]) * cmyk[3] + 128;
      rgb[c] = uint8_t(cmyk[3] - (((product >> 8) + product) >> 8));
    }
}

// Everything between setjmp and the end of this function is plain C, so that the jump over it skips no destructor. `line` has room for w * channels bytes.
bool decode_rows(Bytes file, const Structure& structure, uint8_t* rgb, uint8_t* line, JpegErrors& errors) {
  jpeg_decompress_struct jpeg;
  jpeg.err = jpeg_std_error(&errors.manager);
  errors.manager.error_exit = [](j_common_ptr info) {
    auto* failed = reinterpret_cast<JpegErrors*>(info->err);
    failed->manager.format_message(info, failed->message);
    std::longjmp(failed->back, 1);
  };
  errors.manager.emit_message = [](j_common_ptr, int) {};  // warnings: as Pillow, take what can be had
  if (setjmp(errors.back)) {
    jpeg_destroy_decompress(&jpeg);
    return false;
  }
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, file.data(), file.size());
  jpeg_read_header(&jpeg, TRUE);
  jpeg.out_color_space = structure.channels == 1 ? JCS_GRAYSCALE : structure.channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_start_decompress(&jpeg);
  const int64_t w = structure.size.w;
  bool as_expected = jpeg.output_height == structure.size.h && jpeg.output_width == w && jpeg.output_components == structure.channels;
  while (as_expected && jpeg.output_scanline < jpeg.output_height) {
    uint8_t* row = rgb + int64_t(jpeg.output_scanline) * w * 3;
    JSAMPROW into = structure.channels == 3 ? row : line;
    jpeg_read_scanlines(&jpeg, &into, 1);
    if (structure.channels == 4) cmyk_to_rgb(line, w, row);
    if (structure.channels == 1)
      for (int64_t x = 0; x < w; ++x) row[3 * x] = row[3 * x + 1] = row[3 * x + 2] = line[x];
  }
  if (!as_expected) std::strcpy(errors.message, "its headers contradict each other");
  jpeg_destroy_decompress(&jpeg);
  return as_expected;
}

RgbImage decode_jpeg(Bytes file, const std::string& name, const Structure& structure) {
  RgbImage image{.h = structure.size.h, .w = structure.size.w, .pixels = {}};
  image.pixels.resize(size_t(image.h * image.w * 3));
  std::vector<uint8_t> line(size_t(image.w * structure.channels));
  JpegErrors errors;
  KD_INPUT(decode_rows(file, structure, image.pixels.data(), line.data(), errors), "{}: cannot be decoded ({}); restore or remove it", name, errors.message);
  return image;
}

}  // namespace

#define KD_TEXT(text) #text
#define KD_TEXT_OF(macro) KD_TEXT(macro)

std::string jpeg_decoder() {
#if defined(LIBJPEG_TURBO_VERSION)
  return "libjpeg-turbo " KD_TEXT_OF(LIBJPEG_TURBO_VERSION);
#else
  return "libjpeg " KD_TEXT_OF(JPEG_LIB_VERSION);
#endif
}

ImageSize image_size(Bytes file, const std::string& name) { return structure_of(file, name).size; }

RgbImage decode_image(Bytes file, const std::string& name) {
  KD_INPUT(file.size() <= size_t(1) << 30, "{}: larger than 1 GiB, surely no image", name);
  const Structure structure = structure_of(file, name);
  return structure.jpeg ? decode_jpeg(file, name, structure) : decode_png(file, name, structure);
}

RgbImage read_image(const Path& path) { return decode_image(read_bytes(path), path.string()); }

ImageSize shrunk_size(ImageSize size, int64_t short_side) {
  const int64_t shorter = std::min(size.h, size.w), longer = std::max(size.h, size.w);
  if (short_side == 0 || shorter <= short_side) return size;
  const int64_t scaled = short_side * longer / shorter;
  return size.h <= size.w ? ImageSize{.h = short_side, .w = scaled} : ImageSize{.h = scaled, .w = short_side};
}

RgbImage shrink(RgbImage image, int64_t short_side) {
  const ImageSize size = shrunk_size({.h = image.h, .w = image.w}, short_side);
  if (size.h == image.h && size.w == image.w) return image;
  return crop_resize(image, {.top = 0, .left = 0, .height = int32_t(image.h), .width = int32_t(image.w)}, size.h, size.w, Resample::bicubic);
}

}  // namespace kd
