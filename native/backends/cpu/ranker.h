// Ranks of a vector of scaled values as nearest_code4 finds them: how many of the sorted thresholds of a 4-bit type have
// not x <= threshold.
#pragma once

#include <math.h>

#include "backends/cpu/simd.h"
#include "ops/code4.h"

namespace nibble::cpu::NIBBLE_ISA {

#if defined(__AVX512F__)

class Ranker {
 public:
  explicit Ranker(const Codebook4& book) : in_cells_(fill_cells(book)) {
    middle_ = splat(book.threshold[7]);
    const int further[3] = {3, 1, 0};  // from the rank so far to the threshold that is looked at
    for (int look = 0; look < 3; ++look) {
      float at[16];
      for (int rank = 0; rank < 16; ++rank) {
        const int t = rank + further[look];
        at[rank] = book.threshold[t < 14 ? t : 14];
      }
      next_[look] = load(at);
    }
  }

  // Whether by_cell gives the rank: no cell has two thresholds.
  bool in_cells() const { return in_cells_; }

  // One look: at the only threshold of x's cell.
  IVec by_cell(Vec x) const {
    const __m512i cell = _mm512_cvttps_epi32(cell_of(x));
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_permutex2var_ps(threshold_[0], cell, threshold_[1]), _CMP_GT_OQ);
    const __m512i rank = _mm512_permutex2var_epi32((__m512i)below_[0], cell, (__m512i)below_[1]);
    return (IVec)_mm512_mask_sub_epi32(rank, above, rank, _mm512_set1_epi32(-1));
  }

  // Four looks of a binary search.
  IVec by_search(Vec x) const {
    const __m512i bit[3] = {_mm512_set1_epi32(4), _mm512_set1_epi32(2), _mm512_set1_epi32(1)};
    __m512i rank = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask(x, middle_, _CMP_NLE_UQ), 8);
    for (int look = 0; look < 3; ++look) {
      const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(rank, next_[look]), _CMP_NLE_UQ);
      rank = _mm512_mask_or_epi32(rank, above, rank, bit[look]);
    }
    return (IVec)rank;
  }

 private:
  static constexpr int kCells = 32;  // of [-1, 1]; the last is that of 1 and, as min_ps has it, of NaN

  // Grows with x, so that a threshold of a lower cell lies below x, whatever was rounded.
  static Vec cell_of(Vec x) {
    const Vec half = splat(kCells / 2 - 0.5f);
    return fma(_mm512_min_ps(x, splat(1)), half, half);
  }

  bool fill_cells(const Codebook4& book) {
    float threshold[kCells];
    int32_t below[kCells + 1] = {};
    for (float& t : threshold) t = INFINITY;
    bool one_each = true;
    for (float t : book.threshold) {
      const int cell = int(cell_of(splat(t))[0]);
      one_each = one_each && threshold[cell] == INFINITY;
      threshold[cell] = t;
      ++below[cell + 1];
    }
    for (int cell = 1; cell < kCells; ++cell) below[cell] += below[cell - 1];
    memcpy(threshold_, threshold, sizeof threshold_);
    memcpy(below_, below, sizeof below_);
    return one_each;
  }

  Vec threshold_[2];
  IVec below_[2];  // thresholds of lower cells
  bool in_cells_;
  Vec middle_, next_[3];
};

#else

class Ranker {
 public:
  explicit Ranker(const Codebook4& book) {
    for (int t = 0; t < 15; ++t) threshold_[t] = splat(book.threshold[t]);
  }
  bool in_cells() const { return false; }
  IVec by_cell(Vec x) const { return by_search(x); }
  IVec by_search(Vec x) const {
    IVec below{};
    for (int t = 0; t < 15; ++t) below += (IVec)(x <= threshold_[t]);  // -1 where true
    return below + 15;
  }

 private:
  Vec threshold_[15];
};

#endif

}  // namespace nibble::cpu::NIBBLE_ISA
