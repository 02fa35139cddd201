// Same steps as backends/reference/quantize4.cpp; blocks are shared out among the threads.
#include "ops/quantize4.h"

#include "backends/cpu/codes.h"
#include "backends/cpu/codes8.h"
#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/ranker.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kBlockMax = 4096;
constexpr int64_t kTaskElements = 1 << 14;

typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Pairs __attribute__((vector_size(16)));
typedef uint8_t PackedBytes __attribute__((vector_size(8)));
typedef uint8_t RankBytes __attribute__((vector_size(kWidth)));

float greatest(IVec bits) {
#if defined(__AVX512F__)
  return bits_to_float(uint32_t(_mm512_reduce_max_epi32((__m512i)bits)));
#else
  int32_t lanes[kWidth], top = 0;
  memcpy(lanes, &bits, sizeof lanes);
  for (int i = 0; i < kWidth; ++i) top = lanes[i] > top ? lanes[i] : top;
  return bits_to_float(uint32_t(top));
#endif
}

// count is even.
void pack_codes(const Codebook4& book, const uint8_t* rank, int64_t count, uint8_t* out) {
  Bytes table;
  memcpy(&table, book.code_of_rank, sizeof table);
  int64_t i = 0;
#if defined(__AVX512BW__)
  const __m512i tables = _mm512_broadcast_i32x4((__m128i)table);
  for (; i + 64 <= count; i += 64) {
    const __m512i codes = _mm512_shuffle_epi8(tables, _mm512_loadu_si512(rank + i));
    const __m512i pairs = _mm512_maddubs_epi16(codes, _mm512_set1_epi16(0x0110));  // 16 * first + second
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i / 2), _mm512_cvtepi16_epi8(pairs));
  }
#endif
  for (; i + 16 <= count; i += 16) {
    Bytes ranks;
    memcpy(&ranks, rank + i, sizeof ranks);
    const Pairs codes = (Pairs)__builtin_shuffle(table, ranks);  // the first of two is the low byte
    const PackedBytes packed = __builtin_convertvector(((codes & 15) << 4) | (codes >> 8), PackedBytes);
    memcpy(out + i / 2, &packed, sizeof packed);
  }
  for (; i < count; i += 2) out[i / 2] = pack4(book.code_of_rank[rank[i]], book.code_of_rank[rank[i + 1]]);
}

template <typename T>
void quantize_block(const Quantize4Args& a, const Codebook4& book, const Ranker& ranker, int64_t start, int64_t n) {
  float x[kBlockMax + kWidth];
  uint8_t rank[kBlockMax + kWidth];
  const bool full = start + a.block_size <= n;
  const int64_t count = full ? a.block_size : n - start;
  const T* from = data_as<T>(a.input) + start;
  // [1] absmax of the block: |x| as bits orders as |x| does, and NaN lies above all
  IVec top{};
  each_vector(0, count, [&](int64_t i, int lanes) NIBBLE_INLINE {
    const Vec v = load(from + i, lanes);  // 0 past the end
    store(x + i, v);
    const IVec bits = (IVec)v & 0x7fffffff;
    top = bits > top ? bits : top;
  });
  const float absmax = greatest(top);
  const float floored = absmax < kAbsmaxFloor ? kAbsmaxFloor : absmax;
  a.absmax.f32()[start / a.block_size] = full ? absmax : floored;
  // [2] scale to [-1,1]
  // [3] nearest code
  const Vec inverse = splat(1.0f / floored), divisor = splat(floored);
  const int64_t even = (count + 1) / 2 * 2;
  const auto put = [&](int64_t i, IVec ranks) NIBBLE_INLINE {
    const RankBytes bytes = __builtin_convertvector(ranks, RankBytes);
    memcpy(rank + i, &bytes, sizeof bytes);
  };
  if (full && ranker.in_cells()) {
    for (int64_t i = 0; i < count; i += kWidth) put(i, ranker.by_cell(load(x + i) * inverse));
  } else {
    for (int64_t i = 0; i < even; i += kWidth)
      put(i, ranker.by_search(full ? load(x + i) * inverse : load(x + i) / divisor));
  }
  if (even > count) rank[count] = uint8_t(ranker.by_search(Vec{})[0]);  // the pad of an odd tail is 0, in a block of NaN too
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
  const Ranker ranker(book);
  const int64_t n = a.input.count();
  with_any_type(a.input.dtype, [&](auto type) {
    parallel_for((n + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
      const int64_t end = (task + 1) * kTaskElements < n ? (task + 1) * kTaskElements : n;
      for (int64_t start = task * kTaskElements; start < end; start += a.block_size) {
        quantize_block<decltype(type)>(a, book, ranker, start, n);
      }
    });
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

void quantize_absmax(const QuantizeAbsmaxArgs& a) {
  constexpr int64_t kTask = 8 * kBlock8;
  const int64_t m = a.absmax.count();
  const float offset = a.offset.f32()[0] = mean_like_torch(a.absmax.f32(), m);
  const Codebook8& book = codebook8_signed();
  parallel_for((m + kTask - 1) / kTask, [&](int64_t task) {
    const int64_t last = (task + 1) * kTask < m ? (task + 1) * kTask : m;
    for (int64_t start = task * kTask; start < last; start += kBlock8) {
      const int64_t count = last - start < kBlock8 ? last - start : kBlock8;
      float distance[kBlock8];
      each_vector(0, count, [&](int64_t i, int lanes) NIBBLE_INLINE {
        store(distance + i, load(a.absmax.f32() + start + i, lanes) - splat(offset), lanes);
      });
      a.nested_absmax.f32()[start / kBlock8] = encode8(book, distance, count, a.codes.u8() + start);
    }
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
