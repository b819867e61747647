#include "data/image_set.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <set>
#include <string_view>

#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int64_t kImagenetClasses = 1000;

const std::string& list_of(const DataConfig& config, bool train) { return train ? config.train_list : config.test_list; }
const char* list_key(bool train) { return train ? "data.train_list" : "data.test_list"; }

// The folder with a part's images: "train", and "val" or "test". Whether it exists is for others to say.
std::string folder_of(const DataConfig& config, bool train) {
  if (train) return "train";
  return !std::filesystem::exists(Path(config.root) / "val") && std::filesystem::exists(Path(config.root) / "test") ? "test" : "val";
}

// A pack alone is a whole dataset: it can be carried to a machine that never sees the files.
bool has_source(const DataConfig& config, bool train) {
  return !list_of(config, train).empty() || std::filesystem::exists(Path(config.root) / folder_of(config, train));
}

void check_config(const DataConfig& config) {
  KD_INPUT(!config.root.empty(), "data.root: {} is read from a folder; give it as data.root=FOLDER", config.name);
  KD_INPUT(config.name != "imagenet_lt" || (!config.train_list.empty() && !config.test_list.empty()),
           "{}: which images it has is published as lists; give them as data.train_list and data.test_list", config.name);
}

void check_classes(const DataConfig& config, const std::vector<std::string>& class_names) {
  KD_INPUT(config.name == "images" || int64_t(class_names.size()) == kImagenetClasses,
           "{}: {} classes where {} are expected; is it complete? (other sets: data.name=images)", config.name, class_names.size(), kImagenetClasses);
}

ImageList list_part(const DataConfig& config, bool train, const std::vector<std::string>& class_names) {
  const std::string& list = list_of(config, train);
  return list.empty() ? scan_image_folder(config.root, folder_of(config, train), class_names)
                      : read_image_list(find_list(config.root, list, list_key(train)), class_names);
}

// As typed, for the line that tells how to make what is missing.
std::string pack_command(const DataConfig& config) {
  std::string command = fmt::format("kd_bench data pack --name {} --root {}", config.name, config.root);
  if (!config.train_list.empty()) command += " --train-list " + config.train_list;
  if (!config.test_list.empty()) command += " --test-list " + config.test_list;
  if (!config.packs.empty()) command += " --packs " + config.packs;
  if (config.pack_px > 0) command += fmt::format(" --pack-px {}", config.pack_px);
  return command;
}

// What is wrong with a pack for this list, or "".
std::string difference(const PackedImages& pack, const DataConfig& config, const ImageList* list) {
  if (pack.short_side() != config.pack_px) return fmt::format("was packed with data.pack_px={}, not {}", pack.short_side(), config.pack_px);
  if (list && (pack.list_hash() != list->hash() || pack.size() != list->size()))
    return fmt::format("was packed from other images or labels ({} images, now {})", pack.size(), list->size());
  return "";
}

Dataset open_part(const DataConfig& config, bool train, const std::vector<std::string>& train_classes) {
  const Path path = pack_path(config, train);
  KD_INPUT(std::filesystem::exists(path), "{}: not made yet; run '{}' once", path.string(), pack_command(config));
  Dataset set{.name = config.name};
  set.packed = PackedImages::open(path);
  if (has_source(config, train)) {
    const ImageList list = list_part(config, train, train_classes);
    const std::string wrong = difference(*set.packed, config, &list);
    KD_INPUT(wrong.empty(), "{}: {}; run '{} --rebuild'", path.string(), wrong, pack_command(config));
  } else if (const std::string wrong = difference(*set.packed, config, nullptr); !wrong.empty()) {
    throw Error(fmt::format("{}: {}", path.string(), wrong));
  }
  set.class_names = set.packed->class_names();
  KD_INPUT(train_classes.empty() || set.class_names == train_classes, "{}: its classes are not those of the training part; run '{} --rebuild'", path.string(),
           pack_command(config));
  set.classes = int64_t(set.class_names.size());
  for (int64_t i = 0; i < set.packed->size(); ++i) set.labels.push_back(set.packed->label(i));
  set.rows.resize(size_t(set.packed->size()));
  std::iota(set.rows.begin(), set.rows.end(), 0);
  return set;
}

bool fits_a_tensor(const Dataset& set) {
  const ImageView first = set.image(0);
  bool same = first.h == first.w && first.bytes() * set.size() <= kResidentBytes;
  for (int64_t i = 0; i < set.size() && same; ++i) same = set.image(i).h == first.h && set.image(i).w == first.w;
  return same;
}

void make_resident(Dataset& set) {
  const ImageView first = set.image(0);
  const Tensor images = Tensor::empty({set.size(), first.h, first.w, 3}, DType::u8);
  parallel_for(set.size(), [&](int64_t i) { std::memcpy(images.data<uint8_t>() + i * first.bytes(), set.image(i).rgb, size_t(first.bytes())); });
  set.images = images;
  set.packed = {};
  set.rows = {};
}

