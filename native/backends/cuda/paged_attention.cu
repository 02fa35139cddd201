// Attention of new tokens over the paged cache, and writing to it; see ops/attention.h.
//
// A block has a query, a key/value head with up to kHeads of the heads that read it, and a part of the positions, so that
// one sequence fills a device; a second launch adds the parts. Parts are of one length whatever else is in the batch, and
// so is a sequence's result. In a block, neighbouring lanes share out a row of the cache by 16 bytes, and each such group
// goes over positions of its own with a running softmax; the groups are added at the end. The cache is read once for all
// heads of a block, two positions of a group on their way at a time. Prompts in bfloat16 are flash_paged.cu's: rows of a
// sequence that follow each other share what is read.
#include "ops/attention.h"

#include "backends/cuda/attention_rows.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"
#include "backends/cuda/paged_rows.h"

namespace nibble::cuda {

namespace {

constexpr int kBlock = 128;
constexpr int64_t kPartMin = 256;  // positions of a part, at least
constexpr int64_t kPartsMax = 64;  // of a query
constexpr int64_t kPartialMax = 4 << 20;  // floats of parts at a time; more queries are several launches

struct Paged : PagedRows {
  int64_t first;  // query of the grid's first block
  int64_t part, parts;
  bool short_runs_only;
  float* partial;  // of a query, head and part: the sum of values, then the softmax's top and total

  __device__ bool leaves_out(int64_t n_) const { return short_runs_only && in_long_run(sequence, n, n_); }
  __device__ float* partial_of(int64_t query, int64_t head, int64_t at) const {
    return partial + ((query * heads + head) * parts + at) * (size + 2);
  }
};

// A group of lanes' running softmax for kHeads heads; a lane has kPacks packs of N columns.
template <int N, int kPacks, int kHeads>
struct Running {
  float query[kHeads][kPacks][N], sum[kHeads][kPacks][N], top[kHeads], total[kHeads];

  // One position: [1] score   [2] softmax over what was seen so far   [3] mean of the values
  template <typename T>
  __device__ void add(const Pack<T, N> (&k)[kPacks], const Pack<T, N> (&v)[kPacks], int lanes, bool seen) {
    float key[kPacks][N], value[kPacks][N];
    NIBBLE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      to_floats(k[p], key[p]);
      to_floats(v[p], value[p]);
    }
    NIBBLE_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      float s = 0;
      NIBBLE_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        NIBBLE_UNROLL
        for (int i = 0; i < N; ++i) s = fmaf(query[h][p][i], key[p][i], s);
      }
      for (int mask = lanes / 2; mask > 0; mask /= 2) s += __shfl_xor_sync(kFullWarp, s, mask);
      if (!seen) continue;
      const float high = fmaxf(top[h], s), fade = expf(top[h] - high), weight = expf(s - high);
      total[h] = fmaf(total[h], fade, weight);
      top[h] = high;
      NIBBLE_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        NIBBLE_UNROLL
        for (int i = 0; i < N; ++i) sum[h][p][i] = fmaf(weight, value[p][i], sum[h][p][i] * fade);
      }
    }
  }
};

// Adds the groups' results, which lie in shared memory as a Paged's partial does, for each head; the result goes there.
__device__ inline void add_groups(const float* groups, int count, int stride, int64_t size, float* to) {
  float top = -INFINITY, total = 0;
  for (int g = 0; g < count; ++g) top = fmaxf(top, groups[g * stride + size]);
  const float base = top == -INFINITY ? 0.0f : top;
  for (int g = 0; g < count; ++g) total += expf(groups[g * stride + size] - base) * groups[g * stride + size + 1];
  for (int64_t j = threadIdx.x; j < size; j += blockDim.x) {
    float sum = 0;
    for (int g = 0; g < count; ++g) sum = fmaf(expf(groups[g * stride + size] - base), groups[g * stride + j], sum);
    to[j] = sum;
  }
  if (threadIdx.x > 0) return;
  to[size] = top;
  to[size + 1] = total;
}

