#include "data/archive.h"

#include <cstring>

#include "tests/data/files.h"

namespace kd {
namespace {

namespace fs = std::filesystem;

struct Member {
  std::string name;
  std::string content = {};
  char type = '0';
  std::string prefix = {};
};

Bytes tar(const std::vector<Member>& members) {
  Bytes bytes;
  for (const Member& m : members) {
    std::string header(512, '\0');
    auto field = [&](size_t at, const std::string& text) { header.replace(at, text.size(), text); };
    field(0, m.name), field(100, "0000644"), field(124, fmt::format("{:011o}", m.content.size())), field(136, "00000000000"), field(148, "        ");
    header[156] = m.type;
    field(257, "ustar"), field(263, "00"), field(345, m.prefix);
    unsigned sum = 0;
    for (char c : header) sum += static_cast<unsigned char>(c);
    field(148, fmt::format("{:06o}", sum)), header[154] = 0;
    append(bytes, header + m.content + std::string((512 - m.content.size() % 512) % 512, '\0'));
  }
  append(bytes, Bytes(1024));
  return bytes;
}

Bytes gzip(const Bytes& bytes) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(bytes.size() / 2 + 1000 + deflateBound(&stream, uLong(bytes.size())));
  stream.next_in = const_cast<Bytef*>(bytes.data());
  stream.avail_in = uInt(bytes.size());
  stream.next_out = out.data();
  stream.avail_out = uInt(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

class Archive : public FolderTest {
 protected:
  void unpack(const Bytes& bytes, int64_t most = 1 << 20) {
    put(root_ / "a.tar.gz", bytes);
    unpack_tar_gz(root_ / "a.tar.gz", root_ / "out", most);
  }
  void refused(const Bytes& bytes, const std::vector<std::string>& parts, int64_t most = 1 << 20) {
    fs::remove_all(root_ / "out");
    expect_error([&] { unpack(bytes, most); }, parts);
  }
};

TEST_F(Archive, FilesAndFolders) {
  const std::string odd(1000, 'x'), block(512, 'y');
  unpack(gzip(
      tar({{"set/", "", '5'}, {"set/odd.bin", odd}, {"set/block", block}, {"set/empty"}, {"note", "30 mtime=1", 'x'}, {"deep/file", "z", '0', "set/long"}})));
  EXPECT_EQ(read_text(root_ / "out/set/odd.bin"), odd);
  EXPECT_EQ(read_text(root_ / "out/set/block"), block);
  EXPECT_EQ(read_text(root_ / "out/set/empty"), "");
  EXPECT_EQ(read_text(root_ / "out/set/long/deep/file"), "z");
  EXPECT_FALSE(fs::exists(root_ / "out/note"));
}

TEST_F(Archive, NothingIsWrittenOutside) {
  refused(gzip(tar({{"../evil", "x"}})), {"'../evil' would be written outside"});
  refused(gzip(tar({{"a/../../evil", "x"}})), {"would be written outside"});
  refused(gzip(tar({{"/tmp/kd_evil", "x"}})), {"'/tmp/kd_evil' would be written outside"});
  refused(gzip(tar({{"..", "", '5'}})), {"would be written outside"});
  refused(gzip(tar({{"evil", "x", '0', "../.."}})), {"would be written outside"});
  refused(gzip(tar({{"", "x"}})), {"would be written outside"});
  refused(gzip(tar({{"link", "", '2'}})), {"'link' is neither a file nor a folder"});
  refused(gzip(tar({{"link", "", '1'}})), {"neither a file nor a folder"});
  refused(gzip(tar({{"device", "", '3'}})), {"neither a file nor a folder"});
  refused(gzip(tar({{"a", "x"}, {"a", "y"}})), {"comes twice"});
  EXPECT_FALSE(fs::exists(root_ / "evil"));
  EXPECT_FALSE(fs::exists(root_.parent_path() / "evil"));
}

TEST_F(Archive, BombsAndDamage) {
  refused(gzip(tar({{"big", std::string(2000, 'x')}})), {"more than 1999 bytes"}, 1999);
  Bytes padded = tar({{"small", "x"}});
  padded.resize(padded.size() + (size_t(8) << 20));
  refused(gzip(padded), {"more than 1048576 bytes"});
  const Bytes good = gzip(tar({{"file", std::string(5000, 'x')}}));
  for (size_t length = 0; length < good.size(); length += 3) refused(Bytes(good.begin(), good.begin() + std::ptrdiff_t(length)), {"a.tar.gz"});
  Bytes wrong_sum = good;
  wrong_sum[wrong_sum.size() - 8] ^= 1;
  refused(wrong_sum, {"damaged", "incorrect data check"});
  refused(gzip(Bytes(600, 'q')), {"not a tar archive"});
  refused({'h', 'e', 'l', 'l', 'o', '!', '!', '!', '!', '!', '!', '!'}, {"not gzip"});
  Bytes header = tar({{"file", "abc"}});
  header[3] ^= 1;
  refused(gzip(header), {"damaged one"});
}

}  // namespace
}  // namespace kd
