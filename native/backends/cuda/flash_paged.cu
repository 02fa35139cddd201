// Attention of prompts over the paged cache: flash_forward.cu's steps, its keys and values from the pages of the cache, so
// that the cache is read once for 128 queries. Rows of several sequences may share a block, which goes over the keys of one
// after the other; rows that are alone in their sequence, or nearly, are paged_attention.cu's.
#include "backends/cuda/fault.h"
#include "backends/cuda/flash_tile.h"
#include "backends/cuda/paged_rows.h"

namespace nibble::cuda {

namespace {

using namespace flash;

constexpr int kKeys = 64, kFragments = kKeys / 8;

// Rows [key, key + kKeys) of a head of sequence s become a tile; zeros from `end` on. Does not wait.
template <int kColumns>
__device__ void begin_pages(BF16* tile, const PagedRows& a, const void* cache, int64_t s, int kv, int key, int end) {
  constexpr int kChunks = kColumns / kChunk;
  NIBBLE_UNROLL
  for (int i = 0; i < kKeys * kChunks; i += kThreadsOfBlock) {
    const int at = i + int(threadIdx.x), r = at / kChunks, c = at % kChunks;
    int64_t row = -1;
    if (key + r < end && c * kChunk < a.size) row = a.row_of(s, kv, key + r);
    const BF16* const from = static_cast<const BF16*>(cache);
    copy_async(chunk_at<kColumns>(tile, r, c), row < 0 ? from : from + row + c * kChunk, row < 0 ? 0 : 16);
  }
}

// Of the lane's two rows: their sequence and position, and their running softmax, in powers of two.
struct Softmax {
  int sequence[2], position[2];
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // Of the warp's rows.
  __device__ Softmax(const int* sequences, const int* positions) {
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      sequence[half] = sequences[lane_id() / 4 + 8 * half];
      position[half] = positions[lane_id() / 4 + 8 * half];
    }
  }

  // Scores of keys `key` and up of sequence s become weights; `fade` is what older sums are multiplied with.
  __device__ void add(float (&score)[kFragments][4], int s, int key, int window, float scale, float (&fade)[2]) {
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float high = top[half];
      const int last = sequence[half] == s ? position[half] : -1, first = window > 0 ? last - window + 1 : 0;
      NIBBLE_UNROLL
      for (int n = 0; n < kFragments; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int j = key + 8 * n + lane_id() % 4 * 2 + i;
          float& v = score[n][2 * half + i];
          v = j <= last && j >= first ? v * scale : -INFINITY;
          high = fmaxf(high, v);
        }
      }
      for (int mask = 1; mask < 4; mask *= 2) high = fmaxf(high, __shfl_xor_sync(kFullWarp, high, mask));
      const float base = high == -INFINITY ? 0.0f : high;
      fade[half] = exp2f(top[half] - base);
      top[half] = high;
      float sum = 0;
      NIBBLE_UNROLL
      for (int n = 0; n < kFragments; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 2; ++i) sum += score[n][2 * half + i] = exp2f(score[n][2 * half + i] - base);
      }
      total[half] = fmaf(total[half], fade[half], sum);
    }
  }
};

// Which rows of a block are of one sequence, and what keys they see.
struct Run {
  int begin, end, first_key, last_key;
};

__device__ Run run_from(const int* sequence, const int* position, int begin, int window) {
  Run run{.begin = begin, .end = begin, .first_key = position[begin], .last_key = 0};
  for (; run.end < kBlockRows && sequence[run.end] == sequence[begin]; ++run.end) {
    run.first_key = int(least(run.first_key, position[run.end]));
    run.last_key = int(most(run.last_key, position[run.end]));
  }
  run.first_key = window > 0 ? int(most(0, run.first_key - window + 1)) : 0;
  return run;
}

// Sequence and position of a block's rows; -1 for a row that is not this kernel's.
__device__ void share_rows(const PagedRows& a, int64_t block_row, int* sequence, int* position) {
  if (threadIdx.x >= kBlockRows) return;
  const int64_t n = block_row + threadIdx.x;
  const bool mine = n < a.n && in_long_run(a.sequence, a.n, n);
  const int64_t at = mine ? checked_index(a.position[n], a.columns * a.shape.page, kBlockTable, a.fault) : -1;
  sequence[threadIdx.x] = at < 0 ? -1 : int(checked_index(a.sequence[n], a.sequences, kBlockTable, a.fault));
  position[threadIdx.x] = int(at);
}

