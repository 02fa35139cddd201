# Which folder answers for the device: backends/cuda compiled by nvcc where there is one; in the C++ tests, without one,
# the same files by the host's compiler over backends/cuda/emulation; else backends/no_cuda. It leaves
# NIBBLE_DEVICE_SOURCES and NIBBLE_DEVICE_LIBRARIES for those who link nibble_core.
#   NIBBLE_CUDA  auto (default): where nvcc is found; on: fail without it; off
#   NIBBLE_NVCC  the compiler; default: $CUDACXX, $CUDAToolkit_ROOT/bin/nvcc, then nvcc of the path
set(NIBBLE_CUDA "auto" CACHE STRING "CUDA backend: auto, on or off")
set(NIBBLE_NVCC "$ENV{CUDACXX}" CACHE STRING "CUDA compiler")
set(NIBBLE_TEST_DEVICE real)
file(GLOB CUDA_OPS CONFIGURE_DEPENDS backends/cuda/*.cu)
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
  function(nibble_cuda_library name)
    add_library(${name} OBJECT EXCLUDE_FROM_ALL ${ARGN})
    target_include_directories(${name} PRIVATE . backends/cuda/device)
    set_target_properties(${name} PROPERTIES CUDA_VISIBILITY_PRESET hidden)
    # -fmad=false, as the host's -ffp-contract=off: kernels call fmaf where they mean it.
    target_compile_options(${name} PRIVATE -fmad=false --threads 0 -Werror all-warnings
                           -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers)
  endfunction()
  file(GLOB CUDA_RUNTIME CONFIGURE_DEPENDS backends/cuda/device/*.cu)
  file(GLOB CUDA_OF_TESTS CONFIGURE_DEPENDS test/cuda/*.cu)
  nibble_cuda_library(nibble_cuda ${CUDA_OPS} ${CUDA_RUNTIME})
  nibble_cuda_library(nibble_cuda_of_tests ${CUDA_OF_TESTS})  # kernels that only tests need
  set(NIBBLE_DEVICE_SOURCES $<TARGET_OBJECTS:nibble_cuda> ${CUDA_HOST})
  find_package(CUDAToolkit REQUIRED)
  set(NIBBLE_DEVICE_LIBRARIES CUDA::cudart_static)
  message(STATUS "CUDA backend: ${NIBBLE_NVCC} (${CMAKE_CUDA_COMPILER_VERSION})")
else()
  set(NIBBLE_DEVICE_SOURCES backends/no_cuda/backend.cpp)
endif()

# The emulated device: the C++ tests' where there is no nvcc, and that of the addon nibble_emulated, with which the engine
# is tested on a card that is none. Not under TSan, which does not know fibers.
if(NOT NIBBLE_SANITIZE MATCHES "thread" OR NOT NIBBLE_TESTS)
  add_subdirectory(backends/cuda/emulation EXCLUDE_FROM_ALL)
  set(NIBBLE_EMULATED_SOURCES $<TARGET_OBJECTS:nibble_cuda_emulated>)
endif()
if(NIBBLE_TESTS AND NOT NIBBLE_SANITIZE MATCHES "thread" AND NOT TARGET nibble_cuda)
  set(NIBBLE_DEVICE_SOURCES ${NIBBLE_EMULATED_SOURCES})
  set(NIBBLE_TEST_DEVICE emulated)
endif()
