#include "kernels/conv/conv_algorithm.h"
namespace kd::cpu {
ConvAlgorithms direct_algorithms() { return {nullptr, nullptr}; }
ConvAlgorithms winograd_algorithms() { return {nullptr, nullptr}; }
ConvAlgorithms emulated_direct_algorithms() { return {nullptr, nullptr}; }
ConvAlgorithms emulated_winograd_algorithms() { return {nullptr, nullptr}; }
}
