#include "data/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

#include "engine/base/check.h"

namespace kd {
namespace {

static_assert(std::endian::native == std::endian::little, "words are loaded as they lie");

template <class T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

constexpr uint64_t kP1 = 11400714785074694791u, kP2 = 14029467366897019727u, kP3 = 1609587929392839161u, kP4 = 9650029242287828579u, kP5 = 2870177450012600261u;

uint64_t xxh_round(uint64_t lane, uint64_t word) { return std::rotl(lane + word * kP2, 31) * kP1; }

// RFC 1321: floor(2^32 |sin(i + 1)|), and how far step i rotates.
constexpr uint32_t kMd5Sines[64] = {
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122,
    0xfd987193, 0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6,
    0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60,
    0xbebfbc70, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039,
    0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391};
constexpr int kMd5Turns[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

}  // namespace

uint64_t xxh64(std::span<const uint8_t> bytes) {
  const uint8_t *at = bytes.data(), *end = at + bytes.size();
  uint64_t hash = kP5;
  if (bytes.size() >= 32) {
    uint64_t lane[4] = {kP1 + kP2, kP2, 0, uint64_t(0) - kP1};
    for (; end - at >= 32; at += 32)
      for (int i = 0; i < 4; ++i) lane[i] = xxh_round(lane[i], load<uint64_t>(at + 8 * i));
    hash = std::rotl(lane[0], 1) + std::rotl(lane[1], 7) + std::rotl(lane[2], 12) + std::rotl(lane[3], 18);
    for (uint64_t l : lane) hash = (hash ^ xxh_round(0, l)) * kP1 + kP4;
  }
  hash += bytes.size();
  for (; end - at >= 8; at += 8) hash = std::rotl(hash ^ xxh_round(0, load<uint64_t>(at)), 27) * kP1 + kP4;
  for (; end - at >= 4; at += 4) hash = std::rotl(hash ^ load<uint32_t>(at) * kP1, 23) * kP2 + kP3;
  for (; at < end; ++at) hash = std::rotl(hash ^ *at * kP5, 11) * kP1;
  hash = (hash ^ (hash >> 33)) * kP2;
  hash = (hash ^ (hash >> 29)) * kP3;
  return hash ^ (hash >> 32);
}

void Md5::block(const uint8_t* bytes) {
  uint32_t a = state_[0], b = state_[1], c = state_[2], d = state_[3];
  for (int i = 0; i < 64; ++i) {
    const int round = i / 16;
    const uint32_t mixed = round == 0 ? (b & c) | (~b & d) : round == 1 ? (d & b) | (~d & c) : round == 2 ? b ^ c ^ d : c ^ (b | ~d);
    const int word = round == 0 ? i : round == 1 ? (5 * i + 1) % 16 : round == 2 ? (3 * i + 5) % 16 : 7 * i % 16;
    const uint32_t sum = a + mixed + kMd5Sines[i] + load<uint32_t>(bytes + 4 * word);
    a = d, d = c, c = b;
    b += std::rotl(sum, kMd5Turns[round][i % 4]);
  }
  state_[0] += a, state_[1] += b, state_[2] += c, state_[3] += d;
}

void Md5::add(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const size_t have = size_t(bytes_ % 64), take = std::min(bytes.size(), 64 - have);
    std::memcpy(pending_ + have, bytes.data(), take);
    bytes_ += take;
    bytes = bytes.subspan(take);
    if (bytes_ % 64 == 0) block(pending_);
  }
}

std::string Md5::hex() {
  const uint64_t bits = bytes_ * 8;
  const uint8_t one = 0x80, zero = 0;
  add({&one, 1});
  while (bytes_ % 64 != 56) add({&zero, 1});
  uint8_t length[8];
  std::memcpy(length, &bits, 8);
  add(length);
  std::string text;
  for (uint32_t word : state_)
    for (int i = 0; i < 4; ++i) text += fmt::format("{:02x}", (word >> (8 * i)) & 0xff);
  return text;
}

std::string md5_of_file(const Path& path) {
  std::ifstream in(path, std::ios::binary);
  KD_INPUT(in, "{}: cannot open", path.string());
  Md5 sum;
  std::vector<uint8_t> buffer(1 << 20);
  while (in) {
    in.read(reinterpret_cast<char*>(buffer.data()), std::streamsize(buffer.size()));
    sum.add({buffer.data(), size_t(in.gcount())});
  }
  KD_INPUT(in.eof(), "{}: cannot read", path.string());
  return sum.hex();
}

}  // namespace kd
