# Decides whether CUDA is built (KD_WITH_CUDA) and makes kd_cuda: what a target needs to call the CUDA runtime, cuDNN and cuBLASLt.
# KD_CUDA=ON: whatever is missing is an error. AUTO: it is said, and the CPU backend is built alone.
set(KD_WITH_CUDA OFF)
function(kd_no_cuda why)
  if(KD_CUDA STREQUAL ON)
    message(FATAL_ERROR "KD_CUDA=ON: ${why}")
  endif()
  message(STATUS "CUDA: ${why}; building without it")
endfunction()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  kd_no_cuda("no nvcc")
  return()
endif()

if(KD_CUDA_ARCHITECTURES STREQUAL fat)
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90a-real 90-virtual 100-real 120)
else()
  set(CMAKE_CUDA_ARCHITECTURES ${KD_CUDA_ARCHITECTURES})
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# cuDNN: the toolkit's folders, $CUDNN_ROOT, or pip's package nvidia-cudnn-cu*, which has no libcudnn.so but only libcudnn.so.9.
find_program(KD_PYTHON3 python3)
set(pip_cudnn "")
if(KD_PYTHON3)
  execute_process(COMMAND ${KD_PYTHON3} -c "import nvidia.cudnn as m; print(list(m.__path__)[0])" OUTPUT_VARIABLE pip_cudnn OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
set(hints $ENV{CUDNN_ROOT} ${CUDAToolkit_LIBRARY_ROOT} ${CUDAToolkit_TARGET_DIR} ${CUDAToolkit_LIBRARY_DIR}/.. ${pip_cudnn})
find_path(CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ${hints} PATH_SUFFIXES include)
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR} ${hints} PATH_SUFFIXES lib lib64)
if(NOT CUDNN_INCLUDE OR NOT CUDNN_LIBRARY)
  kd_no_cuda("cuDNN was not found; set CUDNN_ROOT to the folder that holds include/cudnn.h")
  return()
endif()

set(KD_WITH_CUDA ON)
message(STATUS "CUDA: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, cuDNN ${CUDNN_LIBRARY}, for ${CMAKE_CUDA_ARCHITECTURES}")
add_library(kd_cuda INTERFACE)
target_include_directories(kd_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS} ${CUDNN_INCLUDE})
target_link_libraries(kd_cuda INTERFACE CUDA::cudart_static CUDA::cublasLt ${CUDNN_LIBRARY})
target_compile_definitions(kd_flags INTERFACE KD_WITH_CUDA)
if(NOT CMAKE_CUDA_ARCHITECTURES MATCHES "90a")  # wgmma exists for that target alone; without it the portable kernels run on every card
  target_compile_definitions(kd_flags INTERFACE KD_WITHOUT_HOPPER)
endif()

# -lineinfo: profilers and sanitizers name source lines.
set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -std=c++20 -lineinfo -Werror all-warnings")
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_SOURCE_DIR}/tools/nvcc_report.py)
