// The linear layer, element by element; see ops/linear.h.
#include "ops/linear.h"

#include <vector>

#include "backends/reference/ops.h"
#include "backends/reference/weight.h"
#include "ops/philox.h"

namespace nibble::reference {

namespace {

// What dropout multiplies element `index` with: 1 / (1 - p), or 0.
double mask(const Dropout& d, int64_t index) {
  if (d.p == 0) return 1;
  return dropout_keeps(d.seed, d.stream, uint64_t(index), d.p) ? 1.0 / (1.0 - double(d.p)) : 0.0;
}

double dropped(const Tensor& x, const Dropout& d, int64_t index) {
  return rounded(get(x, index) * mask(d, index), x.dtype);
}

// h[n,r] = drop(x)[n,:] . A[r,:], A rounded as an operand beside `dtype`
double project(const Tensor& x, const Tensor& a, const Dropout& d, DType dtype, int64_t n, int64_t r) {
  const int64_t in = x.dim(1);
  double sum = 0;
  for (int64_t i = 0; i < in; ++i) sum += dropped(x, d, n * in + i) * rounded(get(a, r * in + i), dtype);
  return sum;
}

// d_h[n,r] = scaling * d_y[n,:] . B[:,r], for all n and r
std::vector<double> grad_h(const LinearBackwardArgs& a) {
  const int64_t rows = a.d_y.dim(0), out = a.w.out, rank = a.b.dim(1);
  std::vector<double> d_h(size_t(rows * rank));
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t r = 0; r < rank; ++r)
      for (int64_t o = 0; o < out; ++o)
        d_h[size_t(n * rank + r)] +=
            get(a.d_y, n * out + o) * rounded(a.scaling * get(a.b, o * rank + r), a.d_y.dtype);
  for (double& value : d_h) value = rounded(value, a.d_y.dtype);
  return d_h;
}

// d_x += what one layer gives
void backward_input(const LinearBackwardArgs& a, const std::vector<double>& d_h, std::vector<double>& d_x) {
  const WeightReader weight(a.w);
  const int64_t rows = a.d_y.dim(0), out = a.w.out, in = a.w.in, rank = a.a ? a.a.dim(0) : 0;
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t i = 0; i < in; ++i) {
      double sum = 0, adapter = 0;
      for (int64_t o = 0; o < out; ++o) sum += get(a.d_y, n * out + o) * weight(o, i);
      for (int64_t r = 0; r < rank; ++r) adapter += d_h[size_t(n * rank + r)] * rounded(get(a.a, r * in + i), a.d_y.dtype);
      if (rank > 0) sum += mask(a.dropout, n * in + i) * adapter;
      d_x[size_t(n * in + i)] += sum;
    }
  }
}

void backward_adapter(const LinearBackwardArgs& a, const std::vector<double>& d_h) {
  const int64_t rows = a.d_y.dim(0), out = a.w.out, in = a.w.in, rank = a.a.dim(0);
  for (int64_t r = 0; a.d_a && r < rank; ++r) {
    for (int64_t i = 0; i < in; ++i) {
      double sum = 0;
      for (int64_t n = 0; n < rows; ++n) sum += d_h[size_t(n * rank + r)] * dropped(a.x, a.dropout, n * in + i);
      add(a.d_a, r * in + i, sum);
    }
  }
  for (int64_t o = 0; a.d_b && o < out; ++o) {
    for (int64_t r = 0; r < rank; ++r) {
      double sum = 0;
      for (int64_t n = 0; n < rows; ++n)
        sum += get(a.d_y, n * out + o) * rounded(a.scaling * get(a.h, n * rank + r), a.d_y.dtype);
      add(a.d_b, o * rank + r, sum);
    }
  }
}

void backward_weight(const LinearBackwardArgs& a) {
  const int64_t rows = a.d_y.dim(0), out = a.w.out, in = a.w.in;
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; a.d_w && i < in; ++i) {
      double sum = 0;
      for (int64_t n = 0; n < rows; ++n) sum += get(a.d_y, n * out + o) * get(a.x, n * in + i);
      add(a.d_w, o * in + i, sum);
    }
    double column = 0;
    for (int64_t n = 0; n < rows; ++n) column += get(a.d_y, n * out + o);
    if (a.d_bias) add(a.d_bias, o, column);
  }
}

}  // namespace

void linear_forward(const LinearForwardArgs& a) {
  const WeightReader weight(a.w);
  const int64_t rows = a.x.dim(0), out = a.w.out, in = a.w.in, rank = a.a ? a.a.dim(0) : 0;
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t r = 0; r < rank; ++r) put(a.h, n * rank + r, project(a.x, a.a, a.dropout, a.x.dtype, n, r));
    for (int64_t o = 0; o < out; ++o) {
      double sum = a.bias ? get(a.bias, o) : 0;
      for (int64_t i = 0; i < in; ++i) sum += get(a.x, n * in + i) * weight(o, i);
      for (int64_t r = 0; r < rank; ++r)
        sum += rounded(a.scaling * get(a.h, n * rank + r), a.x.dtype) * rounded(get(a.b, o * rank + r), a.x.dtype);
      put(a.y, n * out + o, sum);
    }
  }
}

void linears_backward(const LinearBackwardArgs* args, int count) {
  const Tensor& d_x = args[0].d_x;
  std::vector<double> sums(size_t(d_x ? d_x.count() : 0));
  for (size_t i = 0; i < sums.size() && args[0].accumulate_dx; ++i) sums[i] = get(d_x, int64_t(i));
  for (const LinearBackwardArgs* a = args; a < args + count; ++a) {
    const std::vector<double> d_h = a->a ? grad_h(*a) : std::vector<double>();
    if (d_x) backward_input(*a, d_h, sums);
    if (a->a) backward_adapter(*a, d_h);
    if (a->d_w || a->d_bias) backward_weight(*a);
  }
  for (size_t i = 0; i < sums.size(); ++i) put(d_x, int64_t(i), sums[i]);
}

void lora_add(const LoraAddArgs& a) {
  const int64_t out = a.b.dim(1), rank = a.a.dim(0);
  for (int64_t n = a.begin; n < a.end; ++n) {
    std::vector<double> h;
    for (int64_t r = 0; r < rank; ++r) h.push_back(project(a.x, a.a, {}, DType::kF32, n, r));
    for (int64_t o = 0; o < out; ++o) {
      double sum = 0;
      for (int64_t r = 0; r < rank; ++r) sum += h[size_t(r)] * get(a.b, r * out + o);
      add(a.y, n * out + o, a.scaling * sum);
    }
  }
}

void scale_columns(const ScaleColumnsArgs& a) {
  const int64_t out = a.y.dim(1);
  for (int64_t n = a.begin; n < a.end; ++n)
    for (int64_t o = 0; o < out; ++o) {
      const double bias = a.bias ? get(a.bias, o) : 0;
      put(a.y, n * out + o, bias + get(a.factor, o) * (get(a.y, n * out + o) - bias));
    }
}

}  // namespace nibble::reference
