#include "data/cifar.h"

#include <algorithm>
#include <filesystem>
#include <unordered_map>

#include "data/checksum.h"
#include "data/image.h"
#include "data/image_list.h"
#include "data/pickle.h"
#include "kernels/common/parallel.h"

namespace kd {
namespace {

constexpr int64_t kCifarPx = 32, kPlane = kCifarPx * kCifarPx, kPixels = 3 * kPlane;

struct KnownFile {
  const char *name, *md5;  // "": its publisher states none
};

// One of the two forms of one of the two sets.
struct Form {
  const char *folder, *archive, *md5;
  std::vector<KnownFile> train, test;
  KnownFile names;

  const std::vector<KnownFile>& files(bool is_train) const { return is_train ? train : test; }
};

struct Format {
  const char* name;
  int64_t label_bytes, classes;
  Form binary, python;
  const char *label_key, *names_key;  // in the Python form

  int64_t record_bytes() const { return label_bytes + kPixels; }
};

// Checksums: https://www.cs.toronto.edu/~kriz/cifar.html for the archives, torchvision's datasets/cifar.py for the files inside.
const Format kCifar10{
    .name = "cifar10",
    .label_bytes = 1,
    .classes = 10,
    .binary = {.folder = "cifar-10-batches-bin",
               .archive = "cifar-10-binary.tar.gz",
               .md5 = "c32a1d4ab5d03f1284b67883e8d87530",
               .train = {{"data_batch_1.bin", ""}, {"data_batch_2.bin", ""}, {"data_batch_3.bin", ""}, {"data_batch_4.bin", ""}, {"data_batch_5.bin", ""}},
               .test = {{"test_batch.bin", ""}},
               .names = {"batches.meta.txt", ""}},
    .python = {.folder = "cifar-10-batches-py",
               .archive = "cifar-10-python.tar.gz",
               .md5 = "c58f30108f718f92721af3b95e74349a",
               .train = {{"data_batch_1", "c99cafc152244af753f735de768cd75f"},
                         {"data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"},
                         {"data_batch_3", "54ebc095f3ab1f0389bbae665268c751"},
                         {"data_batch_4", "634d18415352ddfa80567beed471001a"},
                         {"data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"}},
               .test = {{"test_batch", "40351d587109b95175f43aff81a1287e"}},
               .names = {"batches.meta", "5ff9c542aee3614f3951f8cda6e48888"}},
    .label_key = "labels",
    .names_key = "label_names"};
const Format kCifar100{.name = "cifar100",
                       .label_bytes = 2,
                       .classes = 100,
                       .binary = {.folder = "cifar-100-binary",
                                  .archive = "cifar-100-binary.tar.gz",
                                  .md5 = "03b5dce01913d631647c71ecec9e9cb8",
                                  .train = {{"train.bin", ""}},
                                  .test = {{"test.bin", ""}},
                                  .names = {"fine_label_names.txt", ""}},
                       .python = {.folder = "cifar-100-python",
                                  .archive = "cifar-100-python.tar.gz",
                                  .md5 = "eb9058c3a382ffc7106e4002c42a8d85",
                                  .train = {{"train", "16019d7e3df5f24257cddd939b257f8d"}},
                                  .test = {{"test", "f0ef6b0ae62326f3e7ffdfab6717acfc"}},
                                  .names = {"meta", "7973b15100ade9c7d40fb424638fde48"}},
                       .label_key = "fine_labels",
                       .names_key = "fine_label_names"};

const Format& format_of(int classes) {
  KD_CHECK(classes == 10 || classes == 100, "CIFAR with {} classes; there are CIFAR-10 and CIFAR-100", classes);
  return classes == 10 ? kCifar10 : kCifar100;
}

std::string url_of(const Form& form) { return std::string("https://www.cs.toronto.edu/~kriz/") + form.archive; }
std::string remedy(const Format& format) { return fmt::format("fetch it again with 'kd_bench data fetch {}' or from {}", format.name, url_of(format.binary)); }

bool present(const Path& path) {
  std::error_code code;
  return std::filesystem::exists(path, code);
}

bool is_file(const Path& path) {
  std::error_code code;
  return std::filesystem::is_regular_file(path, code);
}

// The folder with the Python form's `file`: root or its usual sub-folder; empty if neither. A folder of images may also be called "train".
Path find_python(const Format& format, const Path& root, const char* file) {
  for (const Path& folder : {root, root / format.python.folder})
    if (is_file(folder / file)) return folder;
  return {};
}

struct Located {
  bool python;
  Path folder;