// lanes: of a group, a power of two that has the columns of a head. Grid: part, key/value head and its heads by kHeads,
// query.
template <typename T, int N, int kPacks, int kHeads>
__global__ void __launch_bounds__(kBlock) part_kernel(Paged a, int lanes) {
  const int chunks = int(blocks_of(a.group, kHeads)), size = int(a.size);
  const int64_t n = a.first + blockIdx.z, kv = blockIdx.y / chunks, head = kv * a.group + blockIdx.y % chunks * kHeads;
  const int heads = int(least(kHeads, (kv + 1) * a.group - head)), stride = size + 2;
  if (a.leaves_out(n)) return;
  const int64_t s = checked_index(a.sequence[n], a.sequences, kBlockTable, a.fault);
  const int64_t last = checked_index(a.position[n], a.columns * a.shape.page, kBlockTable, a.fault);
  const int lane = int(threadIdx.x) % lanes, group = int(threadIdx.x) / lanes, groups = kBlock / lanes;
  Running<N, kPacks, kHeads> r = {};
  NIBBLE_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    r.top[h] = -INFINITY;
    NIBBLE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      const int j = (p * lanes + lane) * N;
      if (h >= heads || j >= size) continue;
      load_floats<N>(static_cast<const T*>(a.q) + (n * a.heads + head + h) * size + j, r.query[h][p]);
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) r.query[h][p][i] *= a.scale;
    }
  }
  const int64_t begin = most(int64_t(blockIdx.x) * a.part, a.window > 0 ? last - a.window + 1 : 0);
  const int64_t end = s < 0 ? begin : least(last + 1, int64_t(blockIdx.x + 1) * a.part);
  constexpr int kAhead = 2;
  // All groups of a warp go on together, as they exchange by shuffles; those that are done see nothing.
  for (int64_t t = begin; t < end; t += kAhead * groups) {
    Pack<T, N> k[kAhead][kPacks] = {}, v[kAhead][kPacks] = {};
    bool seen[kAhead];
    NIBBLE_UNROLL
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int64_t at = t + ahead * groups + group, row = at < end ? a.row_of(s, kv, int(at)) : -1;
      seen[ahead] = row >= 0;
      NIBBLE_UNROLL
      for (int p = 0; p < kPacks; ++p) {
        const int j = (p * lanes + lane) * N;
        if (row < 0 || j >= size) continue;
        k[ahead][p] = load_pack<N>(static_cast<const T*>(a.k) + row + j);
        v[ahead][p] = load_pack<N>(static_cast<const T*>(a.v) + row + j);
      }
    }
    NIBBLE_UNROLL
    for (int ahead = 0; ahead < kAhead; ++ahead) r.add(k[ahead], v[ahead], lanes, seen[ahead]);
  }
  float* const shared = dynamic_shared<float>();  // [kHeads][groups][size + 2]
  NIBBLE_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    float* const to = shared + (h * groups + group) * stride;
    NIBBLE_UNROLL
    for (int p = 0; p < kPacks; ++p) {
      NIBBLE_UNROLL
      for (int i = 0; i < N; ++i) {
        const int j = (p * lanes + lane) * N + i;
        if (j < size) to[j] = r.sum[h][p][i];
      }
    }
    if (lane > 0) continue;
    to[size] = r.top[h];
    to[size + 1] = r.total[h];
  }
  __syncthreads();
  for (int h = 0; h < heads; ++h) {
    add_groups(shared + h * groups * stride, groups, stride, size, a.partial_of(blockIdx.z, head + h, blockIdx.x));
  }
}

// Adds the parts. A block a query and head.
template <typename T>
__global__ void add_parts_kernel(Paged a) {
  const int64_t head = blockIdx.x, n = a.first + blockIdx.y, stride = a.size + 2;
  if (a.leaves_out(n)) return;
  const float* const parts = a.partial_of(blockIdx.y, head, 0);
  float top = -INFINITY, total = 0;
  for (int64_t p = 0; p < a.parts; ++p) top = fmaxf(top, parts[p * stride + a.size]);
  const float base = top == -INFINITY ? 0.0f : top;
  for (int64_t p = 0; p < a.parts; ++p) total += expf(parts[p * stride + a.size] - base) * parts[p * stride + a.size + 1];
  for (int64_t j = threadIdx.x; j < a.size; j += blockDim.x) {
    float sum = 0;
    for (int64_t p = 0; p < a.parts; ++p) {
      const float weight = expf(parts[p * stride + a.size] - base);
      if (weight > 0) sum = fmaf(weight, parts[p * stride + j], sum);
    }
    set(static_cast<T*>(a.o)[(n * a.heads + head) * a.size + j], total > 0 ? sum / total : 0.0f);
  }
}

template <typename T, int N, int kPacks, int kHeads>
void run(Paged a, int64_t queries, int lanes) {
  const int64_t chunks = a.shape.kv_heads * blocks_of(a.group, kHeads), of_query = a.heads * a.parts * (a.size + 2);
  const int64_t at_once = least(queries, least(65535, most(1, kPartialMax / of_query)));
  const Workspace<float> partial(at_once * of_query);
  a.partial = partial.data();
  const int64_t shared = kHeads * (kBlock / lanes) * (a.size + 2) * int64_t(sizeof(float));
  for (a.first = 0; a.first < queries; a.first += at_once) {
    const int64_t count = least(at_once, queries - a.first);
    launch(part_kernel<T, N, kPacks, kHeads>, grid_of(a.parts, chunks, count), kBlock, shared, a, lanes);
    launch(add_parts_kernel<T>, grid_of(a.heads, count), threads_for(a.size), 0, a);
  }
}

