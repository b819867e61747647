#include "kernels/common/cases.h"
namespace kd::cases {
void add_gemm_cases(Cases&) {}
}  // namespace kd::cases
