// Attention of prompts over the paged cache: flash_forward.cu's steps, its keys and values from the pages of the cache, so
// that the cache is read once for 128 queries. Rows of several sequences may share a block, which goes over the keys of one
// after the other; rows that are alone in their sequence, or nearly, are paged_attention.cu's.
#include "backends/cuda/fault.h"
#include "backends/cuda/flash_keys.h"
#include "backends/cuda/paged_rows.h"

namespace nibble::cuda {

namespace {

using namespace flash;

// Rows [key, key + kKeys) of a head of sequence s become a tile; zeros from `end` on. Does not wait.
template <int kColumns>
__device__ void begin_pages(BF16* tile, const PagedRows& a, const BF16* cache, int64_t s, int kv, int key, int end) {
  constexpr int kChunks = kColumns / kChunk;
  NIBBLE_UNROLL
  for (int i = 0; i < kKeys * kChunks; i += kThreadsOfBlock) {
    const int at = i + int(threadIdx.x), r = at / kChunks, c = at % kChunks;
    int64_t row = -1;
    if (key + r < end && c * kChunk < a.size) row = a.row_of(s, kv, key + r);
    copy_async(chunk_at<kColumns>(tile, r, c), row < 0 ? cache : cache + row + c * kChunk, row < 0 ? 0 : 16);
  }
}

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

// What the warp's rows see of sequence s; rows of others see nothing of it.
__device__ inline Sight sight_of(const int* sequence, const int* position, int s, const Run& run, int warp_row, int window) {
  Sight sight{.warp_first = run.first_key};
  NIBBLE_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane_id() / 4 + 8 * half;
    sight.last[half] = sequence[row] == s ? position[row] : -1;
    sight.first[half] = window > 0 ? sight.last[half] - window + 1 : 0;
  }
  const bool any = run.begin < warp_row + kWarpRows && run.end > warp_row;
  sight.warp_last = any ? run.last_key : -1;
  return sight;
}

template <int kColumns>
__global__ void __launch_bounds__(kThreadsOfBlock) paged_kernel(const __grid_constant__ PagedRows a) {
  __shared__ int sequence[kBlockRows], position[kBlockRows];
  BF16 *const q_tile = dynamic_shared<BF16>(), *const k_tile = q_tile + kBlockRows * kColumns;
  const int head = int(blockIdx.y), kv = int(head / a.group), warp_row = int(threadIdx.x) / kWarpThreads * kWarpRows;
  const int64_t block_row = int64_t(blockIdx.x) * kBlockRows, q_width = a.heads * a.size;
  const BF16 *const k = static_cast<const BF16*>(a.k), *const v = static_cast<const BF16*>(a.v);
  share_rows(a, block_row, sequence, position);
  begin_tile<kColumns, kBlockRows>(q_tile, static_cast<const BF16*>(a.q) + head * a.size, q_width, block_row, a.n, int(a.size));
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t query[kColumns / 16][4];
  NIBBLE_UNROLL
  for (int step = 0; step < kColumns / 16; ++step) load_left<kColumns>(query[step], q_tile, warp_row, step);
  Softmax softmax;
  float sum[kColumns / 8][4] = {};
  for (int begin = 0; begin < kBlockRows;) {
    const int s = sequence[begin];
    const Run run = run_from(sequence, position, begin, int(a.window));
    begin = run.end;
    if (s < 0) continue;
    const int end = run.last_key + 1;
    const auto begin_rows = [&](BF16* tile, const BF16* from, int key) {
      begin_pages<kColumns>(tile, a, from, s, kv, key, end);
    };
    begin_rows(k_tile, k, run.first_key);
    commit_copies();
    const Sight sight = sight_of(sequence, position, s, run, warp_row, int(a.window));
    sum_over_keys<kColumns>(softmax, sum, query, sight, run.first_key, end, a.scale * kLog2e, k_tile, k, v, begin_rows);
  }
  float inverse[2];
  NIBBLE_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float total = softmax.row_total(half);
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
