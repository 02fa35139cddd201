// 16-bit floats to vectors of float32 and back. Rounding is to nearest, ties to even.
#pragma once

#include "backends/cpu/simd.h"
#include "core/dtype.h"

namespace nibble::cpu::NIBBLE_ISA {

// kWidth values of one dtype as float32; the type of the pointer tells the dtype.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static inline Vec load_wide(const float* p) { return load(p); }

static inline Vec load_wide(const BFloat16* p) {
#if defined(__AVX512F__)
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
#else
  Vec v;
  for (int i = 0; i < kWidth; ++i) v[i] = bf16_to_float(p[i].bits);
  return v;
#endif
}

static inline Vec load_wide(const Float16* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  Vec v;
  for (int i = 0; i < kWidth; ++i) v[i] = f16_to_float(p[i].bits);
  return v;
#endif
}

static inline float widen_one(float x) { return x; }
static inline float widen_one(BFloat16 x) { return bf16_to_float(x.bits); }
static inline float widen_one(Float16 x) { return f16_to_float(x.bits); }

// The nearest bfloat16 of each lane, as float32.
static inline Vec round_bf16(Vec v) {
  const UVec bits = (UVec)v;
  const UVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  const UVec is_nan = (UVec)(v != v);
  return (Vec)((is_nan & (bits | 0x400000u) & 0xffff0000u) | (~is_nan & rounded));
}

// The nearest float16 of each lane, as float32.
static inline Vec round_f16(Vec v) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < kWidth; ++i) v[i] = f16_to_float(float_to_f16(v[i]));
  return v;
#endif
}

static inline Vec round_to(DType dtype, Vec v) {
  if (dtype == DType::kBF16) return round_bf16(v);
  return dtype == DType::kF16 ? round_f16(v) : v;
}

}  // namespace nibble::cpu::NIBBLE_ISA
