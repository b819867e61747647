#include "kernels/common/cases.h"
namespace kd::cases {
void add_pointwise_cases(Cases&) {}
}  // namespace kd::cases
