// data: make, check and look at datasets.
#include <algorithm>
#include <filesystem>
#include <map>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_FAILURE_USERMSG
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#include <stb/stb_image_write.h>
#pragma GCC diagnostic pop

#include "bench/verbs.h"
#include "data/augment.h"
#include "data/loader.h"

namespace kd {
namespace {

void write_png(const Path& path, const Tensor& rgb) {  // u8 [H,W,3]
  std::vector<uint8_t> bytes;
  auto append = [](void* into, void* data, int size) {
    auto* begin = static_cast<uint8_t*>(data);
    static_cast<std::vector<uint8_t>*>(into)->insert(static_cast<std::vector<uint8_t>*>(into)->end(), begin, begin + size);
  };
  KD_CHECK(stbi_write_png_to_func(append, &bytes, int(rgb.dim(1)), int(rgb.dim(0)), 3, rgb.data<uint8_t>(), int(rgb.dim(1) * 3)), "PNG encoding failed");
  write_atomically(path, [&](FileWriter& out) { out.write(std::span<const uint8_t>(bytes)); });
}

struct Picture {
  Path path;
  int32_t label;
};

// One 32x32 RGB image from a file: the largest centred square.
void load_picture(const Path& path, uint8_t* out) {
  const auto bytes = read_bytes(path);
  int w = 0, h = 0, channels = 0;
  KD_INPUT(stbi_info_from_memory(bytes.data(), int(bytes.size()), &w, &h, &channels), "{}: not a PNG or JPEG image ({})", path.string(), stbi_failure_reason());
  KD_INPUT(int64_t(w) * h <= 100'000'000, "{}: claims {}x{} pixels; images over 100 megapixels are refused", path.string(), w, h);
  std::unique_ptr<uint8_t, decltype(&stbi_image_free)> pixels(stbi_load_from_memory(bytes.data(), int(bytes.size()), &w, &h, &channels, 3),
                                                              [](void* p) { stbi_image_free(p); });
  KD_INPUT(pixels != nullptr, "{}: cannot decode: {}", path.string(), stbi_failure_reason());
  const int side = std::min(w, h), left = (w - side) / 2, top = (h - side) / 2;
  // Box average down (or nearest up): every output pixel is the mean of the source pixels it covers.
  for (int y = 0; y < 32; ++y)
    for (int x = 0; x < 32; ++x)
      for (int c = 0; c < 3; ++c) {
        const int y0 = y * side / 32, y1 = std::max(y0 + 1, (y + 1) * side / 32), x0 = x * side / 32, x1 = std::max(x0 + 1, (x + 1) * side / 32);
        int64_t sum = 0;
        for (int sy = y0; sy < y1; ++sy)
          for (int sx = x0; sx < x1; ++sx) sum += pixels.get()[(int64_t(top + sy) * w + left + sx) * 3 + c];
        const int64_t n = int64_t(y1 - y0) * (x1 - x0);
        out[(y * 32 + x) * 3 + c] = uint8_t((sum + n / 2) / n);
      }
}

void print_split(const char* name, const Dataset& data) {
  const auto counts = data.class_counts();
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  fmt::print("  {:<8} {:>7} images, {} classes with {} to {} images, {}x{} px, hash {}\n", name, data.size(), data.classes, *least, *most, data.px(), data.px(),
             data.hash());
}

}  // namespace

void show_views(const DataConfig& config, const std::string& view, int64_t px, int64_t count, uint64_t seed, const Path& png) {
  KD_INPUT(count >= 1 && count <= 4096, "--count is {}, expected 1 to 4096", count);
  const Dataset data = load_splits(config).train;
  const int64_t n = std::min(count, data.size()), columns = std::min<int64_t>(n, px > 64 ? 6 : 16), rows = (n + columns - 1) / columns, gap = 2;
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < n; ++i) indices.push_back(i);
  AugmentConfig augment;
  augment.px = px;
  Tensor views = Tensor::empty({n, px, px, 3}, DType::u8);
  augment_u8(data.images, indices, view_from_name(view), augment, seed, 0, views);
  const int64_t width = columns * (px + gap) + gap, height = rows * (px + gap) + gap;
  Tensor sheet = Tensor::empty({height, width, 3}, DType::u8);
  std::fill_n(sheet.data<uint8_t>(), sheet.elements(), uint8_t(255));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t y = 0; y < px; ++y)
      std::copy_n(views.data<uint8_t>() + (i * px + y) * px * 3, px * 3,
                  sheet.data<uint8_t>() + ((gap + i / columns * (px + gap) + y) * width + gap + i % columns * (px + gap)) * 3);
  write_png(png, sheet);
  fmt::print("{}: {} {} views of {} at {} px\n", png.string(), n, view, data.name, px);
}

