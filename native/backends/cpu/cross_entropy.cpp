#include "ops/cross_entropy.h"

#include <cmath>

#include "backends/cpu/ops.h"
#include "backends/cpu/plain.h"

namespace nibble::cpu::NIBBLE_ISA {

void linear_cross_entropy(const CrossEntropyArgs& a) {
  const int64_t rows = a.x.dim(0), vocabulary = a.w.out, width = a.w.in;
  Workspace w(vocabulary * width), logits(vocabulary), x(width), d_x(width);
  widen_weight(a.w, w.data());
  for (int64_t n = 0; n < rows; ++n) {
    const int32_t label = a.labels.i32()[n];
    a.loss.f32()[n] = 0;
    memset(d_x.data(), 0, size_t(width) * 4);
    if (label >= 0) {
      float* l = logits.data();
      for (int64_t c = 0; c < width; ++c) x.data()[c] = element(a.x, n * width + c);
      memset(l, 0, size_t(vocabulary) * 4);
      plain_product(w.data(), width, 1, x.data(), 1, 1, l, vocabulary, 1, width);
      float top = l[0];
      double sum = 0;
      for (int64_t v = 1; v < vocabulary; ++v) top = l[v] > top ? l[v] : top;
      for (int64_t v = 0; v < vocabulary; ++v) sum += expf(l[v] - top);
      const float total = float(sum);
      a.loss.f32()[n] = logf(total) + top - l[label];
      for (int64_t v = 0; v < vocabulary; ++v) l[v] = a.scale * (expf(l[v] - top) / total - (v == label ? 1 : 0));
      plain_product(l, 0, 1, w.data(), width, 1, d_x.data(), 1, width, vocabulary);
      if (a.d_w) plain_product(l, 1, 0, x.data(), 0, 1, a.d_w.f32(), vocabulary, width, 1);
    }
    for (int64_t c = 0; a.d_x && c < width; ++c) put(a.d_x, n * width + c, d_x.data()[c]);
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
