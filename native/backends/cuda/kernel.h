// What kernels share: elements by dtype, sums over a warp and a block, grids, workspace.
#pragma once

#include <cmath>

#include "core/memory.h"
#include "core/tensor.h"
#include "platform.h"

namespace nibble::cuda {

constexpr int kWarpThreads = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kThreads = 256;  // of a block, where nothing else is said
constexpr int64_t kGridMax = 65536;  // blocks of a grid-stride loop, more than any device runs at once

NIBBLE_HD inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }
NIBBLE_HD inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
NIBBLE_HD inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Blocks for `count` threads of a grid-stride loop.
inline Grid grid_for(int64_t count, int threads = kThreads) {
  Grid grid{};
  grid.x = unsigned(least(blocks_of(count, threads), kGridMax));
  return grid;
}

// Threads of a block that goes over `width` elements: whole warps, no more than there are elements for.
inline int threads_for(int64_t width) {
  return int(least(kThreads, most(1, blocks_of(width, kWarpThreads)) * kWarpThreads));
}

inline Grid grid_of(int64_t x, int64_t y = 1, int64_t z = 1) {
  Grid grid{};
  grid.x = unsigned(x);
  grid.y = unsigned(y);
  grid.z = unsigned(z);
  return grid;
}

__device__ inline int64_t first_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t index_stride() { return int64_t(gridDim.x) * blockDim.x; }

// Elements of 16 bits, told apart by type.
struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

NIBBLE_HD inline float to_float(float v) { return v; }
NIBBLE_HD inline float to_float(BF16 v) { return bf16_to_float(v.bits); }
NIBBLE_HD inline float to_float(F16 v) { return f16_to_float(v.bits); }
NIBBLE_HD inline void set(float& to, float v) { to = v; }
NIBBLE_HD inline void set(BF16& to, float v) { to.bits = float_to_bf16(v); }
NIBBLE_HD inline void set(F16& to, float v) { to.bits = float_to_f16(v); }

// Calls body with a value of the element type, whose type is what counts.
template <typename Body>
void with_type(DType dtype, Body&& body) {
  if (dtype == DType::kF32) return body(float{});
  if (dtype == DType::kBF16) return body(BF16{});
  if (dtype == DType::kF16) return body(F16{});
}

// Of activations: float32 or bfloat16.
template <typename Body>
void with_activation(DType dtype, Body&& body) {
  if (dtype == DType::kF32) return body(float{});
  return body(BF16{});
}

template <typename T>
T* data_as(const Tensor& t) {
  return static_cast<T*>(t.data);
}

// An element of any float dtype, where speed does not matter.
NIBBLE_HD inline float load(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

NIBBLE_HD inline void store(void* data, DType dtype, int64_t i, float v) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[i] = v;
  } else {
    static_cast<uint16_t*>(data)[i] = dtype == DType::kBF16 ? float_to_bf16(v) : float_to_f16(v);
  }
}

template <typename T>
__device__ T warp_sum(T v) {
  for (int mask = 16; mask > 0; mask /= 2) v += __shfl_xor_sync(kFullWarp, v, mask);
  return v;
}

__device__ inline float warp_max(float v) {
  for (int mask = 16; mask > 0; mask /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, mask));
  return v;
}

// Over a block of whole warps; every thread gets it. `scratch`: 32 elements of shared memory, free again afterwards.
template <typename T>
__device__ T block_sum(T v, T* scratch) {
  const int warp = int(threadIdx.x) / kWarpThreads, lane = int(threadIdx.x) % kWarpThreads;
  v = warp_sum(v);
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  v = T(0);
  for (int i = 0; i < int(blockDim.x) / kWarpThreads; ++i) v += scratch[i];
  __syncthreads();
  return v;
}

__device__ inline float block_max(float v, float* scratch) {
  const int warp = int(threadIdx.x) / kWarpThreads, lane = int(threadIdx.x) % kWarpThreads;
  v = warp_max(v);
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  for (int i = 0; i < int(blockDim.x) / kWarpThreads; ++i) v = fmaxf(v, scratch[i]);
  __syncthreads();
  return v;
}

// Bytes on the device for the time of a call; work that is queued when it ends may still use them, as what takes them
// next is queued behind it.
template <typename T>
class Workspace {
 public:
  explicit Workspace(int64_t count)
      : data_(static_cast<T*>(cuda_memory().allocate(count * int64_t(sizeof(T)), Kind::kWorkspace))) {}
  ~Workspace() { cuda_memory().release(data_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

}  // namespace nibble::cuda
