#include "ops/embedding.h"

#include "ops/backend.h"
#include "ops/checks.h"

namespace nibble {

namespace {

void check(const char* op, const char* table_name, const Tensor& table, const Tensor& ids, const char* rows_name,
           const Tensor& rows) {
  require(table.rank == 2, op, table_name, ": expected shape [V,C], got ", table);
  check_float32_or_bf16(op, rows_name, rows);
  check_device(op, rows_name, rows, table.device);
  check_shape(op, rows_name, rows, {ids.count(), table.dim(1)});
  check_indices(op, "ids", ids, table.dim(0), table.device);
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& a) {
  const char* op = "embedding_forward";
  check_float16_or_32(op, "table", a.table);
  check(op, "table", a.table, a.ids, "y", a.y);
  backend_of(a.table.device).embedding_forward(a);
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  const char* op = "embedding_backward";
  check_float32_or_bf16(op, "d_table", a.d_table);
  check(op, "d_table", a.d_table, a.ids, "d_y", a.d_y);
  backend_of(a.d_table.device).embedding_backward(a);
}

}  // namespace nibble
