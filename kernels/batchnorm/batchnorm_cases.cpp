#include "kernels/common/cases.h"
namespace kd::cases {
void add_batchnorm_cases(Cases&) {}
}  // namespace kd::cases
