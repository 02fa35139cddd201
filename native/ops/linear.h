// Linear layers over dense or 4-bit weights, with a LoRA adapter riding along: contract.
// Sources: QLoRA (arXiv:2305.14314) section 3, equation 5; LoRA (arXiv:2106.09685) section 4.1.
//
// linear_forward:   y = x W^T + bias + scaling * (drop(x) A^T) B^T
//   drop(x)[n,i] = dropout_keeps(seed, stream, n * I + i, p) ? x[n,i] / (1 - p) : 0   (ops/philox.h)
//   h = drop(x) A^T is written out for the backward pass.
// linear_backward, given d_y:
//   d_h = scaling * d_y B;  d_x = d_y W + mask/(1-p) * (d_h A)     (written, or added when accumulate_dx)
//   d_A += d_h^T drop(x);   d_B += d_y^T (scaling * h)
//   d_w += d_y^T x (dense float32 gradient of a trainable dense W);  d_bias += column sums of d_y
// x, y, d_y, d_x are float32 or bfloat16 (all four the same); sums are float32. A, B, h and all parameter
// gradients are float32. Where x is bfloat16, drop(x), A, scaling * h, scaling * B and d_h are rounded to bfloat16
// as operands of products, as PyTorch's autocast does; lora_adds rounds nothing. Results do not depend on the number of threads. N may be 0.
// Without an adapter a row of y does not depend on the rows beside it either. With one, and in d_x, the CPU may mix rows of bfloat16
// (backends/cpu/quarters.h): then errors of a row, far below a rounding, are relative to the largest of other rows.
// Cost: 2 N I O flops forward, the same for d_x; W is read once for each block of rows.
#pragma once

#include <cstdint>

#include "ops/dims.h"
#include "ops/weight.h"

namespace nibble {

struct Dropout {
  float p = 0;  // 0 = none; in [0, 1)
  uint64_t seed = 0;
  uint64_t stream = 0;
};

struct LinearForwardArgs {
  Tensor x;      // [N, I]
  Weight w;      // [O, I]
  Tensor bias;   // [O] float32; may be empty
  Tensor a;      // [R, I] float32; empty = no adapter (then b and h are empty too)
  Tensor b;      // [O, R] float32
  float scaling = 1;
  Dropout dropout;
  Tensor h;      // out [N, R] float32
  Tensor y;      // out [N, O]
};

struct LinearBackwardArgs {
  Tensor d_y;    // [N, O]
  Tensor x;      // [N, I]; needed for d_a and d_w, else may be empty
  Weight w;
  Tensor a, b;   // as in forward; empty = no adapter
  float scaling = 1;
  Dropout dropout;
  Tensor h;      // [N, R] of the forward pass; needed for d_b
  Tensor d_x;    // out [N, I]; may be empty
  bool accumulate_dx = false;
  Tensor d_a, d_b;  // in/out [R, I], [O, R] float32; may be empty
  Tensor d_w;       // in/out [O, I] float32; may be empty; W dense
  Tensor d_bias;    // in/out [O] float32; may be empty
};

// Layers of one x, with or without adapters: a layer's results do not depend on its neighbours.
constexpr int kLinearsMax = 4;
void linears_forward(const LinearForwardArgs* args, int count);
// Layers whose d_x is one tensor, or none: the sum of what they give (a backend may round it after each layer), and
// accumulate_dx of the first counts. x is one tensor, or none.
void linears_backward(const LinearBackwardArgs* args, int count);

inline void linear_forward(const LinearForwardArgs& args) { linears_forward(&args, 1); }
inline void linear_backward(const LinearBackwardArgs& args) { linears_backward(&args, 1); }

// For backends that take one after the other.
template <auto one, typename Args>
void one_by_one(const Args* args, int count) {
  for (int i = 0; i < count; ++i) one(args[i]);
}
// The same for layers whose d_x is one tensor.
template <void (*backward)(const LinearBackwardArgs&)>
void sum_one_by_one(const LinearBackwardArgs* args, int count) {
  for (int i = 0; i < count; ++i) {
    LinearBackwardArgs a = args[i];
    a.accumulate_dx = i > 0 || a.accumulate_dx;
    backward(a);
  }
}

// y[rows] += scaling * (x[rows] A^T) B for the rows [begin, end): one adapter's rows of a batch that
// shares its base with other adapters (S-LoRA, arXiv:2311.03285). A row's sums do not depend on the rows beside it. No
// gradient.
struct LoraAddArgs {
  Tensor x;  // [N, I]
  Tensor a;  // [R, I] float32 | bfloat16
  Tensor b;  // [R, O], dtype of a: turned, so that a row's sums run along memory
  float scaling = 1;
  int64_t begin = 0, end = 0;
  Tensor y;  // in/out [N, O]
};

// Any number at once, whose rows of y are apart: adapters of any ranks, at any layers. x and y are of one device and dtype.
void lora_adds(const LoraAddArgs* args, int count);
inline void lora_add(const LoraAddArgs& args) { lora_adds(&args, 1); }

// Host memory that what follows an op will read.
struct Soon {
  const void* at;
  int64_t bytes;
};

// linears_forward of layers without adapters of their own, then lora_adds on their y: with the same results, but what adapters
// are read from may come from memory beside the layers' products, and so may what is read `soon`. `adds`: x and y are those of
// the layers, in their order.
void linears_adapted(const LinearForwardArgs* args, int count, const LoraAddArgs* adds, int adds_count,
                     const Soon* soon = nullptr, int soon_count = 0);

// y[rows] = bias + factor * (y[rows] - bias) for the rows [begin, end): after lora_add, what an adapter with magnitudes
// makes of its rows, where factor is m / ||W + scaling * B A|| by rows (DoRA, arXiv:2402.09353, equation 5). No gradient.
struct ScaleColumnsArgs {
  Tensor factor;  // [O] float32
  Tensor bias;    // [O] float32; may be empty
  int64_t begin = 0, end = 0;
  Tensor y;       // in/out [N, O] float32 | bfloat16
};

void scale_columns(const ScaleColumnsArgs& args);

}  // namespace nibble
