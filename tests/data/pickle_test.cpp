#include "data/pickle.h"

#include "tests/data/pickler.h"

namespace kd {
namespace {

class Pickle : public FolderTest {
 protected:
  PickledDict read(const Bytes& bytes) {
    put(root_ / "train", bytes);
    return PickledDict(root_ / "train");
  }
  void refused(const Bytes& bytes, const std::vector<std::string>& parts) {
    std::vector<std::string> all = parts;
    all.push_back((root_ / "train").string());
    expect_error([&] { read(bytes); }, all);
  }
  // "}" <operations> "."
  static Bytes dict(const Bytes& operations) {
    Bytes bytes = {0x80, 2, '}'};
    append(bytes, operations);
    bytes.push_back('.');
    return bytes;
  }
  static Bytes text(const std::string& operations) { return {operations.begin(), operations.end()}; }
};

TEST_F(Pickle, OfficialLayout) {
  const PickledDict dict = read(cifar_pickle({.labels = {3, 99, 300}, .label_key = "fine_labels"}));
  EXPECT_TRUE(dict.has("data"));
  EXPECT_FALSE(dict.has("labels"));
  EXPECT_EQ(dict.integers("fine_labels"), (std::vector<int64_t>{3, 99, 300}));
  EXPECT_EQ(dict.strings("filenames"), (std::vector<std::string>{"picture_0.png", "picture_1.png", "picture_2.png"}));
  const auto data = dict.array("data");
  EXPECT_EQ(data.rows, 3);
  EXPECT_EQ(data.columns, 3072);
  for (int64_t i : {0, 3071, 3072, 9215}) EXPECT_EQ(data.data[i], cifar_byte(i / 3072, i % 3072)) << i;
}

// pickle.dumps({"a": b"\x00\xe9", "n": -5, "l": [1, 1000, True], "s": [b"\x00\xe9"]}, protocol=2) of Python 3.11: byte strings go through _codecs.encode.
TEST_F(Pickle, OfPython3) {
  using namespace std::string_literals;
  const std::string bytes =
      "\200\002}q\000(X\001\000\000\000aq\001c_codecs\nencode\nq\002X\003\000\000\000\000\303\251q\003X\006\000"
      "\000\000latin1q\004\206q\005Rq\006X\001\000\000\000nq\007J\373\377\377\377X\001\000\000\000lq\010]q\011"
      "(K\001M\350\003\210eX\001\000\000\000sq\n]q\013h\006au."s;
  const PickledDict dict = read(text(bytes));
  EXPECT_EQ(dict.integers("l"), (std::vector<int64_t>{1, 1000, 1}));
  EXPECT_EQ(dict.strings("s"), std::vector<std::string>{std::string("\0\xe9", 2)});
  expect_error([&] { dict.integers("n"); }, {"'n' is not a list"});
  expect_error([&] { dict.array("a"); }, {"'a' is not an array"});
  expect_error([&] { dict.integers("zebra"); }, {"has no 'zebra'"});
}

TEST_F(Pickle, CodeIsRefusedByName) {
  refused(dict(text("U\1xcos\nsystem\nU\x07rm -rf /\x85Rs")), {"asks for code (os.system)", "refused"});
  refused(dict(text("U\1xc__builtin__\neval\n(U\1"
                    "1tRs")),
          {"asks for code (__builtin__.eval)"});
  refused(dict(text("U\1xcnumpy\nload\nU\1x\x85Rs")), {"asks for code (numpy.load)"});
  refused(dict(text("U\1xcnumpy.core.multiarray\n_reconstruct.__globals__\n)Rs")), {"asks for code (numpy.core.multiarray._reconstruct.__globals__)"});
  for (const char* operation : {"(ios\nsystem\n", "(o", "Pabc\n", "Q", ")\x81", "\x82\x01", "\x93"})
    refused(dict(text(std::string("U\1x") + operation + "s")), {"asks for code"});
  // Allowed names are recognised, never called: with other arguments they are an error, not a call.
  refused(dict(text("U\1xc_codecs\nencode\nU\1aU\3hex\x86Rs")), {"unknown text encoding"});
  refused(dict(text("U\1xcnumpy\ndtype\nU\1O\x85Rs")), {"other than uint8"});
  refused(dict(text("U\1xcnumpy\nndarray\nK\1\x85Rs")), {"no function"});
}

TEST_F(Pickle, OtherFormats) {
  refused({}, {"not a Python pickle"});
  refused(text("(dp0\n."), {"not a Python pickle"});
  refused({0x80, 4, '}', '.'}, {"protocol 4"});
  refused({0x80, 2, ']', '.'}, {"no dict"});
  refused(dict(text("\x8a\x01\x01")), {"operation 0x8a"});
}

TEST_F(Pickle, EveryTruncationIsNoticed) {
  const Bytes whole = cifar_pickle({.labels = {1}, .label_key = "fine_labels"});
  for (size_t length = 0; length < whole.size(); length += length < 300 || length + 100 > whole.size() ? 1 : 97)
    EXPECT_NE(error_of([&] { read(Bytes(whole.begin(), whole.begin() + std::ptrdiff_t(length))); }), "no error") << length;
}

TEST_F(Pickle, NoByteCanDoHarm) {
  const Bytes whole = cifar_pickle({.labels = {1, 2}, .label_key = "fine_labels"});
  int refusals = 0;
  for (size_t at = 0; at < whole.size(); at += at < 400 || at + 100 > whole.size() ? 1 : 61)
    for (uint8_t flip : {0x01, 0x80}) {
      Bytes damaged = whole;
      damaged[at] ^= flip;
      refusals += error_of([&] { read(damaged).array("data"); }) != "no error";
    }
  EXPECT_GT(refusals, 100);
}

TEST_F(Pickle, HostileStructures) {
  auto long_bytes = [](uint32_t n) { return std::string("T") + std::string({char(n), char(n >> 8), char(n >> 16), char(n >> 24)}); };
  refused(dict(text("U\1x" + long_bytes(0xffffffff) + "s")), {"truncated"});
  refused(dict(text("U\1xr\xff\xff\xff\x7fs")), {"memo slot out of order"});
  refused(dict(text("h\5")), {"never filled"});
  refused(dict(text("s")), {"without its operands"});
  refused(dict(text("(U\1xu")), {"key without a value"});
  refused(dict(text("U\1xK\1(s")), {"without its operands"});
  refused(dict(text("e")), {"without its beginning"});
  refused(dict(text("K\1K\2e")), {"without its beginning"});
  refused(dict(text("K\1")), {"no dict"});
  refused(dict(text("U\1xa")), {"holds none"});
  Bytes operations(size_t(5) << 20, 'N');
  refused(dict(operations), {"operations, surely no CIFAR file"});
  // A list of a list of ... , each twice: 2^n items on paper, n values here; and a list that contains itself.
  std::string doubling("U\1a]q\0s", 7);
  for (int i = 1; i < 100; ++i) doubling += std::string("U\1a]q") + char(i) + "(h" + char(i - 1) + "h" + char(i - 1) + "es";
  EXPECT_TRUE(read(dict(text(doubling))).has("a"));
  EXPECT_TRUE(read(dict(text(std::string("U\1x]q\0h\0as", 10)))).has("x"));
  // One text of 1000 bytes, ten thousand times.
  std::string repeated = "U\1x](" + long_bytes(1000) + std::string(1000, 'a') + std::string("q\0", 2);
  for (int i = 0; i < 10'000; ++i) repeated += std::string("h\0", 2);
  const PickledDict dict_of_repeated = read(dict(text(repeated + "es")));
  expect_error([&] { dict_of_repeated.strings("x"); }, {"repeats its texts"});
}

TEST_F(Pickle, ArraysMustFitTheirBytes) {
  auto array = [](const std::vector<int64_t>& shape, size_t bytes, const char* type = "u1", char fortran = '\x89') {
    Pickler pickler;
    pickler.text("data"), pickler.array(shape, Bytes(bytes), type, fortran);
    return pickler.finish();
  };
  EXPECT_EQ(read(array({2, 3}, 6)).array("data").columns, 3);
  refused(array({2, 3}, 5), {"shape and bytes disagree"});
  refused(array({int64_t(1) << 30, int64_t(1) << 30, 16}, 0), {"impossible size"});
  refused(array({-1, 3}, 3), {"impossible size"});
  refused(array({2, 3}, 6, "f4"), {"other than uint8"});
  refused(array({2, 3}, 6, "O"), {"other than uint8"});
  refused(array({2, 3}, 6, "u1", '\x88'), {"Fortran order"});
  const PickledDict flat = read(array({6}, 6));
  expect_error([&] { flat.array("data"); }, {"1 dimensions"});
}

}  // namespace
}  // namespace kd
