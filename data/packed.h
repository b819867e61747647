// packed: images of different sizes, decoded once, in one file that is mapped into memory: an image is 8-bit RGB where it lies, no epoch decodes anything,
// and as much of the set as fits stays in the system's cache, shared by all processes.
//   file    "RETPACK1" and zeros to 64 bytes | records | index | names | footer of 256 bytes
//   record  u8 [h,w,3], beginning at a multiple of 64 bytes; images in the order of the list
//   index   a PackedEntry an image, with the xxh64 of its pixels        names  of the images, then of the classes, each ended by a zero byte
//   footer  says how the file was made and holds the checksum of index and names, and its own
// All numbers are little-endian. The file depends on the images, the list, the size and the decoder only, not on threads or interruptions.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/image.h"
#include "data/image_list.h"

namespace kd {

struct ImageView {
  const uint8_t* rgb;  // u8 [h,w,3]
  int64_t h, w;

  int64_t bytes() const { return h * w * 3; }
};

struct PackedEntry {
  uint64_t offset;        // of the pixels, in the file
  uint64_t checksum;      // xxh64 of the pixels
  uint64_t source_bytes;  // size of the file that they come from
  uint32_t h, w;
  int32_t label;
  uint32_t unused;
};
static_assert(sizeof(PackedEntry) == 40);

class PackedImages {
 public:
  // Checks everything but the pixels: a few milliseconds per 100,000 images. Input error, one line, for a file that is missing, truncated, damaged or
  // made by another version.
  static std::shared_ptr<const PackedImages> open(const Path&);

  int64_t size() const { return int64_t(entries_.size()); }
  ImageView image(int64_t i) const;  // valid while this object lives; the first touch reads the disk
  int32_t label(int64_t i) const { return entries_[size_t(i)].label; }
  std::string_view name(int64_t i) const { return names_[size_t(i)]; }  // as in the list
  uint64_t checksum(int64_t i) const { return entries_[size_t(i)].checksum; }
  int64_t source_bytes(int64_t i) const { return int64_t(entries_[size_t(i)].source_bytes); }
  const std::vector<std::string>& class_names() const { return class_names_; }
  uint64_t list_hash() const { return list_hash_; }   // ImageList::hash
  int64_t short_side() const { return short_side_; }  // images were shrunk to it; 0: not at all
  const std::string& decoder() const { return decoder_; }
  int64_t file_bytes() const { return bytes_; }
  const Path& path() const { return path_; }

  bool intact(int64_t i) const;     // reads the pixels and compares their checksum
  void will_need(int64_t i) const;  // asks the system to read the image in the background

 private:
  explicit PackedImages(const Path&);

  struct Unmap {
    int64_t bytes;
    void operator()(const uint8_t*) const;
  };

  Path path_;
  std::unique_ptr<const uint8_t, Unmap> map_;
  int64_t bytes_ = 0;
  std::vector<PackedEntry> entries_;
  std::string name_text_;
  std::vector<std::string_view> names_;  // into name_text_
  std::vector<std::string> class_names_;
  uint64_t list_hash_ = 0;
  int64_t short_side_ = 0;
  std::string decoder_;
};

struct PackOptions {
  int64_t short_side = 0;     // shrink images to this short side (bicubic); 0: keep them as they are
  double commit_seconds = 5;  // how much work a kill may cost
  ImageProgress progress = [](int64_t, int64_t) {};
};

// Writes the pack of a list, all cores decoding. Until it is complete it is called `file`.part, with `file`.journal beside it, and a call with the same
// list and options goes on where a killed one stopped. Input errors name the image that cannot be decoded, or say that the disk is too small (after the
// first few hundred images).
void build_pack(const Path& file, const Path& root, const ImageList&, const PackOptions& = {});

}  // namespace kd
