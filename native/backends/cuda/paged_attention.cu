// Attention of new tokens over the paged cache, and writing to it; see ops/attention.h.
//
// A warp a query and head: lanes share out the head's columns, four or more positions are on their way at a time. The
// result is a running softmax, so the cache is read once.
#include "ops/attention.h"

#include "backends/cuda/fault.h"
#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

namespace nibble::cuda {

namespace {

struct Cache {
  const void *q, *k, *v;
  void* o;
  const int32_t *table, *sequence, *position;
  CacheShape shape;
  int64_t sequences, columns;  // of the table
  int64_t n, heads, size, window;
  float scale;
  int* fault;
};

constexpr int kColumnsOfLane = int(kHeadSizeMax) / kWarpThreads;

template <typename T>
__global__ void paged_kernel(Cache a) {
  const int64_t at = first_index() / kWarpThreads;
  const int lane = int(threadIdx.x) % kWarpThreads;
  if (at >= a.n * a.heads) return;
  const int64_t n = at / a.heads, kv = (at % a.heads) / (a.heads / a.shape.kv_heads);
  const int64_t s = checked_index(a.sequence[n], a.sequences, kBlockTable, a.fault);
  const int64_t last = checked_index(a.position[n], a.columns * a.shape.page, kBlockTable, a.fault);
  const T *q = static_cast<const T*>(a.q) + at * a.size, *keys = static_cast<const T*>(a.k);
  const T* values = static_cast<const T*>(a.v);
  float query[kColumnsOfLane], sum[kColumnsOfLane];
  const int columns = int(blocks_of(a.size, kWarpThreads));
  for (int c = 0; c < columns; ++c) {
    const int64_t j = c * kWarpThreads + lane;
    query[c] = j < a.size ? to_float(q[j]) * a.scale : 0.0f;
    sum[c] = 0;
  }
  float top = -INFINITY, total = 0;
  for (int64_t t = a.window > 0 && last >= a.window ? last - a.window + 1 : 0; s >= 0 && t <= last; ++t) {
    const int64_t page = checked_index(a.table[s * a.columns + t / a.shape.page], a.shape.pages, kBlockTable, a.fault);
    if (page < 0) break;
    const int64_t row = a.shape.row(page, kv, t % a.shape.page);
    // [1] score
    float dot = 0;
    for (int c = 0; c < columns; ++c) {
      const int64_t j = c * kWarpThreads + lane;
      if (j < a.size) dot = fmaf(query[c], to_float(keys[row + j]), dot);
    }
    dot = warp_sum(dot);
    // [2] softmax over what was seen so far   [3] mean of the values
    const float new_top = fmaxf(top, dot), fade = expf(top - new_top), p = expf(dot - new_top);
    total = total * fade + p;
    top = new_top;
    for (int c = 0; c < columns; ++c) {
      const int64_t j = c * kWarpThreads + lane;
      if (j < a.size) sum[c] = fmaf(p, to_float(values[row + j]), sum[c] * fade);
    }
  }
  for (int c = 0; c < columns; ++c) {
    const int64_t j = c * kWarpThreads + lane;
    if (j < a.size) set(static_cast<T*>(a.o)[at * a.size + j], total > 0 ? sum[c] / total : 0.0f);
  }
}

template <typename T>
__global__ void kv_write_kernel(const T* k, const T* v, const int32_t* slot, T* k_cache, T* v_cache, CacheShape shape,
                                int* fault) {
  const int64_t n = blockIdx.x, to = checked_index(slot[n], shape.slots(), kKvSlot, fault);
  if (to < 0) return;
  const int64_t width = shape.kv_heads * shape.size;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    const int64_t at = shape.row_of_slot(to, j / shape.size) + j % shape.size;
    k_cache[at] = k[n * width + j];
    v_cache[at] = v[n * width + j];
  }
}

}  // namespace

void paged_attention(const PagedAttentionArgs& a) {
  const Cache cache{.q = a.q.data, .k = a.k_cache.data, .v = a.v_cache.data, .o = a.o.data, .table = a.block_table.i32(),
                    .sequence = a.sequence.i32(), .position = a.position.i32(), .shape = cache_shape(a.k_cache),
                    .sequences = a.block_table.dim(0), .columns = a.block_table.dim(1),
                    .n = a.q.dim(0), .heads = a.shape.heads,
                    .size = a.q.dim(1) / a.shape.heads, .window = a.shape.window, .scale = a.shape.scale,
                    .fault = fault_word()};
  constexpr int kBlock = 4 * kWarpThreads;
  with_activation(a.q.dtype, [&](auto t) {
    launch(paged_kernel<decltype(t)>, grid_of(blocks_of(cache.n * cache.heads * kWarpThreads, kBlock)), kBlock, 0,
           cache);
  });
}

void kv_write(const KvWriteArgs& a) {
  with_activation(a.k.dtype, [&](auto t) {
    using T = decltype(t);
    launch(kv_write_kernel<T>, grid_of(a.k.dim(0)), threads_for(a.k.dim(1)), 0, data_as<T>(a.k), data_as<T>(a.v), a.slot.i32(),
           data_as<T>(a.k_cache), data_as<T>(a.v_cache), cache_shape(a.k_cache), fault_word());
  });
}

}  // namespace nibble::cuda
