#include "ops/optimizer.h"

#include <cmath>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"
#include "ops/code8.h"

namespace nibble::reference {

namespace {

void adamw32(const AdamwArgs& a) {
  const double root = std::sqrt(1 - std::pow(a.beta2, double(a.step)));
  const double step_size = a.lr / (1 - std::pow(a.beta1, double(a.step)));
  for (int64_t i = 0; i < a.p.count(); ++i) {
    // [1] moments
    const double g = get(a.g, i) * a.grad_scale;
    const double m = a.beta1 * get(a.m, i) + (1 - a.beta1) * g;
    const double v = a.beta2 * get(a.v, i) + (1 - a.beta2) * g * g;
    put(a.m, i, m);
    put(a.v, i, v);
    // [2] weight decay, then the step
    put(a.p, i, get(a.p, i) * (1 - a.lr * a.weight_decay) - step_size * m / (std::sqrt(v) / root + a.eps));
  }
}

void encode_block(const Codebook8& book, const float* x, int64_t count, uint8_t* code, float* absmax) {
  float top = 0;
  for (int64_t i = 0; i < count; ++i) top = std::fmax(top, std::fabs(x[i]));
  *absmax = top;
  const float inverse = 1.0f / top;
  for (int64_t i = 0; i < count; ++i) code[i] = top == 0 ? uint8_t{0} : nearest_code8(book, x[i] * inverse);
}

// 8-bit state is defined in float32 bits, so the reference is float32 too.
void adamw8_block(const AdamwArgs& a, const AdamwFactors& f, int64_t start, int64_t count) {
  const Codebook8 &signed_book = codebook8_signed(), &unsigned_book = codebook8_unsigned();
  float m[kBlock8], v[kBlock8];
  float &m_absmax = a.m_absmax.f32()[start / kBlock8], &v_absmax = a.v_absmax.f32()[start / kBlock8];
  for (int64_t i = 0; i < count; ++i) {
    // [1] moments, from the decoded ones
    m[i] = signed_book.value[a.m.u8()[start + i]] * m_absmax * f.beta1;
    v[i] = unsigned_book.value[a.v.u8()[start + i]] * v_absmax * f.beta2;
    adamw_moments(f, a.g.f32()[start + i], m[i], v[i]);
    // [2] weight decay, then the step
    float& p = a.p.f32()[start + i];
    p = adamw_parameter(f, p, m[i], v[i]);
  }
  // [3] code the new moments
  encode_block(signed_book, m, count, a.m.u8() + start, &m_absmax);
  encode_block(unsigned_book, v, count, a.v.u8() + start, &v_absmax);
}

}  // namespace

void adamw(const AdamwArgs& a) {
  if (!a.m_absmax) return adamw32(a);
  const AdamwFactors factors = adamw_factors(a);
  const int64_t n = a.p.count();
  for (int64_t start = 0; start < n; start += kBlock8) {
    adamw8_block(a, factors, start, n - start < kBlock8 ? n - start : kBlock8);
  }
}

double sum_squares(const Tensor* all, int count) {
  double total = 0;
  for (const Tensor* x = all; x < all + count; ++x) {
    for (int64_t i = 0; i < x->count(); ++i) total += get(*x, i) * get(*x, i);
  }
  return total;
}

}  // namespace nibble::reference
