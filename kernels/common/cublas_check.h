// cublas_check: every call of cuBLASLt goes through KD_CUBLAS, so that a failure says which call, why and where.
#pragma once
#include <cublasLt.h>

#include "engine/base/check.h"

namespace kd {

inline void check_cublas(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    fail_contract(file, line, KD_FORMAT("{}: {} ({})", call, cublasLtGetStatusName(status), cublasLtGetStatusString(status)));
}

}  // namespace kd

#define KD_CUBLAS(call) ::kd::check_cublas((call), #call, __FILE__, __LINE__)
