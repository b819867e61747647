// fetch: CIFAR from its official archive. The download is done by the program `curl`, which knows proxies and certificates; checked, resumed and unpacked here.
#pragma once
#include <functional>
#include <string>

#include "engine/base/file.h"

namespace kd {

struct FetchOptions {
  std::string name = "cifar100";  // cifar10 | cifar100
  Path root = {};                 // folder that gets the archive and its unpacked folder
  std::string url = {};           // of a mirror; empty: the official binary archive
  std::string md5 = {};           // expected; empty: the published one
  // bytes that are there, bytes in all (0: not known yet)
  std::function<void(int64_t, int64_t)> progress = [](int64_t, int64_t) {};
};

struct Fetched {
  Path folder;              // of the dataset
  bool was_there = false;   // nothing was done
  bool downloaded = false;  // otherwise the archive lay in `root`
};

// An archive that lies in `root` is used; one half downloaded (.part) is continued where the server can. Nothing is unpacked before its checksum is right, and
// the folder appears whole or not at all. Input errors, one line, say what to do: no curl, no connection, wrong checksum, unsafe archive.
Fetched fetch_dataset(const FetchOptions&);

}  // namespace kd
