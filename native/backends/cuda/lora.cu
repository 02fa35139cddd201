// Adapters on rows of a batch that share its base: any number of them, of any ranks and layers, in two launches
// (Punica, arXiv:2310.18547). See ops/linear.h: nothing is rounded on the way.
//
// [1] h = x A^T, a warp an element   [2] y += scaling * h B, a thread 16 bytes of y or B, whichever are the wider elements
#include "ops/linear.h"

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

constexpr int kSegmentsMax = 32;  // of a launch: they travel as its arguments

struct Segment {
  const void* x;  // its first row
  void* y;
  const void *a, *b;
  DType adapter;  // of a and b
  float* h;
  int64_t rows, in, out, rank;
  float scaling;
  bool packs_in, packs_out;  // whether rows of x and A, and of y and B, lie as packs do
};

struct Segments {
  Segment of[kSegmentsMax];
};

// Calls body with an element of the adapter's type and the width of the segment's packs.
template <typename T, typename Body>
__device__ inline void with_adapter(const Segment& s, bool packs, Body body) {
  if (s.adapter == DType::kF32) return packs ? body(float{}, Width<kPackOf<T, float>>{}) : body(float{}, Width<1>{});
  packs ? body(BF16{}, Width<kPackOf<T, BF16>>{}) : body(BF16{}, Width<1>{});
}

template <typename T>
__global__ void shrink_kernel(const __grid_constant__ Segments segments) {
  const Segment& s = segments.of[blockIdx.y];
  const int64_t at = first_index() / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  if (at >= s.rows * s.rank) return;
  const T* const x = static_cast<const T*>(s.x) + at / s.rank * s.in;
  float sum = 0;
  with_adapter<T>(s, s.packs_in, [&](auto of, auto width) {
    constexpr int N = decltype(width)::value;
    const auto* const a = static_cast<const decltype(of)*>(s.a) + at % s.rank * s.in;
    for (int64_t i = lane * N; i < s.in; i += kWarpThreads * N) {
      float left[N], right[N];
      load_floats<N>(x + i, left);
      load_floats<N>(a + i, right);
      NIBBLE_UNROLL
      for (int k = 0; k < N; ++k) sum = fmaf(left[k], right[k], sum);
    }
  });
  sum = warp_sum(sum);
  if (lane == 0) s.h[at] = sum;
}

template <typename T>
__global__ void expand_kernel(const __grid_constant__ Segments segments) {
  const Segment& s = segments.of[blockIdx.y];
  with_adapter<T>(s, s.packs_out, [&](auto of, auto width) {
    constexpr int N = decltype(width)::value;
    const auto* const b = static_cast<const decltype(of)*>(s.b);
    for (int64_t i = first_index() * N; i < s.rows * s.out; i += index_stride() * N) {
      const float* const h = s.h + i / s.out * s.rank;
      T* const y = static_cast<T*>(s.y) + i;
      float sum[N] = {}, old[N];
      for (int64_t r = 0; r < s.rank; ++r) {
        float row[N];
        load_floats<N>(b + r * s.out + i % s.out, row);
        NIBBLE_UNROLL
        for (int k = 0; k < N; ++k) sum[k] = fmaf(h[r], row[k], sum[k]);
      }
      load_floats<N>(y, old);
      NIBBLE_UNROLL
      for (int k = 0; k < N; ++k) old[k] += s.scaling * sum[k];
      store_floats<N>(y, old);
    }
  });
}

constexpr int kPackMax = kPackOf<BF16>;

Segment segment_of(const LoraAddArgs& a, float* h) {
  const int64_t in = a.x.dim(1), out = a.y.dim(1), size = size_of(a.x.dtype);
  Segment s{.x = a.x.u8() + a.begin * in * size, .y = a.y.u8() + a.begin * out * size, .a = a.a.data, .b = a.b.data,
            .adapter = a.a.dtype, .h = h, .rows = a.end - a.begin, .in = in, .out = out, .rank = a.a.dim(0),
            .scaling = a.scaling};
  s.packs_in = in % kPackMax == 0 && all_aligned({s.x, s.a});
  s.packs_out = out % kPackMax == 0 && all_aligned({s.y, s.b});
  return s;
}

// At most kSegmentsMax of one dtype.
void add(const LoraAddArgs* args, int count) {
  int64_t h_floats = 0, h_most = 0, y_most = 0;
  for (int i = 0; i < count; ++i) h_floats += (args[i].end - args[i].begin) * args[i].a.dim(0);
  const Workspace<float> space(h_floats);
  Segments segments{};
  float* h = space.data();
  for (int i = 0; i < count; ++i) {
    const Segment& s = segments.of[i] = segment_of(args[i], h);
    h += s.rows * s.rank;
    h_most = most(h_most, s.rows * s.rank);
    y_most = most(y_most, s.rows * s.out / (s.packs_out ? kPackMax : 1));
  }
  with_activation(args[0].x.dtype, [&](auto t) {
    using T = decltype(t);
    launch(shrink_kernel<T>, grid_of(blocks_of(h_most * kWarpThreads, kThreads), count), kThreads, 0, segments);
    launch(expand_kernel<T>, grid_of(blocks_of(y_most, kThreads), count), kThreads, 0, segments);
  });
}

}  // namespace

void lora_adds(const LoraAddArgs* args, int count) {
  for (int i = 0; i < count; i += kSegmentsMax) add(args + i, int(least(kSegmentsMax, count - i)));
}

}  // namespace nibble::cuda
