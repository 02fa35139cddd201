// Same steps as backends/reference/quantize4.cpp; blocks are shared out among the threads.
#include "ops/quantize4.h"

#include "backends/cpu/codes.h"
#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kBlockMax = 4096;
constexpr int64_t kTaskElements = 1 << 16;

void widen(const Tensor& t, int64_t start, int64_t count, float* out) {
  with_any_type(t.dtype, [&](auto type) {
    const auto* from = data_as<decltype(type)>(t) + start;
    each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE { store(out + i, load(from + i, n), n); });
  });
}

float absmax_of(const float* x, int64_t count) {
  uint32_t top = 0;  // |x| as bits orders as |x| does, and NaN lies above all
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = float_to_bits(x[i]) & 0x7fffffffu;
    top = bits > top ? bits : top;
  }
  return bits_to_float(top);
}

typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Pairs __attribute__((vector_size(16)));
typedef uint8_t PackedBytes __attribute__((vector_size(8)));
typedef uint8_t RankBytes __attribute__((vector_size(kWidth)));

// Ranks of x, as nearest_code4 finds them.
void ranks_of(const Codebook4& book, const float* x, int64_t count, uint8_t* rank) {
  each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec v = load(x + i, n);
    IVec below{};
    for (int t = 0; t < 15; ++t) below += (IVec)(v <= splat(book.threshold[t]));  // -1 where true
    const RankBytes bytes = __builtin_convertvector(below + 15, RankBytes);
    memcpy(rank + i, &bytes, size_t(n));
  });
}

// count is even.
void pack_codes(const Codebook4& book, const uint8_t* rank, int64_t count, uint8_t* out) {
  Bytes table;
  memcpy(&table, book.code_of_rank, sizeof table);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    Bytes ranks;
    memcpy(&ranks, rank + i, sizeof ranks);
    const Pairs codes = (Pairs)__builtin_shuffle(table, ranks);  // the first of two is the low byte
    const PackedBytes packed = __builtin_convertvector(((codes & 15) << 4) | (codes >> 8), PackedBytes);
    memcpy(out + i / 2, &packed, sizeof packed);
  }
  for (; i < count; i += 2) out[i / 2] = pack4(book.code_of_rank[rank[i]], book.code_of_rank[rank[i + 1]]);
}

void quantize_block(const Quantize4Args& a, const Codebook4& book, int64_t start, int64_t n) {
  float x[kBlockMax + 1];
  uint8_t rank[kBlockMax + 1];
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
  ranks_of(book, x, even, rank);
  // [4] pack, even index in the high nibble
  pack_codes(book, rank, even, a.codes.u8() + start / 2);
}

template <typename T>
void dequantize_block(const Codebook4& book, float absmax, const uint8_t* codes, int64_t count, T* out) {
  Table table;
  for (int k = 0; k < 16; ++k) table.value[k] = book.value[k] * absmax;
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, look_up(codes + i / 2, table));
  for (; i < count; ++i) {
    float part[kWidth] = {table.value[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15]};
    store(out + i, load(part), 1);
  }
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
  with_any_type(a.output.dtype, [&](auto type) {
    auto* out = data_as<decltype(type)>(a.output);
    parallel_for((n + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
      const int64_t end = (task + 1) * kTaskElements < n ? (task + 1) * kTaskElements : n;
      for (int64_t i = task * kTaskElements; i < end; i += a.block_size) {
        const int64_t count = end - i < a.block_size ? end - i : a.block_size;
        dequantize_block(book, a.absmax.f32()[i / a.block_size], a.codes.u8() + i / 2, count, out + i);
      }
    });
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
