// Attention over packed documents, plain: a thread a row and head, no tiles, sums in memory. Right and slow.
// See ops/attention.h and backends/reference/attention.cpp.
#include "ops/attention.h"

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

namespace nibble::cuda {

namespace {

struct Rows {
  const void *q, *k, *v;
  DType dtype;
  const int32_t* starts;
  int64_t documents, n, heads, kv_heads, size, window;
  float scale;

  // The document that row i lies in.
  __device__ int64_t document_of(int64_t i) const {
    int64_t low = 0, high = documents;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (starts[middle] <= i) low = middle;
      else high = middle;
    }
    return low;
  }
  __device__ int64_t first_seen(int64_t i) const {
    const int64_t begin = starts[document_of(i)];
    return window > 0 && i - window + 1 > begin ? i - window + 1 : begin;
  }
  __device__ float dot(const void* a, int64_t a_at, const void* b, int64_t b_at) const {
    float sum = 0;
    for (int64_t c = 0; c < size; ++c) sum = fmaf(load(a, dtype, a_at + c), load(b, dtype, b_at + c), sum);
    return sum;
  }
  __device__ int64_t kv_of(int64_t h) const { return h / (heads / kv_heads); }
};

__global__ void forward_kernel(Rows r, float* sums, void* o, float* lse) {
  const int64_t at = first_index();
  if (at >= r.n * r.heads) return;
  const int64_t i = at / r.heads, kv = r.kv_of(at % r.heads), first = r.first_seen(i);
  float* const sum = sums + at * r.size;
  for (int64_t c = 0; c < r.size; ++c) sum[c] = 0;
  float top = -INFINITY, total = 0;
  for (int64_t j = first; j <= i; ++j) {
    // [1] score   [2] softmax over what was seen so far   [3] mean of the values
    const int64_t k_at = (j * r.kv_heads + kv) * r.size;
    const float s = r.scale * r.dot(r.q, at * r.size, r.k, k_at), new_top = fmaxf(top, s);
    const float fade = expf(top - new_top), p = expf(s - new_top);
    total = total * fade + p;
    top = new_top;
    for (int64_t c = 0; c < r.size; ++c) sum[c] = fmaf(p, load(r.v, r.dtype, k_at + c), sum[c] * fade);
  }
  lse[at] = top + logf(total);
  for (int64_t c = 0; c < r.size; ++c) store(o, r.dtype, at * r.size + c, sum[c] / total);
}

struct Gradients {
  const void *d_o, *o;
  const float* lse;
};

// The weight of row j for row i and head h, and the gradient of its score.
struct Score {
  float p, d_s;
};

__device__ Score score_of(const Rows& r, const Gradients& g, float delta, int64_t q_row, int64_t k_at) {
  const float p = expf(r.scale * r.dot(r.q, q_row * r.size, r.k, k_at) - g.lse[q_row]);
  return {p, r.scale * p * (r.dot(g.d_o, q_row * r.size, r.v, k_at) - delta)};
}

__global__ void delta_kernel(Rows r, Gradients g, float* delta) {
  const int64_t at = first_index();
  if (at < r.n * r.heads) delta[at] = r.dot(g.d_o, at * r.size, g.o, at * r.size);
}

__global__ void query_kernel(Rows r, Gradients g, const float* delta, float* sums, void* d_q) {
  const int64_t at = first_index();
  if (at >= r.n * r.heads) return;
  const int64_t i = at / r.heads, kv = r.kv_of(at % r.heads);
  float* const sum = sums + at * r.size;
  for (int64_t c = 0; c < r.size; ++c) sum[c] = 0;
  for (int64_t j = r.first_seen(i); j <= i; ++j) {
    const int64_t k_at = (j * r.kv_heads + kv) * r.size;
    const Score s = score_of(r, g, delta[at], at, k_at);
    for (int64_t c = 0; c < r.size; ++c) sum[c] = fmaf(s.d_s, load(r.k, r.dtype, k_at + c), sum[c]);
  }
  for (int64_t c = 0; c < r.size; ++c) store(d_q, r.dtype, at * r.size + c, sum[c]);
}

__global__ void key_value_kernel(Rows r, Gradients g, const float* delta, float* sums, void* d_k, void* d_v) {
  const int64_t at = first_index();
  if (at >= r.n * r.kv_heads) return;
  const int64_t j = at / r.kv_heads, kv = at % r.kv_heads, group = r.heads / r.kv_heads;
  float *const k_sum = sums + 2 * at * r.size, *const v_sum = k_sum + r.size;
  for (int64_t c = 0; c < 2 * r.size; ++c) k_sum[c] = 0;
  const int64_t end = r.starts[r.document_of(j) + 1], last = r.window > 0 ? least(end, j + r.window) : end;
  for (int64_t i = j; i < last; ++i) {
    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      const int64_t q_row = i * r.heads + h;
      const Score s = score_of(r, g, delta[q_row], q_row, at * r.size);
      for (int64_t c = 0; c < r.size; ++c) {
        v_sum[c] = fmaf(s.p, load(g.d_o, r.dtype, q_row * r.size + c), v_sum[c]);
        k_sum[c] = fmaf(s.d_s, load(r.q, r.dtype, q_row * r.size + c), k_sum[c]);
      }
    }
  }
  for (int64_t c = 0; c < r.size; ++c) {
    store(d_k, r.dtype, at * r.size + c, k_sum[c]);
    store(d_v, r.dtype, at * r.size + c, v_sum[c]);
  }
}

Rows rows_of(const AttentionShape& shape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts) {
  return {.q = q.data, .k = k.data, .v = v.data, .dtype = q.dtype, .starts = starts.i32(),
          .documents = starts.dim(0) - 1, .n = q.dim(0), .heads = shape.heads, .kv_heads = shape.kv_heads,
          .size = q.dim(1) / shape.heads, .window = shape.window, .scale = shape.scale};
}

}  // namespace

void attention_forward(const AttentionForwardArgs& a) {
  const Rows r = rows_of(a.shape, a.q, a.k, a.v, a.starts);
  const Workspace<float> sums(a.q.count());
  launch(forward_kernel, grid_of(blocks_of(r.n * r.heads, kThreads)), kThreads, 0, r, sums.data(), a.o.data,
         a.lse.f32());
}

void attention_backward(const AttentionBackwardArgs& a) {
  const Rows r = rows_of(a.shape, a.q, a.k, a.v, a.starts);
  const Gradients g{.d_o = a.d_o.data, .o = a.o.data, .lse = a.lse.f32()};
  const Workspace<float> delta(r.n * r.heads), sums(most(a.q.count(), 2 * a.k.count()));
  const Grid queries = grid_of(blocks_of(r.n * r.heads, kThreads)), keys = grid_of(blocks_of(r.n * r.kv_heads, kThreads));
  launch(delta_kernel, queries, kThreads, 0, r, g, delta.data());
  launch(query_kernel, queries, kThreads, 0, r, g, delta.data(), sums.data(), a.d_q.data);
  launch(key_value_kernel, keys, kThreads, 0, r, g, delta.data(), sums.data(), a.d_k.data, a.d_v.data);
}

}  // namespace nibble::cuda
