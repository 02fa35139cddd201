// Attention in float32 arithmetic over tiles in shared memory, for what flash attention does not take: float32, heads of
// other sizes. The steps are those of flash_forward.cu and flash_backward.cu, without matrix instructions.
//
// A block has kTile rows, a thread a row and a column of a square of scores; kTile lanes share a row. The other side comes
// kTile rows at a time. Then the lanes share out the columns of the head.
#include "backends/cuda/attention_rows.h"
#include "backends/cuda/packs.h"
#include "ops/attention.h"

namespace nibble::cuda {

namespace {

template <int kTile>
constexpr int kSizeMax = kTile == 16 ? 256 : 512;  // what leaves four tiles 66 KiB
static_assert(kSizeMax<8> >= kHeadSizeMax);

// Rows of floats, one word longer than they need, so that a column lies in different banks.
template <typename T, int kTile>
struct Tiles {
  static constexpr int kThreadsOfTile = kTile * kTile, kOwn = kSizeMax<kTile> / kTile;  // columns of a thread

  AttentionRows r;

  static __device__ int row() { return int(threadIdx.x) / kTile; }
  static __device__ int column() { return int(threadIdx.x) % kTile; }
  __device__ int stride() const { return r.size + 1; }
  __device__ float* tile(int i) const { return dynamic_shared<float>() + i * kTile * stride(); }
  // Squares of kTile x kTile behind the tiles; a row is written and read by lanes of one warp.
  __device__ float* square(int tiles, int i) const { return tile(tiles) + i * kThreadsOfTile; }

  // Rows [first, first + kTile) of a matrix of `width` columns, from column `at` on; zeros past the end.
  __device__ void load(float* to, const void* from, int64_t first, int64_t end, int64_t width, int64_t at) const {
    for (int i = int(threadIdx.x); i < kTile * r.size; i += kThreadsOfTile) {
      const int64_t in = first + i / r.size;
      to[i / r.size * stride() + i % r.size] =
          in < end ? to_float(static_cast<const T*>(from)[in * width + at + i % r.size]) : 0.0f;
    }
  }
  __device__ float dot(const float* own, const float* other) const {
    float sum = 0;
    for (int d = 0; d < r.size; ++d) sum = fmaf(own[row() * stride() + d], other[column() * stride() + d], sum);
    return sum;
  }
  // sum[m] of column m * kTile + column(), times `fade`, += the row of `square` times rows of `other`.
  __device__ void add_rows(float (&sum)[kOwn], float fade, const float* square, const float* other) const {
    NIBBLE_UNROLL
    for (int m = 0; m < kOwn; ++m) {
      const int d = m * kTile + column();
      if (d >= r.size) break;
      sum[m] *= fade;
      for (int j = 0; j < kTile; ++j) sum[m] = fmaf(square[row() * kTile + j], other[j * stride() + d], sum[m]);
    }
  }
  __device__ void store(void* to, const float (&sum)[kOwn], float factor, int64_t in, int64_t width, int64_t at) const {
    if (in >= r.n) return;
    NIBBLE_UNROLL
    for (int m = 0; m < kOwn; ++m) {
      const int d = m * kTile + column();
      if (d < r.size) set(static_cast<T*>(to)[in * width + at + d], sum[m] * factor);
    }
  }
};

template <int kTile>
__device__ float tile_max(float v) {
  for (int mask = kTile / 2; mask > 0; mask /= 2) v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, mask));
  return v;
}

template <int kTile>
__device__ float tile_sum(float v) {
  for (int mask = kTile / 2; mask > 0; mask /= 2) v += __shfl_xor_sync(kFullWarp, v, mask);
  return v;
}

template <typename T, int kTile>
__global__ void forward_kernel(Tiles<T, kTile> t, void* o, float* lse) {
  const AttentionRows& r = t.r;
  const int head = int(blockIdx.y), kv = head / r.group();
  const int64_t block_row = int64_t(gridDim.x - 1 - blockIdx.x) * kTile, end = least(r.n, block_row + kTile);
  const int64_t i = block_row + t.row(), first = r.first[least(i, r.n - 1)];
  float *const q = t.tile(0), *const k = t.tile(1), *const v = t.tile(2), *const weights = t.square(3, 0);
  t.load(q, r.q, block_row, r.n, r.q_width(), int64_t(head) * r.size);
  float sum[Tiles<T, kTile>::kOwn] = {}, top = -INFINITY, total = 0;
  for (int64_t key = r.first[block_row]; key < end; key += kTile) {
    __syncthreads();
    t.load(k, r.k, key, end, r.kv_width(), int64_t(kv) * r.size);
    t.load(v, r.v, key, end, r.kv_width(), int64_t(kv) * r.size);
    __syncthreads();
    // [1] score
    const int64_t j = key + t.column();
    const float s = j <= i && j >= first ? r.scale * t.dot(q, k) : -INFINITY;
    // [2] softmax over what was seen so far
    const float high = fmaxf(top, tile_max<kTile>(s)), base = high == -INFINITY ? 0.0f : high;
    const float fade = expf(top - base), p = expf(s - base);
    total = fmaf(total, fade, tile_sum<kTile>(p));
    top = high;
    // [3] mean of the values
    weights[threadIdx.x] = p;
    __syncwarp();
    t.add_rows(sum, fade, weights, v);
  }
  if (i < r.n && t.column() == 0) lse[i * r.heads + head] = top + logf(total);
  t.store(o, sum, 1.0f / total, i, r.q_width(), int64_t(head) * r.size);
}

