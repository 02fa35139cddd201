// Causal attention over packed documents with grouped heads and an optional sliding window; no S x S
// matrix exists (Dao et al., arXiv:2205.14135): contract.
//
// Document d holds the rows [starts[d], starts[d+1]). Query row i sees the rows j of its document with
// j <= i and, when window > 0, j > i - window. Query head h reads key/value head h / (H / K).
//   p[i,j] = exp(scale * q_i . k_j - lse_i),  o_i = sum_j p[i,j] v_j
// backward: standard, with delta_i = d_o_i . o_i.
// q, o [N, H * D]; k, v [N, K * D]; float32 | bfloat16, alike; sums float32. lse [N, H] float32. With bfloat16,
// weights and gradients of scores may be rounded to it where they meet v, k, q and d_o (FlashAttention does so).
#pragma once

#include "ops/dims.h"
#include "core/tensor.h"

namespace nibble {

constexpr int64_t kHeadSizeMax = 512;  // the largest D; kernels keep a row of a head on the stack

struct AttentionShape {
  int64_t heads, kv_heads;
  float scale;
  int64_t window = 0;  // 0 = none
};

struct AttentionForwardArgs {
  AttentionShape shape;
  Tensor q, k, v;
  Tensor starts;  // [documents + 1] int32: 0 ... N, never descending
  Tensor o;       // out
  Tensor lse;     // out
};

struct AttentionBackwardArgs {
  AttentionShape shape;
  Tensor d_o, q, k, v, o, lse;
  Tensor starts;
  Tensor d_q, d_k, d_v;  // out
};

// A cache [pages, K, page, D]: its shape, and where the rows of its heads begin.
struct CacheShape {
  int64_t pages, kv_heads, page, size;  // page: rows of one

  NIBBLE_HD int64_t slots() const { return pages * page; }
  NIBBLE_HD int64_t row(int64_t at_page, int64_t head, int64_t at) const {
    return ((at_page * kv_heads + head) * page + at) * size;
  }
  NIBBLE_HD int64_t row_of_slot(int64_t slot, int64_t head) const { return row(slot / page, head, slot % page); }
};

inline CacheShape cache_shape(const Tensor& cache) { return {cache.dim(0), cache.dim(1), cache.dim(2), cache.dim(3)}; }

// Attention of new tokens over a paged cache (Kwon et al., arXiv:2309.06180). Page p of sequence s is
// block_table[s, p]; position t of s lies in row t % page of page t / page. A page is what is shared or copied; the rows
// of a head lie next to each other in it, so that reading a head's page is reading memory in order. How the numbers of a
// head's page lie is the backend's own, and its instruction set's: what kv_write wrote, paged_attention of the same reads.
// Row n is a query of sequence sequence[n] at position[n] and sees positions 0 ... position[n] (all of
// them already written by kv_write), within the window. Entries of pages that no row sees may hold anything.
// Prefill and decode are the same op.
struct PagedAttentionArgs {
  AttentionShape shape;
  Tensor q;                 // [N, H * D]
  Tensor k_cache, v_cache;  // [pages, K, page, D], dtype of q
  Tensor block_table;       // [sequences, pages of a sequence at most] int32
  Tensor sequence;          // [N] int32
  Tensor position;          // [N] int32
  Tensor o;                 // out [N, H * D]
};

// Row n of k and v goes, head by head, to row slot[n] % page of page slot[n] / page of the caches.
struct KvWriteArgs {
  Tensor k, v;              // [N, K * D]
  Tensor slot;              // [N] int32
  Tensor k_cache, v_cache;  // in/out [pages, K, page, D]
};

void attention_forward(const AttentionForwardArgs& args);
void attention_backward(const AttentionBackwardArgs& args);
void paged_attention(const PagedAttentionArgs& args);
void kv_write(const KvWriteArgs& args);

}  // namespace nibble
