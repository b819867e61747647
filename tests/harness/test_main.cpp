// main of the test binaries: GoogleTest's own, except that a binary in which no test passed fails (an empty file, a filter that
// matches nothing, a skip of everything).
#include <gtest/gtest.h>

#include <cstdio>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  int failed = RUN_ALL_TESTS();
  if (testing::GTEST_FLAG(list_tests)) return failed;
  if (testing::UnitTest::GetInstance()->successful_test_count() == 0) {
    std::fprintf(stderr, "no test passed\n");
    return 1;
  }
  return failed;
}
