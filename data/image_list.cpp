#include "data/image_list.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <set>
#include <string_view>
#include <system_error>
#include <unordered_map>

#include "data/image.h"
#include "engine/base/hash.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace {

namespace fs = std::filesystem;

constexpr int32_t kMaxClasses = 100'000;
constexpr int kMaxDepth = 16;  // of folders below a class; a link to a folder above would never end
constexpr size_t kNamesShown = 3;

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::string shortened(std::string_view text) { return text.size() <= 80 ? std::string(text) : std::string(text.substr(0, 77)) + "..."; }

std::string first_of(const std::vector<std::string>& names) {
  const std::vector<std::string> first(names.begin(), names.begin() + std::ptrdiff_t(std::min(names.size(), kNamesShown)));
  return fmt::format("{}{}", fmt::join(first, ", "), names.size() > kNamesShown ? ", ..." : "");
}

// "train/n01440764/x.JPEG" -> "n01440764": the folder below the part's.
std::string_view class_folder(std::string_view path) {
  const size_t begin = path.find('/');
  if (begin == path.npos) return {};
  const size_t end = path.find('/', begin + 1);
  return end == path.npos ? path.substr(0, begin) : path.substr(begin + 1, end - begin - 1);
}

// The folders' names where each class has one and no two the same, otherwise numbers.
std::vector<std::string> name_classes(const ImageList& list, int64_t classes) {
  std::vector<std::string_view> folders(static_cast<size_t>(classes));
  bool telling = true;
  for (size_t i = 0; i < list.paths.size() && telling; ++i) {
    std::string_view& folder = folders[size_t(list.labels[i])];
    const std::string_view own = class_folder(list.paths[i]);
    telling = !own.empty() && (folder.empty() || folder == own);
    folder = own;
  }
  std::vector<std::string> names(folders.begin(), folders.end());
  if (!telling || std::set<std::string>(names.begin(), names.end()).size() != names.size())
    for (size_t c = 0; c < names.size(); ++c) names[c] = std::to_string(c);
  return names;
}

bool has_image_extension(const fs::path& path) {
  static const std::set<std::string> known{".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"};
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return known.count(extension) > 0;
}

bool is_hidden(const fs::path& path) { return path.filename().string().rfind('.', 0) == 0; }

struct Found {
  std::vector<std::string> images;  // relative to the class folder
  int64_t skipped = 0;
};
void collect(const fs::path& folder, const std::string& prefix, int depth, Found& found) {
  KD_INPUT(depth <= kMaxDepth, "{}: folders nested deeper than {}; does a link point to a folder above it?", folder.string(), kMaxDepth);
  std::error_code code;
  for (fs::directory_iterator entry(folder, code), end; entry != end && !code; entry.increment(code)) {
    if (is_hidden(entry->path())) continue;
    const std::string name = prefix + entry->path().filename().string();
    std::error_code ignored;
    if (entry->is_directory(ignored))
      collect(entry->path(), name + "/", depth + 1, found);
    else if (has_image_extension(entry->path()))
      found.images.push_back(name);  // whatever it is: opening it will tell
    else
      ++found.skipped;
  }
  KD_INPUT(!code, "{}: cannot be listed: {}", folder.string(), code.message());
}

std::vector<std::string> sub_folders(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (fs::directory_iterator entry(folder, code), end; entry != end && !code; entry.increment(code)) {
    std::error_code ignored;
    if (!is_hidden(entry->path()) && entry->is_directory(ignored)) names.push_back(entry->path().filename().string());
  }
  KD_INPUT(!code, "{}: cannot be listed: {}", folder.string(), code.message());
  std::sort(names.begin(), names.end());  // bytes, as Python sorts them
  return names;
}

}  // namespace

uint64_t ImageList::hash() const {
  Fnv1a hash;
  for (size_t i = 0; i < paths.size(); ++i) hash.add(fmt::format("{} {}\n", paths[i], labels[i]));
  return hash.value();
}

