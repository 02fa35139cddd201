// Tiles of rows in shared memory and what a warp multiplies of them, for flash attention.
//
// A tile has rows of kColumns bfloat16 in chunks of 16 bytes; chunk c of row r lies where c ^ (r % 8) would, so that the
// eight rows of a matrix load lie in different banks. A warp's result is 16 rows: fragments of 16 x 8, as device/fragments.h
// lays them out; the lane has rows lane / 4 and lane / 4 + 8.
#pragma once

#include "backends/cuda/packs.h"
#include "fragments.h"

namespace nibble::cuda::flash {

constexpr int kWarps = 8, kThreadsOfBlock = kWarps * kWarpThreads;
constexpr int kWarpRows = 16, kBlockRows = kWarps * kWarpRows;
constexpr int kChunk = 8;  // elements
constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

__device__ inline int lane_id() { return int(threadIdx.x) % kWarpThreads; }

template <int kColumns>
__device__ inline BF16* chunk_at(BF16* tile, int row, int chunk) {
  return tile + row * kColumns + (chunk ^ (row & 7)) * kChunk;
}

// Rows [row, row + kRows) of a matrix become a tile; zeros past row `end` and past column `size`. Does not wait.
template <int kColumns, int kRows>
__device__ inline void begin_tile(BF16* tile, const BF16* from, int64_t stride, int64_t row, int64_t end, int size) {
  constexpr int kChunks = kColumns / kChunk;
  static_assert(kRows * kChunks % kThreadsOfBlock == 0);
  NIBBLE_UNROLL
  for (int i = 0; i < kRows * kChunks; i += kThreadsOfBlock) {
    const int at = i + int(threadIdx.x), r = at / kChunks, c = at % kChunks;
    const bool inside = row + r < end && c * kChunk < size;
    copy_async(chunk_at<kColumns>(tile, r, c), inside ? from + (row + r) * stride + c * kChunk : from, inside ? 16 : 0);
  }
}

// The addresses of the lanes for four matrices: the second below the first, the others to the right; or the second to the
// right of the first, the others below.
template <int kColumns>
__device__ inline const BF16* below_first(BF16* tile, int row, int chunk) {
  const int lane = lane_id();
  return chunk_at<kColumns>(tile, row + lane / 8 % 2 * 8 + lane % 8, chunk + lane / 16);
}
template <int kColumns>
__device__ inline const BF16* right_first(BF16* tile, int row, int chunk) {
  const int lane = lane_id();
  return chunk_at<kColumns>(tile, row + lane / 16 * 8 + lane % 8, chunk + lane / 8 % 2);
}

// The left operand: 16 rows, columns [16 step, 16 step + 16).
template <int kColumns>
__device__ inline void load_left(uint32_t (&to)[4], BF16* tile, int row, int step) {
  load_matrices(to, below_first<kColumns>(tile, row, 2 * step));
}

// c += a B, where B(k, n) = tile[n][16 step + k]: a product with rows, over their columns.
template <int kColumns, int kFragments>
__device__ inline void times_rows(float (&c)[kFragments][4], const uint32_t (&a)[4], BF16* tile, int step) {
  NIBBLE_UNROLL
  for (int n = 0; n < kFragments; n += 2) {
    uint32_t b[4];
    load_matrices(b, right_first<kColumns>(tile, 8 * n, 2 * step));
    const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
    multiply_add(c[n], a, even);
    multiply_add(c[n + 1], a, odd);
  }
}

// c += a B, where B(k, n) = tile[16 step + k][n]: a sum of rows.
template <int kColumns>
__device__ inline void sum_of_rows(float (&c)[kColumns / 8][4], const uint32_t (&a)[4], BF16* tile, int step) {
  NIBBLE_UNROLL
  for (int n = 0; n < kColumns / 8; n += 2) {
    uint32_t b[4];
    load_matrices_transposed(b, below_first<kColumns>(tile, 16 * step, n));
    const uint32_t even[2] = {b[0], b[1]}, odd[2] = {b[2], b[3]};
    multiply_add(c[n], a, even);
    multiply_add(c[n + 1], a, odd);
  }
}

// Two fragments of results as the left operand of the next product.
__device__ inline void as_left(uint32_t (&to)[4], const float (&even)[4], const float (&odd)[4]) {
  to[0] = pack_bf16(even[0], even[1]);
  to[1] = pack_bf16(even[2], even[3]);
  to[2] = pack_bf16(odd[0], odd[1]);
  to[3] = pack_bf16(odd[2], odd[3]);
}

// The warp's 16 rows, times a factor for each of the lane's two, as rows [row, row + 16) of a matrix. They go by the tile,
// of which the warp may overwrite 16 rows, so that memory is written in pieces of 16 bytes. Rows for which `wanted` is
// negative are left out; null: none is.
template <int kColumns>
__device__ inline void store_rows(const float (&c)[kColumns / 8][4], const float (&factor)[2], BF16* tile, BF16* to,
                                  int64_t stride, int64_t row, int64_t end, int size, const int* wanted = nullptr) {
  constexpr int kChunks = kColumns / kChunk;
  const int lane = lane_id();
  __syncwarp();
  NIBBLE_UNROLL
  for (int n = 0; n < kChunks; ++n) {
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float pair[2] = {c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]};
      store_floats<2>(chunk_at<kColumns>(tile, lane / 4 + 8 * half, n) + lane % 4 * 2, pair);
    }
  }
  __syncwarp();
  NIBBLE_UNROLL
  for (int i = 0; i < kWarpRows * kChunks; i += kWarpThreads) {
    const int r = (i + lane) / kChunks, c_at = (i + lane) % kChunks;
    if (row + r >= end || c_at * kChunk >= size || (wanted != nullptr && wanted[r] < 0)) continue;
    store_pack(to + (row + r) * stride + c_at * kChunk, load_pack<kChunk>(chunk_at<kColumns>(tile, r, c_at)));
  }
}

}  // namespace nibble::cuda::flash
