// Elements of a tensor as vectors of float32, whatever they are stored as, and loops over them. A tail
// shorter than a vector goes through the same arithmetic as the rest, so that a value does not depend
// on where in the tensor it stands.
#pragma once

#include "backends/cpu/lane.h"
#include "backends/cpu/simd.h"
#include "core/dtype.h"
#include "core/tensor.h"

namespace nibble::cpu::NIBBLE_ISA {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

typedef uint16_t HVec __attribute__((vector_size(kWidth * 2)));

static inline Vec load(const Bf16* p) {
  return (Vec)(widen(reinterpret_cast<const uint16_t*>(p)) << 16);
}

// The nearest bfloat16 of each lane is the upper half; NaN stays NaN.
static inline UVec rounded_bits(Vec v) {
  const UVec bits = (UVec)v;
  return v == v ? (bits + 0x7fffu) + ((bits >> 16) & 1u) : bits | 0x400000u;
}

#if defined(__AVX512BF16__)
#define NIBBLE_BESIDE __attribute__((noinline, cold))
#else
#define NIBBLE_BESIDE inline
#endif
// A template, so that no file need use it.
template <typename = void>
NIBBLE_BESIDE void store_exactly(Bf16* p, Vec v) {
  const UVec wide = rounded_bits(v) >> 16;
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16((__m512i)wide));
#elif defined(__AVX2__)
  const __m128i low = _mm256_castsi256_si128((__m256i)wide), high = _mm256_extracti128_si256((__m256i)wide, 1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
#else
  const HVec half = __builtin_convertvector(wide, HVec);
  memcpy(p, &half, sizeof half);
#endif
}

#if defined(__AVX512BF16__)
// Numbers that the instruction that rounds takes for 0.
static inline bool any_subnormal(Vec v) {
  constexpr int kSubnormal = 0x20;
  return _mm512_fpclass_ps_mask((__m512)v, kSubnormal) != 0;
}
#endif

static inline void store(Bf16* p, Vec v) {
#if defined(__AVX512BF16__)
  if (__builtin_expect(any_subnormal(v), 0)) return store_exactly(p, v);
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &half, sizeof half);
#else
  store_exactly(p, v);
#endif
}

static inline Vec load(const F16* p) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p));  // GCC bug 105593 warns without maskz
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  float x[kWidth];
  for (int i = 0; i < kWidth; ++i) x[i] = f16_to_float(p[i].bits);
  return load(x);
#endif
}

static inline void store(F16* p, Vec v) {
  float x[kWidth];
  store(x, v);
  for (int i = 0; i < kWidth; ++i) p[i].bits = float_to_f16(x[i]);
}

// The first n of a vector; the rest is 0, or stays as it is.
template <typename T>
static inline Vec load(const T* p, int n) {
  if (n == kWidth) return load(p);
  T part[kWidth] = {};
  memcpy(part, p, size_t(n) * sizeof(T));
  return load(part);
}

template <typename T>
static inline void store(T* p, Vec v, int n) {
  if (n == kWidth) return store(p, v);
  T part[kWidth];
  store(part, v);
  memcpy(p, part, size_t(n) * sizeof(T));
}

// body(i, n) for each vector of [begin, end): n is kWidth but for the last.
template <typename Body>
__attribute__((always_inline)) static inline void each_vector(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + kWidth <= end; i += kWidth) body(i, kWidth);
  if (i < end) body(i, int(end - i));
}

// 2 kWidth elements at once, in whatever order is quickest: for work that is the same for each. Of bfloat16, those at even
// places and those at odd ones, which a shift or a mask makes float32.
struct Two {
  Vec a, b;
};

static inline Two load_two(const float* p) { return {load(p), load(p + kWidth)}; }
static inline void store_two(float* p, const Two& v) {
  store(p, v.a);
  store(p + kWidth, v.b);
}

static inline Two load_two(const Bf16* p) {
  UVec both;
  memcpy(&both, p, sizeof both);
  return {(Vec)(both << 16), (Vec)(both & 0xffff0000u)};
}

template <typename = void>
NIBBLE_BESIDE void store_two_exactly(Bf16* p, Vec even, Vec odd) {
  const UVec both = rounded_bits(even) >> 16 | (rounded_bits(odd) & 0xffff0000u);
  memcpy(p, &both, sizeof both);
}
static inline void store_two(Bf16* p, const Two& v) {
#if defined(__AVX512BF16__)
  if (__builtin_expect(any_subnormal(v.a) || any_subnormal(v.b), 0)) return store_two_exactly(p, v.a, v.b);
  const Vec both = interleaved(round_two(v.a, v.b));
  memcpy(p, &both, sizeof both);
#else
  store_two_exactly(p, v.a, v.b);
#endif
}

// The first n of them; the rest is 0, or stays as it is.
template <typename T>
static inline Two load_two(const T* p, int n) {
  if (n == 2 * kWidth) return load_two(p);
  T part[2 * kWidth] = {};
  memcpy(part, p, size_t(n) * sizeof(T));
  return load_two(part);
}
template <typename T>
static inline void store_two(T* p, const Two& v, int n) {
  if (n == 2 * kWidth) return store_two(p, v);
  T part[2 * kWidth];
  store_two(part, v);
  memcpy(p, part, size_t(n) * sizeof(T));
}

// body(i, n) for each 2 kWidth elements of [begin, end): n is that many but for the last.
template <typename Body>
__attribute__((always_inline)) static inline void each_two(int64_t begin, int64_t end, Body body) {
  int64_t i = begin;
  for (; i + 2 * kWidth <= end; i += 2 * kWidth) body(i, 2 * kWidth);
  if (i < end) body(i, int(end - i));
}

template <typename T>
static inline T* data_as(const Tensor& t) {
  return static_cast<T*>(t.data);
}

// Calls body(T{}) with the element type of a float32 or bfloat16 tensor.
template <typename Body>
static inline void with_type(DType dtype, Body body) {
  if (dtype == DType::kF32) body(float{});
  if (dtype == DType::kBF16) body(Bf16{});
}

template <typename Body>
static inline void with_any_type(DType dtype, Body body) {
  if (dtype == DType::kF16) return body(F16{});
  with_type(dtype, body);
}

}  // namespace nibble::cpu::NIBBLE_ISA
