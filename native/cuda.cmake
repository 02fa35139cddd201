# Which folder answers for the device: backends/cuda compiled by nvcc where there is one; in the C++ tests, without one,
# the same files by the host's compiler over backends/cuda/emulation; else backends/no_cuda.
#   NIBBLE_CUDA  auto (default): where nvcc is found; on: fail without it; off
#   NIBBLE_NVCC  the compiler; default: $CUDACXX, $CUDAToolkit_ROOT/bin/nvcc, then nvcc of the path
set(NIBBLE_CUDA "auto" CACHE STRING "CUDA backend: auto, on or off")
set(NIBBLE_NVCC "$ENV{CUDACXX}" CACHE STRING "CUDA compiler")
set(NIBBLE_TEST_DEVICE real)
file(GLOB CUDA_OPS CONFIGURE_DEPENDS backends/cuda/*.cu)
if(NIBBLE_TESTS)  # kernels that only tests need
  file(GLOB CUDA_OF_TESTS CONFIGURE_DEPENDS test/cuda/*.cu)
  list(APPEND CUDA_OPS ${CUDA_OF_TESTS})
endif()
file(GLOB CUDA_HOST CONFIGURE_DEPENDS backends/cuda/*.cpp)

if(NOT NIBBLE_CUDA STREQUAL "off" AND NOT NIBBLE_NVCC)
  unset(NIBBLE_NVCC CACHE)
  find_program(NIBBLE_NVCC nvcc HINTS "$ENV{CUDAToolkit_ROOT}/bin")
endif()
if(NIBBLE_CUDA STREQUAL "on" AND NOT NIBBLE_NVCC)
  message(FATAL_ERROR "NIBBLE_CUDA=on: found no nvcc; set CUDACXX or CUDAToolkit_ROOT, or run: npm run build:cuda")
endif()

if(NIBBLE_NVCC AND NOT NIBBLE_CUDA STREQUAL "off")
  set(CMAKE_CUDA_COMPILER ${NIBBLE_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90-real 90-virtual)
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.25.2 does not know that nvcc has it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
  file(GLOB CUDA_RUNTIME CONFIGURE_DEPENDS backends/cuda/device/*.cu)
  add_library(nibble_cuda OBJECT ${CUDA_OPS} ${CUDA_RUNTIME})
  target_include_directories(nibble_cuda PRIVATE . backends/cuda/device)
  set_target_properties(nibble_cuda PROPERTIES CUDA_VISIBILITY_PRESET hidden)
  # -fmad=false, as the host's -ffp-contract=off: kernels call fmaf where they mean it.
  target_compile_options(nibble_cuda PRIVATE -fmad=false --threads 0 -Werror all-warnings
                         -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers)
  target_sources(nibble_core PRIVATE $<TARGET_OBJECTS:nibble_cuda> ${CUDA_HOST})
  set_property(TARGET nibble_core PROPERTY CUDA_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES})
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(nibble_core PRIVATE CUDA::cudart_static)
  message(STATUS "CUDA backend: ${NIBBLE_NVCC} (${CMAKE_CUDA_COMPILER_VERSION})")
elseif(NIBBLE_TESTS AND NOT NIBBLE_SANITIZE MATCHES "thread")  # which does not know fibers
  set_source_files_properties(${CUDA_OPS} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  add_library(nibble_cuda OBJECT ${CUDA_OPS} backends/cuda/emulation/emulation.cpp backends/cuda/emulation/runtime.cpp)
  target_include_directories(nibble_cuda PRIVATE . backends/cuda/emulation)
  target_sources(nibble_core PRIVATE $<TARGET_OBJECTS:nibble_cuda> ${CUDA_HOST})
  set(NIBBLE_TEST_DEVICE emulated)
else()
  target_sources(nibble_core PRIVATE backends/no_cuda/backend.cpp)
endif()
