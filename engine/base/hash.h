// hash: 64-bit FNV-1a, an identity for data and settings. It tells two sets apart; it does not protect against someone who wants a collision.
// Check value (Fowler, Noll, Vo): "foobar" -> 85944171f73967e8, the empty string -> cbf29ce484222325.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace kd {

class Fnv1a {
 public:
  void add(std::span<const uint8_t> bytes) {
    for (uint8_t byte : bytes) value_ = (value_ ^ byte) * 0x100000001b3u;
  }
  void add(std::string_view text) { add(std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size())); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

inline uint64_t fnv1a(std::string_view text) {
  Fnv1a hash;
  hash.add(text);
  return hash.value();
}

inline std::string hex(uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace kd
