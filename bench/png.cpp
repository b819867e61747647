#include "bench/png.h"

#include <cmath>
#include <cstring>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop
#ifdef KD_WITH_PNG
#include <cairo.h>
#include <librsvg/rsvg.h>

#include <memory>
#endif

#include "engine/base/check.h"

namespace kd {
namespace {

void append(void* into, const void* data, size_t size) {
  auto* begin = static_cast<const uint8_t*>(data);
  auto* bytes = static_cast<std::vector<uint8_t>*>(into);
  bytes->insert(bytes->end(), begin, begin + size);
}

}  // namespace

std::vector<uint8_t> encode_png(const uint8_t* rgb, int64_t height, int64_t width) {
  std::vector<uint8_t> bytes;
  auto write = [](void* into, void* data, int size) { append(into, data, size_t(size)); };
  KD_CHECK(stbi_write_png_to_func(write, &bytes, int(width), int(height), 3, rgb, int(width * 3)), "PNG encoding failed");
  return bytes;
}

std::string base64(std::span<const uint8_t> bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (i + k < bytes.size() ? bytes[i + k] : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::vector<uint8_t> thumbnail(const std::vector<uint8_t>& image, int64_t px, int64_t side) {
  if (px <= side) return image;
  std::vector<uint8_t> out;
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x)
      for (int64_t c = 0; c < 3; ++c) {
        int64_t sum = 0, count = 0;
        for (int64_t v = y * px / side; v < (y + 1) * px / side; ++v)
          for (int64_t u = x * px / side; u < (x + 1) * px / side; ++u) sum += image[size_t((v * px + u) * 3 + c)], ++count;
        out.push_back(uint8_t((sum + count / 2) / count));
      }
  return out;
}

#ifdef KD_WITH_PNG

bool draws_png() { return true; }

std::vector<uint8_t> draw_png(const std::string& svg, double scale) {
  GError* error = nullptr;
  const std::unique_ptr<RsvgHandle, void (*)(void*)> handle(rsvg_handle_new_from_data(reinterpret_cast<const guint8*>(svg.data()), svg.size(), &error),
                                                            g_object_unref);
  auto check = [&](bool ok) {
    if (ok) return;
    const std::string why = error ? std::string(error->message).substr(0, std::strcspn(error->message, "\n")) : "unknown reason";
    g_clear_error(&error);
    KD_INPUT(false, "librsvg cannot draw this figure: {}", why);
  };
  check(handle != nullptr);
  double width = 0, height = 0;
  KD_CHECK(rsvg_handle_get_intrinsic_size_in_pixels(handle.get(), &width, &height), "the figure has no size in pixels");
  const RsvgRectangle all{0, 0, std::ceil(width * scale), std::ceil(height * scale)};
  const std::unique_ptr<cairo_surface_t, void (*)(cairo_surface_t*)> surface(cairo_image_surface_create(CAIRO_FORMAT_ARGB32, int(all.width), int(all.height)),
                                                                             cairo_surface_destroy);
  const std::unique_ptr<cairo_t, void (*)(cairo_t*)> context(cairo_create(surface.get()), cairo_destroy);
  check(rsvg_handle_render_document(handle.get(), context.get(), &all, &error) != 0);
  std::vector<uint8_t> bytes;
  const cairo_status_t status = cairo_surface_write_to_png_stream(
      surface.get(),
      [](void* into, const unsigned char* data, unsigned size) {
        append(into, data, size);
        return CAIRO_STATUS_SUCCESS;
      },
      &bytes);
  KD_CHECK(status == CAIRO_STATUS_SUCCESS, "cairo cannot write a PNG of {} x {}: {}", all.width, all.height, cairo_status_to_string(status));
  return bytes;
}

#else

bool draws_png() { return false; }

std::vector<uint8_t> draw_png(const std::string&, double) { throw Error("PNG figures need a kd_bench built with librsvg (Debian: librsvg2-dev)"); }

#endif

}  // namespace kd
