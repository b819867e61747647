// data: make, check and look at datasets.
#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>

#include "bench/png.h"
#include "bench/progress.h"
#include "bench/verbs.h"
#include "data/cifar.h"
#include "data/image.h"
#include "data/image_set.h"
#include "data/loader.h"

namespace kd {
namespace {

void write_png(const Path& path, const Tensor& rgb) {  // u8 [H,W,3]
  const std::vector<uint8_t> bytes = encode_png(rgb.data<uint8_t>(), rgb.dim(0), rgb.dim(1));
  write_atomically(path, [&](FileWriter& out) { out.write(std::span<const uint8_t>(bytes)); });
}

struct Picture {
  Path path;
  int32_t label;
};

// One 32x32 RGB image from a file: the largest centred square.
void load_picture(const Path& path, uint8_t* out) {
  const RgbImage image = read_image(path);
  const int64_t w = image.w, h = image.h;
  const int64_t side = std::min(w, h), left = (w - side) / 2, top = (h - side) / 2;
  // Box average down (or nearest up): every output pixel is the mean of the source pixels it covers.
  for (int y = 0; y < 32; ++y)
    for (int x = 0; x < 32; ++x)
      for (int c = 0; c < 3; ++c) {
        const int64_t y0 = y * side / 32, y1 = std::max(y0 + 1, (y + 1) * side / 32), x0 = x * side / 32, x1 = std::max(x0 + 1, (x + 1) * side / 32);
        int64_t sum = 0;
        for (int64_t sy = y0; sy < y1; ++sy)
          for (int64_t sx = x0; sx < x1; ++sx) sum += image.pixels[size_t(((top + sy) * w + left + sx) * 3 + c)];
        const int64_t n = (y1 - y0) * (x1 - x0);
        out[(y * 32 + x) * 3 + c] = uint8_t((sum + n / 2) / n);
      }
}

std::string sizes(const Dataset& data) {
  ImageView least = data.image(0), most = least;
  for (int64_t i = 0; i < data.size(); ++i) {
    const ImageView image = data.image(i);
    if (image.bytes() < least.bytes()) least = image;
    if (image.bytes() > most.bytes()) most = image;
  }
  const std::string smallest = fmt::format("{}x{}", least.w, least.h), largest = fmt::format("{}x{}", most.w, most.h);
  return smallest == largest ? smallest : smallest + " to " + largest;
}

void print_split(const char* name, const Dataset& data) {
  const auto counts = data.class_counts();
  const auto [least, most] = std::minmax_element(counts.begin(), counts.end());
  fmt::print("  {:<8} {:>7} images, {} classes with {} to {} images, {} px, hash {}\n", name, data.size(), data.classes, *least, *most, sizes(data),
             data.hash());
}

// How far a long piece of work is: a live line on a terminal, elsewhere a plain one every ten seconds.
class Meter {
 public:
  Meter(std::string unit, double scale) : unit_(std::move(unit)), scale_(scale), out_(ProgressOutput::standard()) {}
  ~Meter() { end_line(); }
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  void show(const std::string& what, int64_t done, int64_t total) {  // total 0: unknown
    const double now = out_.seconds();
    if (what != what_) {
      end_line();
      what_ = what;
      start_ = shown_ = now;
      first_ = done;
    }
    const bool live = out_.columns() > 0, complete = total > 0 && done == total;
    if (now - shown_ < (live ? 0.1 : 10) && !(complete && live)) return;
    shown_ = now;
    const double rate = double(done - first_) / std::max(now - start_, 1e-9);
    std::string line = fmt::format("{}  {:.0f}", what, double(done) * scale_);
    if (total > 0) line += fmt::format(" of {:.0f}", double(total) * scale_);
    line += fmt::format(" {}  {:.{}f} {}/s", unit_, rate * scale_, rate * scale_ < 100 ? 1 : 0, unit_);
    if (total > done && rate > 0) {
      const auto left = int64_t(double(total - done) / rate);
      line += fmt::format("  {}:{:02}:{:02} left", left / 3600, left / 60 % 60, left % 60);
    }
    out_.write(live ? "\r" + line.substr(0, size_t(std::max(out_.columns() - 1, 1))) + "\x1b[K" : line + "\n");
    open_ = live;
  }

 private:
  void end_line() {
    if (open_) out_.write("\n");
    open_ = false;
  }

