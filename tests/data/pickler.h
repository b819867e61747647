// pickler: CIFAR's Python files as Python 2's cPickle wrote them, byte by byte.
#pragma once
#include <string>
#include <vector>

#include "tests/data/files.h"

namespace kd {

// Byte `planar` (of 3072) of image `image`.
inline uint8_t cifar_byte(int64_t image, int64_t planar) { return uint8_t(image * 31 + planar * 7 + planar / 1024 * 101); }

class Pickler {
 public:
  Pickler() { bytes_ = {0x80, 2, '}'}, memo(), op('('); }
  Bytes finish() { return op('u'), op('.'), bytes_; }

  void op(char c) { bytes_.push_back(uint8_t(c)); }
  void ops(const std::string& text) { append(bytes_, text); }
  void memo() {  // "q" and a byte, from 256 on "r" and four
    op(slots_ < 256 ? 'q' : 'r');
    little_endian(slots_, slots_ < 256 ? 1 : 4);
    ++slots_;
  }
  void text(const std::string& s) { op('U'), little_endian(s.size(), 1), ops(s), memo(); }
  void integer(int64_t i) {
    const int bytes = i >= 0 && i < 256 ? 1 : i >= 0 && i < 65536 ? 2 : 4;
    op(bytes == 1 ? 'K' : bytes == 2 ? 'M' : 'J'), little_endian(uint64_t(i), bytes);
  }
  void list_of(const std::vector<int64_t>& values) {
    op(']'), memo(), op('(');
    for (int64_t v : values) integer(v);
    op('e');
  }
  void list_of(const std::vector<std::string>& values) {
    op(']'), memo(), op('(');
    for (const std::string& v : values) text(v);
    op('e');
  }
  void array(const std::vector<int64_t>& shape, const Bytes& elements, const std::string& type = "u1", char fortran = '\x89') {
    ops("cnumpy.core.multiarray\n_reconstruct\n"), memo(), ops("cnumpy\nndarray\n"), memo();
    integer(0), ops("\x85"), memo(), text("b"), ops("\x87"), memo(), op('R'), memo();
    op('('), integer(1);
    op('(');
    for (int64_t extent : shape) integer(extent);
    op('t'), memo();
    ops("cnumpy\ndtype\n"), memo(), text(type), integer(0), integer(1), ops("\x87"), memo(), op('R'), memo();
    op('('), integer(3), text("|"), ops("NNN"), integer(-1), integer(-1), integer(0), op('t'), memo(), op('b');
    op(fortran);
    op('T'), little_endian(elements.size(), 4), append(bytes_, elements), memo();
    op('t'), memo(), op('b');
  }

 private:
  void little_endian(uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) bytes_.push_back(uint8_t(value >> (8 * i)));
  }

  Bytes bytes_;
  uint64_t slots_ = 1;  // cPickle counts from 1
};

struct CifarPickle {
  std::vector<int64_t> labels;
  std::string label_key;
  std::vector<std::string> names = {};  // empty: picture_<i>.png
  int64_t first = 0;                    // number of the first image, for its pixels
};
inline Bytes cifar_pickle(const CifarPickle& what) {
  std::vector<std::string> names = what.names;
  std::vector<int64_t> coarse;
  Bytes pixels;
  for (size_t i = 0; i < what.labels.size(); ++i) {
    if (what.names.empty()) names.push_back(fmt::format("picture_{}.png", i));
    coarse.push_back(what.labels[i] % 20);
    for (int64_t p = 0; p < 3072; ++p) pixels.push_back(cifar_byte(what.first + int64_t(i), p));
  }
  Pickler pickler;
  pickler.text("filenames"), pickler.list_of(names);
  pickler.text("batch_label"), pickler.text("training batch 1 of 1");
  pickler.text(what.label_key), pickler.list_of(what.labels);
  if (what.label_key == "fine_labels") pickler.text("coarse_labels"), pickler.list_of(coarse);
  pickler.text("data"), pickler.array({int64_t(what.labels.size()), 3072}, pixels);
  return pickler.finish();
}

}  // namespace kd
