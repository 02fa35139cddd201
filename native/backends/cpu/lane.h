// What a 32-bit lane of an operand holds: one float32, or two bfloat16 numbers that follow each other along the
// depth of a product, which AVX-512 BF16 multiplies and adds at the cost of one.
#pragma once

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

enum class Lane { kFloat, kPair };

#if defined(__AVX512BF16__)
constexpr bool kMultipliesPairs = true;
#else
constexpr bool kMultipliesPairs = false;
#endif

constexpr int64_t elements_of(Lane lane) { return lane == Lane::kPair ? 2 : 1; }
constexpr int64_t lanes_of(Lane lane, int64_t elements) { return (elements + elements_of(lane) - 1) / elements_of(lane); }

// a * b + c of each lane; of a pair, both products are added.
template <Lane LANE>
static inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512BF16__)
  if constexpr (LANE == Lane::kPair) return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#endif
  return fma(a, b, c);
}

// The same with one factor from memory for all lanes. GCC copies it to a register of its own first, which costs a third
// of a product (Zen 4): worth it only where several products share it.
template <Lane LANE>
static inline Vec multiply_add(const float* a, Vec b, Vec c) {
#if defined(__AVX512BF16__)
  if constexpr (LANE == Lane::kPair) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*a));
    return c;
  }
#endif
  return fma(splat(*a), b, c);
}

// Pairs of two rows of bfloat16 numbers.
static inline Vec interleave(const uint16_t* even, const uint16_t* odd) { return (Vec)(widen(even) | widen(odd) << 16); }

// The same for twice as many.
static inline void interleave(const uint16_t* even, const uint16_t* odd, Vec& first, Vec& second) {
#if defined(__AVX512BW__)
  alignas(64) static constexpr uint16_t kFirst[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i e = _mm512_loadu_si512(even), o = _mm512_loadu_si512(odd), index = _mm512_load_si512(kFirst);
  first = (Vec)_mm512_permutex2var_epi16(e, index, o);
  second = (Vec)_mm512_permutex2var_epi16(e, _mm512_or_si512(index, _mm512_set1_epi16(16)), o);
#else
  first = interleave(even, odd);
  second = interleave(even + kWidth, odd + kWidth);
#endif
}

#if defined(__AVX512BF16__)
// kWidth numbers rounded to bfloat16; subnormal ones become 0.
static inline void store_rounded(uint16_t* p, Vec v) {
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &half, sizeof half);
}

// Two rows of float32 numbers rounded alike: the first half of the vector, and the second.
static inline Vec round_two(Vec even, Vec odd) { return (Vec)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even); }

// The halves as pairs.
static inline Vec interleaved(Vec halves) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (Vec)_mm512_permutexvar_epi16(_mm512_load_si512(kOrder), (__m512i)halves);
}
#endif

}  // namespace nibble::cpu::NIBBLE_ISA
