// Same steps as backends/reference/optimizer.cpp, in float32; roundings are part of the contract, for
// the bytes of 8-bit state are defined.
#include "ops/optimizer.h"

#include <math.h>

#include "backends/cpu/codes8.h"
#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/parts.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 14;
static_assert(kTaskElements % kBlock8 == 0);

inline Vec square_root(Vec v) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xffff, v);  // GCC bug 105593 warns without maskz
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#else
  float x[kWidth];
  store(x, v);
  for (int i = 0; i < kWidth; ++i) x[i] = sqrtf(x[i]);
  return load(x);
#endif
}

// a * b + c rounded once on every instruction set.
inline Vec fused(Vec a, Vec b, Vec c) {
#if defined(__AVX2__) || defined(__AVX512F__)
  return fma(a, b, c);
#else
  float x[kWidth];
  for (int i = 0; i < kWidth; ++i) x[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return load(x);
#endif
}

// m, v decoded in, new out.
inline void update(const AdamwFactors& f, float* p, const float* g, float* m, float* v, int n) {
  // [1] moments
  const Vec scaled = load(g, n) * splat(f.grad_scale);
  const Vec new_m = fused(scaled, splat(f.gain1), load(m, n) * splat(f.beta1));
  const Vec new_v = fused(scaled * splat(f.gain2), scaled, load(v, n) * splat(f.beta2));
  store(m, new_m, n);
  store(v, new_v, n);
  // [2] weight decay, then the step
  const Vec ratio = new_m / (square_root(new_v) / splat(f.root) + splat(f.eps));
  store(p, load(p, n) * splat(f.decay) - splat(f.step_size) * ratio, n);
}

void decode(const Codebook8& book, const uint8_t* code, float absmax, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = book.value[code[i]] * absmax;
}

void block8(const AdamwArgs& a, const AdamwFactors& f, int64_t start, int64_t count) {
  const Codebook8 &signed_book = codebook8_signed(), &unsigned_book = codebook8_unsigned();
  uint8_t *m_code = a.m.u8() + start, *v_code = a.v.u8() + start;
  float &m_absmax = a.m_absmax.f32()[start / kBlock8], &v_absmax = a.v_absmax.f32()[start / kBlock8];
  float m[kBlock8], v[kBlock8];
  decode(signed_book, m_code, m_absmax, count, m);
  decode(unsigned_book, v_code, v_absmax, count, v);
  each_vector(0, count, [&](int64_t i, int n) NIBBLE_INLINE {
    update(f, a.p.f32() + start + i, a.g.f32() + start + i, m + i, v + i, n);
  });
  // [3] code the new moments
  m_absmax = encode8(signed_book, m, count, m_code);
  v_absmax = encode8(unsigned_book, v, count, v_code);
}

template <typename T>
double sum_of_part(const T* x, int64_t begin, int64_t end) {
  typedef float Half __attribute__((vector_size(kWidth * 2)));
  typedef double Wide __attribute__((vector_size(kWidth * 4)));
  Wide low{}, high{};
  each_vector(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
    const Vec v = load(x + i, n);
    Half half[2];
    memcpy(half, &v, sizeof v);
    const Wide first = __builtin_convertvector(half[0], Wide), second = __builtin_convertvector(half[1], Wide);
    low += first * first;
    high += second * second;
  });
  low += high;
  double total = 0;
  for (int i = 0; i < kWidth / 2; ++i) total += low[i];
  return total;
}

void update_part(const AdamwArgs& a, int64_t begin, int64_t end) {
  const AdamwFactors factors = adamw_factors(a);
  if (a.m_absmax) {
    for (int64_t i = begin; i < end; i += kBlock8) block8(a, factors, i, end - i < kBlock8 ? end - i : kBlock8);
    return;
  }
  each_vector(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
    update(factors, a.p.f32() + i, a.g.f32() + i, a.m.f32() + i, a.v.f32() + i, n);
  });
}

}  // namespace

void adamw(const AdamwArgs* all, int count) {
  Parts parts(kTaskElements);
  for (int i = 0; i < count; ++i) parts.add(all[i].p.count());
  parallel_for(parts.count(), [&](int64_t task) {
    const Part part = parts.at(task);
    update_part(all[part.thing], part.begin, part.end);
  });
}

// Parts are added up in their order.
double sum_squares(const Tensor* all, int count) {
  Parts parts(kTaskElements);
  for (int i = 0; i < count; ++i) parts.add(all[i].count());
  const Workspace space(parts.count() * 2);
  double* sums = reinterpret_cast<double*>(space.data());
  parallel_for(parts.count(), [&](int64_t task) {
    const Part part = parts.at(task);
    const Tensor& x = all[part.thing];
    with_type(x.dtype, [&](auto type) { sums[task] = sum_of_part(data_as<decltype(type)>(x), part.begin, part.end); });
  });
  double total = 0;
  for (int64_t i = 0; i < parts.count(); ++i) total += sums[i];
  return total;
}

}  // namespace nibble::cpu::NIBBLE_ISA
