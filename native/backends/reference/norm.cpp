#include "ops/norm.h"

#include <cmath>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"

namespace nibble::reference {

namespace {

// s of element i: x + residual as `sum` holds it, rounded to x's dtype.
double summed(const NormForwardArgs& a, int64_t i) {
  if (!a.residual) return get(a.x, i);
  const double s = get(a.x, i) + get(a.residual, i);
  return a.x.dtype == DType::kBF16 ? bf16_to_float(float_to_bf16(float(s))) : double(float(s));
}

}  // namespace

void norm_forward(const NormForwardArgs& a) {
  const int64_t rows = a.x.dim(0), c = a.x.dim(1);
  const bool layer = a.kind == Norm::kLayer;
  for (int64_t n = 0; n < rows; ++n) {
    // [1] statistics of the row
    double mean = 0, squares = 0;
    for (int64_t j = 0; layer && j < c; ++j) mean += summed(a, n * c + j) / double(c);
    for (int64_t j = 0; j < c; ++j) squares += std::pow(summed(a, n * c + j) - mean, 2);
    const double rstd = 1 / std::sqrt(squares / double(c) + a.eps);
    if (layer) put(a.mean, n, mean);
    put(a.rstd, n, rstd);
    // [2] normalize, scale, shift
    for (int64_t j = 0; j < c; ++j) {
      const double s = summed(a, n * c + j);
      if (a.sum) put(a.sum, n * c + j, s);
      put(a.y, n * c + j, get(a.weight, j) * ((s - mean) * rstd) + (a.bias ? get(a.bias, j) : 0));
    }
  }
}

void norm_backward(const NormBackwardArgs& a) {
  const int64_t rows = a.s.dim(0), c = a.s.dim(1);
  const bool layer = a.kind == Norm::kLayer;
  for (int64_t n = 0; n < rows; ++n) {
    const double mean = layer ? get(a.mean, n) : 0, rstd = get(a.rstd, n);
    const auto normalized = [&](int64_t j) { return (get(a.s, n * c + j) - mean) * rstd; };
    const auto scaled = [&](int64_t j) { return get(a.d_y, n * c + j) * get(a.weight, j); };
    // [1] the two means that the statistics' gradients need
    double mean_d = 0, mean_dx = 0;
    for (int64_t j = 0; j < c; ++j) {
      if (layer) mean_d += scaled(j) / double(c);
      mean_dx += scaled(j) * normalized(j) / double(c);
    }
    // [2] gradients of the row and of the parameters
    for (int64_t j = 0; j < c; ++j) {
      const int64_t i = n * c + j;
      const double d_s = (scaled(j) - mean_d - normalized(j) * mean_dx) * rstd;
      if (a.d_weight) add(a.d_weight, j, get(a.d_y, i) * normalized(j));
      if (a.d_bias) add(a.d_bias, j, get(a.d_y, i));
      put(a.d_s, i, d_s + (a.d_sum ? get(a.d_sum, i) : 0));
    }
  }
}

}  // namespace nibble::reference