template <int kColumns>
__global__ void __launch_bounds__(kThreadsOfBlock) paged_kernel(const __grid_constant__ PagedRows a) {
  __shared__ int sequence[kBlockRows], position[kBlockRows];
  BF16 *const q_tile = dynamic_shared<BF16>(), *const k_tile = q_tile + kBlockRows * kColumns;
  BF16* const v_tile = k_tile + kKeys * kColumns;
  constexpr int kSteps = kColumns / 16;
  const int head = int(blockIdx.y), kv = int(head / a.group), warp_row = int(threadIdx.x) / kWarpThreads * kWarpRows;
  const int64_t block_row = int64_t(blockIdx.x) * kBlockRows, q_width = a.heads * a.size;
  share_rows(a, block_row, sequence, position);
  begin_tile<kColumns, kBlockRows>(q_tile, static_cast<const BF16*>(a.q) + head * a.size, q_width, block_row, a.n, int(a.size));
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t query[kSteps][4];
  NIBBLE_UNROLL
  for (int step = 0; step < kSteps; ++step) load_left<kColumns>(query[step], q_tile, warp_row, step);
  Softmax softmax(sequence + warp_row, position + warp_row);
  float sum[kColumns / 8][4] = {};
  for (int begin = 0; begin < kBlockRows;) {
    const int s = sequence[begin];
    const Run run = run_from(sequence, position, begin, int(a.window));
    begin = run.end;
    if (s < 0) continue;
    const int end = run.last_key + 1;
    const bool seen = run.begin < warp_row + kWarpRows && run.end > warp_row;  // by this warp
    begin_pages<kColumns>(k_tile, a, a.k, s, kv, run.first_key, end);
    commit_copies();
    for (int key = run.first_key; key < end; key += kKeys) {
      wait_copies<0>();
      __syncthreads();  // the keys are there, and all have read the last values
      begin_pages<kColumns>(v_tile, a, a.v, s, kv, key, end);
      commit_copies();
      float score[kFragments][4] = {}, fade[2] = {};
      if (seen) {
        // [1] scores
        NIBBLE_UNROLL
        for (int step = 0; step < kSteps; ++step) times_rows<kColumns>(score, query[step], k_tile, step);
        // [2] softmax over what was seen so far
        softmax.add(score, s, key, int(a.window), a.scale * kLog2e, fade);
        NIBBLE_UNROLL
        for (int n = 0; n < kColumns / 8; ++n) {
          NIBBLE_UNROLL
          for (int i = 0; i < 4; ++i) sum[n][i] *= fade[i / 2];
        }
      }
      wait_copies<0>();
      __syncthreads();  // the values are there, and all have read the keys
      if (key + kKeys < end) begin_pages<kColumns>(k_tile, a, a.k, s, kv, key + kKeys, end);
      commit_copies();
      if (!seen) continue;
      // [3] mean of the values
      NIBBLE_UNROLL
      for (int step = 0; step < kKeys / 16; ++step) {
        uint32_t weights[4];
        as_left(weights, score[2 * step], score[2 * step + 1]);
        sum_of_rows<kColumns>(sum, weights, v_tile, step);
      }
    }
  }
  float inverse[2];
  NIBBLE_UNROLL
  for (int half = 0; half < 2; ++half) {
    float total = softmax.total[half];
    for (int mask = 1; mask < 4; mask *= 2) total += __shfl_xor_sync(kFullWarp, total, mask);
    inverse[half] = total > 0 ? 1.0f / total : 0.0f;
  }
  store_rows<kColumns>(sum, inverse, q_tile + warp_row * kColumns, static_cast<BF16*>(a.o) + head * a.size, q_width,
                       block_row + warp_row, a.n, int(a.size), sequence + warp_row);
}

template <int kColumns>
void run(const PagedRows& a) {
  const int64_t shared = (kBlockRows + 2 * kKeys) * kColumns * int64_t(sizeof(BF16));
  launch(paged_kernel<kColumns>, grid_of(blocks_of(a.n, kBlockRows), a.heads), kThreadsOfBlock, shared, a);
}

}  // namespace

void flash_paged(const PagedRows& a) { a.size <= 64 ? run<64>(a) : run<128>(a); }

}  // namespace nibble::cuda
