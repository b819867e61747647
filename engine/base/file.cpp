#include "engine/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "engine/base/check.h"

namespace kd {
namespace {

std::string reason() { return std::strerror(errno); }

int open_for_reading(const Path& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO is refused below instead of waited for
  KD_INPUT(fd >= 0, "{}: cannot open: {}", path.string(), reason());
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw Error(fmt::format("{}: not a regular file", path.string()));
  }
  return fd;
}

template <class Buffer>
Buffer read_all(const Path& path) {
  int fd = open_for_reading(path);
  Buffer buffer;
  struct stat info {};
  ::fstat(fd, &info);
  buffer.resize(size_t(info.st_size));
  size_t have = 0;
  while (have < buffer.size()) {
    ssize_t got = ::read(fd, reinterpret_cast<char*>(buffer.data()) + have, buffer.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      std::string why = got < 0 ? reason() : "it became shorter while being read";
      ::close(fd);
      throw Error(fmt::format("{}: cannot read at byte {}: {}", path.string(), have, why));
    }
    have += size_t(got);
  }
  ::close(fd);
  return buffer;
}

}  // namespace

std::vector<uint8_t> read_bytes(const Path& path) { return read_all<std::vector<uint8_t>>(path); }
std::string read_text(const Path& path) { return read_all<std::string>(path); }

int64_t file_size(const Path& path) {
  struct stat info {};
  KD_INPUT(::stat(path.c_str(), &info) == 0, "{}: {}", path.string(), reason());
  KD_INPUT(S_ISREG(info.st_mode), "{}: not a regular file", path.string());
  return info.st_size;
}

FileWriter::FileWriter(const Path& path, bool append)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0644)) {
  KD_INPUT(fd_ >= 0, "{}: cannot write: {}", path.string(), reason());
}

FileWriter::FileWriter(const Path& path, Alone) : path_(path), fd_(-1) {
  struct stat here {
  }, there{};
  do {  // who was waited for has renamed what was opened
    if (fd_ >= 0) ::close(fd_);
    fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    KD_INPUT(fd_ >= 0, "{}: cannot write: {}", path.string(), reason());
    while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }  // without locks, as some network disks are, everybody goes on at once
  } while (::fstat(fd_, &here) == 0 && (::stat(path.c_str(), &there) != 0 || here.st_dev != there.st_dev || here.st_ino != there.st_ino));
  if (here.st_size > 0 && ::ftruncate(fd_, 0) != 0) {
    const std::string why = reason();
    ::close(fd_);
    throw Error(fmt::format("{}: cannot write: {}", path.string(), why));
  }
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::write(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    ssize_t done = ::write(fd_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    KD_INPUT(done > 0, "{}: cannot write: {}", path_.string(), reason());
    bytes = bytes.subspan(size_t(done));
  }
}

void FileWriter::write(std::string_view text) { write(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())); }

void FileWriter::sync() { KD_INPUT(::fsync(fd_) == 0 || errno == EINVAL, "{}: cannot sync: {}", path_.string(), reason()); }

void FileWriter::close() {
  int fd = fd_;
  fd_ = -1;
  KD_INPUT(::close(fd) == 0, "{}: cannot close: {}", path_.string(), reason());
}

void write_atomically(const Path& path, const std::function<void(FileWriter&)>& fill) {
  Path temporary = path;
  temporary += ".tmp";
  FileWriter out(temporary, FileWriter::Alone());
  try {
    fill(out);
    out.sync();
    KD_INPUT(::rename(temporary.c_str(), path.c_str()) == 0, "{}: cannot rename from {}: {}", path.string(), temporary.string(), reason());
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  out.close();  // and only here the next may open the name that is free now
}

void write_atomically(const Path& path, std::string_view text) {
  write_atomically(path, [&](FileWriter& out) { out.write(text); });
}

void flush_output() {
  errno = 0;
  const bool good = std::fflush(stdout) == 0 && !std::ferror(stdout);
  KD_INPUT(good, "standard output: cannot write: {}", errno ? reason() : "an earlier write failed");
}

void make_directories(const Path& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  KD_INPUT(!code && std::filesystem::is_directory(path), "{}: cannot create the directory: {}", path.string(), code ? code.message() : "a file is in the way");
}

}  // namespace kd
