// Same steps as backends/reference/quantize4.cpp; blocks are shared out among the threads.
#include "ops/quantize4.h"

#include <cmath>

#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kBlockMax = 4096;
constexpr int64_t kTaskElements = 1 << 16;

void widen(const Tensor& t, int64_t start, int64_t count, float* out) {
  if (t.dtype == DType::kF32) memcpy(out, t.f32() + start, size_t(count) * 4);
  if (t.dtype == DType::kBF16)
    for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(t.u16()[start + i]);
  if (t.dtype == DType::kF16)
    for (int64_t i = 0; i < count; ++i) out[i] = f16_to_float(t.u16()[start + i]);
}

float absmax_of(const float* x, int64_t count) {
  uint32_t top = 0;  // |x| as bits orders as |x| does, and NaN lies above all
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = float_to_bits(x[i]) & 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  return bits_to_float(top);
}

// Ranks of a block; `count` may end past the data, where x is 0.
void codes_of(const Codebook4& book, const float* x, int64_t count, uint8_t* code) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Vec v = load(x + i);
    IVec rank{};
    for (int t = 0; t < 15; ++t) rank += 1 + (IVec)(v <= splat(book.threshold[t]));
    for (int k = 0; k < kWidth; ++k) code[i + k] = book.code_of_rank[rank[k]];
  }
  for (; i < count; ++i) code[i] = nearest_code4(book, x[i]);
}

void quantize_block(const Quantize4Args& a, const Codebook4& book, int64_t start, int64_t n) {
  float x[kBlockMax + 1];
  uint8_t code[kBlockMax + 1];
  const bool full = start + a.block_size <= n;
  const int64_t count = full ? a.block_size : n - start;
  widen(a.input, start, count, x);
  // [1] absmax of the block; NaN wins
  const float absmax = absmax_of(x, count);
  const float floored = absmax < kAbsmaxFloor ? kAbsmaxFloor : absmax;
  a.absmax.f32()[start / a.block_size] = full ? absmax : floored;
  // [2] scale to [-1,1]; the pad of an odd tail is 0
  const float inverse = 1.0f / floored;
  if (full) {
    for (int64_t i = 0; i < count; ++i) x[i] = x[i] * inverse;
  } else {
    for (int64_t i = 0; i < count; ++i) x[i] = x[i] / floored;
    x[count] = 0;
  }
  // [3] nearest code
  const int64_t even = (count + 1) / 2 * 2;
  codes_of(book, x, even, code);
  // [4] pack, even index in the high nibble
  uint8_t* out = a.codes.u8() + start / 2;
  for (int64_t i = 0; i < even; i += 2) out[i / 2] = pack4(code[i], code[i + 1]);
}

}  // namespace

void quantize4(const Quantize4Args& a) {
  const Codebook4& book = codebook4(a.type);
  const int64_t n = a.input.count();
  parallel_for((n + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    const int64_t end = (task + 1) * kTaskElements < n ? (task + 1) * kTaskElements : n;
    for (int64_t start = task * kTaskElements; start < end; start += a.block_size) {
      quantize_block(a, book, start, n);
    }
  });
}

void dequantize4(const Dequantize4Args& a) {
  const int64_t n = a.output.count();
  const Codebook4 book = dequantize_codebook4(a.type, n);
  parallel_for((n + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    const int64_t end = (task + 1) * kTaskElements < n ? (task + 1) * kTaskElements : n;
    for (int64_t i = task * kTaskElements; i < end; ++i) {
      const uint8_t byte = a.codes.u8()[i / 2];
      const float value = book.value[i % 2 == 0 ? byte >> 4 : byte & 15] * a.absmax.f32()[i / a.block_size];
      if (a.output.dtype == DType::kF32) a.output.f32()[i] = value;
      if (a.output.dtype == DType::kBF16) a.output.u16()[i] = float_to_bf16(value);
      if (a.output.dtype == DType::kF16) a.output.u16()[i] = float_to_f16(value);
    }
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
