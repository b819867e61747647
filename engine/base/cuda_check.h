// cuda_check: every call of the CUDA runtime goes through KD_CUDA, so that a failure says which call, why and where.
#pragma once
#include <cuda_runtime_api.h>

#include "engine/base/check.h"

namespace kd {

inline void check_cuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) [[likely]]
    return;
  cudaGetLastError();  // not sticky: the next call shall not report this one again
  fail_contract(file, line, KD_FORMAT("{}: {} ({})", call, cudaGetErrorName(status), cudaGetErrorString(status)));
}

}  // namespace kd

#define KD_CUDA(call) ::kd::check_cuda((call), #call, __FILE__, __LINE__)
