// What attention's kernels are given, and the two forms that it has: flash_forward.cu and flash_backward.cu for bfloat16
// and heads of usual sizes, attention_tiles.cu for the rest. attention.cu chooses.
#pragma once

#include "backends/cuda/kernel.h"

namespace nibble::cuda {

struct AttentionRows {
  const void *q, *k, *v;  // [n, heads * size], [n, kv_heads * size]
  const int32_t* first;   // [n] the first row that row i sees; it sees all from there to itself
  const int32_t* end;     // [n] past the last row that sees row j
  int64_t n;
  int heads, kv_heads, size;
  float scale;

  NIBBLE_HD int group() const { return heads / kv_heads; }
  NIBBLE_HD int64_t q_width() const { return int64_t(heads) * size; }
  NIBBLE_HD int64_t kv_width() const { return int64_t(kv_heads) * size; }
};

struct AttentionGradients {
  const void* d_o;
  const float *lse, *delta;  // [n, heads]; delta = d_o . o
  void *d_q, *d_k, *d_v;
};

constexpr int kFlashSizeMax = 128;  // of a head, a multiple of 8; bfloat16 at addresses that are multiples of 16

void flash_forward(const AttentionRows& r, void* o, float* lse);
void flash_backward(const AttentionRows& r, const AttentionGradients& g);

void tiles_forward(const AttentionRows& r, DType dtype, void* o, float* lse);
void tiles_backward(const AttentionRows& r, DType dtype, const AttentionGradients& g);

}  // namespace nibble::cuda
