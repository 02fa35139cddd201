// What kernels and their launchers need of CUDA, for nvcc. backends/cuda/emulation/platform.h is the same for a host
// compiler; CMake's include path chooses, so the files of ops know neither.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace nibble::cuda {

using Grid = dim3;

cudaStream_t stream();
// Throws INTERNAL (a sticky error: the process must end) unless it is cudaSuccess.
void check(cudaError_t status, const char* what);

constexpr int64_t kSharedDefault = 48 << 10;  // more must be asked for

// Queues `kernel` on `grid` blocks of `threads`, with so many bytes for dynamic_shared(). An empty grid is nothing.
template <typename... P, typename... A>
void launch(void (*kernel)(P...), Grid grid, int threads, int64_t shared_bytes, A... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > kSharedDefault) {
    const auto size = cudaFuncAttributeMaxDynamicSharedMemorySize;
    check(cudaFuncSetAttribute(kernel, size, int(shared_bytes)), "shared memory");
  }
  kernel<<<grid, threads, size_t(shared_bytes), stream()>>>(P(args)...);
  check(cudaGetLastError(), "launch");
}

// Work that a library queues on the stream it is given.
inline void* stream_handle() { return stream(); }
template <typename Work>
void submit(Work&& work) {
  work();
}

template <typename T>
__device__ inline T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char nibble_shared_bytes[];
  return reinterpret_cast<T*>(nibble_shared_bytes);
}

// Accesses that the emulation counts, as lanes of a warp do them together (emulation/traffic.cpp).
template <typename T>
__device__ inline T read_at(const T* at) {
  return *at;
}
template <typename T>
__device__ inline void write_at(T* at, const T& value) {
  *at = value;
}

// Two numbers rounded to bfloat16, to nearest, ties to even; the first in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

}  // namespace nibble::cuda
