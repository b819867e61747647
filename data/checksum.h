// checksum: two published checksums. Neither protects against someone who wants a collision.
//   xxh64   of a packed image: as fast as memory is read, so that checking a pack costs no more than reading it (xxHash 0.8's XXH64, seed 0)
//   md5     of an archive: what the people who publish CIFAR publish with it (RFC 1321)
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "engine/base/file.h"

namespace kd {

uint64_t xxh64(std::span<const uint8_t>);  // "" -> ef46db3751d8e999, "abc" -> 44bc2cf5ad770999

class Md5 {
 public:
  void add(std::span<const uint8_t>);
  std::string hex();  // 32 lower-case digits; ends the sum: nothing may be added after it

 private:
  void block(const uint8_t*);

  uint32_t state_[4] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u};
  uint8_t pending_[64] = {};
  uint64_t bytes_ = 0;
};
std::string md5_of_file(const Path&);

}  // namespace kd
