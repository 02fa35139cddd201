#include "ops/linear.h"

#include "backends/cpu/ops.h"
#include "backends/cpu/plain.h"
#include "ops/philox.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

float mask(const Dropout& d, int64_t index) {
  if (d.p == 0) return 1;
  return dropout_keeps(d.seed, d.stream, uint64_t(index), d.p) ? 1.0f / (1.0f - d.p) : 0.0f;
}

void widen(const Tensor& x, float* out) {
  parallel_for(x.dim(0), [&](int64_t n) {
    const int64_t columns = x.dim(1);
    for (int64_t i = n * columns; i < (n + 1) * columns; ++i) out[i] = element(x, i);
  });
}

void drop(const Tensor& x, const Dropout& d, float* out) {
  parallel_for(x.dim(0), [&](int64_t n) {
    const int64_t columns = x.dim(1);
    for (int64_t i = n * columns; i < (n + 1) * columns; ++i) out[i] = element(x, i) * mask(d, i);
  });
}

void zero(float* p, int64_t count) { memset(p, 0, size_t(count) * 4); }

}  // namespace

void linear_forward(const LinearForwardArgs& a) {
  const int64_t rows = a.x.dim(0), out = a.w.out, in = a.w.in, rank = a.a ? a.a.dim(0) : 0;
  Workspace x(rows * in), w(out * in), y(rows * out);
  widen_weight(a.w, w.data());
  widen(a.x, x.data());
  zero(y.data(), rows * out);
  plain_product(x.data(), in, 1, w.data(), 1, in, y.data(), rows, out, in);
  if (rank > 0) {
    drop(a.x, a.dropout, x.data());
    zero(a.h.f32(), rows * rank);
    plain_product(x.data(), in, 1, a.a.f32(), 1, in, a.h.f32(), rows, rank, in);
    Workspace h(rows * rank);
    for (int64_t i = 0; i < rows * rank; ++i) h.data()[i] = a.scaling * a.h.f32()[i];
    plain_product(h.data(), rank, 1, a.b.f32(), 1, rank, y.data(), rows, out, rank);
  }
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t o = 0; o < out; ++o) put(a.y, n * out + o, y.data()[n * out + o] + (a.bias ? a.bias.f32()[o] : 0));
}

void linear_backward(const LinearBackwardArgs& a) {
  const int64_t rows = a.d_y.dim(0), out = a.w.out, in = a.w.in, rank = a.a ? a.a.dim(0) : 0;
  Workspace d_y(rows * out), d_h(rows * rank), x(rows * in);
  widen(a.d_y, d_y.data());
  zero(d_h.data(), rows * rank);
  if (rank > 0) plain_product(d_y.data(), out, 1, a.b.f32(), rank, 1, d_h.data(), rows, rank, out);
  for (int64_t i = 0; i < rows * rank; ++i) d_h.data()[i] *= a.scaling;
  if (a.d_x) {
    Workspace w(out * in), d_x(rows * in), adapter(rows * in);
    widen_weight(a.w, w.data());
    zero(d_x.data(), rows * in);
    zero(adapter.data(), rows * in);
    plain_product(d_y.data(), out, 1, w.data(), in, 1, d_x.data(), rows, in, out);
    if (rank > 0) plain_product(d_h.data(), rank, 1, a.a.f32(), in, 1, adapter.data(), rows, in, rank);
    for (int64_t i = 0; i < rows * in; ++i) {
      const float sum = d_x.data()[i] + (rank > 0 ? mask(a.dropout, i) * adapter.data()[i] : 0);
      put(a.d_x, i, a.accumulate_dx ? element(a.d_x, i) + sum : sum);
    }
  }
  if (a.d_a) {
    drop(a.x, a.dropout, x.data());
    plain_product(d_h.data(), 1, rank, x.data(), in, 1, a.d_a.f32(), rank, in, rows);
  }
  if (a.d_w) {
    widen(a.x, x.data());
    plain_product(d_y.data(), 1, out, x.data(), in, 1, a.d_w.f32(), out, in, rows);
  }
  for (int64_t n = 0; a.d_bias && n < rows; ++n)
    for (int64_t o = 0; o < out; ++o) a.d_bias.f32()[o] += d_y.data()[n * out + o];
  if (a.d_b) {
    for (int64_t i = 0; i < rows * out; ++i) d_y.data()[i] *= a.scaling;
    plain_product(d_y.data(), 1, out, a.h.f32(), rank, 1, a.d_b.f32(), out, rank, rows);
  }
}

void lora_add(const LoraAddArgs& a) {
  const int64_t out = a.b.dim(0), in = a.a.dim(1), rank = a.a.dim(0);
  Workspace h(rank);
  for (int64_t n = a.begin; n < a.end; ++n) {
    for (int64_t r = 0; r < rank; ++r) {
      h.data()[r] = 0;
      for (int64_t i = 0; i < in; ++i) h.data()[r] += element(a.x, n * in + i) * a.a.f32()[r * in + i];
    }
    for (int64_t o = 0; o < out; ++o) {
      float sum = 0;
      for (int64_t r = 0; r < rank; ++r) sum += h.data()[r] * a.b.f32()[o * rank + r];
      put(a.y, n * out + o, element(a.y, n * out + o) + a.scaling * sum);
    }
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
