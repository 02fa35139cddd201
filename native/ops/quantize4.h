// 4-bit blockwise quantization and double quantization: contract.
// Source: QLoRA (arXiv:2305.14314) section 3. Bit-equal to bitsandbytes' CPU backend.
//
// quantize4: for each block b of `block_size` consecutive elements of the flat input
//   absmax[b] = max |x|,  code = nearest code of x / absmax[b],  two codes a byte, the first one high.
// quantize_absmax (double quantization): offset = mean(absmax), then 8 bits for absmax - offset in
//   blocks of 256 with the signed dynamic map.
// NaN and Inf are coded as bitsandbytes codes them; callers who want them refused use count_nonfinite.
#pragma once

#include "core/tensor.h"
#include "ops/code4.h"

namespace nibble {

struct Quantize4Args {
  Tensor input;   // [n] or any shape, float32 | bfloat16 | float16, read row-major
  Tensor codes;   // out [(n + 1) / 2] uint8
  Tensor absmax;  // out [ceil(n / block_size)] float32
  Code4 type;
  int64_t block_size;  // 32, 64, ..., 4096
};

struct Dequantize4Args {
  Tensor codes;   // [(n + 1) / 2] uint8
  Tensor absmax;  // [ceil(n / block_size)] float32
  Tensor output;  // out, n elements, float32 | bfloat16 | float16: value * absmax rounded once
  Code4 type;
  int64_t block_size;
};

struct QuantizeAbsmaxArgs {
  Tensor absmax;         // [m] float32
  Tensor codes;          // out [m] uint8
  Tensor nested_absmax;  // out [ceil(m / 256)] float32
  Tensor offset;         // out [1] float32: the mean of absmax
};

struct DequantizeAbsmaxArgs {
  Tensor codes;          // [m] uint8
  Tensor nested_absmax;  // [ceil(m / 256)] float32
  Tensor map;            // [256] float32: the file's nested_quant_map
  Tensor offset;         // [1] float32
  Tensor absmax;         // out [m] float32 = map[code] * nested_absmax + offset
};

void quantize4(const Quantize4Args& args);
void dequantize4(const Dequantize4Args& args);
void quantize_absmax(const QuantizeAbsmaxArgs& args);
void dequantize_absmax(const DequantizeAbsmaxArgs& args);

// The same on any host backend: what ops/quantize4.cpp checks, done with the process's threads.
void host_dequantize_absmax(const DequantizeAbsmaxArgs& args);
int64_t host_count_nonfinite(const Tensor& input);

// Mean of m float32 values in the order in which PyTorch's AVX2 kernel sums them on one thread
// (aten SumKernel: 8 lanes x 4 accumulators, cascaded), so that the offset has the same bits.
float mean_like_torch(const float* values, int64_t count);

// The chunks of that order: a chunk of so many steps of 32 values, so many chunks a group, and so on.
int64_t cascade_chunk(int64_t steps);

// Number of NaN and Inf in a float tensor.
int64_t count_nonfinite(const Tensor& input);

}  // namespace nibble
