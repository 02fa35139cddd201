// The loop over keys of flash attention's forward pass (Dao, arXiv:2307.08691), for 128 queries of a block: of documents
// (flash_forward.cu) and of the cache's pages (flash_paged.cu), which differ in where a tile of keys comes from and in what a
// query sees of it.
#pragma once

#include "backends/cuda/flash_tile.h"

namespace nibble::cuda::flash {

constexpr int kKeys = 64, kScores = kKeys / 8;  // of a tile; fragments of a row of it

// What the lane's two rows see, and what any of the warp's rows may see: what lies outside is left out.
struct Sight {
  int first[2], last[2];
  int warp_first, warp_last;

  __device__ bool any_of(int key) const { return key <= warp_last && key + kKeys > warp_first; }
};

// Of the lane's two rows, in powers of two; the four lanes of a row have a part of the total each.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // Scores of keys `key` and up become weights; `fade` is what older sums are multiplied with.
  __device__ void add(float (&s)[kScores][4], int key, const Sight& sight, float scale, float (&fade)[2]) {
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float high = top[half];
      NIBBLE_UNROLL
      for (int n = 0; n < kScores; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int j = key + 8 * n + lane_id() % 4 * 2 + i;
          float& score = s[n][2 * half + i];
          score = j <= sight.last[half] && j >= sight.first[half] ? score * scale : -INFINITY;
          high = fmaxf(high, score);
        }
      }
      for (int mask = 1; mask < 4; mask *= 2) high = fmaxf(high, __shfl_xor_sync(kFullWarp, high, mask));
      const float base = high == -INFINITY ? 0.0f : high;  // of a row that sees nothing yet
      fade[half] = exp2f(top[half] - base);
      top[half] = high;
      float sum = 0;
      NIBBLE_UNROLL
      for (int n = 0; n < kScores; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 2; ++i) sum += s[n][2 * half + i] = exp2f(s[n][2 * half + i] - base);
      }
      total[half] = fmaf(total[half], fade[half], sum);
    }
  }

  __device__ float row_total(int half) const {
    float sum = total[half];
    for (int mask = 1; mask < 4; mask *= 2) sum += __shfl_xor_sync(kFullWarp, sum, mask);
    return sum;
  }
};

// Keys [begin, end), by tiles, of which the first is on its way to k_tile; values come behind it. While scores are made the
// values are on their way, while values are summed the next keys are. begin_tile_of(tile, from, key) begins to copy rows
// [key, key + kKeys) of `from`, which is k or v. scale: of scores in powers of two.
template <int kColumns, typename Begin>
__device__ inline void sum_over_keys(Softmax& softmax, float (&sum)[kColumns / 8][4],
                                     const uint32_t (&query)[kColumns / 16][4], const Sight& sight, int begin, int end,
                                     float scale, BF16* k_tile, const BF16* k, const BF16* v, Begin&& begin_tile_of) {
  BF16* const v_tile = k_tile + kKeys * kColumns;
  for (int key = begin; key < end; key += kKeys) {
    wait_copies<0>();
    __syncthreads();  // the keys are there, and all have read the last values
    begin_tile_of(v_tile, v, key);
    commit_copies();
    const bool seen = sight.any_of(key);
    float s[kScores][4] = {}, fade[2] = {};
    if (seen) {
      // [1] scores
      NIBBLE_UNROLL
      for (int step = 0; step < kColumns / 16; ++step) times_rows<kColumns>(s, query[step], k_tile, step);
      // [2] softmax over what was seen so far
      softmax.add(s, key, sight, scale, fade);
      NIBBLE_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 4; ++i) sum[n][i] *= fade[i / 2];
      }
    }
    wait_copies<0>();
    __syncthreads();  // the values are there, and all have read the keys
    if (key + kKeys < end) begin_tile_of(k_tile, k, key + kKeys);
    commit_copies();
    if (!seen) continue;
    // [3] mean of the values
    NIBBLE_UNROLL
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t weights[4];
      as_left(weights, s[2 * step], s[2 * step + 1]);
      sum_of_rows<kColumns>(sum, weights, v_tile, step);
    }
  }
}

}  // namespace nibble::cuda::flash
