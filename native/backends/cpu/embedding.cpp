// Row lookup. The backward pass shares out columns, so that rows with one id are added in order.
#include "ops/embedding.h"

#include "backends/cpu/elements.h"
#include "backends/cpu/ops.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskElements = 1 << 14;
constexpr int64_t kTaskColumns = 128;

template <typename From, typename To>
void forward(const EmbeddingForwardArgs& a) {
  const int64_t rows = a.ids.count(), c = a.table.dim(1);
  const int64_t per_task = c >= kTaskElements ? 1 : kTaskElements / c;
  const From* table = data_as<From>(a.table);
  To* y = data_as<To>(a.y);
  parallel_for((rows + per_task - 1) / per_task, [&](int64_t task) {
    const int64_t end = (task + 1) * per_task < rows ? (task + 1) * per_task : rows;
    for (int64_t row = task * per_task; row < end; ++row) {
      const From* from = table + a.ids.i32()[row] * c;
      each_vector(0, c, [&](int64_t i, int n) NIBBLE_INLINE { store(y + row * c + i, load(from + i, n), n); });
    }
  });
}

template <typename From, typename To>
void backward(const EmbeddingBackwardArgs& a) {
  const int64_t rows = a.ids.count(), c = a.d_table.dim(1);
  const From* d_y = data_as<From>(a.d_y);
  To* d_table = data_as<To>(a.d_table);
  parallel_for((c + kTaskColumns - 1) / kTaskColumns, [&](int64_t task) {
    const int64_t begin = task * kTaskColumns, end = begin + kTaskColumns < c ? begin + kTaskColumns : c;
    for (int64_t row = 0; row < rows; ++row) {
      To* into = d_table + a.ids.i32()[row] * c;
      each_vector(begin, end, [&](int64_t i, int n) NIBBLE_INLINE {
        store(into + i, load(into + i, n) + load(d_y + row * c + i, n), n);
      });
    }
  });
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& a) {
  if (a.y.count() == 0) return;
  with_any_type(a.table.dtype, [&](auto from) {
    with_type(a.y.dtype, [&](auto to) { forward<decltype(from), decltype(to)>(a); });
  });
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  with_type(a.d_y.dtype, [&](auto from) {
    with_type(a.d_table.dtype, [&](auto to) { backward<decltype(from), decltype(to)>(a); });
  });
}

}  // namespace nibble::cpu::NIBBLE_ISA
