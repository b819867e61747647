#include "data/packed.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>

#include "data/checksum.h"
#include "engine/base/check.h"

namespace kd {
namespace {

static_assert(std::endian::native == std::endian::little, "entries and footer are written as they lie");

constexpr uint64_t kMagic = 0x314b434150544552u;  // "RETPACK1"
constexpr uint32_t kVersion = 1;
constexpr int64_t kAlign = 64;     // of records: a cache line
constexpr int64_t kSegment = 256;  // images whose files are read together, so that their places are known before they are decoded
constexpr const char* kRebuild = "make it again with 'kd_bench data pack --rebuild'";

struct Footer {
  uint64_t magic;
  uint32_t version;
  uint32_t short_side;
  int64_t images, classes;
  int64_t index_offset, names_bytes;
  uint64_t list_hash;
  uint64_t index_hash;  // of index and names
  char decoder[64];     // zero-terminated
  uint8_t unused[120];
  uint64_t hash;  // of everything before it
};
static_assert(sizeof(Footer) == 256);

template <class T>
std::span<const uint8_t> bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}
std::span<const uint8_t> hashed_part(const Footer& footer) { return {reinterpret_cast<const uint8_t*>(&footer), offsetof(Footer, hash)}; }

int64_t aligned(int64_t offset) { return (offset + kAlign - 1) / kAlign * kAlign; }

std::string reason() { return std::strerror(errno); }

// What a pack of these images must say about itself; the index is unknown until the end.
Footer describe(const ImageList& list, int64_t short_side) {
  Footer footer{.magic = kMagic,
                .version = kVersion,
                .short_side = uint32_t(short_side),
                .images = list.size(),
                .classes = int64_t(list.class_names.size()),
                .index_offset = 0,
                .names_bytes = 0,
                .list_hash = list.hash(),
                .index_hash = 0,
                .decoder = {},
                .unused = {},
                .hash = 0};
  const std::string decoder = jpeg_decoder();
  decoder.copy(footer.decoder, sizeof(footer.decoder) - 1);
  footer.hash = xxh64(hashed_part(footer));
  return footer;
}

// A file that several threads write at different places.
class OutFile {
 public:
  explicit OutFile(const Path& path) : path_(path), fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    KD_INPUT(fd_ >= 0, "{}: cannot write: {}", path.string(), reason());
  }
  ~OutFile() { ::close(fd_); }
  OutFile(const OutFile&) = delete;
  OutFile& operator=(const OutFile&) = delete;

  bool lock() const { return ::flock(fd_, LOCK_EX | LOCK_NB) == 0; }  // let go with the file
  bool is_in_place() const {                                          // whether the path still leads here
    struct stat here {
    }, there{};
    return ::fstat(fd_, &here) == 0 && ::stat(path_.c_str(), &there) == 0 && here.st_dev == there.st_dev && here.st_ino == there.st_ino;
  }
  int64_t size() const {
    struct stat info {};
    KD_INPUT(::fstat(fd_, &info) == 0, "{}: {}", path_.string(), reason());
    return info.st_size;
  }
  void write(std::span<const uint8_t> bytes, int64_t offset) const {
    while (!bytes.empty()) {
      const ssize_t done = ::pwrite(fd_, bytes.data(), bytes.size(), offset);
      if (done < 0 && errno == EINTR) continue;
      KD_INPUT(done > 0, "{}: cannot write: {}", path_.string(), reason());
      bytes = bytes.subspan(size_t(done));
      offset += done;
    }
  }
  bool read(void* into, size_t bytes, int64_t offset) const {  // false: there are not that many
    auto* at = static_cast<uint8_t*>(into);
    while (bytes > 0) {
      const ssize_t done = ::pread(fd_, at, bytes, offset);
      if (done < 0 && errno == EINTR) continue;
      KD_INPUT(done >= 0, "{}: cannot read: {}", path_.string(), reason());
      if (done == 0) return false;
      at += done, bytes -= size_t(done), offset += done;
    }
    return true;
  }
  void cut(int64_t bytes) const { KD_INPUT(::ftruncate(fd_, bytes) == 0, "{}: cannot shorten: {}", path_.string(), reason()); }
  void sync() const { KD_INPUT(::fdatasync(fd_) == 0 || errno == EINVAL, "{}: cannot sync: {}", path_.string(), reason()); }

 private:
  Path path_;
  int fd_;
};

Path with_suffix(Path path, const char* suffix) { return path += suffix; }

