// The micro-kernel of the matrix product: a tile of C kept in registers (Goto and van de Geijn,
// "Anatomy of high-performance matrix multiplication", 2008). Knows packed operands only.
#pragma once

#include "backends/cpu/lane.h"

namespace nibble::cpu::NIBBLE_ISA {

// A tile is kTileRows x kTileColumns: as many accumulators as the registers hold, with room for two
// vectors of B and one element of A.
constexpr int kTileColumns = 2 * kWidth;
#if defined(__AVX512F__)
constexpr int kTileRows = 14;
#else
constexpr int kTileRows = 6;
#endif

// c[r, j] (+)= sum over k < depth of a[r * a_pitch + k] * b[k * kTileColumns + j], for r < ROWS, j < VECS * kWidth;
// k and depth count lanes.
template <Lane LANE, int ROWS, int VECS>
static void tile_product(int64_t depth, const float* a, int64_t a_pitch, const float* b, float* c, int64_t c_pitch,
                         bool add) {
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) __builtin_prefetch(c + r * c_pitch + v * kWidth, 1);
  }
  Vec sum[ROWS][VECS] = {};
  for (int64_t k = 0; k < depth; ++k) {
    Vec column[VECS];
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) column[v] = load(b + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Vec element = splat(a[r * a_pitch]);
#pragma GCC unroll 2
      for (int v = 0; v < VECS; ++v) sum[r][v] = multiply_add<LANE>(element, column[v], sum[r][v]);
    }
    a += 1;
    b += kTileColumns;
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < VECS; ++v) {
      float* at = c + r * c_pitch + v * kWidth;
      store(at, add ? load(at) + sum[r][v] : sum[r][v]);
    }
  }
}

template <Lane LANE, int VECS, int ROWS = kTileRows>
static inline void tile_product_of(int64_t rows, int64_t depth, const float* a, int64_t a_pitch, const float* b,
                                   float* c, int64_t c_pitch, bool add) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return tile_product<LANE, ROWS, VECS>(depth, a, a_pitch, b, c, c_pitch, add);
    tile_product_of<LANE, VECS, ROWS - 1>(rows, depth, a, a_pitch, b, c, c_pitch, add);
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