void generate_data(const DataConfig& config, const Path& out) {
  DataConfig whole = config;
  whole.holdout = 0;
  const Splits splits = load_splits(whole);
  make_directories(out);
  write_cifar(splits.train, out, true);
  write_cifar(splits.test, out, false);
  fmt::print("{}: {} written in the CIFAR-100 binary format\n", out.string(), config.name);
  print_split("train", splits.train);
  print_split("test", splits.test);
  fmt::print("Use it with: data.name=cifar100 data.root={}\n", out.string());
}

void images_to_cifar(const Path& folder, const Path& out, double test_share, uint64_t seed) {
  KD_INPUT(std::filesystem::is_directory(folder), "{}: not a directory; expected one sub-folder of images per class", folder.string());
  KD_INPUT(test_share > 0 && test_share < 1, "--test-share is {}, expected a number between 0 and 1", test_share);
  std::map<std::string, std::vector<Path>> classes;  // sorted by name: label = rank
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.is_directory()) continue;
    auto& files = classes[entry.path().filename().string()];
    for (const auto& file : std::filesystem::directory_iterator(entry.path()))
      if (file.is_regular_file()) files.push_back(file.path());
    std::sort(files.begin(), files.end());
  }
  KD_INPUT(!classes.empty(), "{}: no sub-folders; expected one per class", folder.string());
  KD_INPUT(classes.size() <= 100, "{}: {} classes; the CIFAR-100 format holds at most 100", folder.string(), classes.size());

  Dataset all{.name = "cifar100", .classes = 100};
  std::vector<Picture> pictures;
  for (const auto& [name, files] : classes) {
    KD_INPUT(files.size() >= 2 && double(files.size()) * test_share >= 0.5,
             "{}: class '{}' has {} images: too few to keep a share of {:g} of them for testing; add images or raise --test-share", folder.string(), name,
             files.size(), test_share);
    for (const Path& path : files) pictures.push_back({path, int32_t(all.class_names.size())});
    all.class_names.push_back(name);
  }
  all.images = Tensor::empty({int64_t(pictures.size()), 32, 32, 3}, DType::u8);
  for (size_t i = 0; i < pictures.size(); ++i) {
    load_picture(pictures[i].path, all.images.data<uint8_t>() + int64_t(i) * 32 * 32 * 3);
    all.labels.push_back(pictures[i].label);
  }
  auto [train, test] = stratified_holdout(all.labels, 100, test_share, seed);
  make_directories(out);
  write_cifar(subset(all, train), out, true);
  write_cifar(subset(all, test), out, false);
  fmt::print("{}: {} classes, {} training and {} test images in the CIFAR-100 binary format\nUse it with: data.name=cifar100 data.root={}\n", out.string(),
             classes.size(), train.size(), test.size(), out.string());
}

void verify_data(const DataConfig& config) {
  const Splits splits = load_splits(config);
  fmt::print("{}: every record is valid\n", config.root.empty() ? config.name : config.root);
  print_split("train", splits.train);
  if (splits.holdout.size() > 0) print_split("holdout", splits.holdout);
  print_split("test", splits.test);
}

}  // namespace kd
