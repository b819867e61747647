// check: how Retort reports that something is wrong.
//   KD_CHECK  a contract between two pieces of code; the message ends with file:line.
//   KD_INPUT  something a person gave us (a file, a flag, a recipe); the message says what, where and what to do, with no C++ position.
// Both throw kd::Error; `main` prints one line and exits non-zero.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__CUDACC__)
#include <sstream>
#else
#include <fmt/format.h>
#endif

namespace kd {

class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// For one line on a terminal: control characters, as a damaged file that a message quotes or a file's name may hold them, become \x0a.
std::string as_one_line(std::string_view);

[[noreturn]] void fail_contract(const char* file, int line, const std::string& message);

#if defined(__CUDACC__)
// nvcc cannot compile the headers of fmt 9 as C++20; its files get the one form that they need: every "{}" is the next argument.
template <class... Args>
std::string format_message(const char* text, const Args&... args) {
  std::ostringstream out;
  [[maybe_unused]] auto until_next = [&] {
    while (*text && !(text[0] == '{' && text[1] == '}')) out << *text++;
    if (*text) text += 2;
  };
  ((until_next(), out << args), ...);
  return out.str() + text;
}
#define KD_FORMAT(...) ::kd::format_message(__VA_ARGS__)
#else
#define KD_FORMAT(...) fmt::format(__VA_ARGS__)
#endif

}  // namespace kd

#define KD_FAIL(...) ::kd::fail_contract(__FILE__, __LINE__, KD_FORMAT(__VA_ARGS__))
#define KD_CHECK(cond, ...)   \
  do {                        \
    if (!(cond)) [[unlikely]] \
      KD_FAIL(__VA_ARGS__);   \
  } while (0)
#define KD_INPUT(cond, ...)                       \
  do {                                            \
    if (!(cond)) [[unlikely]]                     \
      throw ::kd::Error(KD_FORMAT(__VA_ARGS__));  \
  } while (0)
