// A block of a Llama model over the paged cache, as one call: contract. A step of decoding has some hundred small
// ops; called one by one from JavaScript, the calls cost as much time as half of the ops. Every result has the bits
// that the ops give one by one.
//
//   y = rmsnorm(x);  q, k = rope(y Wq^T), rope(y Wk^T);  v = y Wv^T;  k, v go to their slots of the cache
//   s = x + attention(q) Wo^T;  z = rmsnorm(s);  x = s + (silu(z Wgate^T) * z Wup^T) Wdown^T
//
// Each product has its layer's bias added, and the adapters of the segments, each for its rows.
#pragma once

#include <vector>

#include "ops/attention.h"
#include "ops/linear.h"

namespace nibble {

enum LlamaLinear { kQ, kK, kV, kO, kGate, kUp, kDown };
constexpr int kLlamaLinears = 7;

struct LlamaBlock {
  Tensor input_norm, post_norm;  // [C] float32
  float input_eps, post_eps;
  Weight weight[kLlamaLinears];
  Tensor bias[kLlamaLinears];  // [O] float32; may be empty
};

// An adapter's matrices for the rows [begin, end).
struct LlamaSegment {
  int64_t begin, end;
  struct Lora {
    Tensor a, b;    // as lora_adds takes them; empty: the adapter leaves this layer out
    float scaling;
    Tensor factor;  // [O] float32 of scale_columns; empty: without magnitudes
  } lora[kLlamaLinears];
};

struct LlamaBlockArgs {
  const LlamaBlock& block;
  const std::vector<LlamaSegment>& segments;
  AttentionShape shape;
  Tensor x;                            // in/out [N, C] float32 | bfloat16
  Tensor cos, sin;                     // [P, D / 2] float32
  Tensor position, slot, sequence;     // [N] int32
  Tensor block_table;                  // [sequences, pages of a sequence at most] int32
  Tensor k_cache, v_cache;             // in/out [pages, K, page, D], dtype of x
  // Those of the block that runs next with the same block_table: memory may be asked for them. May be empty.
  Tensor next_k_cache, next_v_cache;
};

void llama_block(const LlamaBlockArgs& args);

}  // namespace nibble