// The first exception of a parallel loop's body.
class FirstError {
 public:
  template <class F>
  void guard(F&& f) {
    try {
      f();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
};

// Builds file.part: records go to places that follow from the sizes of the images before them. file.journal holds the footer as it is known at the start,
// then blocks of entries; a block is written only after its records are on the disk.
//   block  i64 count | PackedEntry[count] | u64 xxh64 of both
class Builder {
 public:
  Builder(const Path& file, const Path& root, const ImageList& list, const PackOptions& options)
      : file_(file),
        root_(root),
        list_(list),
        options_(options),
        footer_(describe(list, options.short_side)),
        part_path_(with_suffix(file, ".part")),
        journal_path_(with_suffix(file, ".journal")),
        part_(part_path_) {
    KD_INPUT(part_.lock(), "{}: another process is making this pack; wait for it", file.string());
    // Opened and then locked: in between its owner may have finished, and what is locked here be the pack itself.
    KD_INPUT(part_.is_in_place(), "{}: another process has just made this pack", file.string());
    journal_.emplace(journal_path_);
    resume();
  }

  void run() {
    auto last_commit = std::chrono::steady_clock::now();
    options_.progress(int64_t(entries_.size()), list_.size());
    while (int64_t(entries_.size()) < list_.size()) {
      add_segment();
      const auto now = std::chrono::steady_clock::now();
      if (std::chrono::duration<double>(now - last_commit).count() >= options_.commit_seconds) {
        commit();
        last_commit = now;
      }
      options_.progress(int64_t(entries_.size()), list_.size());
    }
    finish();
  }

 private:
  void resume() {
    Footer found{};
    int64_t at = 0;
    if (journal_->read(&found, sizeof(found), 0) && std::memcmp(&found, &footer_, sizeof(found)) == 0) {
      at = sizeof(found);
      while (read_block(at)) {
      }
    } else {
      journal_->write({reinterpret_cast<const uint8_t*>(&footer_), sizeof(footer_)}, 0);
      at = sizeof(footer_);
    }
    journal_->cut(at);
    journal_end_ = at;
    committed_ = int64_t(entries_.size());
    part_.cut(end_);
    const uint64_t magic = kMagic;
    part_.write({reinterpret_cast<const uint8_t*>(&magic), sizeof(magic)}, 0);
  }

  bool read_block(int64_t& at) {
    int64_t count = 0;
    if (!journal_->read(&count, sizeof(count), at) || count < 1 || count > list_.size() - int64_t(entries_.size())) return false;
    std::vector<uint8_t> block(sizeof(count) + size_t(count) * sizeof(PackedEntry));
    uint64_t hash = 0;
    if (!journal_->read(block.data(), block.size(), at) || !journal_->read(&hash, sizeof(hash), at + int64_t(block.size())) || hash != xxh64(block))
      return false;
    std::vector<PackedEntry> entries(static_cast<size_t>(count));
    std::memcpy(entries.data(), block.data() + sizeof(count), entries.size() * sizeof(PackedEntry));
    const PackedEntry& last = entries.back();
    const int64_t end = aligned(int64_t(last.offset) + int64_t(last.h) * last.w * 3);
    if (end > aligned(part_.size())) return false;  // someone removed or shortened the other file
    entries_.insert(entries_.end(), entries.begin(), entries.end());
    end_ = end;
    at += int64_t(block.size() + sizeof(hash));
    return true;
  }

  // Sizes first, from the files' headers, then pixels: so threads write to their places without waiting for each other, and only as many decoded images
  // are in memory as there are threads.
  void add_segment() {
    const int64_t first = int64_t(entries_.size()), count = std::min(kSegment, list_.size() - first);
    std::vector<std::vector<uint8_t>> files(static_cast<size_t>(count));
    std::vector<PackedEntry> entries(static_cast<size_t>(count));
    auto path_of = [&](int64_t i) { return root_ / list_.paths[size_t(first + i)]; };
    FirstError error;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i)
      error.guard([&] {
        files[size_t(i)] = read_bytes(path_of(i));
        const ImageSize size = shrunk_size(image_size(files[size_t(i)], path_of(i).string()), options_.short_side);
        entries[size_t(i)] = {.offset = 0,
                              .checksum = 0,
                              .source_bytes = files[size_t(i)].size(),
                              .h = uint32_t(size.h),
                              .w = uint32_t(size.w),
                              .label = list_.labels[size_t(first + i)],
                              .unused = 0};
      });
    error.rethrow();
    for (PackedEntry& entry : entries) {
      entry.offset = uint64_t(end_);
      end_ = aligned(end_ + int64_t(entry.h) * entry.w * 3);
    }
    check_space(first + count);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i)
      error.guard([&] {
        PackedEntry& entry = entries[size_t(i)];
        const RgbImage image = shrink(decode_image(files[size_t(i)], path_of(i).string()), options_.short_side);
        files[size_t(i)] = {};
        KD_CHECK(image.h == entry.h && image.w == entry.w, "{}: {} x {} after {} x {} was announced", path_of(i).string(), image.w, image.h, entry.w, entry.h);
        entry.checksum = xxh64(image.pixels);
        part_.write(image.pixels, int64_t(entry.offset));
      });
    error.rethrow();
    entries_.insert(entries_.end(), entries.begin(), entries.end());
  }

