// The output layer and its loss, one row at a time; see ops/cross_entropy.h.
#include "ops/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/reference/ops.h"
#include "backends/reference/weight.h"

namespace nibble::reference {

namespace {

void zero_row(const Tensor& t, int64_t n) {
  for (int64_t c = 0; t && c < t.dim(1); ++c) put(t, n * t.dim(1) + c, 0);
}

}  // namespace

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const WeightReader weight(a.w);
  const int64_t rows = a.x.dim(0), vocabulary = a.w.out, width = a.w.in;
  std::vector<double> logit(static_cast<size_t>(vocabulary));
  for (int64_t n = 0; n < rows; ++n) {
    const int32_t label = a.labels.i32()[n];
    put(a.loss, n, 0);
    zero_row(a.d_x, n);
    if (label < 0) continue;
    // [1] logits
    for (int64_t v = 0; v < vocabulary; ++v) {
      double sum = 0;
      for (int64_t c = 0; c < width; ++c) sum += get(a.x, n * width + c) * weight(v, c);
      logit[size_t(v)] = sum;
    }
    // [2] loss
    const double top = *std::max_element(logit.begin(), logit.end());
    double total = 0;
    for (double l : logit) total += std::exp(l - top);
    put(a.loss, n, a.weight_of(n) * (std::log(total) + top - logit[size_t(label)]));
    // [3] gradients of the logits, then of x and W
    const double scale = a.scale * double(a.weight_of(n));
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double d = scale * (std::exp(logit[size_t(v)] - top) / total - (v == label ? 1 : 0));
      logit[size_t(v)] = d;
      const double operand = rounded(d, a.x.dtype);
      for (int64_t c = 0; a.d_w && c < width; ++c) add(a.d_w, v * width + c, operand * get(a.x, n * width + c));
    }
    for (int64_t c = 0; a.d_x && c < width; ++c) {
      double sum = 0;
      for (int64_t v = 0; v < vocabulary; ++v) sum += logit[size_t(v)] * weight(v, c);
      put(a.d_x, n * width + c, sum);
    }
  }
}

}  // namespace nibble::reference
