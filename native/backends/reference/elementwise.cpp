#include "ops/elementwise.h"

#include <cmath>

#include "backends/reference/access.h"
#include "backends/reference/ops.h"
#include "ops/philox.h"

namespace nibble::reference {

void add(const AddArgs& a) {
  for (int64_t i = 0; i < a.y.count(); ++i) add(a.y, i, get(a.x, i));
}

void scale(const ScaleArgs& a) {
  for (int64_t i = 0; i < a.y.count(); ++i) put(a.y, i, get(a.y, i) * a.factor);
}

void convert(const ConvertArgs& a) {
  for (int64_t i = 0; i < a.y.count(); ++i) put(a.y, i, get(a.x, i));
}

void random_fill(const RandomArgs& a) {
  for (int64_t i = 0; i < a.y.count(); ++i) {
    const Philox4 words = philox4(a.seed, a.stream, uint64_t(i / 4));
    if (!a.normal) {
      put(a.y, i, a.low + (double(a.high) - a.low) * uniform_of(words.value[i % 4]));
      continue;
    }
    // Box-Muller: words (0, 1) give elements 0 and 1 of a group of four, words (2, 3) the others.
    const int pair = int(i % 4) / 2 * 2;
    const double radius = std::sqrt(-2 * std::log(1 - double(uniform_of(words.value[pair]))));
    const double angle = 2 * M_PI * uniform_of(words.value[pair + 1]);
    put(a.y, i, a.low + a.high * radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle)));
  }
}

}  // namespace nibble::reference
