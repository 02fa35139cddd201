// Flash attention, backward (Dao, arXiv:2307.08691), in two kernels that make the weights again: one sums over the queries
// that see a block of keys, one over the keys that a block of queries sees. Nobody adds to what another block adds to, so
// there are no atomic sums and a run gives the bits of the run before. It makes seven products where one kernel with
// atomics makes five.
//
// Both: 128 rows a block, 16 a warp, which stay in shared memory; the others come in turns of two tiles, one on its way
// while the other is read. Weights and gradients of scores go from product to product in registers; that is why the first
// kernel makes them transposed, a row a key.
#include "backends/cuda/attention_rows.h"
#include "backends/cuda/flash_tile.h"

namespace nibble::cuda {

namespace {

using namespace flash;

// Rows of a tile that comes in turns: what leaves 96 KiB of shared memory for a block, which every sm_8x has.
template <int kColumns>
constexpr int kTurnRows = kColumns == 64 ? 64 : 32;

// What a score's column or row needs besides the score: in powers of two, so that a weight is one exp2f.
__device__ inline float lse2_of(const AttentionGradients& g, int64_t at) { return g.lse[at] * kLog2e; }

// Of the queries of a tile, in shared memory.
struct QueryFacts {
  float lse2, delta;
  int first;
};

template <int kColumns>
struct KeyBlock {
  static constexpr int kTurn = kTurnRows<kColumns>, kFragments = kTurn / 8;

  AttentionRows r;
  AttentionGradients g;
  BF16 *k_tile, *v_tile, *turns;
  QueryFacts* facts;
  int begin, end;  // of queries
  int kv;

  __device__ BF16* q_tile(int turn) const { return turns + turn % 2 * 2 * kTurn * kColumns; }
  __device__ BF16* d_o_tile(int turn) const { return q_tile(turn) + kTurn * kColumns; }
  __device__ QueryFacts* facts_of(int turn) const { return facts + turn % 2 * kTurn; }
  __device__ int tiles() const { return (end - begin + kTurn - 1) / kTurn; }
  __device__ int query_of(int turn) const { return begin + turn % tiles() * kTurn; }

  // A turn is a tile of queries of one of the heads that share the keys.
  __device__ void begin_turn(int turn) const {
    const int head = kv * r.group() + turn / tiles();
    const int row = query_of(turn);
    const int64_t at = int64_t(head) * r.size;
    begin_tile<kColumns, kTurn>(q_tile(turn), static_cast<const BF16*>(r.q) + at, r.q_width(), row, end, r.size);
    begin_tile<kColumns, kTurn>(d_o_tile(turn), static_cast<const BF16*>(g.d_o) + at, r.q_width(), row, end, r.size);
    if (threadIdx.x >= kTurn) return;
    const int i = row + int(threadIdx.x);
    const int64_t of_head = int64_t(i) * r.heads + head;
    // Past the end nothing has weight.
    facts_of(turn)[threadIdx.x] =
        i < end ? QueryFacts{lse2_of(g, of_head), g.delta[of_head], r.first[i]} : QueryFacts{INFINITY, 0, 0};
  }

  // Whether any query of the turn sees any of the warp's keys. The first one sees the earliest keys.
  __device__ bool seen(int turn, int warp_row) const {
    return query_of(turn) + kTurn > warp_row && facts_of(turn)->first < warp_row + kWarpRows;
  }

