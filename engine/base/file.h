// file: whole-file reading and crash-safe writing. Every error names the path and the system's reason.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kd {

using Path = std::filesystem::path;

std::vector<uint8_t> read_bytes(const Path&);
std::string read_text(const Path&);
int64_t file_size(const Path&);  // throws when the file is missing or not a regular file

// Appends bytes to a file being written; throws on a short write (a full disk, say).
class FileWriter {
 public:
  explicit FileWriter(const Path&, bool append = false);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(std::span<const uint8_t>);
  void write(std::string_view);
  void sync();  // to the disk
  void close();

 private:
  friend void write_atomically(const Path& path, const std::function<void(FileWriter&)>& fill);
  struct Alone {};
  FileWriter(const Path&, Alone);  // empty, and nobody else writes it in this way: waits for who does
  Path path_;
  int fd_;
};

// Writes to `path`.tmp, syncs, then renames: a reader sees the old file or the whole new one, never a part. Several who write one path do so one after the
// other.
// On an error the temporary file is removed and whatever stood under `path` stays.
void write_atomically(const Path& path, const std::function<void(FileWriter&)>& fill);
void write_atomically(const Path& path, std::string_view text);

void flush_output();  // throws where what was printed did not arrive (standard output on a full disk, say)

void make_directories(const Path&);  // with the path and reason in its error

}  // namespace kd