  std::string unit_, what_;
  double scale_;
  ProgressOutput out_;
  double start_ = 0, shown_ = 0;
  int64_t first_ = 0;
  bool open_ = false;  // a live line stands unfinished
};

void print_use(const DataConfig& config) {
  std::string words = fmt::format("data.name={} data.root={}", config.name, config.root);
  if (!config.train_list.empty()) words += " data.train_list=" + config.train_list;
  if (!config.test_list.empty()) words += " data.test_list=" + config.test_list;
  if (!config.packs.empty()) words += " data.packs=" + config.packs;
  if (config.pack_px > 0) words += fmt::format(" data.pack_px={}", config.pack_px);
  fmt::print("Use it with: {}\n", words);
}

// What stands there may be the only copy of somebody's images.
void require_no_dataset(const Path& out) {
  for (const char* file : {"train.bin", "test.bin"})
    KD_INPUT(!std::filesystem::exists(out / file), "{}: holds a dataset already ({}); choose another -o, or delete it", out.string(), file);
}

}  // namespace

void show_views(const DataConfig& config, const AugmentConfig& augment, const SheetOptions& options) {
  KD_INPUT(options.count >= 1 && options.count <= 4096, "--count is {}, expected 1 to 4096", options.count);
  KD_INPUT(options.draws >= 1 && options.draws <= 100, "--draws is {}, expected 1 to 100", options.draws);
  const bool all = options.view == "all";
  const View one = all ? View::test : view_from_name(options.view);
  const Dataset data = load_splits(config).train;
  const int64_t px = augment.px, n = std::min(options.count, data.size());
  std::vector<int64_t> indices(static_cast<size_t>(n));
  std::iota(indices.begin(), indices.end(), 0);

  // Columns of the sheet, each n views from top to bottom; or one column that is broken into rows.
  struct Column {
    Tensor views;
    int64_t left;
  };
  const int64_t gap = 2, group_gap = 8, step = px + gap;
  std::vector<Column> columns;
  int64_t left = gap;
  auto add = [&](View view, int64_t draws) {
    for (int64_t draw = 0; draw < draws; ++draw, left += step) columns.push_back({views_u8(data, indices, view, augment, options.seed, uint32_t(draw)), left});
    left += group_gap;
  };
  add(one, 1);
  if (all)
    for (View view : {View::weak, View::strong, View::base}) add(view, options.draws);
  const int64_t across = all ? 1 : std::min<int64_t>(n, px > 64 ? 6 : 16), down = (n + across - 1) / across;
  const int64_t width = all ? left - group_gap : gap + across * step, height = gap + down * step;
  const Tensor sheet = Tensor::empty({height, width, 3}, DType::u8);
  std::fill_n(sheet.data<uint8_t>(), sheet.elements(), uint8_t(255));
  for (const Column& column : columns)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t y = 0; y < px; ++y)
        std::copy_n(column.views.data<uint8_t>() + (i * px + y) * px * 3, px * 3,
                    sheet.data<uint8_t>() + ((gap + i / across * step + y) * width + column.left + i % across * step) * 3);
  write_png(options.png, sheet);
  const char* pipeline = augment.pipeline == Pipeline::imagenet ? "imagenet" : "cifar";
  if (all)
    fmt::print("{}: {} images of {} at {} px, {} pipeline; from the left: test, weak x {}, strong x {}, base x {}\n", options.png.string(), n, data.name, px,
               pipeline, options.draws, options.draws, options.draws);
  else
    fmt::print("{}: {} {} views of {} at {} px, {} pipeline\n", options.png.string(), n, options.view, data.name, px, pipeline);
}

void generate_data(const DataConfig& config, const Path& out) {
  require_no_dataset(out);
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
  require_no_dataset(out);
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
  if (is_image_set(config.name)) {
    Meter meter("images", 1);
    const ImageSetReport report = verify_image_set(config, [&](const std::string& what, int64_t done, int64_t total) { meter.show(what, done, total); });
    for (const std::string& note : report.notes) fmt::print("{}\n", note);
    constexpr size_t kShown = 20;
    for (size_t i = 0; i < std::min(report.problems.size(), kShown); ++i) fmt::print("{}\n", report.problems[i]);
    if (report.problems.size() > kShown) fmt::print("... and {} more\n", report.problems.size() - kShown);
    KD_INPUT(report.problems.empty(), "{}: {} problems, named above", config.root, report.problems.size());
    fmt::print("{}: every file and every record is valid\n", config.root);
    return;
  }
  const Splits splits = load_splits(config);
  fmt::print("{}: every record is valid\n", config.root.empty() ? config.name : config.root);
  print_split("train", splits.train);
  if (splits.holdout.size() > 0) print_split("holdout", splits.holdout);
  print_split("test", splits.test);
  fmt::print("  {}\n", describe_shots(splits.train_counts()));
  if (config.name != "shapes" && config.train_list.empty() && config.test_list.empty())
    for (const std::string& line : compare_with_official(config.root, config.name == "cifar10" ? 10 : 100)) fmt::print("  {}\n", line);
}

void fetch_data(FetchOptions options) {
  Fetched fetched;
  {
    Meter meter("MB", 1e-6);
    options.progress = [&](int64_t done, int64_t total) { meter.show("downloading", done, total); };
    fetched = fetch_dataset(options);
  }
  if (fetched.was_there)
    fmt::print("{}: is there already; remove it to fetch it again\n", fetched.folder.string());
  else
    fmt::print("{}: {}checksum right, unpacked\n", fetched.folder.string(), fetched.downloaded ? "downloaded, " : "");
  print_use({.name = options.name, .root = options.root.string()});
}

void pack_data(const DataConfig& config, Rebuild rebuild) {
  KD_INPUT(is_image_set(config.name), "data pack: {} needs no packing; images, imagenet and imagenet_lt do", config.name);
  {
    Meter meter("images", 1);
    pack_image_set(config, rebuild, [&](const std::string& what, int64_t done, int64_t total) { meter.show(what, done, total); });
  }
  for (const bool train : {true, false}) {
    const auto pack = PackedImages::open(pack_path(config, train));
    fmt::print("{}: {} images, {} classes, {:.2f} GB, decoded by {}\n", pack->path().string(), pack->size(), pack->class_names().size(),
               double(pack->file_bytes()) / 1e9, pack->decoder());
  }
  print_use(config);
}

}  // namespace kd
