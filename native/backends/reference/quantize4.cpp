// Quantization is defined in float32 bits, so the reference is float32 too: one element at a time.
#include "ops/quantize4.h"

#include <algorithm>
#include <cmath>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"
#include "ops/code8.h"

namespace nibble::reference {

void quantize4(const Quantize4Args& a) {
  const Codebook4& book = codebook4(a.type);
  const int64_t n = a.input.count();
  for (int64_t start = 0; start < n; start += a.block_size) {
    const bool full = start + a.block_size <= n;
    const int64_t end = full ? start + a.block_size : n;
    // [1] absmax of the block; NaN wins
    float absmax = 0;
    for (int64_t i = start; i < end; ++i) {
      const float v = std::fabs(float(get(a.input, i)));
      if (!(v <= absmax)) absmax = std::isnan(absmax) ? absmax : v;
    }
    const float floored = absmax < kAbsmaxFloor ? kAbsmaxFloor : absmax;
    a.absmax.f32()[start / a.block_size] = full ? absmax : floored;
    const float inverse = 1.0f / floored;
    for (int64_t i = start; i < end; i += 2) {
      uint8_t code[2];
      for (int k = 0; k < 2; ++k) {
        // [2] scale to [-1,1]; the pad of an odd tail is 0
        const float v = i + k < end ? float(get(a.input, i + k)) : 0.0f;
        const float x = i + k >= end ? 0.0f : full ? v * inverse : v / floored;
        // [3] nearest code
        code[k] = nearest_code4(book, x);
      }
      // [4] pack, even index in the high nibble
      a.codes.u8()[i / 2] = pack4(code[0], code[1]);
    }
  }
}

void dequantize4(const Dequantize4Args& a) {
  const int64_t n = a.output.count();
  const Codebook4 book = dequantize_codebook4(a.type, n);
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t byte = a.codes.u8()[i / 2];
    const float value = book.value[i % 2 == 0 ? byte >> 4 : byte & 15];
    put(a.output, i, value * a.absmax.f32()[i / a.block_size]);
  }
}

void quantize_absmax(const QuantizeAbsmaxArgs& a) {
  const int64_t m = a.absmax.count();
  const float* x = a.absmax.f32();
  const float offset = a.offset.f32()[0] = mean_like_torch(x, m);
  const Codebook8& book = codebook8_signed();
  for (int64_t start = 0; start < m; start += kBlock8) {
    const int64_t end = std::min(m, start + kBlock8);
    float absmax = 0;
    for (int64_t i = start; i < end; ++i) absmax = std::max(absmax, std::fabs(x[i] - offset));
    a.nested_absmax.f32()[start / kBlock8] = absmax;
    const float inverse = 1.0f / absmax;
    for (int64_t i = start; i < end; ++i) {
      a.codes.u8()[i] = absmax == 0 ? uint8_t{0} : nearest_code8(book, (x[i] - offset) * inverse);
    }
  }
}

}  // namespace nibble::reference
