// Pages of a key/value cache in the order in which products of pairs read them, and those products. Of 16 rows of a head
// (a group: whole vectors' worth of keys), rows [16, D] of bfloat16 numbers lie as
//   keys:    [D / 2, 16] pairs of numbers of one row    values:  [8, D] pairs of two rows' numbers
// so that nothing is turned or paired where they are read, once for each token that is decoded, but once, where they are
// written. Where a group begins is where its first row would; pages are copied and shared as they are.
#pragma once

#include "backends/cpu/tile.h"
#include "ops/attention.h"

namespace nibble::cpu::NIBBLE_ISA {

constexpr int64_t kGroupRows = 16;

static inline bool is_in_pairs(const Tensor& cache) {
  return kMultipliesPairs && cache.dtype == DType::kBF16 && cache.dim(2) % kGroupRows == 0 && cache.dim(3) % (2 * kWidth) == 0;
}

static inline void put_key(const uint16_t* row, int64_t size, int64_t at, uint16_t* group) {
  for (int64_t c = 0; c < size; c += 2) memcpy(group + c * kGroupRows + 2 * at, row + c, 4);
}

static inline void put_value(const uint16_t* row, int64_t size, int64_t at, uint16_t* group) {
  uint16_t* const to = group + at / 2 * 2 * size + at % 2;
  for (int64_t c = 0; c < size; ++c) to[2 * c] = row[c];
}

// The groups of a block of keys, and those that are read next: of these, memory is asked for what lies where this block is
// read, so that no more lines are on their way than memory can have.
constexpr int64_t kGroupsMax = 4;
struct Groups {
  const float* at[kGroupsMax];
  const float* next[kGroupsMax];  // null: all has been asked for
};

#if defined(__AVX512BF16__)

// out takes sum[r][v][t] = row r of a . row t of group v, for V groups of keys and a depth of so many pairs.
template <int R, int V, typename Out>
static inline void score_tile(const Strided& a, const Groups& keys, int64_t depth, Out& out) {
  Vec sum[R][V] = {};
  const float* from = a.data;
  const bool asks = keys.next[0] != nullptr;
  for (int64_t k = 0; k < depth; ++k, ++from) {
    Vec other[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      other[v] = load(keys.at[v] + k * kWidth);
      if (asks) ask_for(keys.next[v] + k * kWidth);
    }
    add_products<Lane::kPair>(from, a.row_step, other, sum);
  }
  out.end(sum, 0);
}

// The rows of a, which are weights of pairs of rows, times these of the groups: V vectors of them from vector v on.
template <int R, int V>
static inline void mean_tile(const Strided& a, const Groups& values, int64_t v, int64_t pitch, int64_t depth, const Product& out) {
  Vec sum[R][V];
  out.begin(sum, v);
  const bool asks = values.next[0] != nullptr;
  const float* from = a.data;
  for (int64_t g = 0, left = depth; left > 0; ++g, left -= kGroupRows / 2) {
    const float *row = values.at[g] + v * kWidth, *next = asks ? values.next[g] + v * kWidth : nullptr;
    for (int64_t k = 0; k < kGroupRows / 2 && k < left; ++k, ++from, row += pitch) {
      Vec other[V];
#pragma GCC unroll 4
      for (int i = 0; i < V; ++i) {
        other[i] = load(row + i * kWidth);
        if (asks) ask_for(next + k * pitch + i * kWidth);
      }
      add_products<Lane::kPair>(from, a.row_step, other, sum);
    }
  }
  out.end(sum, v);
}

// The same for up to R rows and V groups.
template <int R = kTileRows, int V = int(kGroupsMax), typename Out>
static inline void score_groups(int64_t rows, int64_t groups, const Strided& a, const Groups& keys, int64_t depth, Out& out) {
  if constexpr (R > 1) {
    if (rows < R) return score_groups<R - 1, V>(rows, groups, a, keys, depth, out);
  }
  if constexpr (V > 1) {
    if (groups < V) return score_groups<R, V - 1>(rows, groups, a, keys, depth, out);
  }
  score_tile<R, V>(a, keys, depth, out);
}

template <int R, int V = kTileVectors>
static inline void mean_columns(int64_t v, int64_t vectors, const Strided& a, const Groups& values, int64_t pitch, int64_t depth,
                                const Product& out) {
  for (; v + V <= vectors; v += V) mean_tile<R, V>(a, values, v, pitch, depth, out);
  if constexpr (V > 1) {
    if (v < vectors) mean_columns<R, V - 1>(v, vectors, a, values, pitch, depth, out);
  }
}

template <int R = kTileRows>
static inline void mean_groups(int64_t rows, const Strided& a, const Groups& values, int64_t pitch, int64_t depth,
                               const Product& out) {
  if constexpr (R > 1) {
    if (rows < R) return mean_groups<R - 1>(rows, a, values, pitch, depth, out);
  }
  mean_columns<R>(0, pitch / kWidth, a, values, pitch, depth, out);
}

#endif

}  // namespace nibble::cpu::NIBBLE_ISA