  const Form& form(const Format& format) const { return python ? format.python : format.binary; }
};
Located locate(const Format& format, const Path& root, bool train) {
  const char* binary_file = format.binary.files(train)[0].name;
  for (const Path& folder : {root, root / format.binary.folder})
    if (present(folder / binary_file)) return {.python = false, .folder = folder};
  const char* python_file = format.python.files(train)[0].name;
  if (const Path folder = find_python(format, root, python_file); !folder.empty()) return {.python = true, .folder = folder};
  for (const Form* form : {&format.binary, &format.python})
    KD_INPUT(!present(root / form->archive), "{}: {} is there but not unpacked; 'kd_bench data fetch {} --root {}' checks and unpacks it", format.name,
             (root / form->archive).string(), format.name, root.string());
  throw Error(fmt::format(
      "{}: no {} in {} or {} (nor the Python form's {}); 'kd_bench data fetch {} --root {}' gets it, or download {}, unpack it and give "
      "its folder as data.root",
      format.name, binary_file, root.string(), (root / format.binary.folder).string(), python_file, format.name, root.string(), url_of(format.binary)));
}

// `count` images, planes in a row each, `stride` bytes apart, to interleaved pixels.
void interleave(const uint8_t* planes, int64_t stride, int64_t count, uint8_t* images) {
  parallel_for(count, [&](int64_t i) {
    const uint8_t* from = planes + i * stride;
    uint8_t* image = images + i * kPixels;
    for (int64_t p = 0; p < kPlane; ++p)
      for (int64_t c = 0; c < 3; ++c) image[3 * p + c] = from[c * kPlane + p];
  });
}

std::vector<std::string> numbered(int64_t classes) {
  std::vector<std::string> names;
  for (int64_t c = 0; c < classes; ++c) names.push_back(std::to_string(c));
  return names;
}

std::vector<std::string> read_class_names(const Format& format, const Located& at) {
  const Path path = at.folder / at.form(format).names.name;
  if (!present(path)) return numbered(format.classes);
  std::vector<std::string> names;
  if (at.python) {
    names = PickledDict(path).strings(format.names_key);
  } else {
    const std::string text = read_text(path);
    for (size_t begin = 0; begin < text.size();) {
      size_t end = std::min(text.find('\n', begin), text.size());
      std::string name = text.substr(begin, end - begin);
      while (!name.empty() && (name.back() == '\r' || name.back() == ' ')) name.pop_back();
      if (!name.empty()) names.push_back(std::move(name));
      begin = end + 1;
    }
  }
  KD_INPUT(!names.empty() && int64_t(names.size()) <= format.classes,
           "{}: {} class names, expected 1 to {}; restore the file from {} or remove it to number the classes", path.string(), names.size(), format.classes,
           url_of(at.form(format)));
  return names;
}

// ---- Binary. ----

void check_label(const Format& format, const Path& path, int64_t offset, const char* what, int value, int64_t classes) {
  KD_INPUT(value < classes, "{}: byte {}: {} {} where 0 to {} is possible; the file is damaged or not the {} binary version (records of {} bytes), {}",
           path.string(), offset, what, value, classes - 1, format.name, format.record_bytes(), remedy(format));
}

// A file's records, whole and with every label checked.
std::vector<uint8_t> read_records(const Format& format, const Path& path, int64_t classes) {
  std::vector<uint8_t> bytes = read_bytes(path);
  const int64_t size = int64_t(bytes.size()), record = format.record_bytes(), over = size % record;
  KD_INPUT(size > 0, "{}: byte 0: the file is empty; {}", path.string(), remedy(format));
  KD_INPUT(over == 0, "{}: byte {}: {} bytes remain where a record has {}; the file is truncated or not the {} binary version, {}", path.string(), size - over,
           over, record, format.name, remedy(format));
  for (int64_t at = 0; at < size; at += record) {
    if (format.label_bytes == 2) check_label(format, path, at, "coarse label", bytes[size_t(at)], 20);
    const int64_t label_at = at + format.label_bytes - 1;
    check_label(format, path, label_at, format.label_bytes == 2 ? "fine label" : "label", bytes[size_t(label_at)], classes);
  }
  return bytes;
}

// One file at a time: the planar bytes of a file are let go before the next is read.
void read_binary(const Format& format, const Path& folder, bool train, Dataset& set) {
  int64_t expected = 0, done = 0;
  for (const KnownFile& file : format.binary.files(train)) {
    KD_INPUT(is_file(folder / file.name), "{}: missing or not a regular file; {}", (folder / file.name).string(), remedy(format));
    expected += kd::file_size(folder / file.name) / format.record_bytes();
  }
  set.images = Tensor::empty({expected, kCifarPx, kCifarPx, 3}, DType::u8);
  for (const KnownFile& file : format.binary.files(train)) {
    const std::vector<uint8_t> bytes = read_records(format, folder / file.name, set.classes);
    const int64_t records = int64_t(bytes.size()) / format.record_bytes();
    KD_INPUT(done + records <= expected, "{}: the file grew while it was read; try again when nothing writes to it", (folder / file.name).string());
    for (int64_t i = 0; i < records; ++i) set.labels.push_back(bytes[size_t(i * format.record_bytes() + format.label_bytes - 1)]);
    interleave(bytes.data() + format.label_bytes, format.record_bytes(), records, set.images.data<uint8_t>() + done * kPixels);
    done += records;
  }
  KD_INPUT(done == expected, "{}: the files became shorter while they were read; try again when nothing writes to them", folder.string());
}

// ---- Python. ----

struct PythonPart {
  PickledDict dict;
  PickledDict::Bytes2d data;
  std::vector<int64_t> labels;
};

PythonPart open_python(const Format& format, const Path& path, int64_t classes) {
  const std::string name = path.string();
  KD_INPUT(is_file(path), "{}: missing or not a regular file; {}", name, remedy(format));
  PickledDict dict(path);
  const PickledDict::Bytes2d data = dict.array("data");
  KD_INPUT(data.rows > 0 && data.columns == kPixels, "{}: 'data' is {} x {}, expected images x {}; {}", name, data.rows, data.columns, kPixels, remedy(format));
  std::vector<int64_t> labels = dict.integers(format.label_key);
  KD_INPUT(int64_t(labels.size()) == data.rows, "{}: {} labels for {} images; {}", name, labels.size(), data.rows, remedy(format));
  auto check = [&](const char* key, const std::vector<int64_t>& values, int64_t limit) {
    for (size_t i = 0; i < values.size(); ++i)
      KD_INPUT(values[i] >= 0 && values[i] < limit, "{}: image {}: '{}' is {} where 0 to {} is possible; the file is damaged, {}", name, i, key, values[i],
               limit - 1, remedy(format));
  };
  check(format.label_key, labels, classes);
  if (dict.has("coarse_labels")) check("coarse_labels", dict.integers("coarse_labels"), 20);
  return {.dict = std::move(dict), .data = data, .labels = std::move(labels)};
}

void read_python(const Format& format, const Path& folder, bool train, Dataset& set) {
  std::vector<PythonPart> parts;
  int64_t count = 0, done = 0;
  for (const KnownFile& file : format.python.files(train)) count += parts.emplace_back(open_python(format, folder / file.name, set.classes)).data.rows;
  set.images = Tensor::empty({count, kCifarPx, kCifarPx, 3}, DType::u8);
  for (PythonPart& part : parts) {
    set.labels.insert(set.labels.end(), part.labels.begin(), part.labels.end());
    interleave(part.data.data, kPixels, part.data.rows, set.images.data<uint8_t>() + done * kPixels);
    done += part.data.rows;
  }
}

// ---- Lists. ----

// In the archive's order, "<label> <original name>" -> row. Two images of one class may share a name; a folder of PNG files, for which the published lists
// were made, then holds the later one.
std::unordered_map<std::string, int64_t> rows_by_name(const Format& format, const Path& folder, bool train, int64_t classes) {
  std::unordered_map<std::string, int64_t> rows;
  int64_t done = 0;
  for (const KnownFile& file : format.python.files(train)) {
    const PythonPart part = open_python(format, folder / file.name, classes);
    const std::vector<std::string> names = part.dict.strings("filenames");
    KD_INPUT(int64_t(names.size()) == part.data.rows, "{}: {} names for {} images; {}", (folder / file.name).string(), names.size(), part.data.rows,
             remedy(format));
    for (size_t i = 0; i < names.size(); ++i) rows[fmt::format("{} {}", part.labels[i], names[i])] = done + int64_t(i);
    done += part.data.rows;
  }
  return rows;
}

Dataset pick_by_name(const Format& format, const Path& folder, const Path& list_path, const ImageList& list, bool train) {
  Dataset all{.name = format.name};
  all.class_names = read_class_names(format, {.python = true, .folder = folder});
  all.classes = int64_t(all.class_names.size());
  read_python(format, folder, train, all);
  const auto rows = rows_by_name(format, folder, train, all.classes);
  std::vector<int64_t> chosen;
  std::vector<std::string> missing;
  for (size_t i = 0; i < list.paths.size(); ++i) {
    const auto row = rows.find(fmt::format("{} {}", list.labels[i], Path(list.paths[i]).filename().string()));
    if (row == rows.end())
      missing.push_back(fmt::format("{} {}", list.paths[i], list.labels[i]));
    else
      chosen.push_back(row->second);
  }
  KD_INPUT(missing.empty(), "{}: {} of {} images are not in {} under that name and label, the first is '{}'", list_path.string(), missing.size(), list.size(),
           (folder / format.python.files(train)[0].name).string(), missing[0]);
  return subset(all, chosen);
}

Dataset read_pngs(const Format& format, const Path& root, const ImageList& list) {
  require_files(root, list);
  Dataset set{.name = format.name, .classes = int64_t(list.class_names.size()), .class_names = list.class_names};
  set.labels = list.labels;
  set.images = Tensor::empty({list.size(), kCifarPx, kCifarPx, 3}, DType::u8);
  auto* images = set.images.data<uint8_t>();
  parallel_for(list.size(), [&](int64_t i) {
    const Path path = root / list.paths[size_t(i)];
    const RgbImage image = read_image(path);
    KD_INPUT(image.h == kCifarPx && image.w == kCifarPx, "{}: {} x {} pixels; {} has 32 x 32 (other sizes: data.name=images)", path.string(), image.w, image.h,
             format.name);
    std::copy(image.pixels.begin(), image.pixels.end(), images + i * kPixels);
  });
  return set;
}

}  // namespace

Dataset read_cifar(const Path& root, bool train, int classes) {
  const Format& format = format_of(classes);
  const Located at = locate(format, root, train);
  Dataset set{.name = format.name};
  set.class_names = read_class_names(format, at);
  set.classes = int64_t(set.class_names.size());
  at.python ? read_python(format, at.folder, train, set) : read_binary(format, at.folder, train, set);
  return set;
}

Dataset read_cifar_list(const Path& root, const Path& list_path, bool train, int classes, const std::vector<std::string>& class_names) {
  const Format& format = format_of(classes);
  const ImageList list = read_image_list(list_path, class_names);
  KD_INPUT(int64_t(list.class_names.size()) <= format.classes, "{}: {} classes; {} has {}", list_path.string(), list.class_names.size(), format.name,
           format.classes);
  const Path python = find_python(format, root, format.python.files(train)[0].name);
  return python.empty() ? read_pngs(format, root, list) : pick_by_name(format, python, list_path, list, train);
}

void write_cifar(const Dataset& set, const Path& root, bool train) {
  KD_INPUT(set.size() > 0, "{}: nothing to write, the set is empty", root.string());
  KD_INPUT(set.images.shape() == Shape({set.size(), kCifarPx, kCifarPx, 3}),
           "{}: the CIFAR format holds 32x32 RGB images, those of {} have other sizes; 'kd_bench data import' averages a folder's to 32x32", root.string(),
           set.name);
  KD_INPUT(set.classes <= kCifar100.classes, "{}: the CIFAR-100 format holds at most {} classes, {} has {}", root.string(), kCifar100.classes, set.name,
           set.classes);
  for (const std::string& name : set.class_names)
    KD_INPUT(name.find_first_of("\r\n") == name.npos, "{}: the class '{}' has a line break in its name, and the file of names is one a line; rename it",
             root.string(), as_one_line(name));
  make_directories(root);
  std::string names;
  for (const std::string& name : set.class_names) names += name + "\n";
  write_atomically(root / kCifar100.binary.names.name, names);
  write_atomically(root / kCifar100.binary.files(train)[0].name, [&](FileWriter& out) {
    constexpr int64_t kChunk = 1024;  // records a write
    std::vector<uint8_t> bytes;
    for (int64_t first = 0; first < set.size(); first += kChunk) {
      const int64_t records = std::min(kChunk, set.size() - first);
      bytes.assign(size_t(records * kCifar100.record_bytes()), 0);
      for (int64_t i = 0; i < records; ++i) {
        uint8_t* record = bytes.data() + i * kCifar100.record_bytes();
        const uint8_t* image = set.images.data<uint8_t>() + (first + i) * kPixels;
        record[1] = uint8_t(set.labels[size_t(first + i)]);
        for (int64_t p = 0; p < kPlane; ++p)
          for (int64_t c = 0; c < 3; ++c) record[2 + c * kPlane + p] = image[3 * p + c];
      }
      out.write(bytes);
    }
  });
}

std::vector<CifarArchive> cifar_archives(int classes) {
  std::vector<CifarArchive> archives;
  const Format& format = format_of(classes);
  for (const Form* form : {&format.binary, &format.python})
    archives.push_back({.file = form->archive, .url = url_of(*form), .md5 = form->md5, .folder = form->folder});
  return archives;
}

std::vector<std::string> compare_with_official(const Path& root, int classes) {
  const Format& format = format_of(classes);
  const Located at = locate(format, root, true);
  const Form& form = at.form(format);
  std::vector<KnownFile> files = form.train;
  files.insert(files.end(), form.test.begin(), form.test.end());
  files.push_back(form.names);
  std::vector<std::string> lines;
  for (const KnownFile& file : files) {
    const Path path = at.folder / file.name;
    if (!is_file(path)) continue;
    const std::string known = file.md5, found = md5_of_file(path);
    lines.push_back(fmt::format("{}: md5 {}{}", path.string(), found,
                                known.empty()    ? ""
                                : known == found ? ", the official file"
                                                 : fmt::format(", NOT the official file's {}", known)));
  }
  return lines;
}

}  // namespace kd
