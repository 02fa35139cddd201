// Same steps as backends/reference/attention.cpp; rows are shared out among the threads.
#include "ops/attention.h"

#include <math.h>

#include "backends/cpu/attention.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

// The document of row i is [begin, end).
struct Rows {
  int64_t begin, end;
};

Rows document_of(const Tensor& starts, int64_t i) {
  const int32_t* at = starts.i32();
  int64_t low = 0, high = starts.dim(0) - 1;  // the last d with starts[d] <= i
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (at[middle] <= i ? low : high) = middle;
  }
  return {at[low], at[low + 1]};
}

// d_q of one row and head.
void backward_query(const AttentionBackwardArgs& a, int64_t i, int64_t h, float* d_q) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H, kv = h / (H / K);
  float q[kHeadSizeMax], d_o[kHeadSizeMax], o[kHeadSizeMax], row[kHeadSizeMax];
  const int64_t at = (i * H + h) * D;
  widen(a.q, at, D, q);
  widen(a.d_o, at, D, d_o);
  widen(a.o, at, D, o);
  const float delta = dot(d_o, o, D), lse = a.lse.f32()[i * H + h];
  for (int64_t c = 0; c < D; ++c) d_q[c] = 0;
  for (int64_t j = first_seen(a.shape.window, document_of(a.starts, i).begin, i); j <= i; ++j) {
    widen(a.v, (j * K + kv) * D, D, row);
    const float d_p = dot(d_o, row, D) - delta;
    widen(a.k, (j * K + kv) * D, D, row);
    const float d_s = a.shape.scale * expf(a.shape.scale * dot(q, row, D) - lse) * d_p;
    for (int64_t c = 0; c < D; ++c) d_q[c] += d_s * row[c];
  }
}

// Adds what query row i, head h gives to d_k and d_v of the key row k, v.
void backward_key(const AttentionBackwardArgs& a, int64_t i, int64_t h, const float* k, const float* v, float* d_k,
                  float* d_v) {
  const int64_t H = a.shape.heads, D = a.q.dim(1) / H, at = (i * H + h) * D;
  float q[kHeadSizeMax], d_o[kHeadSizeMax], o[kHeadSizeMax];
  widen(a.q, at, D, q);
  widen(a.d_o, at, D, d_o);
  widen(a.o, at, D, o);
  const float p = expf(a.shape.scale * dot(q, k, D) - a.lse.f32()[i * H + h]);
  const float d_s = a.shape.scale * p * (dot(d_o, v, D) - dot(d_o, o, D));
  for (int64_t c = 0; c < D; ++c) d_v[c] += p * d_o[c];
  for (int64_t c = 0; c < D; ++c) d_k[c] += d_s * q[c];
}

}  // namespace

void attention_forward(const AttentionForwardArgs& a) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H;
  parallel_for(a.q.dim(0), [&](int64_t i) {
    float q[kHeadSizeMax], row[kHeadSizeMax], o[kHeadSizeMax];
    const int64_t first = first_seen(a.shape.window, document_of(a.starts, i).begin, i);
    for (int64_t h = 0; h < H; ++h) {
      widen(a.q, (i * H + h) * D, D, q);
      OnlineSoftmax softmax(D, o);
      for (int64_t j = first; j <= i; ++j) {
        const int64_t at = (j * K + h / (H / K)) * D;
        widen(a.k, at, D, row);
        const float score = a.shape.scale * dot(q, row, D);
        widen(a.v, at, D, row);
        softmax.add(score, row);
      }
      a.lse.f32()[i * H + h] = softmax.finish();
      narrow(o, D, a.o, (i * H + h) * D);
    }
  });
}

void attention_backward(const AttentionBackwardArgs& a) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H;
  parallel_for(a.q.dim(0), [&](int64_t i) {
    float d_q[kHeadSizeMax];
    for (int64_t h = 0; h < H; ++h) {
      backward_query(a, i, h, d_q);
      narrow(d_q, D, a.d_q, (i * H + h) * D);
    }
  });
  parallel_for(a.k.dim(0) * K, [&](int64_t task) {
    const int64_t j = task / K, kv = task % K;
    const Rows document = document_of(a.starts, j);
    const int64_t end =
        a.shape.window > 0 && j + a.shape.window < document.end ? j + a.shape.window : document.end;
    float k[kHeadSizeMax], v[kHeadSizeMax], d_k[kHeadSizeMax] = {}, d_v[kHeadSizeMax] = {};
    widen(a.k, task * D, D, k);
    widen(a.v, task * D, D, v);
    for (int64_t i = j; i < end; ++i)
      for (int64_t h = kv * (H / K); h < (kv + 1) * (H / K); ++h) backward_key(a, i, h, k, v, d_k, d_v);
    narrow(d_k, D, a.d_k, task * D);
    narrow(d_v, D, a.d_v, task * D);
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
