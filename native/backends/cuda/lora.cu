// Adapters on rows of a batch that share its base: any number of them, of any ranks and layers, in two launches
// (Punica, arXiv:2310.18547). See ops/linear.h: nothing is rounded on the way.
//
// [1] h = x A^T, a warp an element   [2] y += scaling * h B, a thread an element
#include "ops/linear.h"

#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

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
};

struct Segments {
  DType dtype;
  Segment of[kSegmentsMax];
};

__global__ void shrink_kernel(Segments segments) {
  const Segment& s = segments.of[blockIdx.y];
  const int64_t at = first_index() / kWarpThreads;
  if (at >= s.rows * s.rank) return;
  const int64_t n = at / s.rank, r = at % s.rank;
  float sum = 0;
  for (int64_t i = threadIdx.x % kWarpThreads; i < s.in; i += kWarpThreads) {
    sum = fmaf(load(s.x, segments.dtype, n * s.in + i), load(s.a, s.adapter, r * s.in + i), sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarpThreads == 0) s.h[at] = sum;
}

__global__ void expand_kernel(Segments segments) {
  const Segment& s = segments.of[blockIdx.y];
  for (int64_t i = first_index(); i < s.rows * s.out; i += index_stride()) {
    const int64_t n = i / s.out, o = i % s.out;
    float sum = 0;
    for (int64_t r = 0; r < s.rank; ++r) sum = fmaf(s.h[n * s.rank + r], load(s.b, s.adapter, r * s.out + o), sum);
    store(s.y, segments.dtype, i, load(s.y, segments.dtype, i) + s.scaling * sum);
  }
}

Segment segment_of(const LoraAddArgs& a, float* h) {
  const int64_t in = a.x.dim(1), out = a.y.dim(1), size = size_of(a.x.dtype);
  return {.x = a.x.u8() + a.begin * in * size, .y = a.y.u8() + a.begin * out * size, .a = a.a.data, .b = a.b.data,
          .adapter = a.a.dtype, .h = h, .rows = a.end - a.begin, .in = in, .out = out, .rank = a.a.dim(0), .scaling = a.scaling};
}

// At most kSegmentsMax of one dtype.
void add(const LoraAddArgs* args, int count) {
  int64_t h_floats = 0, h_most = 0, y_most = 0;
  for (int i = 0; i < count; ++i) h_floats += (args[i].end - args[i].begin) * args[i].a.dim(0);
  const Workspace<float> space(h_floats);
  Segments segments{.dtype = args[0].x.dtype};
  float* h = space.data();
  for (int i = 0; i < count; ++i) {
    const Segment& s = segments.of[i] = segment_of(args[i], h);
    h += s.rows * s.rank;
    h_most = most(h_most, s.rows * s.rank);
    y_most = most(y_most, s.rows * s.out);
  }
  launch(shrink_kernel, grid_of(blocks_of(h_most * kWarpThreads, kThreads), count), kThreads, 0, segments);
  launch(expand_kernel, grid_of(blocks_of(y_most, kThreads), count), kThreads, 0, segments);
}

}  // namespace

void lora_adds(const LoraAddArgs* args, int count) {
  for (int i = 0; i < count; i += kSegmentsMax) add(args + i, int(least(kSegmentsMax, count - i)));
}

}  // namespace nibble::cuda
