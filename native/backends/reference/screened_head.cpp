// The meaning: all logits, exactly. Codes are those of ops/screened_head.h.
#include "ops/screened_head.h"

#include <algorithm>
#include <cmath>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"

namespace nibble::reference {

void screen_head(const ScreenHeadArgs& a) {
  const int64_t columns = a.w.in, pitch = screen_pitch(columns);
  std::fill(a.screen.codes.u8(), a.screen.codes.u8() + a.screen.codes.count(), uint8_t(128));
  for (int64_t row = 0; row < a.w.out; ++row) {
    double largest = 0, norm = 0, error = 0;
    bool finite = true;
    for (int64_t c = 0; c < columns; ++c) {
      const double v = get(a.w.data, row * columns + c);
      finite = finite && std::isfinite(v);
      largest = std::max(largest, std::abs(v));
      norm += v * v;
    }
    const float scale = finite && largest > 1e-30 ? float(largest / 127) : 0;
    for (int64_t c = 0; c < columns && finite; ++c) {
      const double v = get(a.w.data, row * columns + c);
      uint8_t& code = a.screen.codes.u8()[screen_at(row, c, pitch)];
      if (scale > 0) code = uint8_t(std::floor(v / double(scale) + 128.5));
      const double lost = v - double(scale) * (code - 128);
      error += lost * lost;
    }
    a.screen.scale.f32()[row] = scale;
    a.screen.error.f32()[row] = finite ? float(std::sqrt(error)) : INFINITY;
    a.screen.norm.f32()[row] = finite ? float(std::sqrt(norm)) : 0;
  }
}

void screened_head(const ScreenedHeadArgs& a) { linear_forward({.x = a.x, .w = a.w, .y = a.y}); }

}  // namespace nibble::reference
