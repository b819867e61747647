#include "bench/claim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <optional>
#include <sstream>

#include "engine/base/check.h"

namespace kd {
namespace {

std::string first_line(const Path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 && name[0] ? name : "unknown";
}

// When a process started, in ticks since the boot; empty when there is no such process, or only what its parent has not yet collected. Field 22 of
// stat, the state being field 3; the second, in brackets, may hold spaces.
std::string start_of(int64_t pid) {
  const std::string stat = first_line(fmt::format("/proc/{}/stat", pid));
  const size_t name_end = stat.rfind(')');
  if (name_end == stat.npos) return "";
  std::istringstream fields(stat.substr(name_end + 1));
  std::string state, field;
  fields >> state;
  for (int i = 4; i <= 22; ++i) fields >> field;
  return state == "Z" || state == "X" ? "" : field;
}

// Two containers of one machine have one boot but each its own process numbers; two machines may have one name.
std::string this_namespace() {
  char link[64] = {};
  const bool known = ::readlink("/proc/self/ns/pid", link, sizeof link - 1) > 0;
  return first_line("/proc/sys/kernel/random/boot_id") + " " + (known ? link : "unknown");
}

std::string utc_now() {
  const std::time_t t = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&t, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

struct Holder {
  std::string host = "unknown", space, start;  // space: boot and namespace
  int64_t pid = 0;
  std::string name() const { return fmt::format("{}:{}", host, pid); }
};

std::string claim_text() {
  const int64_t pid = ::getpid();
  return fmt::format("host {}\npid {}\nsince {}\nprocess {} {}\n", host_name(), pid, utc_now(), this_namespace(), start_of(pid));
}

// What is missing or damaged stays unknown, and an unknown process is only ever stale by age.
Holder read_holder(int fd) {
  char text[1024] = {};
  if (::pread(fd, text, sizeof text - 1, 0) < 0) return {};
  std::istringstream in(text);
  Holder holder;
  for (std::string key; in >> key;) {
    if (key == "host") in >> holder.host;
    if (key == "pid") in >> holder.pid;
    if (key == "process") {
      std::string boot, space;
      in >> boot >> space >> holder.start;
      holder.space = boot + " " + space;
    }
    std::string rest;
    std::getline(in, rest);
  }
  return holder;
}

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }
bool stands_at(const Path& path, const struct stat& info) {
  struct stat now {};
  return ::lstat(path.c_str(), &now) == 0 && same_file(now, info);
}
double modified(const struct stat& info) { return double(info.st_mtim.tv_sec) + 1e-9 * double(info.st_mtim.tv_nsec); }

// A name that no other process and no other call has.
Path unique_beside(const Path& file, const char* what) {
  static std::atomic<int64_t> count = 0;
  return file.string() + fmt::format(".{}-{}-{}-{}", what, host_name(), ::getpid(), count++);
}

// Machines' clocks differ; the file system has one. Where nothing can be written, this machine's has to do.
double file_system_now(const Path& file) {
  const Path probe = unique_beside(file, "clock");
  struct stat info {};
  const int fd = ::open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  const bool known = fd >= 0 && ::futimens(fd, nullptr) == 0 && ::fstat(fd, &info) == 0;
  if (fd >= 0) {
    ::close(fd);
    ::unlink(probe.c_str());
  }
  return known ? modified(info) : std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Why a claim is stale; empty while it is good.
std::string staleness(const Path& file, int fd, const struct stat& info, double stale_seconds) {
  const Holder holder = read_holder(fd);
  if (holder.pid > 0 && !holder.start.empty() && holder.space == this_namespace()) {
    // This machine knows better than any clock: a laptop that slept is not a dead process.
    return start_of(holder.pid) == holder.start ? "" : fmt::format("{} is no more", holder.name());
  }
  const double age = file_system_now(file) - modified(info);
  return age > stale_seconds ? fmt::format("{} has not been heard of for {:.0f} s", holder.name(), age) : "";
}

// Takes a stale claim out of the way and says why it was; nothing when it is good, gone, or somebody else is at it.
// Several processes may have found the same stale claim. Its lock lets one of them act at a time, and under it the file must still stand at its name,
// so that a claim which a quicker process has made meanwhile is never the one that is renamed.
std::optional<std::string> clear_stale(const Path& file, double stale_seconds) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  std::optional<std::string> why;
  struct stat info {};
  if (::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) {  // without locks the rename alone decides
    if (::fstat(fd, &info) == 0 && stands_at(file, info)) {
      const std::string stale = staleness(file, fd, info, stale_seconds);
      const Path aside = unique_beside(file, "stale");
      if (!stale.empty() && ::rename(file.c_str(), aside.c_str()) == 0) {
        if (stands_at(aside, info))
          why = stale;
        else  // a new claim, made since: only possible where there are no locks
          (void)!::link(aside.c_str(), file.c_str());
        ::unlink(aside.c_str());
      }
    }
  }
  ::close(fd);
  return why;
}

}  // namespace

Claim::Claim(ClaimOptions options) : options_(std::move(options)) {
  KD_CHECK(options_.beat_seconds > 0 && options_.stale_seconds > 2 * options_.beat_seconds, "a claim that is touched every {} s is not stale after {} s",
           options_.beat_seconds, options_.stale_seconds);
}

Claim::~Claim() { release(); }

bool Claim::take_one(const Path& directory, std::map<std::string, std::vector<Path>>& taken_over) {
  make_directories(directory);
  const Path file = directory / "claim";
  for (int attempt = 0; attempt < 2; ++attempt) {
    const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd >= 0) {
      const std::string text = claim_text();
      if (::write(fd, text.data(), text.size()) != ssize_t(text.size())) {
        const std::string why = std::strerror(errno);
        ::close(fd);
        ::unlink(file.c_str());
        throw Error(fmt::format("{}: cannot write: {}", file.string(), why));
      }
      std::lock_guard lock(mutex_);
      held_.push_back({file, fd});
      return true;
    }
    KD_INPUT(errno == EEXIST, "{}: cannot write: {}", file.string(), std::strerror(errno));
    const std::optional<std::string> why = clear_stale(file, options_.stale_seconds);
    if (!why) return false;
    taken_over[*why].push_back(directory);
  }
  return false;
}

