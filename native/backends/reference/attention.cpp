#include "ops/attention.h"

#include <cmath>
#include <vector>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"

namespace nibble::reference {

namespace {

double dot(const Tensor& a, int64_t a_at, const Tensor& b, int64_t b_at, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += get(a, a_at + i) * get(b, b_at + i);
  return sum;
}

// Turns scores into weights that sum to 1; the log of the sum of their exponentials.
double softmax(std::vector<double>& scores) {
  double top = -INFINITY, sum = 0;
  for (double s : scores) top = std::fmax(top, s);
  for (double s : scores) sum += std::exp(s - top);
  const double lse = top + std::log(sum);
  for (double& s : scores) s = std::exp(s - lse);
  return lse;
}

int64_t first_seen(int64_t window, int64_t begin, int64_t i) {
  return window > 0 && i - window + 1 > begin ? i - window + 1 : begin;
}

// Where the row of a head at a position of a sequence begins in the caches.
int64_t row_of(const PagedAttentionArgs& a, int64_t sequence, int64_t head, int64_t position) {
  const CacheShape cache = cache_shape(a.k_cache);
  const int64_t page = a.block_table.i32()[sequence * a.block_table.dim(1) + position / cache.page];
  return cache.row(page, head, position % cache.page);
}

}  // namespace

void attention_forward(const AttentionForwardArgs& a) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H;
  for (int64_t d = 0; d + 1 < a.starts.dim(0); ++d) {
    const int64_t begin = a.starts.i32()[d], end = a.starts.i32()[d + 1];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = first_seen(a.shape.window, begin, i);
      for (int64_t h = 0; h < H; ++h) {
        const int64_t kv = h / (H / K), q_at = (i * H + h) * D;
        // [1] scores of the rows seen
        std::vector<double> p;
        for (int64_t j = first; j <= i; ++j) p.push_back(a.shape.scale * dot(a.q, q_at, a.k, (j * K + kv) * D, D));
        // [2] softmax
        put(a.lse, i * H + h, softmax(p));
        // [3] mean of the values
        for (int64_t c = 0; c < D; ++c) {
          double sum = 0;
          for (int64_t j = first; j <= i; ++j) sum += p[size_t(j - first)] * get(a.v, (j * K + kv) * D + c);
          put(a.o, q_at + c, sum);
        }
      }
    }
  }
}

void attention_backward(const AttentionBackwardArgs& a) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H;
  std::vector<double> d_q(size_t(a.q.count())), d_k(size_t(a.k.count())), d_v(size_t(a.k.count()));
  for (int64_t d = 0; d + 1 < a.starts.dim(0); ++d) {
    const int64_t begin = a.starts.i32()[d], end = a.starts.i32()[d + 1];
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t h = 0; h < H; ++h) {
        const int64_t kv = h / (H / K), q_at = (i * H + h) * D;
        // [1] delta
        const double delta = dot(a.d_o, q_at, a.o, q_at, D);
        for (int64_t j = first_seen(a.shape.window, begin, i); j <= i; ++j) {
          const int64_t k_at = (j * K + kv) * D;
          // [2] the weight again, and its gradient
          const double p = std::exp(a.shape.scale * dot(a.q, q_at, a.k, k_at, D) - get(a.lse, i * H + h));
          const double d_s = a.shape.scale * p * (dot(a.d_o, q_at, a.v, k_at, D) - delta);
          // [3] gradients of the rows
          for (int64_t c = 0; c < D; ++c) {
            d_v[size_t(k_at + c)] += p * get(a.d_o, q_at + c);
            d_q[size_t(q_at + c)] += d_s * get(a.k, k_at + c);
            d_k[size_t(k_at + c)] += d_s * get(a.q, q_at + c);
          }
        }
      }
    }
  }
  for (int64_t i = 0; i < a.q.count(); ++i) put(a.d_q, i, d_q[size_t(i)]);
  for (int64_t i = 0; i < a.k.count(); ++i) put(a.d_k, i, d_k[size_t(i)]);
  for (int64_t i = 0; i < a.k.count(); ++i) put(a.d_v, i, d_v[size_t(i)]);
}

void paged_attention(const PagedAttentionArgs& a) {
  const int64_t H = a.shape.heads, K = a.shape.kv_heads, D = a.q.dim(1) / H;
  for (int64_t n = 0; n < a.q.dim(0); ++n) {
    const int64_t sequence = a.sequence.i32()[n], position = a.position.i32()[n];
    const int64_t first = first_seen(a.shape.window, 0, position);
    for (int64_t h = 0; h < H; ++h) {
      const int64_t kv = h / (H / K), q_at = (n * H + h) * D;
      std::vector<double> p;
      for (int64_t t = first; t <= position; ++t) {
        p.push_back(a.shape.scale * dot(a.q, q_at, a.k_cache, row_of(a, sequence, kv, t), D));
      }
      softmax(p);
      for (int64_t c = 0; c < D; ++c) {
        double sum = 0;
        for (int64_t t = first; t <= position; ++t) {
          sum += p[size_t(t - first)] * get(a.v_cache, row_of(a, sequence, kv, t) + c);
        }
        put(a.o, q_at + c, sum);
      }
    }
  }
}

void kv_write(const KvWriteArgs& a) {
  const CacheShape cache = cache_shape(a.k_cache);
  const int64_t K = cache.kv_heads, D = cache.size;
  for (int64_t n = 0; n < a.k.dim(0); ++n) {
    for (int64_t head = 0; head < K; ++head) {
      const int64_t to = cache.row_of_slot(a.slot.i32()[n], head);
      for (int64_t c = 0; c < D; ++c) {
        put(a.k_cache, to + c, get(a.k, (n * K + head) * D + c));
        put(a.v_cache, to + c, get(a.v, (n * K + head) * D + c));
      }
    }
  }
}

}  // namespace nibble::reference
