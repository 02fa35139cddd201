#include "ops/rope.h"

#include "backends/reference/access.h"
#include "backends/reference/ops.h"

namespace nibble::reference {

void rope(const RopeArgs& a) {
  const int64_t half = a.cos.dim(1), width = a.x.dim(1);
  for (int64_t n = 0; n < a.x.dim(0); ++n) {
    const int64_t p = a.positions.i32()[n];
    for (int64_t head = 0; head < width; head += 2 * half) {
      for (int64_t j = 0; j < half; ++j) {
        const int64_t low = n * width + head + j, high = low + half;
        const double c = get(a.cos, p * half + j), s = get(a.sin, p * half + j) * (a.inverse ? -1 : 1);
        const double x = get(a.x, low), y = get(a.x, high);
        put(a.x, low, x * c - y * s);
        put(a.x, high, y * c + x * s);
      }
    }
  }
}

}  // namespace nibble::reference
