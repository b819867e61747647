// check: how Retort reports that something is wrong.
//   KD_CHECK  a contract between two pieces of code; the message ends with file:line.
//   KD_INPUT  something a person gave us (a file, a flag, a recipe); the message says what, where and what to do, with no C++ position.
// Both throw kd::Error; `main` prints one line and exits non-zero.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace kd {

class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void fail_contract(const char* file, int line, const std::string& message);

}  // namespace kd

#define KD_FAIL(...) ::kd::fail_contract(__FILE__, __LINE__, fmt::format(__VA_ARGS__))
#define KD_CHECK(cond, ...)   \
  do {                        \
    if (!(cond)) [[unlikely]] \
      KD_FAIL(__VA_ARGS__);   \
  } while (0)
#define KD_INPUT(cond, ...)                        \
  do {                                             \
    if (!(cond)) [[unlikely]]                      \
      throw ::kd::Error(fmt::format(__VA_ARGS__)); \
  } while (0)
