// Row lookup, a block a row. See ops/embedding.h.
#include "ops/embedding.h"

#include "backends/cuda/fault.h"
#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

namespace nibble::cuda {

namespace {

struct Rows {
  int64_t rows, width;  // of the table
  const int32_t* ids;
  int* fault;
};

template <typename T, typename Y>
__global__ void forward_kernel(const T* table, Y* y, Rows r) {
  const int64_t n = blockIdx.x, id = checked_index(r.ids[n], r.rows, kEmbeddingIds, r.fault);
  for (int64_t j = threadIdx.x; j < r.width; j += blockDim.x) {
    set(y[n * r.width + j], id < 0 ? 0.0f : to_float(table[id * r.width + j]));
  }
}

// A thread a column, rows in their order, so that the sums of an id that comes twice have one order.
template <typename Y, typename T>
__global__ void backward_kernel(const Y* d_y, T* d_table, Rows r, int64_t count) {
  const int64_t j = first_index();
  if (j >= r.width) return;
  for (int64_t n = 0; n < count; ++n) {
    const int64_t id = checked_index(r.ids[n], r.rows, kEmbeddingIds, r.fault);
    if (id < 0) continue;
    T& at = d_table[id * r.width + j];
    set(at, to_float(at) + to_float(d_y[n * r.width + j]));
  }
}

Rows rows_of(const Tensor& table, const Tensor& ids) {
  return {.rows = table.dim(0), .width = table.dim(1), .ids = ids.i32(), .fault = fault_word()};
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& a) {
  with_type(a.table.dtype, [&](auto t) {
    with_activation(a.y.dtype, [&](auto y) {
      using T = decltype(t);
      using Y = decltype(y);
      launch(forward_kernel<T, Y>, grid_of(a.ids.count()), threads_for(a.table.dim(1)), 0, data_as<T>(a.table), data_as<Y>(a.y),
             rows_of(a.table, a.ids));
    });
  });
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  with_activation(a.d_y.dtype, [&](auto y) {
    with_activation(a.d_table.dtype, [&](auto t) {
      using Y = decltype(y);
      using T = decltype(t);
      launch(backward_kernel<Y, T>, grid_for(a.d_table.dim(1), 64), 64, 0, data_as<Y>(a.d_y), data_as<T>(a.d_table),
             rows_of(a.d_table, a.ids), a.ids.count());
    });
  });
}

}  // namespace nibble::cuda
