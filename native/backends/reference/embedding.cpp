#include "ops/embedding.h"

#include "backends/reference/access.h"
#include "backends/reference/ops.h"

namespace nibble::reference {

void embedding_forward(const EmbeddingForwardArgs& a) {
  const int64_t c = a.table.dim(1);
  for (int64_t n = 0; n < a.ids.count(); ++n) {
    for (int64_t j = 0; j < c; ++j) put(a.y, n * c + j, get(a.table, a.ids.i32()[n] * c + j));
  }
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  const int64_t c = a.d_table.dim(1);
  for (int64_t n = 0; n < a.ids.count(); ++n) {
    for (int64_t j = 0; j < c; ++j) add(a.d_table, a.ids.i32()[n] * c + j, get(a.d_y, n * c + j));
  }
}

}  // namespace nibble::reference