ImageList read_image_list(const Path& file, const std::vector<std::string>& class_names) {
  const std::string text = read_text(file), name = file.string();
  ImageList list;
  std::unordered_map<std::string_view, int64_t> line_of;
  std::vector<std::string> repeated;
  int64_t number = 0;
  int32_t most = -1;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = trimmed(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    ++number;
    if (line.empty()) continue;
    const size_t blank = line.find_last_of(" \t");
    const std::string_view label_text = blank == line.npos ? std::string_view() : line.substr(blank + 1), path = trimmed(line.substr(0, blank));
    int32_t label = -1;
    const auto [rest, error] = std::from_chars(label_text.data(), label_text.data() + label_text.size(), label);
    KD_INPUT(blank != line.npos && error == std::errc() && rest == label_text.data() + label_text.size(), "{}:{}: expected 'relative/path label', found '{}'",
             name, number, shortened(line));
    KD_INPUT(label >= 0 && label < kMaxClasses, "{}:{}: label {}; labels are 0 to {}", name, number, label, kMaxClasses - 1);
    KD_INPUT(class_names.empty() || label < int64_t(class_names.size()), "{}:{}: label {}, but the training images have classes 0 to {}", name, number, label,
             class_names.size() - 1);
    const bool climbs = path.find("..") != path.npos && *fs::path(path).lexically_normal().begin() == "..";
    const bool inside = path.front() != '/' && path.find('\0') == path.npos && !climbs;
    KD_INPUT(inside, "{}:{}: '{}' is not a path below the data root", name, number, shortened(path));
    const auto [first, is_new] = line_of.emplace(path, number);
    if (!is_new) repeated.push_back(fmt::format("'{}' in lines {} and {}", shortened(path), first->second, number));
    list.paths.emplace_back(path);
    list.labels.push_back(label);
    most = std::max(most, label);
  }
  KD_INPUT(list.size() > 0, "{}: names no image; expected lines 'relative/path label'", name);
  KD_INPUT(repeated.empty(), "{}: {} lines repeat an image: {}; remove them", name, repeated.size(), first_of(repeated));
  if (!class_names.empty()) {
    list.class_names = class_names;
    return list;
  }
  std::vector<bool> used(size_t(most) + 1);
  for (int32_t label : list.labels) used[size_t(label)] = true;
  std::vector<std::string> gaps;
  for (size_t c = 0; c < used.size(); ++c)
    if (!used[c]) gaps.push_back(std::to_string(c));
  KD_INPUT(gaps.empty(), "{}: labels run to {}, but {} of them have no image: {}; number the classes from 0 without gaps", name, most, gaps.size(),
           first_of(gaps));
  list.class_names = name_classes(list, int64_t(used.size()));
  return list;
}

ImageList scan_image_folder(const Path& root, const std::string& part, const std::vector<std::string>& class_names) {
  const Path folder = root / part;
  KD_INPUT(fs::is_directory(folder), "{}: no such folder; expected one folder a class in it", folder.string());
  const std::vector<std::string> names = sub_folders(folder);
  KD_INPUT(!names.empty(), "{}: has no folders; expected one a class in it{}", folder.string(),
           class_names.empty() ? "" : ", named as in the training part; or give the test images as a list, data.test_list");
  ImageList list{.class_names = class_names.empty() ? names : class_names};
  std::map<std::string_view, int32_t> label_of;
  for (size_t c = 0; c < list.class_names.size(); ++c) label_of[list.class_names[c]] = int32_t(c);
  std::vector<std::string> empty, unknown;
  for (const std::string& name : names) {
    const auto label = label_of.find(name);
    if (label == label_of.end()) {
      unknown.push_back(name);
      continue;
    }
    Found found;
    collect(folder / name, "", 0, found);
    std::sort(found.images.begin(), found.images.end());
    if (found.images.empty()) empty.push_back(name);
    for (const std::string& image : found.images) {
      list.paths.push_back(part + "/" + name + "/" + image);
      list.labels.push_back(label->second);
    }
    list.skipped += found.skipped;
  }
  KD_INPUT(unknown.empty(), "{}: {} folders are no classes of the training part: {}", folder.string(), unknown.size(), first_of(unknown));
  KD_INPUT(empty.empty(), "{}: {} classes have no images: {}; add images or remove the folders", folder.string(), empty.size(), first_of(empty));
  return list;
}

void require_files(const Path& root, const ImageList& list) {
  std::vector<char> state(list.paths.size());  // 0 fine, 1 missing, 2 empty; network disks answer many questions at once far faster than one by one
  parallel_for(list.size(), [&](int64_t i) {
    std::error_code code;
    const fs::path path = root / list.paths[size_t(i)];
    const bool there = fs::is_regular_file(path, code);
    state[size_t(i)] = char(!there ? 1 : fs::file_size(path, code) == 0 ? 2 : 0);
  });
  auto names = [&](char wanted) {
    std::vector<std::string> found;
    for (size_t i = 0; i < state.size(); ++i)
      if (state[i] == wanted) found.push_back(list.paths[i]);
    return found;
  };
  const auto missing = names(1), empty = names(2);
  KD_INPUT(missing.empty(), "{}: {} of {} images are missing or no regular files: {}; is data.root the folder that the names start from?", root.string(),
           missing.size(), list.size(), first_of(missing));
  KD_INPUT(empty.empty(), "{}: {} of {} images are empty files: {}; restore or remove them", root.string(), empty.size(), list.size(), first_of(empty));
}

std::vector<std::string> broken_images(const Path& root, const ImageList& list, const ImageProgress& progress) {
  std::map<int64_t, std::string> problems;
  int64_t done = 0;
  std::mutex guard;
  std::exception_ptr stopped;  // by `progress`
#pragma omp parallel for schedule(dynamic, 16)
  for (int64_t i = 0; i < list.size(); ++i) {
    std::string problem;
    try {
      read_image(root / list.paths[size_t(i)]);
    } catch (const Error& error) {
      problem = error.what();
    } catch (const std::bad_alloc&) {
      problem = (root / list.paths[size_t(i)]).string() + ": too little memory to decode it";
    }
    const std::lock_guard lock(guard);
    if (!problem.empty()) problems[i] = problem;
    ++done;
    try {
      if (!stopped) progress(done, list.size());
    } catch (...) {
      stopped = std::current_exception();
    }
  }
  if (stopped) std::rethrow_exception(stopped);
  std::vector<std::string> lines;
  for (auto& [i, problem] : problems) lines.push_back(std::move(problem));
  return lines;
}

}  // namespace kd
