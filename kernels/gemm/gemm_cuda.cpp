// One plan per problem: descriptors and the algorithm that cuBLASLt's heuristic puts first within the workspace. The heuristic is a function of the problem
// and the card, and split sums go through the workspace in f32, so the same problem gives the same bits in every run.
// All products share the workspace, so they must run in one stream, which is how Retort runs a device.
#include "kernels/gemm/gemm_cuda.h"

#include <compare>
#include <map>
#include <mutex>

#include "engine/base/cuda_check.h"
#include "kernels/common/cublas_check.h"
#include "kernels/gemm/gemm.h"

namespace kd::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t(32) << 20;  // what NVIDIA recommends for Hopper

struct Key {
  int64_t m, n, k;
  DType ab_type, c_type;
  Op op_a, op_b;
  bool adds;
  uint32_t a_alignment, b_alignment, c_alignment, bias_alignment;  // bytes, 16 or an element's; 0 without a bias
  auto operator<=>(const Key&) const = default;
};

uint32_t alignment(const void* p, DType type) { return reinterpret_cast<uintptr_t>(p) % 16 == 0 ? 16 : uint32_t(size_of(type)); }

Key key_of(const GemmArgs& args) {
  return {.m = args.m,
          .n = args.n,
          .k = args.k,
          .ab_type = args.ab_type,
          .c_type = args.c_type,
          .op_a = args.op_a,
          .op_b = args.op_b,
          .adds = args.beta != 0,
          .a_alignment = alignment(args.a, args.ab_type),
          .b_alignment = alignment(args.b, args.ab_type),
          .c_alignment = alignment(args.c, args.c_type),
          .bias_alignment = args.bias ? alignment(args.bias, DType::f32) : 0};
}

std::string to_string(const Key& key) {
  return fmt::format("gemm {}x{}x{} {}{} {} -> {}{}{}", key.m, key.n, key.k, char(key.op_a), char(key.op_b), kd::to_string(key.ab_type),
                     kd::to_string(key.c_type), key.adds ? " added" : "", key.bias_alignment ? " + bias" : "");
}

cudaDataType_t data_type(DType type) { return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

void init_row_major(cublasLtMatrixLayoutOpaque_t& layout, DType type, int64_t rows, int64_t columns) {
  KD_CUBLAS(cublasLtMatrixLayoutInit(&layout, data_type(type), uint64_t(columns), uint64_t(rows), columns));
}

// Neither copied nor moved: nothing says that the opaque descriptors may be.
struct Plan {
  cublasLtMatmulDescOpaque_t product;
  cublasLtMatrixLayoutOpaque_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;

  void set_bias(const float* bias) { KD_CUBLAS(cublasLtMatmulDescSetAttribute(&product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias)); }

  // cuBLASLt's matrices are column-major, and a row-major matrix read so is its transpose: the product asked for is C^T = op(B)^T op(A)^T, so B comes first.
  Plan(cublasLtHandle_t handle, const Key& key, const float* bias) {
    KD_CUBLAS(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));  // no TF32: products of f32 are exact
    const auto set = [this](cublasLtMatmulDescAttributes_t attribute, int32_t value) {
      KD_CUBLAS(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof value));
    };
    const bool plain_a = key.op_a == Op::plain, plain_b = key.op_b == Op::plain;
    set(CUBLASLT_MATMUL_DESC_TRANSA, plain_b ? CUBLAS_OP_N : CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, plain_a ? CUBLAS_OP_N : CUBLAS_OP_T);
    if (key.bias_alignment) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set_bias(bias);  // the heuristic looks at its alignment
    }
    init_row_major(a, key.ab_type, plain_a ? key.m : key.k, plain_a ? key.k : key.m);
    init_row_major(b, key.ab_type, plain_b ? key.k : key.n, plain_b ? key.n : key.k);
    init_row_major(c, key.c_type, key.m, key.n);

    cublasLtMatmulPreferenceOpaque_t preference;
    KD_CUBLAS(cublasLtMatmulPreferenceInit(&preference));
    const auto prefer = [&preference](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      KD_CUBLAS(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspaceBytes));
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    KD_CUBLAS(cublasLtMatmulAlgoGetHeuristic(handle, &product, &b, &a, &c, &c, &preference, 1, &best, &found));
    KD_CHECK(found == 1, "cuBLASLt knows no algorithm");
    algorithm = best.algo;
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

struct Library {
  Library() {
    KD_CUBLAS(cublasLtCreate(&handle));
    KD_CUDA(cudaMalloc(&workspace, kWorkspaceBytes));
  }
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<Key, Plan> plans;
  std::mutex mutex;  // over the plans, and over a plan's bias pointer until its product is launched
};

// Never destroyed: the driver may be gone before static objects are.
Library& library(cudaStream_t stream) {
  static std::mutex mutex;
  static Library* one = nullptr;
  std::lock_guard lock(mutex);
  if (!one) {
    cudaStreamCaptureStatus status{};
    KD_CUDA(cudaStreamIsCapturing(stream, &status));
    KD_CHECK(status == cudaStreamCaptureStatusNone, "gemm: the first matrix product cannot be captured; call reserve_gemm_workspace() before");
    one = new Library;
  }
  return *one;
}

}  // namespace

void reserve_gemm_workspace() { library(nullptr); }

void gemm(Stream stream, const GemmArgs& args) {
  check_gemm(args);
  const auto s = static_cast<cudaStream_t>(stream.handle);
  const Key key = key_of(args);
  try {
    Library& lib = library(s);
    std::lock_guard lock(lib.mutex);
    auto at = lib.plans.find(key);
    if (at == lib.plans.end()) at = lib.plans.try_emplace(key, lib.handle, key, args.bias).first;
    Plan& plan = at->second;
    if (args.bias) plan.set_bias(args.bias);
    const float alpha = 1, beta = args.beta;
    KD_CUBLAS(cublasLtMatmul(lib.handle, &plan.product, &alpha, args.b, &plan.b, args.a, &plan.a, &beta, args.c, &plan.c, args.c, &plan.c, &plan.algorithm,
                             lib.workspace, kWorkspaceBytes, s));
  } catch (const Error& e) {
    throw Error(to_string(key) + ": " + e.what());
  }
}

}  // namespace kd::cuda