bool Claim::take(std::span<const Path> directories) {
  KD_CHECK(held_.empty(), "Claim::take twice");
  std::map<std::string, std::vector<Path>> taken_over;  // by reason: a dead process leaves a whole group
  try {
    for (const Path& directory : directories)
      if (!take_one(directory, taken_over)) {
        release();
        return false;
      }
  } catch (...) {
    release();
    throw;
  }
  for (const auto& [why, dirs] : taken_over)
    if (options_.say)
      options_.say(fmt::format("{}{}: taken over, {}", dirs[0].string(), dirs.size() == 1 ? "" : fmt::format(" and {} more", dirs.size() - 1), why));
  beater_ = std::jthread([this](std::stop_token stop) {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, stop, std::chrono::duration<double>(options_.beat_seconds), [&] { return stop.stop_requested(); })) beat();
  });
  return true;
}

void Claim::beat() {
  for (size_t i = 0; i < held_.size();) {
    struct stat info {};
    ::futimens(held_[i].fd, nullptr);
    if (::fstat(held_[i].fd, &info) == 0 && stands_at(held_[i].file, info)) {
      ++i;
      continue;
    }
    if (options_.say)
      options_.say(fmt::format("{}: another process took this over, as nothing was heard of us for more than {:.0f} s; the run's lock decides who writes",
                               held_[i].file.parent_path().string(), options_.stale_seconds));
    ::close(held_[i].fd);
    held_.erase(held_.begin() + ptrdiff_t(i));
  }
}

void Claim::release() {
  if (beater_.joinable()) {
    beater_.request_stop();
    beater_.join();
  }
  for (const Held& h : held_) {
    struct stat info {};
    if (::fstat(h.fd, &info) == 0 && stands_at(h.file, info)) ::unlink(h.file.c_str());
    ::close(h.fd);
  }
  held_.clear();
}

std::string claimed_by(const Path& directory, double stale_seconds) {
  const Path file = directory / "claim";
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return "";
  struct stat info {};
  std::string name;
  if (::fstat(fd, &info) == 0 && staleness(file, fd, info, stale_seconds).empty()) name = read_holder(fd).name();
  ::close(fd);
  return name;
}

}  // namespace kd
