// An adapter's products where its matrices are bfloat16 and the processor multiplies pairs of them (VDPBF16PS). h is taken as
// the sum of three bfloat16 numbers, which hold all its bits.
#pragma once

#include "backends/cpu/few_rows_pairs.h"

namespace nibble::cpu::NIBBLE_ISA {

// Where the three parts of a row of h lie: part p of the pair of its elements 2 i and 2 i + 1 at [p * pitch + i].
static inline int64_t pair_pitch(int64_t rank) { return (rank + kWidth - 1) / kWidth * (kWidth / 2); }
static inline int64_t pair_space(int64_t rank) { return kPartsMax * pair_pitch(rank); }

static inline void split_pairs(const float* h, int64_t rank, uint32_t* to) {
  const int64_t pitch = pair_pitch(rank);
  each_vector(0, rank, [&](int64_t r, int n) NIBBLE_INLINE {
    Vec left = load(h + r, n);
    for (int p = 0; p < kPartsMax; ++p) {
      const Vec part = round_bf16(left);
      store(reinterpret_cast<Bf16*>(to + p * pitch + r / 2), part);
      left -= part;
    }
  });
}

#if defined(__AVX512BF16__)

constexpr int kPairColumns = 2 * kWidth;  // whose numbers fill a vector

static inline void add_pairs(const uint16_t* x, const uint16_t* a, int64_t columns, int64_t count, __m512 (&sum)[kGroup]) {
  const __m512bh row = (__m512bh)load_some(x, count);
#pragma GCC unroll 16
  for (int r = 0; r < kGroup; ++r) sum[r] = _mm512_dpbf16_ps(sum[r], (__m512bh)load_some(a + r * columns, count), row);
}

// h[r] = x . row r of a, for kGroup rows of a: the bits of a dot product and its sum.
static void shrink_group(const uint16_t* x, const uint16_t* a, int64_t columns, float* h) {
  __m512 sum[kGroup] = {}, all[kGroup];
  int64_t k = 0;
  for (; k + kPairColumns <= columns; k += kPairColumns) add_pairs(x + k, a + k, columns, kPairColumns, sum);
  if (k < columns) add_pairs(x + k, a + k, columns, columns - k, sum);
  memcpy(all, sum, sizeof all);
  _mm512_storeu_ps(h, sums_of(all));
}

// y[o] += scaling * sum over r of h[r] b[r, o], for V times kPairColumns columns, the last of which `n` are there.
template <int V, typename Y>
static inline void expand_pairs(const uint32_t* h, const uint16_t* b, int64_t rank, float scaling, Y* y, int64_t out,
                                int64_t n) {
  __m512 sums[kPartsMax][2 * V] = {};  // of every other four columns, the parts apart: sums wait for their last product
  const int64_t pitch = pair_pitch(rank);
  for (int64_t r = 0; r < rank; r += 2, b += 2 * out) {
    __m512i pairs[2 * V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const int64_t left = v + 1 < V ? kPairColumns : n;
      const uint16_t* const row = b + v * kPairColumns;
      const __m512i even = load_some(row, left), odd = load_some(row + out, r + 1 < rank ? left : 0);
      pairs[2 * v] = _mm512_unpacklo_epi16(even, odd);
      pairs[2 * v + 1] = _mm512_unpackhi_epi16(even, odd);
    }
#pragma GCC unroll 3
    for (int p = 0; p < kPartsMax; ++p) {
      const __m512bh part = (__m512bh)_mm512_set1_epi32(int(h[p * pitch + r / 2]));
#pragma GCC unroll 8
      for (int i = 0; i < 2 * V; ++i) sums[p][i] = _mm512_dpbf16_ps(sums[p][i], (__m512bh)pairs[i], part);
    }
  }
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  float columns[V * kPairColumns];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const __m512 first = _mm512_add_ps(_mm512_add_ps(sums[2][2 * v], sums[1][2 * v]), sums[0][2 * v]);
    const __m512 second = _mm512_add_ps(_mm512_add_ps(sums[2][2 * v + 1], sums[1][2 * v + 1]), sums[0][2 * v + 1]);
    _mm512_storeu_ps(columns + v * kPairColumns, _mm512_permutex2var_ps(first, low, second));
    _mm512_storeu_ps(columns + v * kPairColumns + kWidth, _mm512_permutex2var_ps(first, high, second));
  }
  each_vector(0, (V - 1) * kPairColumns + n, [&](int64_t i, int lanes) NIBBLE_INLINE {
    store(y + i, fma(splat(scaling), load(columns + i), load(y + i, lanes)), lanes);
  });
}

// The same for `columns` columns of some rows, the parts of whose h are `pair_space` apart.
template <typename Y>
static void expand_pairs(const uint32_t* h, int64_t rows, const uint16_t* b, int64_t rank, float scaling, Y* y, int64_t out,
                         int64_t columns) {
  for (int64_t o = 0; o < columns;) {
    const int64_t left = columns - o;
    const int vectors = left >= 2 * kPairColumns ? 2 : 1;
    const auto expand = vectors == 2 ? expand_pairs<2, Y> : expand_pairs<1, Y>;
    const int64_t last = least(left - (vectors - 1) * kPairColumns, kPairColumns);
    for (int64_t row = 0; row < rows; ++row)
      expand(h + row * pair_space(rank), b + o, rank, scaling, y + row * out + o, out, last);
    o += vectors * kPairColumns;
  }
}

#endif

}  // namespace nibble::cpu::NIBBLE_ISA
