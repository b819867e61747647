#include "engine/base/check.h"

namespace kd {

std::string as_one_line(std::string_view text) {
  std::string line;
  for (const char c : text)
    if (const auto code = static_cast<unsigned char>(c); code < 0x20 || code == 0x7f)
      line += fmt::format("\\x{:02x}", code);
    else
      line += c;
  return line;
}

void fail_contract(const char* file, int line, const std::string& message) {
  std::string_view name = file;
  if (auto slash = name.rfind('/'); slash != name.npos) name.remove_prefix(slash + 1);
  throw Error(fmt::format("{} ({}:{})", message, name, line));
}

}  // namespace kd
