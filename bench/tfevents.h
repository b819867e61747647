// tfevents: scalars in TensorBoard's event file format, without its library. A file is a sequence of records
//   u64 length | u32 masked_crc(length's 8 bytes) | bytes | u32 masked_crc(bytes)      little-endian (tensorflow/docs, python_io.md)
// whose bytes are protobuf messages Event{1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary}, Summary{1: repeated Value},
// Value{1: string tag, 2: float simple_value} (tensorboard/compat/proto/{event,summary}.proto).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/file.h"

namespace kd {

// CRC-32C (Castagnoli, reflected polynomial 82f63b78). Check value: "123456789" -> e3069283.
uint32_t crc32c(std::span<const uint8_t>);
uint32_t masked_crc32c(std::span<const uint8_t>);  // rotated right by 15 plus a282ead8, as the record format wants it

class EventWriter {
 public:
  // A new file. TensorBoard finds it by "tfevents" in its name. wall_time: seconds since 1970.
  EventWriter(const Path& file, double wall_time);

  void scalars(int64_t step, double wall_time, std::span<const std::pair<std::string, double>> tagged);

 private:
  void record(std::string_view event);
  FileWriter out_;
};

}  // namespace kd
