#include "backends/cpu/matrix.h"

#include "backends/cpu/dropout.h"
#include "backends/cpu/elements.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

// Numbers of a later row are asked for: a row is copied faster than memory notices that another follows.
template <typename T>
void widen_row(const T* from, int64_t count, float* out) {
  constexpr int64_t kLine = 64 / sizeof(T), kAhead = 1024;
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    if (i % kLine == 0) ask_for(from + i + kAhead);
    store(out + i, load_wide(from + i));
  }
  for (; i < count; ++i) out[i] = widen_one(from[i]);
}

// Codes of a later row are asked for, `ahead` bytes on: short pieces far apart are no stream that the processor sees by
// itself.
constexpr int64_t kAheadRows = 16;

// One block's part of a row.
void decode_run(const Codes& codes, const Table& table, int64_t first, int64_t count, float* out) {
  int64_t i = 0;
  if (first % 2 == 1) out[i++] = codes.at(first, table);
  for (; i + kWidth <= count; i += kWidth) store(out + i, look_up(codes.bytes + (first + i) / 2, table));
  for (; i < count; ++i) out[i] = codes.at(first + i, table);
}

// The same as bfloat16.
void decode_run(const Codes& codes, const Table& floats, int64_t first, int64_t count, uint16_t* out) {
  const Table16 table = narrow(floats);
  int64_t i = 0;
  if (first % 2 == 1) out[i++] = codes.at(first, table);
#if defined(__AVX512BW__)
  const __m512i values = _mm512_load_si512(table.value);
  for (; i + 32 <= count; i += 32) _mm512_storeu_si512(out + i, look_up_bf16(codes.bytes + (first + i) / 2, values));
#endif
  for (; i < count; ++i) out[i] = codes.at(first + i, table);
}

#if defined(__AVX512BF16__)
constexpr int64_t kLookedUp = 32;  // codes at once

// The same for whole vectors of codes: a block's table stays in a register.
void decode_vectors(const Codes& codes, int64_t first, int64_t count, int64_t ahead, uint16_t* out) {
  const __m512 book = _mm512_loadu_ps(codes.book());
  for (const int64_t end = first + count; first < end;) {
    const int64_t block = codes.block_of(first), block_end = codes.block_end(block), stop = block_end < end ? block_end : end;
    const __m256i half = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(book, _mm512_set1_ps(codes.absmax(block))));
    const __m512i values = _mm512_broadcast_i64x4(half);
    __builtin_prefetch(codes.bytes + first / 2 + ahead);
    for (; first < stop; first += kLookedUp, out += kLookedUp)
      _mm512_storeu_si512(out, look_up_bf16(codes.bytes + first / 2, values));
  }
}
#endif

template <typename T>
void decode_row(const Codes& codes, int64_t first, int64_t count, int64_t ahead, T* out) {
  for (const int64_t end = first + count; first < end;) {
    const int64_t block = codes.block_of(first), block_end = codes.block_end(block);
    const int64_t run = (block_end < end ? block_end : end) - first;
    __builtin_prefetch(codes.bytes + first / 2 + ahead);
    decode_run(codes, codes.table(block), first, run, out);
    first += run;
    out += run;
  }
}

}  // namespace

void fetch(const Matrix& m, int64_t row, int64_t column, int64_t count, float* out) {
  const int64_t first = row * m.columns + column;
  if (m.codes != nullptr) {
    decode_row(*m.codes, first, count, kAheadRows * m.columns / 2, out);
  } else if (m.dtype == DType::kF32) {
    memcpy(out, static_cast<const float*>(m.data) + first, size_t(count) * 4);
  } else if (m.dtype == DType::kBF16) {
    widen_row(static_cast<const BFloat16*>(m.data) + first, count, out);
  } else {
    widen_row(static_cast<const Float16*>(m.data) + first, count, out);
  }
  if (m.factor != 1)
    for (int64_t i = 0; i < count; ++i) out[i] *= m.factor;
  if (m.dropout != nullptr) apply_dropout(*m.dropout, first, count, out);
  if (m.rounded)
    each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE { store(out + i, round_bf16(load(out + i, n)), n); });
}

void fetch_bf16(const Matrix& m, int64_t row, int64_t column, int64_t count, uint16_t* out) {
  const int64_t first = row * m.columns + column;
  if (!m.is_unchanged() || (m.codes == nullptr && m.dtype != DType::kBF16)) {
    constexpr int64_t kPart = 256;
    float part[kPart];
    for (int64_t i = 0; i < count; i += kPart) {
      const int64_t of_part = i + kPart < count ? kPart : count - i;
      fetch(m, row, column + i, of_part, part);
      each_vector(0, of_part, [&](int64_t j, int n) NIBBLE_INLINE { store(reinterpret_cast<Bf16*>(out + i) + j, load(part + j, n), n); });
    }
  } else if (m.codes != nullptr) {
#if defined(__AVX512BF16__)
    if (first % kLookedUp == 0 && count % kLookedUp == 0) return decode_vectors(*m.codes, first, count, kAheadRows * m.columns / 2, out);
#endif
    decode_row(*m.codes, first, count, kAheadRows * m.columns / 2, out);
  } else {
    memcpy(out, static_cast<const uint16_t*>(m.data) + first, size_t(count) * 2);
  }
}

void put_row(const Tensor& t, int64_t first, int64_t count, const float* values, bool add) {
  if (t.dtype == DType::kF32) {
    float* to = t.f32() + first;
    for (int64_t i = 0; i < count; ++i) to[i] = add ? to[i] + values[i] : values[i];
    return;
  }
  Bf16* to = data_as<Bf16>(t) + first;
  each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec v = load(values + i, n);
    store(to + i, add ? load(to + i, n) + v : v, n);
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
