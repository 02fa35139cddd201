// Transposes blocks of floats; packing an operand against the grain of its storage is made of this.
#pragma once

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

// One step: exchanges the off-diagonal quarters of every 2S x 2S block of the rows a and b, S apart.
template <int S>
static inline void exchange(Vec& a, Vec& b) {
#if defined(__clang__)
  Vec first = a, second = b;
  for (int l = 0; l < kWidth; ++l) {
    if (l & S) first[l] = b[l - S];
    else second[l] = a[l + S];
  }
  a = first;
  b = second;
#else
  IVec low, high;  // constant-folded: shuffles with fixed lanes
  for (int l = 0; l < kWidth; ++l) {
    low[l] = (l & S) ? kWidth + l - S : l;
    high[l] = (l & S) ? kWidth + l : l + S;
  }
  const Vec first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, high);
  a = first;
  b = second;
#endif
}

template <int S>
static inline void exchange_all(Vec (&v)[kWidth]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if (!(i & S)) exchange<S>(v[i], v[i + S]);
  }
}

// to[j * to_pitch + i] = from[i * from_pitch + j] for a kWidth x kWidth block.
static inline void transpose_block(const float* from, int64_t from_pitch, float* to, int64_t to_pitch) {
  Vec v[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) v[i] = load(from + i * from_pitch);
  exchange_all<1>(v);
  exchange_all<2>(v);
  if constexpr (kWidth >= 8) exchange_all<4>(v);
  if constexpr (kWidth >= 16) exchange_all<8>(v);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) store(to + i * to_pitch, v[i]);
}

// The same for rows <= kWidth rows of any length; lanes of missing rows are not written.
static inline void transpose_rows(const float* from, int64_t from_pitch, int64_t rows, int64_t columns, float* to,
                                  int64_t to_pitch) {
  int64_t j = 0;
  if (rows == kWidth) {
    for (; j + kWidth <= columns; j += kWidth) transpose_block(from + j, from_pitch, to + j * to_pitch, to_pitch);
  }
  for (; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i) to[j * to_pitch + i] = from[i * from_pitch + j];
}

}  // namespace nibble::cpu::NIBBLE_ISA
