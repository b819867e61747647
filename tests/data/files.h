// files: what the dataset tests share: a folder that goes away, and image files and archives made of known bytes.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/base/file.h"
#include "tests/harness/error_of.h"

namespace kd {

using Bytes = std::vector<uint8_t>;

// One by one: g++ 12 sees an overflow in vector's insert where there is none.
inline void append(Bytes& to, const Bytes& more) {
  for (uint8_t byte : more) to.push_back(byte);
}
inline void append(Bytes& to, const std::string& more) {
  for (char c : more) to.push_back(uint8_t(c));
}
inline void append_big_endian(Bytes& to, uint32_t value, int bytes = 4) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) to.push_back(uint8_t(value >> shift));
}

inline void put(const Path& path, const Bytes& bytes) {
  make_directories(path.parent_path());
  FileWriter(path).write(bytes);
}

// A fresh folder a test, removed afterwards.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / fmt::format("kd_data_{}_{}", ::getpid(), testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(root_);
    make_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  Path root_;
};

// The one line that a call must end with.
template <class F>
void expect_error(F&& call, const std::vector<std::string>& parts) {
  const std::string message = error_of(call);
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "\"" << part << "\" is missing in: " << message;
}

inline Bytes png_chunk(const std::string& type, const Bytes& data) {
  Bytes chunk, summed;
  append_big_endian(chunk, uint32_t(data.size()));
  append(summed, type);
  append(summed, data);
  append(chunk, summed);
  append_big_endian(chunk, uint32_t(crc32(0, summed.data(), uInt(summed.size()))));
  return chunk;
}

inline Bytes png_of_chunks(uint32_t w, uint32_t h, const Bytes& data) {
  Bytes png = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'}, header;
  append_big_endian(header, w);
  append_big_endian(header, h);
  append(header, Bytes{8, 2, 0, 0, 0});  // 8-bit RGB
  append(png, png_chunk("IHDR", header));
  append(png, png_chunk("IDAT", data));
  append(png, png_chunk("IEND", {}));
  return png;
}

inline Bytes compressed(const Bytes& bytes) {
  uLongf size = compressBound(uLong(bytes.size()));
  Bytes out(size);
  EXPECT_EQ(compress(out.data(), &size, bytes.data(), uLong(bytes.size())), Z_OK);
  out.resize(size);
  return out;
}

// Byte `at` of picture number `seed`, and the picture as a PNG file.
inline uint8_t picture_byte(int64_t seed, int64_t at) { return uint8_t(seed * 37 + at * 5 + at / 7 * 11); }
inline Bytes png_picture(int64_t seed, int64_t w, int64_t h) {
  Bytes rows;
  for (int64_t y = 0; y < h; ++y) {
    rows.push_back(0);  // no filter
    for (int64_t i = 0; i < 3 * w; ++i) rows.push_back(picture_byte(seed, y * 3 * w + i));
  }
  return png_of_chunks(uint32_t(w), uint32_t(h), compressed(rows));
}

}  // namespace kd
