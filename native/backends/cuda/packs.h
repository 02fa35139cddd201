// What kernels that are bound by memory move: packs of elements, 16 bytes where the addresses allow it, so that a few
// loads of a thread fill the memory's pipes; one element elsewhere. Between memory and arithmetic a pack is floats.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "backends/cuda/kernel.h"
#include "unroll.h"

namespace nibble::cuda {

template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T value[N];
};

template <int N>
using Width = std::integral_constant<int, N>;

// Elements of the widest of the types that make 16 bytes.
template <typename... T>
constexpr int kPackOf = 16 / int(std::max({sizeof(T)...}));

template <int N, typename T>
__device__ inline Pack<T, N> load_pack(const T* from) {
  return read_at(reinterpret_cast<const Pack<T, N>*>(from));
}

template <int N, typename T>
__device__ inline void store_pack(T* to, const Pack<T, N>& pack) {
  write_at(reinterpret_cast<Pack<T, N>*>(to), pack);
}

template <typename T, int N>
__device__ inline void to_floats(const Pack<T, N>& pack, float* to) {
  if constexpr (std::is_same_v<T, BF16> && N % 2 == 0) {
    uint32_t pair[N / 2];
    memcpy(pair, &pack, sizeof pair);
    NIBBLE_UNROLL
    for (int k = 0; k < N / 2; ++k) {
      to[2 * k] = bits_to_float(pair[k] << 16);
      to[2 * k + 1] = bits_to_float(pair[k] & 0xffff0000u);
    }
  } else {
    NIBBLE_UNROLL
    for (int k = 0; k < N; ++k) to[k] = to_float(pack.value[k]);
  }
}

template <typename T, int N>
__device__ inline Pack<T, N> from_floats(const float* from) {
  Pack<T, N> pack;
  if constexpr (std::is_same_v<T, BF16> && N % 2 == 0) {
    uint32_t pair[N / 2];
    NIBBLE_UNROLL
    for (int k = 0; k < N / 2; ++k) pair[k] = pack_bf16(from[2 * k], from[2 * k + 1]);
    memcpy(&pack, pair, sizeof pair);
  } else {
    NIBBLE_UNROLL
    for (int k = 0; k < N; ++k) set(pack.value[k], from[k]);
  }
  return pack;
}

template <int N, typename T>
__device__ inline void load_floats(const T* from, float* to) {
  to_floats(load_pack<N>(from), to);
}

template <int N, typename T>
__device__ inline void store_floats(T* to, const float* from) {
  store_pack(to, from_floats<T, N>(from));
}

// All elements of a flat array, by the threads of the grid: body(first, Width<N>), at the end body(i, Width<1>).
template <int N, typename Body>
__device__ void each_pack(int64_t count, Body body) {
  for (int64_t i = first_index() * N; i < count; i += index_stride() * N) {
    if (i + N <= count) {
      body(i, Width<N>{});
    } else {
      for (int64_t k = i; k < count; ++k) body(k, Width<1>{});
    }
  }
}

// Of addresses; null counts.
inline bool all_aligned(std::initializer_list<const void*> all) {
  for (const void* one : all) {
    if (reinterpret_cast<uintptr_t>(one) % 16 != 0) return false;
  }
  return true;
}

// Calls body with Width<N>, or with Width<1> where packs of N are not possible.
template <int N, typename Body>
void with_width(bool possible, Body&& body) {
  if (possible) return body(Width<N>{});
  body(Width<1>{});
}

}  // namespace nibble::cuda