void verify_pack(const PackedImages& pack, const DataConfig& config, const ImageList* list, const ImageProgress& progress, std::vector<std::string>& problems) {
  const std::string wrong = difference(pack, config, list), path = pack.path().string();
  if (!wrong.empty()) problems.push_back(fmt::format("{}: {}; run '{} --rebuild'", path, wrong, pack_command(config)));
  std::vector<std::string> found(static_cast<size_t>(pack.size()));
  constexpr int64_t kChunk = 1024;
  for (int64_t first = 0; first < pack.size(); first += kChunk) {
    const int64_t count = std::min(kChunk, pack.size() - first);
    parallel_for(count, [&](int64_t k) {
      const int64_t i = first + k;
      std::string& problem = found[size_t(i)];
      if (!pack.intact(i)) problem = fmt::format("{}: image {} ({}) is damaged; run '{} --rebuild'", path, i, pack.name(i), pack_command(config));
      std::error_code code;
      const auto bytes = list ? std::filesystem::file_size(Path(config.root) / pack.name(i), code) : 0;
      if (list && !code && int64_t(bytes) != pack.source_bytes(i))
        problem = fmt::format("{}: {} has changed since it was packed; run '{} --rebuild'", path, pack.name(i), pack_command(config));
    });
    progress(first + count, pack.size());
  }
  std::copy_if(found.begin(), found.end(), std::back_inserter(problems), [](const std::string& problem) { return !problem.empty(); });
}

}  // namespace

bool is_image_set(const std::string& name) { return name == "images" || name == "imagenet" || name == "imagenet_lt"; }

ImageSetLists list_image_set(const DataConfig& config) {
  check_config(config);
  ImageSetLists lists;
  lists.train = list_part(config, true, {});
  check_classes(config, lists.train.class_names);
  lists.test = list_part(config, false, lists.train.class_names);
  return lists;
}

Path pack_path(const DataConfig& config, bool train) {
  std::string name = train ? "train" : "test";
  if (!list_of(config, train).empty()) name += "-" + Path(list_of(config, train)).stem().string();
  if (config.pack_px > 0) name += fmt::format("-{}px", config.pack_px);
  return (config.packs.empty() ? Path(config.root) / "packs" : Path(config.packs)) / (name + ".kdpack");
}

std::pair<Dataset, Dataset> load_image_set(const DataConfig& config) {
  check_config(config);
  for (const bool train : {true, false})
    if (!list_of(config, train).empty()) find_list(config.root, list_of(config, train), list_key(train));
  Dataset train = open_part(config, true, {});
  check_classes(config, train.class_names);
  Dataset test = open_part(config, false, train.class_names);
  if (fits_a_tensor(train) && fits_a_tensor(test) && train.image(0).h == test.image(0).h) {
    make_resident(train);
    make_resident(test);
  }
  return {std::move(train), std::move(test)};
}

void pack_image_set(const DataConfig& config, Rebuild rebuild, const ImageSetProgress& progress) {
  const ImageSetLists lists = list_image_set(config);
  for (const bool train : {true, false}) {
    const ImageList& list = train ? lists.train : lists.test;
    const std::string what = train ? "packing train" : "packing test";
    const Path path = pack_path(config, train);
    if (rebuild == Rebuild::no && std::filesystem::exists(path)) {
      const std::string wrong = difference(*PackedImages::open(path), config, &list);
      KD_INPUT(wrong.empty(), "{}: {}; run '{} --rebuild'", path.string(), wrong, pack_command(config));
      progress(what, list.size(), list.size());
      continue;
    }
    require_files(config.root, list);
    build_pack(path, config.root, list, {.short_side = config.pack_px, .progress = [&](int64_t done, int64_t total) { progress(what, done, total); }});
  }
}

ImageSetReport verify_image_set(const DataConfig& config, const ImageSetProgress& progress) {
  check_config(config);
  ImageSetReport report;
  ImageSetLists lists;
  const bool sources = has_source(config, true) || has_source(config, false);
  if (sources) lists = list_image_set(config);
  for (const bool train : {true, false}) {
    const ImageList& list = train ? lists.train : lists.test;
    const std::string part = train ? "train" : "test";
    if (sources) {
      report.notes.push_back(fmt::format("  {:<5} {} images, {} classes{}", part, list.size(), list.class_names.size(),
                                         list.skipped > 0 ? fmt::format("; {} files that are no images by their names are left out", list.skipped) : ""));
      try {
        require_files(config.root, list);
        const auto broken = broken_images(config.root, list, [&](int64_t done, int64_t total) { progress("decoding " + part, done, total); });
        report.problems.insert(report.problems.end(), broken.begin(), broken.end());
      } catch (const Error& error) {
        report.problems.emplace_back(error.what());
      }
    }
    if (const Path path = pack_path(config, train); std::filesystem::exists(path) || !sources) try {
        KD_INPUT(std::filesystem::exists(path), "{}: neither images nor a packed file; is data.root right?", path.string());
        const auto pack = PackedImages::open(path);
        report.notes.push_back(fmt::format("  {:<5} packed: {} images decoded by {}, {}", part, pack->size(), pack->decoder(), path.string()));
        verify_pack(
            *pack, config, sources ? &list : nullptr, [&](int64_t done, int64_t total) { progress("reading " + path.filename().string(), done, total); },
            report.problems);
      } catch (const Error& error) {
        report.problems.emplace_back(error.what());
      }
  }
  if (sources) {
    std::vector<int64_t> counts(lists.train.class_names.size());
    for (int32_t label : lists.train.labels) ++counts[size_t(label)];
    report.notes.push_back("  " + describe_shots(counts));
  }
  const std::set<std::string_view> trained(lists.train.paths.begin(), lists.train.paths.end());
  const auto shared = std::count_if(lists.test.paths.begin(), lists.test.paths.end(), [&](const std::string& path) { return trained.count(path) > 0; });
  if (shared > 0)
    report.notes.push_back(
        fmt::format("  {} of {} test images are training images too: accuracy on them is no test of generalization", shared, lists.test.size()));
  return report;
}

}  // namespace kd