  // s: scores, a row a key, become weights; d_p: gradients of the weights become those of the scores, over the scale.
  __device__ void weigh(int turn, int warp_row, float (&s)[kFragments][4], float (&d_p)[kFragments][4]) const {
    const QueryFacts* const all = facts_of(turn);
    const int key = warp_row + lane_id() / 4, query = query_of(turn);
    NIBBLE_UNROLL
    for (int n = 0; n < kFragments; ++n) {
      NIBBLE_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * n + lane_id() % 4 * 2 + i % 2, j = key + 8 * (i / 2);
        const QueryFacts f = all[column];
        const bool seen = j <= query + column && j >= f.first;
        s[n][i] = seen ? exp2f(fmaf(s[n][i], r.scale * kLog2e, -f.lse2)) : 0.0f;
        d_p[n][i] = s[n][i] * (d_p[n][i] - f.delta);
      }
    }
  }
};

template <int kColumns>
__device__ inline void sum_turn(const KeyBlock<kColumns>& b, int turn, int block_row, int warp_first,
                                float (&d_k)[kColumns / 8][4], float (&d_v)[kColumns / 8][4]) {
  constexpr int kFragments = KeyBlock<kColumns>::kFragments;
  float s[kFragments][4] = {}, d_p[kFragments][4] = {};
  // [1] scores and gradients of the weights, transposed
  NIBBLE_UNROLL
  for (int step = 0; step < kColumns / 16; ++step) {
    uint32_t left[4];
    load_left<kColumns>(left, b.k_tile, warp_first, step);
    times_rows<kColumns>(s, left, b.q_tile(turn), step);
    load_left<kColumns>(left, b.v_tile, warp_first, step);
    times_rows<kColumns>(d_p, left, b.d_o_tile(turn), step);
  }
  // [2] weights and gradients of the scores
  b.weigh(turn, block_row + warp_first, s, d_p);
  // [3] d_v += P^T d_o, d_k += dS^T q
  NIBBLE_UNROLL
  for (int step = 0; step < kFragments / 2; ++step) {
    uint32_t left[4];
    as_left(left, s[2 * step], s[2 * step + 1]);
    sum_of_rows<kColumns>(d_v, left, b.d_o_tile(turn), step);
    as_left(left, d_p[2 * step], d_p[2 * step + 1]);
    sum_of_rows<kColumns>(d_k, left, b.q_tile(turn), step);
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreadsOfBlock) key_value_kernel(AttentionRows r, AttentionGradients g) {
  using Block = KeyBlock<kColumns>;
  const int block_row = int(blockIdx.x) * kBlockRows, block_end = int(least(r.n, block_row + kBlockRows));
  Block b{.r = r, .g = g, .k_tile = dynamic_shared<BF16>()};
  b.v_tile = b.k_tile + kBlockRows * kColumns;
  b.turns = b.v_tile + kBlockRows * kColumns;
  b.facts = reinterpret_cast<QueryFacts*>(b.turns + 4 * Block::kTurn * kColumns);
  b.begin = block_row;
  b.end = r.end[block_end - 1];  // the last key is seen longest
  b.kv = int(blockIdx.y);
  const int64_t at = int64_t(b.kv) * r.size;
  begin_tile<kColumns, kBlockRows>(b.k_tile, static_cast<const BF16*>(r.k) + at, r.kv_width(), block_row, r.n, r.size);
  begin_tile<kColumns, kBlockRows>(b.v_tile, static_cast<const BF16*>(r.v) + at, r.kv_width(), block_row, r.n, r.size);
  b.begin_turn(0);
  commit_copies();
  const int warp_first = int(threadIdx.x) / kWarpThreads * kWarpRows, turns = b.tiles() * r.group();
  float d_k[kColumns / 8][4] = {}, d_v[kColumns / 8][4] = {};
  for (int turn = 0; turn < turns; ++turn) {
    if (turn + 1 < turns) b.begin_turn(turn + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    if (b.seen(turn, block_row + warp_first)) sum_turn<kColumns>(b, turn, block_row, warp_first, d_k, d_v);
    __syncthreads();  // all have read the turn, whose place the one after the next takes
  }
  const float one[2] = {1, 1}, scale[2] = {r.scale, r.scale};
  const int64_t row = block_row + warp_first;
  store_rows<kColumns>(d_v, one, b.v_tile + warp_first * kColumns, static_cast<BF16*>(g.d_v) + at, r.kv_width(), row, r.n,
                       r.size);
  store_rows<kColumns>(d_k, scale, b.k_tile + warp_first * kColumns, static_cast<BF16*>(g.d_k) + at, r.kv_width(), row,
                       r.n, r.size);
}

// Of the lane's two queries: scores become gradients of the scores, over the scale.
template <int kFragments>
__device__ inline void weigh_queries(float scale, int warp_row, int key, const QueryFacts (&facts)[2],
                                     const float (&s)[kFragments][4], float (&d_p)[kFragments][4]) {
  const int first_key = key + lane_id() % 4 * 2, first_query = warp_row + lane_id() / 4;
  NIBBLE_UNROLL
  for (int n = 0; n < kFragments; ++n) {
    NIBBLE_UNROLL
    for (int i = 0; i < 4; ++i) {
      const QueryFacts& f = facts[i / 2];
      const int j = first_key + 8 * n + i % 2;
      const bool seen = j <= first_query + 8 * (i / 2) && j >= f.first;
      const float p = seen ? exp2f(fmaf(s[n][i], scale * kLog2e, -f.lse2)) : 0.0f;
      d_p[n][i] = p * (d_p[n][i] - f.delta);
    }
  }
}

template <int kColumns>
__global__ void __launch_bounds__(kThreadsOfBlock) query_kernel(AttentionRows r, AttentionGradients g) {
  constexpr int kTurn = kTurnRows<kColumns>, kFragments = kTurn / 8;
  BF16 *const q_tile = dynamic_shared<BF16>(), *const d_o_tile = q_tile + kBlockRows * kColumns;
  BF16* const turns = d_o_tile + kBlockRows * kColumns;
  const int head = int(blockIdx.y), warp_first = int(threadIdx.x) / kWarpThreads * kWarpRows;
  const int block_row = int(gridDim.x - 1 - blockIdx.x) * kBlockRows, warp_row = block_row + warp_first;
  const int begin = r.first[block_row], end = int(least(r.n, block_row + kBlockRows));
  const int warp_sees = r.first[least(warp_row, r.n - 1)];  // from here on; its first row sees the earliest keys
  const int64_t q_at = int64_t(head) * r.size, kv_at = int64_t(head / r.group()) * r.size;
  const auto begin_turn = [&](int turn) {
    BF16* const k_tile = turns + turn % 2 * 2 * kTurn * kColumns;
    const int row = begin + turn * kTurn;
    begin_tile<kColumns, kTurn>(k_tile, static_cast<const BF16*>(r.k) + kv_at, r.kv_width(), row, end, r.size);
    begin_tile<kColumns, kTurn>(k_tile + kTurn * kColumns, static_cast<const BF16*>(r.v) + kv_at, r.kv_width(), row, end,
                                r.size);
  };
  begin_tile<kColumns, kBlockRows>(q_tile, static_cast<const BF16*>(r.q) + q_at, r.q_width(), block_row, r.n, r.size);
  begin_tile<kColumns, kBlockRows>(d_o_tile, static_cast<const BF16*>(g.d_o) + q_at, r.q_width(), block_row, r.n, r.size);
  begin_turn(0);
  commit_copies();
  QueryFacts facts[2];
  for (int half = 0; half < 2; ++half) {
    const int64_t i = least(warp_row + lane_id() / 4 + 8 * half, r.n - 1), at = i * r.heads + head;
    facts[half] = {lse2_of(g, at), g.delta[at], r.first[i]};
  }
  const int turn_count = (end - begin + kTurn - 1) / kTurn;
  float d_q[kColumns / 8][4] = {};
  for (int turn = 0; turn < turn_count; ++turn) {
    if (turn + 1 < turn_count) begin_turn(turn + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    BF16 *const k_tile = turns + turn % 2 * 2 * kTurn * kColumns, *const v_tile = k_tile + kTurn * kColumns;
    const int key = begin + turn * kTurn;
    if (key < warp_row + kWarpRows && key + kTurn > warp_sees) {
      float s[kFragments][4] = {}, d_p[kFragments][4] = {};
      // [1] scores and gradients of the weights
      NIBBLE_UNROLL
      for (int step = 0; step < kColumns / 16; ++step) {
        uint32_t left[4];
        load_left<kColumns>(left, q_tile, warp_first, step);
        times_rows<kColumns>(s, left, k_tile, step);
        load_left<kColumns>(left, d_o_tile, warp_first, step);
        times_rows<kColumns>(d_p, left, v_tile, step);
      }
      // [2] gradients of the scores   [3] d_q += dS k
      weigh_queries(r.scale, warp_row, key, facts, s, d_p);
      NIBBLE_UNROLL
      for (int step = 0; step < kTurn / 16; ++step) {
        uint32_t left[4];
        as_left(left, d_p[2 * step], d_p[2 * step + 1]);
        sum_of_rows<kColumns>(d_q, left, k_tile, step);
      }
    }
    __syncthreads();  // all have read the turn, whose place the one after the next takes
  }
  const float scale[2] = {r.scale, r.scale};
  store_rows<kColumns>(d_q, scale, q_tile + warp_first * kColumns, static_cast<BF16*>(g.d_q) + q_at, r.q_width(), warp_row,
                       r.n, r.size);
}

template <int kColumns>
void run(const AttentionRows& r, const AttentionGradients& g) {
  constexpr int kTurn = kTurnRows<kColumns>;
  const int64_t shared = (2 * kBlockRows + 4 * kTurn) * kColumns * int64_t(sizeof(BF16));
  const int64_t with_facts = shared + 2 * kTurn * int64_t(sizeof(QueryFacts)), blocks = blocks_of(r.n, kBlockRows);
  launch(key_value_kernel<kColumns>, grid_of(blocks, r.kv_heads), kThreadsOfBlock, with_facts, r, g);
  launch(query_kernel<kColumns>, grid_of(blocks, r.heads), kThreadsOfBlock, shared, r, g);
}

}  // namespace

void flash_backward(const AttentionRows& r, const AttentionGradients& g) {
  if (r.size <= 64) return run<64>(r, g);
  run<128>(r, g);
}

}  // namespace nibble::cuda
