#include "bench/tfevents.h"

#include <array>
#include <bit>
#include <cstring>

namespace kd {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0u);
    table[i] = c;
  }
  return table;
}();

std::span<const uint8_t> bytes_of(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

// ---- Protobuf's wire format: a field is a key (number, wire type) and a value. ----

template <class T>
std::string fixed(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += char(value | 0x80);
  return bytes + char(value);
}

std::string key(int field, int wire_type) { return varint(uint64_t(field << 3 | wire_type)); }
std::string double_field(int field, double value) { return key(field, 1) + fixed(value); }
std::string float_field(int field, float value) { return key(field, 5) + fixed(value); }
std::string int_field(int field, int64_t value) { return key(field, 0) + varint(uint64_t(value)); }
std::string bytes_field(int field, std::string_view value) { return key(field, 2) + varint(value.size()) + std::string(value); }

}  // namespace

uint32_t crc32c(std::span<const uint8_t> bytes) {
  uint32_t crc = ~0u;
  for (uint8_t byte : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ byte) & 255];
  return ~crc;
}

uint32_t masked_crc32c(std::span<const uint8_t> bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

EventWriter::EventWriter(const Path& file, double wall_time) : out_(file) { record(double_field(1, wall_time) + bytes_field(3, "brain.Event:2")); }

void EventWriter::scalars(int64_t step, double wall_time, std::span<const std::pair<std::string, double>> tagged) {
  std::string summary;
  for (const auto& [tag, value] : tagged) summary += bytes_field(1, bytes_field(1, tag) + float_field(2, float(value)));
  record(double_field(1, wall_time) + int_field(2, step) + bytes_field(5, summary));
}

void EventWriter::record(std::string_view event) {
  const std::string length = fixed(uint64_t(event.size()));
  out_.write(length + fixed(masked_crc32c(bytes_of(length))) + std::string(event) + fixed(masked_crc32c(bytes_of(event))));
}

}  // namespace kd