template <typename T, int N, int kPacks>
void with_heads(const Paged& a, int64_t queries, int lanes) {
  if (a.group == 1) return run<T, N, kPacks, 1>(a, queries, lanes);
  run<T, N, kPacks, 4>(a, queries, lanes);
}

// Lanes for a head: 16 bytes each where that is possible, up to a warp of them, then more packs of a lane.
template <typename T>
void with_lanes(const Paged& a, int64_t queries) {
  constexpr int N = kPackOf<T>;
  const bool packs = a.size % N == 0 && all_aligned({a.q, a.k, a.v});
  const int width = packs ? N : 1;
  int lanes = 1;
  while (lanes < kWarpThreads && lanes * width < a.size) lanes *= 2;
  if (!packs) return with_heads<T, 1, int(kHeadSizeMax) / kWarpThreads>(a, queries, lanes);
  if (lanes * width >= a.size) return with_heads<T, N, 1>(a, queries, lanes);
  with_heads<T, N, int(kHeadSizeMax) / (N * kWarpThreads)>(a, queries, lanes);
}

// To row slot[n] of the cache. A block a token, a thread 16 bytes of a head's row.
template <int N, typename T>
__global__ void kv_write_kernel(const T* k, const T* v, const int32_t* slot, T* k_cache, T* v_cache, CacheShape shape,
                                int* fault) {
  const int64_t n = blockIdx.x, to = checked_index(slot[n], shape.slots(), kKvSlot, fault);
  if (to < 0) return;
  const int width = int(shape.kv_heads * shape.size), size = int(shape.size);
  for (int j = int(threadIdx.x) * N; j < width; j += int(blockDim.x) * N) {
    const int64_t at = shape.row_of_slot(to, j / size) + j % size, from = n * width + j;
    store_pack(k_cache + at, load_pack<N>(k + from));
    store_pack(v_cache + at, load_pack<N>(v + from));
  }
}

}  // namespace

void paged_attention(const PagedAttentionArgs& a) {
  const int64_t positions = a.block_table.dim(1) * cache_shape(a.k_cache).page;
  Paged paged{{.q = a.q.data, .k = a.k_cache.data, .v = a.v_cache.data, .o = a.o.data, .table = a.block_table.i32(),
               .sequence = a.sequence.i32(), .position = a.position.i32(), .shape = cache_shape(a.k_cache), .n = a.q.dim(0),
               .sequences = a.block_table.dim(0), .columns = a.block_table.dim(1), .heads = a.shape.heads,
               .group = a.shape.heads / a.shape.kv_heads, .size = a.q.dim(1) / a.shape.heads, .window = a.shape.window,
               .scale = a.shape.scale, .fault = fault_word()}};
  paged.part = most(kPartMin, blocks_of(positions, kPartsMax));
  paged.parts = most(1, blocks_of(positions, paged.part));
  if (paged.n == 0) return;
  // As many rows as sequences: each is alone, as when all decode.
  paged.short_runs_only = paged.n > paged.sequences && a.q.dtype == DType::kBF16 && paged.size % 8 == 0 &&
                          paged.size <= kFlashSizeMax && all_aligned({paged.q, paged.k, paged.v, paged.o});
  if (paged.short_runs_only) flash_paged(paged);
  with_activation(a.q.dtype, [&](auto t) { with_lanes<decltype(t)>(paged, a.q.dim(0)); });
}

void kv_write(const KvWriteArgs& a) {
  const CacheShape shape = cache_shape(a.k_cache);
  with_activation(a.k.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int kPack = kPackOf<T>;
    const bool packs = shape.size % kPack == 0 && all_aligned({a.k.data, a.v.data, a.k_cache.data, a.v_cache.data});
    with_width<kPack>(packs, [&](auto width) {
      constexpr int N = decltype(width)::value;
      launch(kv_write_kernel<N, T>, grid_of(a.k.dim(0)), threads_for(a.k.dim(1) / N), 0, data_as<T>(a.k), data_as<T>(a.v),
             a.slot.i32(), data_as<T>(a.k_cache), data_as<T>(a.v_cache), shape, fault_word());
    });
  });
}

}  // namespace nibble::cuda