  void check_space(int64_t images) const {
    std::error_code code;
    const auto space = std::filesystem::space(part_path_.parent_path().empty() ? "." : part_path_.parent_path(), code);
    if (code) return;
    const double needed = double(end_) / double(images) * double(list_.size()), missing = needed - double(part_.size());
    KD_INPUT(missing <= double(space.available),
             "{}: the pack will need about {:.1f} GB more and the disk has {:.1f} GB; give a smaller data.pack_px or another folder", part_path_.string(),
             missing / 1e9, double(space.available) / 1e9);
  }

  void commit() {
    const int64_t count = int64_t(entries_.size()) - committed_;
    if (count == 0) return;
    part_.sync();
    std::vector<uint8_t> block(sizeof(count) + size_t(count) * sizeof(PackedEntry) + sizeof(uint64_t));
    std::memcpy(block.data(), &count, sizeof(count));
    std::memcpy(block.data() + sizeof(count), entries_.data() + committed_, size_t(count) * sizeof(PackedEntry));
    const uint64_t hash = xxh64(std::span(block).first(block.size() - sizeof(hash)));
    std::memcpy(block.data() + block.size() - sizeof(hash), &hash, sizeof(hash));
    journal_->write(block, journal_end_);
    journal_->sync();
    journal_end_ += int64_t(block.size());
    committed_ = int64_t(entries_.size());
  }

  void finish() {
    std::string names;
    for (const std::string& name : list_.paths) names.append(name.c_str(), name.size() + 1);
    for (const std::string& name : list_.class_names) names.append(name.c_str(), name.size() + 1);
    const auto index = bytes_of(entries_);
    std::vector<uint8_t> tail(index.begin(), index.end());
    tail.insert(tail.end(), names.begin(), names.end());
    footer_.index_offset = end_;
    footer_.names_bytes = int64_t(names.size());
    footer_.index_hash = xxh64(tail);
    footer_.hash = xxh64(hashed_part(footer_));
    const auto* footer = reinterpret_cast<const uint8_t*>(&footer_);
    tail.insert(tail.end(), footer, footer + sizeof(footer_));
    part_.write(tail, end_);
    part_.cut(end_ + int64_t(tail.size()));
    part_.sync();
    KD_INPUT(::rename(part_path_.c_str(), file_.c_str()) == 0, "{}: cannot rename from {}: {}", file_.string(), part_path_.string(), reason());
    ::unlink(journal_path_.c_str());
  }

  const Path &file_, &root_;
  const ImageList& list_;
  const PackOptions& options_;
  Footer footer_;
  Path part_path_, journal_path_;
  OutFile part_;
  std::optional<OutFile> journal_;  // opened when the lock is held
  std::vector<PackedEntry> entries_;
  int64_t end_ = kAlign;   // of the records so far, where the next begins
  int64_t committed_ = 0;  // entries in the journal
  int64_t journal_end_ = 0;
};

}  // namespace

