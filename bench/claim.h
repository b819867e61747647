// claim: which process works on which run, for processes on one or several machines that share a folder.
// A claim is the file `claim` in the run's directory, made with O_CREAT | O_EXCL, so that exactly one process succeeds:
//   host box1             pid 4242             since 2024-11-24T03:00:00Z
//   process BOOT NAMESPACE START               which pid 4242: of which boot of which machine, in which container, started when
// Its owner touches it every beat. It is stale when its process, on this machine, is no more, or, on another machine, when it was not touched for
// stale_seconds of the file system's own clock. A stale claim is renamed away, by one process at a time, and made anew.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/file.h"

namespace kd {

struct ClaimOptions {
  double stale_seconds = 300;
  double beat_seconds = 30;
  std::function<void(const std::string&)> say = {};  // a line when stale claims are taken over, or a claim of ours was
};

// All of the directories, or none: each is made where it does not exist.
class Claim {
 public:
  explicit Claim(ClaimOptions options = {});
  ~Claim();  // releases
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

  bool take(std::span<const Path> directories);  // false: another process, or another Claim of this one, holds one of them
  void release();

 private:
  struct Held {
    Path file;
    int fd;  // of the file that was made: touching it can never refresh somebody else's claim
  };
  bool take_one(const Path& directory, std::map<std::string, std::vector<Path>>& taken_over);
  void beat();

  ClaimOptions options_;
  std::mutex mutex_;  // of held_
  std::vector<Held> held_;
  std::condition_variable_any wake_;
  std::jthread beater_;
};

// "box1:4242" of a directory's claim; empty when there is none, or a stale one.
std::string claimed_by(const Path& directory, double stale_seconds = 300);

}  // namespace kd