template <typename T, int kTile>
__global__ void key_value_kernel(Tiles<T, kTile> t, AttentionGradients g) {
  const AttentionRows& r = t.r;
  const int kv = int(blockIdx.y);
  const int64_t block_row = int64_t(blockIdx.x) * kTile, j = block_row + t.row(), at = int64_t(kv) * r.size;
  const int64_t end = r.end[least(r.n, block_row + kTile) - 1];
  float *const k = t.tile(0), *const v = t.tile(1), *const q = t.tile(2), *const d_o = t.tile(3);
  float *const weights = t.square(4, 0), *const d_scores = t.square(4, 1);
  t.load(k, r.k, block_row, r.n, r.kv_width(), at);
  t.load(v, r.v, block_row, r.n, r.kv_width(), at);
  float d_k[Tiles<T, kTile>::kOwn] = {}, d_v[Tiles<T, kTile>::kOwn] = {};
  for (int head = kv * r.group(); head < (kv + 1) * r.group(); ++head) {
    for (int64_t query = block_row; query < end; query += kTile) {
      __syncthreads();
      t.load(q, r.q, query, end, r.q_width(), int64_t(head) * r.size);
      t.load(d_o, g.d_o, query, end, r.q_width(), int64_t(head) * r.size);
      __syncthreads();
      const int64_t i = query + t.column(), of_head = least(i, end - 1) * r.heads + head;
      const bool seen = i < end && j <= i && j >= r.first[least(i, end - 1)];
      const float p = seen ? expf(r.scale * t.dot(k, q) - g.lse[of_head]) : 0.0f;
      weights[threadIdx.x] = p;
      d_scores[threadIdx.x] = p * (t.dot(v, d_o) - g.delta[of_head]);
      __syncwarp();
      t.add_rows(d_v, 1, weights, d_o);
      t.add_rows(d_k, 1, d_scores, q);
    }
  }
  t.store(g.d_k, d_k, r.scale, j, r.kv_width(), at);
  t.store(g.d_v, d_v, 1, j, r.kv_width(), at);
}

template <typename T, int kTile>
__global__ void query_kernel(Tiles<T, kTile> t, AttentionGradients g) {
  const AttentionRows& r = t.r;
  const int head = int(blockIdx.y);
  const int64_t block_row = int64_t(gridDim.x - 1 - blockIdx.x) * kTile, end = least(r.n, block_row + kTile);
  const int64_t i = block_row + t.row(), of_head = least(i, r.n - 1) * r.heads + head, first = r.first[least(i, r.n - 1)];
  const int64_t at = int64_t(head) * r.size, kv_at = int64_t(head / r.group()) * r.size;
  float *const q = t.tile(0), *const d_o = t.tile(1), *const k = t.tile(2), *const v = t.tile(3);
  float* const d_scores = t.square(4, 0);
  t.load(q, r.q, block_row, r.n, r.q_width(), at);
  t.load(d_o, g.d_o, block_row, r.n, r.q_width(), at);
  float d_q[Tiles<T, kTile>::kOwn] = {};
  for (int64_t key = r.first[block_row]; key < end; key += kTile) {
    __syncthreads();
    t.load(k, r.k, key, end, r.kv_width(), kv_at);
    t.load(v, r.v, key, end, r.kv_width(), kv_at);
    __syncthreads();
    const int64_t j = key + t.column();
    const float p = j <= i && j >= first ? expf(r.scale * t.dot(q, k) - g.lse[of_head]) : 0.0f;
    d_scores[threadIdx.x] = p * (t.dot(d_o, v) - g.delta[of_head]);
    __syncwarp();
    t.add_rows(d_q, 1, d_scores, k);
  }
  t.store(g.d_q, d_q, r.scale, i, r.q_width(), at);
}

// Calls body with Tiles of the type and of a size that the heads fit.
template <typename Body>
void with_tiles(const AttentionRows& r, DType dtype, Body&& body) {
  with_activation(dtype, [&](auto t) {
    using T = decltype(t);
    if (r.size <= kSizeMax<16>) return body(t, Width<16>{}, Tiles<T, 16>{r});
    body(t, Width<8>{}, Tiles<T, 8>{r});
  });
}

int64_t shared_bytes(const AttentionRows& r, int tile, int tiles, int squares) {
  return int64_t(tiles * tile * (r.size + 1) + squares * tile * tile) * int64_t(sizeof(float));
}

}  // namespace

void tiles_forward(const AttentionRows& r, DType dtype, void* o, float* lse) {
  with_tiles(r, dtype, [&](auto type, auto width, auto tiles) {
    constexpr int kTile = decltype(width)::value;
    launch(forward_kernel<decltype(type), kTile>, grid_of(blocks_of(r.n, kTile), r.heads), kTile * kTile,
           shared_bytes(r, kTile, 3, 1), tiles, o, lse);
  });
}

void tiles_backward(const AttentionRows& r, DType dtype, const AttentionGradients& g) {
  with_tiles(r, dtype, [&](auto type, auto width, auto tiles) {
    using T = decltype(type);
    constexpr int kTile = decltype(width)::value;
    const int64_t blocks = blocks_of(r.n, kTile), shared = shared_bytes(r, kTile, 4, 2);
    launch(key_value_kernel<T, kTile>, grid_of(blocks, r.kv_heads), kTile * kTile, shared, tiles, g);
    launch(query_kernel<T, kTile>, grid_of(blocks, r.heads), kTile * kTile, shared, tiles, g);
  });
}

}  // namespace nibble::cuda
