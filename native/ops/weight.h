// A linear layer's matrix as it is stored: dense, or 4-bit with block constants in float32 or, double
// quantized, in 8 bits. Kernels decode it tile by tile; nobody holds it whole in 16 or 32 bits.
//
// Value of element e = o * in + i (row-major, FORMATS of bitsandbytes):
//   dense:  data[e]
//   4-bit:  round_to(dtype, value[code e] * absmax[e / block_size]), where a double-quantized
//           absmax[b] = nested_map[absmax8[b]] * nested_absmax[b / 256] + nested_offset, each step in float32
#pragma once

#include "core/tensor.h"
#include "ops/code4.h"

namespace nibble {

struct Weight {
  int64_t out = 0, in = 0;  // O, I
  Tensor data;              // dense: [O, I] float32 | bfloat16 | float16; 4-bit: codes [(O * I + 1) / 2] uint8
  bool quantized = false;
  // The rest is for 4-bit weights only.
  DType dtype = DType::kF32;  // of the matrix before quantization: decoded values are rounded to it
  Code4 type = Code4::kNf4;
  int64_t block_size = 64;
  Tensor absmax;              // [blocks] float32, or uint8 when double quantized
  Tensor nested_absmax;       // [ceil(blocks / 256)] float32; empty unless double quantized
  Tensor nested_map;          // [256] float32; empty unless double quantized
  float nested_offset = 0;
};

// Throws INVALID_ARGUMENT unless every part has the dtype, count and device that the others call for.
void check_weight(const char* op, const Weight& w, Device device);

}  // namespace nibble
