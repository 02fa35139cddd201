// Flash attention, forward (Dao, arXiv:2307.08691): bfloat16 products on tensor cores, float32 softmax, no S x S matrix.
//
// A block has 128 queries of one head, 16 a warp, and goes over the keys that any of them sees, 64 at a time; while scores
// are made the values are on their way, while values are summed the next keys are. Queries stay in registers, weights go
// from the one product to the other in registers. Rows of other documents are masked: a tile is wherever its rows are.
#include "backends/cuda/attention_rows.h"
#include "backends/cuda/flash_tile.h"

namespace nibble::cuda {

namespace {

using namespace flash;

constexpr int kKeys = 64, kFragments = kKeys / 8;

// Of the lane's two rows: what they see, and their running softmax, in powers of two.
struct Softmax {
  int row[2], first[2];
  float top[2], total[2];

  __device__ Softmax(const AttentionRows& r, int64_t warp_row) {
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      row[half] = int(warp_row) + lane_id() / 4 + 8 * half;
      first[half] = r.first[least(row[half], r.n - 1)];
      top[half] = -INFINITY;
      total[half] = 0;
    }
  }

  // Scores of keys `key` and up become weights; `fade` is what older sums are multiplied with.
  __device__ void add(float (&s)[kFragments][4], int key, float scale, float (&fade)[2]) {
    NIBBLE_UNROLL
    for (int half = 0; half < 2; ++half) {
      float high = top[half];
      NIBBLE_UNROLL
      for (int n = 0; n < kFragments; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int j = key + 8 * n + lane_id() % 4 * 2 + i;
          float& score = s[n][2 * half + i];
          score = j <= row[half] && j >= first[half] ? score * scale : -INFINITY;
          high = fmaxf(high, score);
        }
      }
      for (int mask = 1; mask < 4; mask *= 2) high = fmaxf(high, __shfl_xor_sync(kFullWarp, high, mask));
      const float base = high == -INFINITY ? 0.0f : high;  // of a row that sees nothing yet
      fade[half] = exp2f(top[half] - base);
      top[half] = high;
      float sum = 0;
      NIBBLE_UNROLL
      for (int n = 0; n < kFragments; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 2; ++i) sum += s[n][2 * half + i] = exp2f(s[n][2 * half + i] - base);
      }
      total[half] = fmaf(total[half], fade[half], sum);
    }
  }
};

template <int kColumns>
__global__ void __launch_bounds__(kThreadsOfBlock) forward_kernel(AttentionRows r, BF16* o, float* lse) {
  BF16 *const q_tile = dynamic_shared<BF16>(), *const k_tile = q_tile + kBlockRows * kColumns;
  BF16* const v_tile = k_tile + kKeys * kColumns;
  constexpr int kSteps = kColumns / 16;
  const int head = int(blockIdx.y), kv = head / r.group(), warp = int(threadIdx.x) / kWarpThreads;
  // The last rows see most: they are begun first.
  const int64_t block_row = int64_t(gridDim.x - 1 - blockIdx.x) * kBlockRows, warp_row = block_row + warp * kWarpRows;
  const int64_t begin = r.first[block_row], end = least(r.n, block_row + kBlockRows);
  const BF16 *const q = static_cast<const BF16*>(r.q) + head * r.size, *const k = static_cast<const BF16*>(r.k) + kv * r.size;
  const BF16* const v = static_cast<const BF16*>(r.v) + kv * r.size;
  begin_tile<kColumns, kBlockRows>(q_tile, q, r.q_width(), block_row, r.n, r.size);
  begin_tile<kColumns, kKeys>(k_tile, k, r.kv_width(), begin, end, r.size);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t query[kSteps][4];
  NIBBLE_UNROLL
  for (int step = 0; step < kSteps; ++step) load_left<kColumns>(query[step], q_tile, warp * kWarpRows, step);
  Softmax softmax(r, warp_row);
  float sum[kColumns / 8][4] = {};
  for (int64_t key = begin; key < end; key += kKeys) {
    wait_copies<0>();
    __syncthreads();  // the keys are there, and all have read the last values
    begin_tile<kColumns, kKeys>(v_tile, v, r.kv_width(), key, end, r.size);
    commit_copies();
    // What no row of the warp sees is left out; its first row sees the earliest keys.
    const bool seen = key < warp_row + kWarpRows && key + kKeys > r.first[least(warp_row, r.n - 1)];
    float s[kFragments][4] = {}, fade[2] = {};
    if (seen) {
      // [1] scores
      NIBBLE_UNROLL
      for (int step = 0; step < kSteps; ++step) times_rows<kColumns>(s, query[step], k_tile, step);
      // [2] softmax over what was seen so far
      softmax.add(s, int(key), r.scale * kLog2e, fade);
      NIBBLE_UNROLL
      for (int n = 0; n < kColumns / 8; ++n) {
        NIBBLE_UNROLL
        for (int i = 0; i < 4; ++i) sum[n][i] *= fade[i / 2];
      }
    }
    wait_copies<0>();
    __syncthreads();  // the values are there, and all have read the keys
    if (key + kKeys < end) begin_tile<kColumns, kKeys>(k_tile, k, r.kv_width(), key + kKeys, end, r.size);
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
  float inverse[2];
  NIBBLE_UNROLL
  for (int half = 0; half < 2; ++half) {
    float total = softmax.total[half];
    for (int mask = 1; mask < 4; mask *= 2) total += __shfl_xor_sync(kFullWarp, total, mask);
    inverse[half] = 1.0f / total;
    const int64_t row = softmax.row[half];
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
