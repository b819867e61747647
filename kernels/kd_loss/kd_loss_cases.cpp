#include "kernels/common/cases.h"
namespace kd::cases {
void add_kd_loss_cases(Cases&) {}
}  // namespace kd::cases
