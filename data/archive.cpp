#include "data/archive.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>
#include <vector>

#include "engine/base/check.h"

namespace kd {
namespace {

constexpr size_t kBlock = 512;  // of tar
using Block = std::array<char, kBlock>;

class GzipReader {
 public:
  explicit GzipReader(const Path& path) : name_(path.string()), in_(path, std::ios::binary), buffer_(1 << 18) {
    KD_INPUT(in_, "{}: cannot open", name_);
    KD_CHECK(inflateInit2(&stream_, 16 + MAX_WBITS) == Z_OK, "zlib has no memory");
  }
  ~GzipReader() { inflateEnd(&stream_); }
  GzipReader(const GzipReader&) = delete;
  GzipReader& operator=(const GzipReader&) = delete;

  // Fills `out`; the number of bytes is smaller only where the data ends, and then its checksum was right.
  size_t read(char* out, size_t bytes) {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = uInt(bytes);
    while (stream_.avail_out > 0 && !ended_) {
      if (stream_.avail_in == 0) {
        in_.read(buffer_.data(), std::streamsize(buffer_.size()));
        KD_INPUT(in_.gcount() > 0, "{}: the archive is truncated; fetch it again", name_);
        stream_.next_in = reinterpret_cast<Bytef*>(buffer_.data());
        stream_.avail_in = uInt(in_.gcount());
      }
      const int state = inflate(&stream_, Z_NO_FLUSH);
      ended_ = state == Z_STREAM_END;
      KD_INPUT(ended_ || state == Z_OK, "{}: the archive is damaged or not gzip ({}); fetch it again", name_, stream_.msg ? stream_.msg : "zlib");
    }
    return bytes - stream_.avail_out;
  }

 private:
  std::string name_;
  std::ifstream in_;
  std::vector<char> buffer_;
  z_stream stream_ = {};
  bool ended_ = false;
};

std::string_view text(const Block& header, size_t at, size_t size) {
  const char* begin = header.data() + at;
  return {begin, strnlen(begin, size)};
}

// Octal digits ended by a blank or zero; -1 for anything else.
int64_t octal(const Block& header, size_t at, size_t size) {
  int64_t value = 0;
  bool any = false;
  for (size_t i = at; i < at + size; ++i) {
    const char c = header[i];
    if (c == ' ' && !any) continue;
    if (c == ' ' || c == 0) break;
    if (c < '0' || c > '7') return -1;
    value = value * 8 + (c - '0');
    any = true;
  }
  return any ? value : -1;
}

bool checksum_is_right(const Block& header) {
  constexpr size_t kAt = 148, kSize = 8;  // counted as blanks
  int64_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i) sum += i >= kAt && i < kAt + kSize ? ' ' : static_cast<unsigned char>(header[i]);
  return sum == octal(header, kAt, kSize);
}

bool stays_inside(const std::string& name) {
  if (name.empty() || name[0] == '/') return false;
  const Path path(name);
  return std::none_of(path.begin(), path.end(), [](const Path& part) { return part == ".."; });
}

}  // namespace

void unpack_tar_gz(const Path& archive, const Path& into, int64_t max_bytes) {
  GzipReader in(archive);
  const std::string name = archive.string();
  int64_t left = max_bytes;
  std::vector<char> buffer(1 << 20);
  for (Block header;;) {
    const size_t got = in.read(header.data(), kBlock);
    if (got == 0 || std::all_of(header.begin(), header.end(), [](char c) { return c == 0; })) break;
    KD_INPUT(got == kBlock && checksum_is_right(header), "{}: not a tar archive inside, or a damaged one; fetch it again", name);
    const bool ustar = text(header, 257, 5) == "ustar";
    const std::string_view prefix = ustar && header[262] == 0 ? text(header, 345, 155) : std::string_view();  // GNU's variant keeps times there
    const std::string member = (prefix.empty() ? "" : std::string(prefix) + "/") + std::string(text(header, 0, 100));
    const int64_t size = octal(header, 124, 12);
    const char type = header[156];
    const bool is_file = type == '0' || type == 0, is_note = type == 'x' || type == 'g';  // notes: times and the like, skipped
    KD_INPUT(size >= 0, "{}: '{}' has an impossible size; fetch the archive again", name, member);
    KD_INPUT(is_file || is_note || type == '5', "{}: '{}' is neither a file nor a folder (tar type {:d}); refused", name, member, type);
    KD_INPUT(stays_inside(member), "{}: '{}' would be written outside of {}; refused", name, member, into.string());
    left -= size;
    KD_INPUT(left >= 0, "{}: more than {} bytes inside; refused", name, max_bytes);
    std::optional<FileWriter> out;
    if (type == '5') make_directories(into / member);
    if (is_file) {
      make_directories((into / member).parent_path());
      KD_INPUT(!std::filesystem::exists(into / member), "{}: '{}' is there already or comes twice; refused", name, (into / member).string());
      out.emplace(into / member);
    }
    for (int64_t todo = size; todo > 0;) {
      const size_t take = size_t(std::min<int64_t>(todo, int64_t(buffer.size())));
      KD_INPUT(in.read(buffer.data(), take) == take, "{}: the archive ends inside of '{}'; fetch it again", name, member);
      if (out) out->write(std::string_view(buffer.data(), take));
      todo -= int64_t(take);
    }
    if (out) {
      out->sync();
      out->close();
    }
    const size_t padding = (kBlock - size_t(size) % kBlock) % kBlock;
    KD_INPUT(in.read(buffer.data(), padding) == padding, "{}: the archive ends inside of '{}'; fetch it again", name, member);
  }
  // To the very end, where gzip's checksum stands.
  while (in.read(buffer.data(), buffer.size()) == buffer.size())
    KD_INPUT((left -= int64_t(buffer.size())) >= 0, "{}: more than {} bytes inside; refused", name, max_bytes);
}

}  // namespace kd
