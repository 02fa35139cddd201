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

// Attention of new tokens over a paged cache (Kwon et al., arXiv:2309.06180). Page p of sequence s is
// block_table[s, p]; position t of s lies in row t % page of page t / page.
// Row n is a query of sequence sequence[n] at position[n] and sees positions 0 ... position[n] (all of
// them already written by kv_write), within the window. Prefill and decode are the same op.
struct PagedAttentionArgs {
  AttentionShape shape;
  Tensor q;                 // [N, H * D]
  Tensor k_cache, v_cache;  // [pages, page, K * D], dtype of q
  Tensor block_table;       // [sequences, pages of a sequence at most] int32
  Tensor sequence;          // [N] int32
  Tensor position;          // [N] int32
  Tensor o;                 // out [N, H * D]
};

// Row n of k and v goes to row slot[n] = page index * page + row of the caches.
struct KvWriteArgs {
  Tensor k, v;              // [N, K * D]
  Tensor slot;              // [N] int32
  Tensor k_cache, v_cache;  // in/out [pages, page, K * D]
};

void attention_forward(const AttentionForwardArgs& args);
void attention_backward(const AttentionBackwardArgs& args);
void paged_attention(const PagedAttentionArgs& args);
void kv_write(const KvWriteArgs& args);

}  // namespace nibble
