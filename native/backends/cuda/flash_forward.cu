// Flash attention, forward (Dao, arXiv:2307.08691): bfloat16 products on tensor cores, float32 softmax, no S x S matrix.
//
// A block has 128 queries of one head, 16 a warp, and goes over the keys that any of them sees, 64 at a time (flash_keys.h).
// Queries stay in registers, weights go from the one product to the other in registers. Rows of other documents are masked: a
// tile is wherever its rows are.
#include "backends/cuda/attention_rows.h"
#include "backends/cuda/flash_keys.h"

namespace nibble::cuda {

namespace {

using namespace flash;

// Of rows [warp_row, warp_row + kWarpRows); the first of them sees the earliest keys.
__device__ inline Sight sight_of(const AttentionRows& r, int warp_row) {
  Sight sight;
  NIBBLE_UNROLL
  for (int half = 0; half < 2; ++half) {
    sight.last[half] = warp_row + lane_id() / 4 + 8 * half;
    sight.first[half] = r.first[least(sight.last[half], r.n - 1)];
  }
  sight.warp_first = r.first[least(warp_row, r.n - 1)];
  sight.warp_last = warp_row + kWarpRows - 1;
  return sight;
}

template <int kColumns>
__global__ void __launch_bounds__(kThreadsOfBlock) forward_kernel(AttentionRows r, BF16* o, float* lse) {
  BF16 *const q_tile = dynamic_shared<BF16>(), *const k_tile = q_tile + kBlockRows * kColumns;
  const int head = int(blockIdx.y), kv = head / r.group(), warp = int(threadIdx.x) / kWarpThreads;
  // The last rows see most: they are begun first.
  const int block_row = int(gridDim.x - 1 - blockIdx.x) * kBlockRows, warp_row = block_row + warp * kWarpRows;
  const int begin = r.first[block_row], end = int(least(r.n, block_row + kBlockRows));
  const BF16 *const q = static_cast<const BF16*>(r.q) + head * r.size, *const k = static_cast<const BF16*>(r.k) + kv * r.size;
  const BF16* const v = static_cast<const BF16*>(r.v) + kv * r.size;
  const auto begin_rows = [&](BF16* tile, const BF16* from, int key) {
    begin_tile<kColumns, kKeys>(tile, from, r.kv_width(), key, end, r.size);
  };
  begin_tile<kColumns, kBlockRows>(q_tile, q, r.q_width(), block_row, r.n, r.size);
  begin_rows(k_tile, k, begin);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t query[kColumns / 16][4];
  NIBBLE_UNROLL
  for (int step = 0; step < kColumns / 16; ++step) load_left<kColumns>(query[step], q_tile, warp * kWarpRows, step);
  Softmax softmax;
  const Sight sight = sight_of(r, warp_row);
  float sum[kColumns / 8][4] = {};
  sum_over_keys<kColumns>(softmax, sum, query, sight, begin, end, r.scale * kLog2e, k_tile, k, v, begin_rows);
  float inverse[2];
  NIBBLE_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float total = softmax.row_total(half);
    inverse[half] = 1.0f / total;
    const int64_t row = sight.last[half];
    if (lane_id() % 4 == 0 && row < r.n) lse[row * r.heads + head] = (softmax.top[half] + log2f(total)) * kLn2;
  }
  store_rows<kColumns>(sum, inverse, q_tile + warp * kWarpRows * kColumns, o + head * r.size, r.q_width(), warp_row, r.n,
                       r.size);
}

template <int kColumns>
void run(const AttentionRows& r, void* o, float* lse) {
  const int64_t shared = (kBlockRows + 2 * kKeys) * kColumns * int64_t(sizeof(BF16));
  launch(forward_kernel<kColumns>, grid_of(blocks_of(r.n, kBlockRows), r.heads), kThreadsOfBlock, shared, r,
         static_cast<BF16*>(o), lse);
}

}  // namespace

void flash_forward(const AttentionRows& r, void* o, float* lse) {
  if (r.size <= 64) return run<64>(r, o, lse);
  run<128>(r, o, lse);
}

}  // namespace nibble::cuda
