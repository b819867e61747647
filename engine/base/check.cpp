#include "engine/base/check.h"

#include <string_view>

namespace kd {

void fail_contract(const char* file, int line, const std::string& message) {
  std::string_view name = file;
  if (auto slash = name.rfind('/'); slash != name.npos) name.remove_prefix(slash + 1);
  throw Error(fmt::format("{} ({}:{})", message, name, line));
}

}  // namespace kd
