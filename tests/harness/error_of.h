// error_of: what a call says when it refuses, so that a test can look at the words.
#pragma once
#include <string>

#include "engine/base/check.h"

namespace kd {

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace kd
