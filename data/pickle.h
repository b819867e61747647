// pickle: the one kind of Python pickle that datasets need, read without running anything.
// A pickle is a program that may call any Python function, so loading one from elsewhere runs whatever its author wanted. The official CIFAR files use
// a corner of that language: protocol 2, a dict of byte strings, whole numbers, lists and one numpy array of uint8. Only that corner is read here. The
// functions a file may name are numpy's two constructors and _codecs.encode (how Python 3 writes byte strings in protocol 2), and they are recognised,
// never called; a file that asks for another, or for an operation outside the corner, is refused with one line that names it.
// Work and memory are bounded by the file's size: values are never copied, and the number of values is limited.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/file.h"

namespace kd {

class PickledDict {
 public:
  explicit PickledDict(const Path&);
  ~PickledDict();
  PickledDict(PickledDict&&) noexcept;

  bool has(const std::string& key) const;
  // Input errors where the key is missing or holds something else.
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<std::string> strings(const std::string& key) const;
  struct Bytes2d {
    int64_t rows, columns;
    const uint8_t* data;  // row-major; belongs to the dict
  };
  Bytes2d array(const std::string& key) const;

 private:
  struct Machine;
  std::unique_ptr<Machine> machine_;
};

}  // namespace kd
