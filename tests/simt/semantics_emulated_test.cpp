// The semantics tests on the CPU.
#include "tests/simt/semantics_test.cu"
