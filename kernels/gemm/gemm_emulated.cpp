// The matrix product of the emulated device, for which no CUDA source exists: the CPU's.
#include "kernels/gemm/gemm.h"

namespace kd {
namespace cpu {
void gemm(Stream, const GemmArgs&);
}
namespace emulated {

void gemm(Stream, const GemmArgs& args) {
  EmulatedAccess access;
  cpu::gemm({Device::cpu}, args);
}

}  // namespace emulated
}  // namespace kd
