// Attention over packed documents: what each row sees, once for all heads; then flash attention or tiles. See
// ops/attention.h, attention_rows.h and backends/reference/attention.cpp.
#include "ops/attention.h"

#include "backends/cuda/attention_rows.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

struct Documents {
  const int32_t* starts;
  int64_t count, n, window;
};

// The rows that row i sees begin at first[i]; those that see it end before end[i]. Both never descend. Starts that are
// none, which nobody could refuse before, give rows that see something else, never an address outside.
__global__ void bounds_kernel(Documents d, int32_t* first, int32_t* end) {
  const int64_t i = first_index();
  if (i >= d.n) return;
  int64_t low = 0, high = d.count;  // the document that row i lies in
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (d.starts[middle] <= i) low = middle;
    else high = middle;
  }
  const int64_t start = d.count > 0 ? d.starts[low] : i, next = d.count > 0 ? d.starts[low + 1] : i;
  const int64_t begin = least(most(0, start), i), past = least(d.n, most(i + 1, next));
  first[i] = int32_t(d.window > 0 ? most(begin, i - d.window + 1) : begin);
  end[i] = int32_t(d.window > 0 ? least(past, i + d.window) : past);
}

// delta = d_o . o of a row and head; `lanes` neighbours share one.
template <int N, typename T>
__global__ void delta_kernel(const T* d_o, const T* o, float* delta, int64_t count, int size, int lanes) {
  const int64_t row = first_index() / lanes;
  float sum = 0;
  for (int j = int(first_index() % lanes) * N; row < count && j < size; j += lanes * N) {
    float a[N], b[N];
    load_floats<N>(d_o + row * size + j, a);
    load_floats<N>(o + row * size + j, b);
    NIBBLE_UNROLL
    for (int k = 0; k < N; ++k) sum = fmaf(a[k], b[k], sum);
  }
  for (int mask = lanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(kFullWarp, sum, mask);
  if (row < count && first_index() % lanes == 0) delta[row] = sum;
}

// The bounds of all rows, and what else kernels are given.
class Rows {
 public:
  Rows(const AttentionShape& shape, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& starts)
      : bounds_(2 * q.dim(0)), dtype_(q.dtype) {
    const int64_t n = q.dim(0);
    rows_ = {.q = q.data, .k = k.data, .v = v.data, .first = bounds_.data(), .end = bounds_.data() + n, .n = n,
             .heads = int(shape.heads), .kv_heads = int(shape.kv_heads), .size = int(q.dim(1) / shape.heads),
             .scale = shape.scale};
    const Documents d{.starts = starts.i32(), .count = starts.dim(0) - 1, .n = n, .window = shape.window};
    launch(bounds_kernel, grid_of(blocks_of(n, kThreads)), kThreads, 0, d, bounds_.data(), bounds_.data() + n);
  }
  const AttentionRows& get() const { return rows_; }
  // Whether flash attention takes these and what else it would read and write.
  bool are_for_flash(std::initializer_list<const void*> others) const {
    return dtype_ == DType::kBF16 && rows_.size % 8 == 0 && rows_.size <= kFlashSizeMax && all_aligned(others) &&
           all_aligned({rows_.q, rows_.k, rows_.v});
  }

 private:
  Workspace<int32_t> bounds_;
  DType dtype_;
  AttentionRows rows_;
};

}  // namespace

void attention_forward(const AttentionForwardArgs& a) {
  const Rows rows(a.shape, a.q, a.k, a.v, a.starts);
  if (rows.are_for_flash({a.o.data})) return flash_forward(rows.get(), a.o.data, a.lse.f32());
  tiles_forward(rows.get(), a.q.dtype, a.o.data, a.lse.f32());
}

void attention_backward(const AttentionBackwardArgs& a) {
  const Rows rows(a.shape, a.q, a.k, a.v, a.starts);
  const AttentionRows& r = rows.get();
  const int64_t count = r.n * r.heads;
  const Workspace<float> delta(count);
  with_activation(a.q.dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int kPack = kPackOf<T>;
    with_width<kPack>(r.size % kPack == 0 && all_aligned({a.d_o.data, a.o.data}), [&](auto width) {
      constexpr int N = decltype(width)::value;
      int lanes = 1;
      while (lanes < kWarpThreads && lanes * N < r.size) lanes *= 2;
      launch(delta_kernel<N, T>, grid_of(blocks_of(count * lanes, kThreads)), kThreads, 0, data_as<T>(a.d_o),
             data_as<T>(a.o), delta.data(), count, r.size, lanes);
    });
  });
  const AttentionGradients g{.d_o = a.d_o.data, .lse = a.lse.f32(), .delta = delta.data(), .d_q = a.d_q.data,
                             .d_k = a.d_k.data, .d_v = a.d_v.data};
  if (rows.are_for_flash({g.d_o, g.d_q, g.d_k, g.d_v})) return flash_backward(r, g);
  tiles_backward(r, a.q.dtype, g);
}

}  // namespace nibble::cuda
