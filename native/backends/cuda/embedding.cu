// Row lookup, a block a row. See ops/embedding.h.
#include "ops/embedding.h"

#include "backends/cuda/fault.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

struct Rows {
  int64_t rows, width;  // of the table
  const int32_t* ids;
  int* fault;
};

template <int N, typename T, typename Y>
__global__ void forward_kernel(const T* table, Y* y, Rows r) {
  const int64_t n = blockIdx.x, id = checked_index(r.ids[n], r.rows, kEmbeddingIds, r.fault);
  for (int64_t j = threadIdx.x * N; j < r.width; j += blockDim.x * N) {
    float v[N] = {};
    if (id >= 0) load_floats<N>(table + id * r.width + j, v);
    store_floats<N>(y + n * r.width + j, v);
  }
}

// Row m of d_y goes to the table's row.
template <int N, typename Y, typename T>
__device__ void add_row(const Y* d_y, T* to, int64_t width) {
  for (int64_t j = threadIdx.x * N; j < width; j += blockDim.x * N) {
    float sum[N], d[N];
    load_floats<N>(to + j, sum);
    load_floats<N>(d_y + j, d);
    NIBBLE_UNROLL
    for (int k = 0; k < N; ++k) sum[k] += d[k];
    store_floats<N>(to + j, sum);
  }
}

// A block for each row of d_y. The one whose row has its id first adds all rows of that id, in their order, so that sums
// have one order without a sort; the others find that they are not the first, and end.
template <int N, typename Y, typename T>
__global__ void backward_kernel(const Y* d_y, T* d_table, Rows r, int64_t count) {
  __shared__ unsigned same[kThreads / kWarpThreads];  // a bit for each row of a chunk that has the id
  const int64_t n = blockIdx.x, id = checked_index(r.ids[n], r.rows, kEmbeddingIds, r.fault);
  if (id < 0) return;
  const int warp = int(threadIdx.x) / kWarpThreads;
  for (int64_t chunk = 0; chunk < count; chunk += kThreads) {
    const int64_t m = chunk + threadIdx.x;
    const unsigned bits = __ballot_sync(kFullWarp, m < count && r.ids[m] == id);
    if (threadIdx.x % kWarpThreads == 0) same[warp] = bits;
    __syncthreads();
    for (int w = 0; w < kThreads / kWarpThreads; ++w) {
      for (unsigned left = same[w]; left != 0; left &= left - 1) {
        const int64_t row = chunk + w * kWarpThreads + __ffs(int(left)) - 1;
        if (row < n) return;  // all threads of the block, as all read the same
        add_row<N>(d_y + row * r.width, d_table + id * r.width, r.width);
      }
    }
    __syncthreads();
  }
}

Rows rows_of(const Tensor& table, const Tensor& ids) {
  return {.rows = table.dim(0), .width = table.dim(1), .ids = ids.i32(), .fault = fault_word()};
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& a) {
  const int64_t width = a.table.dim(1);
  with_type(a.table.dtype, [&](auto t) {
    with_activation(a.y.dtype, [&](auto y) {
      using T = decltype(t);
      using Y = decltype(y);
      constexpr int kPack = kPackOf<T, Y>;
      with_width<kPack>(width % kPack == 0 && all_aligned({a.table.data, a.y.data}), [&](auto n) {
        constexpr int N = decltype(n)::value;
        launch(forward_kernel<N, T, Y>, grid_of(a.ids.count()), threads_for(width / N), 0, data_as<T>(a.table),
               data_as<Y>(a.y), rows_of(a.table, a.ids));
      });
    });
  });
}

void embedding_backward(const EmbeddingBackwardArgs& a) {
  const int64_t width = a.d_table.dim(1);
  with_activation(a.d_y.dtype, [&](auto y) {
    with_activation(a.d_table.dtype, [&](auto t) {
      using Y = decltype(y);
      using T = decltype(t);
      constexpr int kPack = kPackOf<T, Y>;
      with_width<kPack>(width % kPack == 0 && all_aligned({a.d_y.data, a.d_table.data}), [&](auto n) {
        constexpr int N = decltype(n)::value;
        launch(backward_kernel<N, Y, T>, grid_of(a.ids.count()), kThreads, 0, data_as<Y>(a.d_y), data_as<T>(a.d_table),
               rows_of(a.d_table, a.ids), a.ids.count());
      });
    });
  });
}

}  // namespace nibble::cuda
