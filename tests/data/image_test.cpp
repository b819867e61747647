#include "data/image.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "data/checksum.h"
#include "tests/data/files.h"

namespace kd {
namespace {

const Path kGolden = Path(KD_GOLDEN_DIR) / "images";

std::string md5_of(const Bytes& bytes) {
  Md5 sum;
  sum.add(bytes);
  return sum.hex();
}
std::string md5_of(const std::string& text) { return md5_of(Bytes(text.begin(), text.end())); }

bool is_jpeg(const Bytes& bytes) { return bytes.at(0) == 0xff; }

struct Golden {
  std::string name, md5;
  int64_t shrink = 0, w = 0, h = 0;
};
std::vector<Golden> golden_lines() {
  std::vector<Golden> lines;
  std::ifstream in(kGolden / "images.txt");
  for (Golden line; in >> line.name >> line.w >> line.h >> line.md5; lines.push_back(line))
    if (line.name.rfind("shrink-", 0) == 0) {
      line.shrink = std::atoi(line.name.c_str() + 7);
      line.name = "large.jpg";
    } else {
      line.shrink = 0;
    }
  return lines;
}

TEST(Checksum, KnownAnswers) {
  EXPECT_EQ(md5_of(""), "d41d8cd98f00b204e9800998ecf8427e");  // RFC 1321, A.5
  EXPECT_EQ(md5_of("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
  EXPECT_EQ(md5_of("12345678901234567890123456789012345678901234567890123456789012345678901234567890"), "57edf4a22be3c955ac49da2e2107b67a");
  auto xxh = [](const std::string& text) { return xxh64({reinterpret_cast<const uint8_t*>(text.data()), text.size()}); };
  EXPECT_EQ(xxh(""), 0xef46db3751d8e999u);
  EXPECT_EQ(xxh("abc"), 0x44bc2cf5ad770999u);
  EXPECT_EQ(xxh("Nobody inspects the spammish repetition"), 0xfbcea83c8a378bf1u);  // python-xxhash's documentation
}

TEST(Checksum, Md5DoesNotDependOnThePieces) {
  Bytes bytes;
  for (int i = 0; i < 1000; ++i) bytes.push_back(uint8_t(i * i));
  for (size_t piece : {1, 55, 63, 64, 65, 999}) {
    Md5 sum;
    for (size_t at = 0; at < bytes.size(); at += piece) sum.add(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
    EXPECT_EQ(sum.hex(), md5_of(bytes)) << piece;
  }
}

// Every kind of file, against Pillow, bit for bit.
TEST(Image, EqualsPillow) {
  int exact = 0;
  for (const Golden& golden : golden_lines()) {
    const Bytes file = read_bytes(kGolden / golden.name);
    const RgbImage image = shrink(decode_image(file, golden.name), golden.shrink);
    EXPECT_EQ(image.w, golden.w) << golden.name;
    EXPECT_EQ(image.h, golden.h) << golden.name;
    EXPECT_EQ(md5_of(image.pixels), golden.md5) << golden.name << " shrink " << golden.shrink;
    ++exact;
  }
  EXPECT_EQ(exact, 19);
}

TEST(Image, SizeIsKnownBeforeDecoding) {
  for (const Golden& golden : golden_lines()) {
    if (golden.shrink > 0) continue;
    const ImageSize size = image_size(read_bytes(kGolden / golden.name), golden.name);
    EXPECT_EQ(size.w, golden.w) << golden.name;
    EXPECT_EQ(size.h, golden.h) << golden.name;
  }
}

// Any cut is noticed, wherever it falls; and no damage does worse than an error or other pixels.
TEST(Image, CutAndDamagedFiles) {
  for (const char* name : {"420.jpg", "progressive.jpg", "cmyk.jpg", "rgb.png", "palette.png", "rgb16.png"}) {
    const Bytes file = read_bytes(kGolden / name);
    for (size_t length = 0; length < file.size(); length += 1 + file.size() / 97) {
      const Bytes cut(file.begin(), file.begin() + std::ptrdiff_t(length));
      EXPECT_THROW(decode_image(cut, name), Error) << name << " cut to " << length;
    }
    int unnoticed = 0, tried = 0;
    for (size_t at = 0; at < file.size(); at += 1 + file.size() / 301, ++tried) {
      Bytes damaged = file;
      damaged[at] ^= uint8_t(1 + at % 255);
      unnoticed += error_of([&] { decode_image(damaged, name); }) == "no error";
    }
    if (!is_jpeg(file)) {  // every byte of these PNG files is a checksum or under one
      EXPECT_EQ(unnoticed, 0) << name;
    }
    EXPECT_GT(tried, 90) << name;
  }
}

TEST(Image, ErrorsNameTheFileAndTheRemedy) {
  auto refused = [](const Bytes& file, const std::vector<std::string>& parts) {
    std::vector<std::string> all = parts;
    all.push_back("folder/x.JPEG: ");
    expect_error([&] { decode_image(file, "folder/x.JPEG"); }, all);
  };
  refused({}, {"empty", "restore or remove"});
  refused({'G', 'I', 'F', '8', '9', 'a'}, {"neither PNG nor JPEG", "47 49 46 38", "convert"});
  Bytes jpeg = read_bytes(kGolden / "420.jpg");
  jpeg.resize(jpeg.size() - 2);
  refused(jpeg, {"truncated JPEG"});
  Bytes zeros_at_end = read_bytes(kGolden / "420.jpg");
  std::fill(zeros_at_end.end() - 400, zeros_at_end.end(), uint8_t(0));  // an interrupted download onto preallocated space
  refused(zeros_at_end, {"truncated JPEG"});
  Bytes png = png_picture(0, 5, 4);
  png.resize(png.size() - 12);
  refused(png, {"truncated PNG"});
  png = png_picture(0, 5, 4);
  png[45] ^= 1;
  refused(png, {"damaged PNG", "checksum", "byte 33"});
}

TEST(Image, BombsAreRefusedBeforeDecoding) {
  auto refused = [](const Bytes& file, const char* what) { expect_error([&] { decode_image(file, "bomb"); }, {"bomb: ", what}); };
  refused(png_of_chunks(16385, 1, compressed({0})), "16385 x 1 pixels");
  refused(png_of_chunks(16384, 16384, compressed({0})), "megapixels");
  refused(png_of_chunks(0x7fffffff, 0x7fffffff, compressed({0})), "2147483647 x 2147483647");
  refused(png_of_chunks(0, 5, compressed({0})), "0 x 5");
  Bytes jpeg = read_bytes(kGolden / "420.jpg");
  for (size_t at = 2; at + 9 < jpeg.size(); ++at)
    if (jpeg[at] == 0xff && jpeg[at + 1] == 0xc0) {
      jpeg[at + 5] = jpeg[at + 7] = 0xff;
      break;
    }
  refused(jpeg, "pixels; sides over");
  // Megabytes behind the header of a small image.
  refused(png_of_chunks(5, 4, compressed(Bytes(size_t(20) << 20))), "cannot be decoded (Out of memory)");
}

TEST(Image, JpegThatWastesTimeIsRefused) {
  const Bytes file = read_bytes(kGolden / "progressive.jpg");
  size_t scan = 0;
  for (size_t at = 2; at + 1 < file.size() && scan == 0; ++at)
    if (file[at] == 0xff && file[at + 1] == 0xda) scan = at;
  ASSERT_GT(scan, 0u);
  Bytes endless(file.begin(), file.end() - 2);
  const Bytes again(file.begin() + std::ptrdiff_t(scan), file.end() - 2);
  for (int i = 0; i < 100; ++i) append(endless, again);
  append(endless, Bytes{0xff, 0xd9});
  expect_error([&] { decode_image(endless, "slow"); }, {"more than 100 scans"});
}

TEST(Image, ShrunkSizesAreTorchvisions) {
  auto expect = [](ImageSize from, int64_t short_side, int64_t h, int64_t w) {
    const ImageSize size = shrunk_size(from, short_side);
    EXPECT_EQ(size.h, h);
    EXPECT_EQ(size.w, w);
  };
  expect({.h = 375, .w = 500}, 256, 256, 341);
  expect({.h = 500, .w = 375}, 256, 341, 256);
  expect({.h = 100, .w = 100}, 256, 100, 100);  // never enlarged
  expect({.h = 300, .w = 9000}, 256, 256, 7680);
  expect({.h = 300, .w = 900}, 0, 300, 900);
}

}  // namespace
}  // namespace kd
