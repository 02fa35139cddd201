// CUDA's words for a host compiler: the files of backends/cuda/*.cu, unchanged, as plain C++. Blocks run one after the
// other; the threads of a block are fibers that take turns at barriers (see emulation.cpp). Slow and exact: tests run
// every kernel without a GPU, with the sanitizers' eyes on every address.
//
// It does not show races between two barriers as such, but runs threads in either order (set_reversed), in which a
// missing barrier gives other numbers; a barrier that not all threads of a block or warp reach is an error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "core/dtype.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

namespace nibble::cuda {

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};
using Grid = Index3;

// Of the thread that runs.
inline Index3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulation {

constexpr int kWarp = 32;

// Runs it, or keeps it where a recording is under way (graph.cpp).
void queue(std::function<void()> work);
void run(Grid grid, int threads, int64_t shared_bytes, const std::function<void()>& kernel);
// Last thread of a block first.
void set_reversed(bool reversed);
unsigned char* shared_bytes();
void block_barrier();
void warp_barrier();
// 64 bytes that lane `lane` of the running warp shares with the others, until next_turn() and the barrier after that.
unsigned char* slot(int lane);
void next_turn();
int lane();

extern bool is_counting;
// An access of the running thread by the code that calls this, where they are counted (traffic.cpp).
void note(const void* at, int bytes);

// Every lane's value, as lane `from` gave it.
template <typename T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= 64);
  std::memcpy(slot(lane()), &value, sizeof(T));
  warp_barrier();
  std::memcpy(&value, slot(from), sizeof(T));
  next_turn();
  return value;
}

}  // namespace emulation

template <typename... P, typename... A>
void launch(void (*kernel)(P...), Grid grid, int threads, int64_t shared_bytes, A... args) {
  emulation::queue([=] { emulation::run(grid, threads, shared_bytes, [=] { kernel(P(args)...); }); });
}

inline void* stream_handle() { return nullptr; }
template <typename Work>
void submit(Work&& work) {
  emulation::queue(std::forward<Work>(work));
}

template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulation::shared_bytes());
}

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulation::warp_barrier(); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return emulation::exchange(value, from & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::exchange(value, emulation::lane() ^ mask);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int by) {
  const int from = emulation::lane() + by;
  return emulation::exchange(value, from < emulation::kWarp ? from : emulation::lane());
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int by) {
  const int from = emulation::lane() - by;
  return emulation::exchange(value, from >= 0 ? from : emulation::lane());
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  *emulation::slot(emulation::lane()) = predicate != 0;
  emulation::warp_barrier();
  unsigned bits = 0;
  for (int i = 0; i < emulation::kWarp; ++i) bits |= unsigned(*emulation::slot(i)) << i;
  emulation::next_turn();
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }

template <typename T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
template <typename T>
T atomicMax(T* at, T value) {
  const T old = *at;
  if (value > old) *at = value;
  return old;
}

template <typename T>
T read_at(const T* at) {
  if (emulation::is_counting) emulation::note(at, int(sizeof(T)));
  return *at;
}
template <typename T>
void write_at(T* at, const T& value) {
  if (emulation::is_counting) emulation::note(at, int(sizeof(T)));
  *at = value;
}

template <typename T>
T __ldg(const T* at) {
  return *at;
}
inline uint32_t pack_bf16(float low, float high) {
  return uint32_t(float_to_bf16(low)) | (uint32_t(float_to_bf16(high)) << 16);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(unsigned(bits)); }

}  // namespace nibble::cuda
