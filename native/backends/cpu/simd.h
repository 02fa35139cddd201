// Vectors of the widest width of one instruction set. Every file of this folder but dispatch.cpp is
// compiled once for each set, in a namespace of its own (NIBBLE_ISA): no code of one set can be
// linked into another. Kernels here use no std:: templates, for the same reason.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef NIBBLE_ISA
#error "compile the files of backends/cpu with -DNIBBLE_ISA=portable|avx2|avx512|avx512_bf16"
#endif

// On what must be part of its caller's loop. On a lambda that each_vector calls twice, both copies are inlined, the first
// with n constant.
#define NIBBLE_INLINE __attribute__((always_inline))

namespace nibble::cpu::NIBBLE_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef int32_t IVec __attribute__((vector_size(kWidth * 4)));
typedef uint32_t UVec __attribute__((vector_size(kWidth * 4)));

static inline Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }
static inline Vec splat(float x) { return x - Vec{}; }

// a * b + c, rounded once where the instruction set can.
static inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// kWidth 16-bit numbers, a lane each.
static inline UVec widen(const uint16_t* p) {
#if defined(__AVX512F__)
  return (UVec)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (UVec)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  typedef uint16_t Half __attribute__((vector_size(kWidth * 2)));
  Half half;
  memcpy(&half, p, sizeof half);
  return __builtin_convertvector(half, UVec);
#endif
}

// Asks memory for the line of the cache at p: into the second level, which can have more of them on their way than the
// first (20 GB/s instead of 11 where rows lie apart, Zen 4). The empty instruction keeps GCC from taking a function that
// does nothing else for one that does nothing: it dropped whole loops of this.
static inline void ask_for(const void* p) {
  __builtin_prefetch(p, 0, 2);
  asm volatile("");
}

// All lanes joined in one: the upper half with the lower one, then the same again.
template <typename Join>
static inline float fold(Vec v, Join join) {
#if defined(__AVX512F__)
  const __m256 half = join(_mm512_castps512_ps256((__m512)v), (__m256)_mm512_extractf64x4_pd((__m512d)v, 1));
#elif defined(__AVX2__)
  const __m256 half = (__m256)v;
#endif
#if defined(__AVX512F__) || defined(__AVX2__)
  __m128 four = join(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  four = join(four, _mm_movehl_ps(four, four));
  return join(four, _mm_shuffle_ps(four, four, 1))[0];
#else
  float s[kWidth];
  store(s, v);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) s[i] = join(s[i], s[i + half]);
  return s[0];
#endif
}

static inline float sum(Vec v) {
  return fold(v, [](auto a, auto b) { return a + b; });
}

}  // namespace nibble::cpu::NIBBLE_ISA
