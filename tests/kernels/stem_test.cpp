#include "kernels/stem/stem.h"

#include <gtest/gtest.h>

#include "tests/harness/error_of.h"

namespace kd {
namespace {

TEST(Stem, RefusesTheCpu) {
  EXPECT_NE(error_of([] { stem_fprop({}, {}); }).find("stem_fprop: the stem's own kernels are for GPUs; the CPU runs conv_fprop"), std::string::npos);
  EXPECT_NE(error_of([] { stem_parts({}, {1, 4, 4}); }).find("stem_parts"), std::string::npos);
}

TEST(Stem, RefusesWhatItCannotRun) {
  const Stream stream{Device::emulated};
  alignas(16) static bf16 some[64];
  const auto error = [&](StemShape shape, const bf16* x) { return error_of([&] { stem_wgrad(stream, {.shape = shape, .x = x, .dy = some, .dw = some}); }); };
  for (StemShape shape : {StemShape{1, 5, 4}, {1, 4, 5}, {1, 4, 450}, {0, 4, 4}, {1, 0, 4}})
    EXPECT_NE(error(shape, some).find("height and width must be even, the width at most 448"), std::string::npos);
  EXPECT_NE(error({int64_t(1) << 30, 4, 4}, some).find("32 bits"), std::string::npos);
  EXPECT_NE(error({1, 4, 4}, some + 1).find("must be a multiple of 16"), std::string::npos);
  EXPECT_NE(error({1, 4, 4}, nullptr).find("must be a multiple of 16"), std::string::npos);
}

}  // namespace
}  // namespace kd
