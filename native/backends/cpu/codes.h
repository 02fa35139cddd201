// Decodes 4-bit weights: a block's 16 possible values are worked out once, then each code is a look-up
// in a register. So rounding to the weight's dtype and double-quantized constants cost nothing an element.
#pragma once

#include "backends/cpu/widen.h"
#include "ops/code8.h"
#include "ops/weight.h"

namespace nibble::cpu::NIBBLE_ISA {

// The values of the codes of one block.
struct alignas(64) Table {
  float value[16];
};

// kWidth codes from kWidth / 2 bytes, the high nibble first.
static inline Vec look_up(const uint8_t* bytes, const Table& table) {
#if defined(__AVX512F__)
  const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
  const __m128i codes = _mm_unpacklo_epi8(_mm_srli_epi16(low, 4), low);  // only the low 4 bits of a lane count
  return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes), load(table.value));
#elif defined(__AVX2__)
  int32_t word;
  memcpy(&word, bytes, 4);
  const __m128i low = _mm_cvtsi32_si128(word);
  const __m256i codes = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_srli_epi16(low, 4), low));
  const __m256 below = _mm256_permutevar8x32_ps(load(table.value), codes);
  const __m256 above = _mm256_permutevar8x32_ps(load(table.value + 8), codes);
  return _mm256_blendv_ps(below, above, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
#else
  const uint8_t a = bytes[0], b = bytes[1];
  return Vec{table.value[a >> 4], table.value[a & 15], table.value[b >> 4], table.value[b & 15]};
#endif
}

// 2 * kWidth codes from kWidth bytes: those of the high nibbles, which come first, and those of the low
// ones. Half the work of two look_up, for callers who can take even and odd elements apart.
static inline void look_up_apart(const uint8_t* bytes, const Table& table, Vec& high, Vec& low) {
#if defined(__AVX512F__)
  const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  low = _mm512_permutexvar_ps(codes, load(table.value));
  high = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), load(table.value));
#elif defined(__AVX2__)
  const __m256i codes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  const __m256i above = _mm256_srli_epi32(codes, 4);
  const __m256 first = load(table.value), second = load(table.value + 8);
  low = _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, codes), _mm256_permutevar8x32_ps(second, codes),
                         _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
  high = _mm256_blendv_ps(_mm256_permutevar8x32_ps(first, above), _mm256_permutevar8x32_ps(second, above),
                          _mm256_castsi256_ps(_mm256_slli_epi32(above, 28)));
#else
  for (int i = 0; i < kWidth; ++i) {
    high[i] = table.value[bytes[i] >> 4];
    low[i] = table.value[bytes[i] & 15];
  }
#endif
}

// The same values as bfloat16, where they are.
struct alignas(64) Table16 {
  uint16_t value[32];  // twice, so that a look-up need not clear bit 4 of its index
};

static inline Table16 narrow(const Table& table) {
  Table16 t;
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    memcpy(&bits, table.value + i, 4);
    t.value[i] = t.value[16 + i] = uint16_t(bits >> 16);
  }
  return t;
}

#if defined(__AVX512BW__)
// 32 codes from 16 bytes.
static inline __m512i look_up_bf16(const uint8_t* bytes, __m512i table) {
  const __m512i byte = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  const __m512i codes = _mm512_or_si512(_mm512_srli_epi32(byte, 4), _mm512_slli_epi32(byte, 16));
  return _mm512_permutexvar_epi16(codes, table);
}
#endif

class Codes {
 public:
  explicit Codes(const Weight& w)
      : bytes(w.data.u8()),
        book_(dequantize_codebook4(w.type, w.out * w.in)),
        dtype_(w.dtype),
        absmax_(w.absmax.data),
        nested_absmax_(w.nested_absmax.f32()),
        nested_map_(w.nested_map.f32()),
        offset_(w.nested_offset),
        shift_(__builtin_ctzll(uint64_t(w.block_size))) {}

  // Of the decoded values.
  DType dtype() const { return dtype_; }
  int shift() const { return shift_; }  // elements of a block = 1 << shift
  const float* book() const { return book_.value; }

  // absmax of the blocks [first, first + count).
  void constants(int64_t first, int64_t count, float* out) const {
    if (nested_map_ == nullptr) {
      memcpy(out, static_cast<const float*>(absmax_) + first, size_t(count) * 4);
      return;
    }
    for (const int64_t end = first + count; first < end;) {
      const int64_t group_end = (first / kBlock8 + 1) * kBlock8, run = (group_end < end ? group_end : end) - first;
      nested_constants(first, run, out);
      first += run;
      out += run;
    }
  }

  int64_t block_of(int64_t element) const { return element >> shift_; }
  int64_t block_end(int64_t block) const { return (block + 1) << shift_; }

  Table table(int64_t block) const {
    Table t;
    const Vec constant = splat(absmax(block));
    for (int i = 0; i < 16; i += kWidth) store(t.value + i, round_to(dtype_, load(book_.value + i) * constant));
    return t;
  }

  // A value of Table or Table16.
  template <typename T>
  auto at(int64_t element, const T& table) const {
    const uint8_t byte = bytes[element / 2];
    return table.value[element % 2 == 0 ? byte >> 4 : byte & 15];
  }

  float absmax(int64_t block) const {
    if (nested_map_ == nullptr) return static_cast<const float*>(absmax_)[block];
    const uint8_t code = static_cast<const uint8_t*>(absmax_)[block];
    return nested_map_[code] * nested_absmax_[block / kBlock8] + offset_;
  }

  const uint8_t* const bytes;

 private:
  // Of blocks that share a nested absmax.
  void nested_constants(int64_t first, int64_t count, float* out) const {
    const uint8_t* code = static_cast<const uint8_t*>(absmax_) + first;
    const float nested = nested_absmax_[first / kBlock8];
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + kWidth <= count; i += kWidth) {
      const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(code + i)));
      const Vec values = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, codes, nested_map_, 4);
      store(out + i, values * nested + offset_);
    }
#endif
    for (; i < count; ++i) out[i] = nested_map_[code[i]] * nested + offset_;
  }

  Codebook4 book_;
  DType dtype_;
  const void* absmax_;
  const float* nested_absmax_;
  const float* nested_map_;
  float offset_;
  int shift_;
};

}  // namespace nibble::cpu::NIBBLE_ISA