PackedImages::PackedImages(const Path& path) : path_(path), map_(nullptr, Unmap{0}) {
  const std::string name = path.string();
  bytes_ = kd::file_size(path);
  KD_INPUT(bytes_ >= kAlign + int64_t(sizeof(Footer)), "{}: {} bytes, too short for a pack; {}", name, bytes_, kRebuild);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  KD_INPUT(fd >= 0, "{}: cannot open: {}", name, reason());
  void* map = ::mmap(nullptr, size_t(bytes_), PROT_READ, MAP_SHARED, fd, 0);
  const std::string why = reason();
  ::close(fd);
  KD_INPUT(map != MAP_FAILED, "{}: cannot be mapped: {}", name, why);
  map_ = {static_cast<const uint8_t*>(map), Unmap{bytes_}};
  const uint8_t* begin = map_.get();

  uint64_t magic = 0;
  std::memcpy(&magic, begin, sizeof(magic));
  KD_INPUT(magic == kMagic, "{}: not a pack of images; {}", name, kRebuild);
  Footer footer;
  std::memcpy(&footer, begin + bytes_ - sizeof(footer), sizeof(footer));
  KD_INPUT(footer.magic == kMagic, "{}: its end is missing, the file is truncated; {}", name, kRebuild);
  KD_INPUT(footer.version == kVersion, "{}: made by another version of Retort (format {}, this one reads {}); {}", name, footer.version, kVersion, kRebuild);
  KD_INPUT(footer.hash == xxh64(hashed_part(footer)), "{}: its footer is damaged; {}", name, kRebuild);

  // The footer is what this program wrote, so only damage and truncation are to be found from here on; still, no number is believed before it is checked.
  const int64_t tail = bytes_ - int64_t(sizeof(Footer)) - footer.index_offset, most = tail / int64_t(sizeof(PackedEntry));
  const bool fits = footer.index_offset >= kAlign && tail >= 0 && footer.images >= 0 && footer.images <= most && footer.classes >= 0 &&
                    footer.names_bytes == tail - footer.images * int64_t(sizeof(PackedEntry));
  KD_INPUT(fits && footer.index_hash == xxh64({begin + footer.index_offset, size_t(tail)}), "{}: its index is damaged; {}", name, kRebuild);
  entries_.resize(size_t(footer.images));
  std::memcpy(entries_.data(), begin + footer.index_offset, entries_.size() * sizeof(PackedEntry));
  for (const PackedEntry& e : entries_) {
    const bool inside = e.h <= kMaxImageSide && e.w <= kMaxImageSide && e.offset >= uint64_t(kAlign) && e.offset <= uint64_t(footer.index_offset) &&
                        int64_t(e.h) * e.w * 3 <= footer.index_offset - int64_t(e.offset) && e.label >= 0 && e.label < footer.classes;
    KD_INPUT(inside, "{}: its index points outside the file; {}", name, kRebuild);
  }
  name_text_.assign(reinterpret_cast<const char*>(begin) + bytes_ - int64_t(sizeof(Footer)) - footer.names_bytes, size_t(footer.names_bytes));
  std::vector<std::string_view> names;
  for (size_t at = 0; at < name_text_.size();) {
    names.emplace_back(name_text_.c_str() + at);
    at += names.back().size() + 1;
  }
  KD_INPUT(int64_t(names.size()) == footer.images + footer.classes, "{}: its names are damaged; {}", name, kRebuild);
  names_.assign(names.begin(), names.begin() + footer.images);
  class_names_.assign(names.begin() + footer.images, names.end());
  list_hash_ = footer.list_hash;
  short_side_ = footer.short_side;
  footer.decoder[sizeof(footer.decoder) - 1] = 0;
  decoder_ = footer.decoder;
}

std::shared_ptr<const PackedImages> PackedImages::open(const Path& path) { return std::shared_ptr<const PackedImages>(new PackedImages(path)); }

void PackedImages::Unmap::operator()(const uint8_t* map) const { ::munmap(const_cast<uint8_t*>(map), size_t(bytes)); }

ImageView PackedImages::image(int64_t i) const {
  KD_CHECK(i >= 0 && i < size(), "packed image {} of {} in {}", i, size(), path_.string());
  const PackedEntry& entry = entries_[size_t(i)];
  return {.rgb = map_.get() + entry.offset, .h = entry.h, .w = entry.w};
}

bool PackedImages::intact(int64_t i) const {
  const ImageView view = image(i);
  return xxh64({view.rgb, size_t(view.bytes())}) == checksum(i);
}

void PackedImages::will_need(int64_t i) const {
  const ImageView view = image(i);
  const auto page = size_t(::sysconf(_SC_PAGESIZE));
  const size_t first = size_t(view.rgb - map_.get()), begin = first / page * page;
  ::madvise(const_cast<uint8_t*>(map_.get()) + begin, first + size_t(view.bytes()) - begin, MADV_WILLNEED);  // advice: failure costs time only
}

void build_pack(const Path& file, const Path& root, const ImageList& list, const PackOptions& options) {
  KD_INPUT(list.size() > 0, "{}: no images to pack", file.string());
  KD_INPUT(options.short_side >= 0 && options.short_side <= kMaxImageSide, "data.pack_px is {}, expected 0 to {}", options.short_side, kMaxImageSide);
  if (!file.parent_path().empty()) make_directories(file.parent_path());
  Builder(file, root, list, options).run();
}

}  // namespace kd
