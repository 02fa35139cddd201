// Rotary position embedding, a block a row, a thread a pair of elements. See ops/rope.h.
#include "ops/rope.h"

#include "backends/cuda/fault.h"
#include "backends/cuda/kernel.h"
#include "backends/cuda/ops.h"

namespace nibble::cuda {

namespace {

struct Tables {
  const int32_t* positions;
  const float *cos, *sin;
  int64_t count, half;  // rows of the tables, columns
  float sign;
  int* fault;
};

template <typename T>
__global__ void rope_kernel(T* x, int64_t width, Tables t) {
  const int64_t n = blockIdx.x, p = checked_index(t.positions[n], t.count, kRopePositions, t.fault);
  if (p < 0) return;
  for (int64_t pair = threadIdx.x; pair < width / 2; pair += blockDim.x) {
    const int64_t head = pair / t.half, j = pair % t.half;
    T& low = x[n * width + head * 2 * t.half + j];
    T& high = (&low)[t.half];
    const float c = t.cos[p * t.half + j], s = t.sin[p * t.half + j] * t.sign;
    const float a = to_float(low), b = to_float(high);
    set(low, a * c - b * s);
    set(high, b * c + a * s);
  }
}

}  // namespace

void rope(const RopeArgs& a) {
  const Tables tables{.positions = a.positions.i32(), .cos = a.cos.f32(), .sin = a.sin.f32(), .count = a.cos.dim(0),
                      .half = a.cos.dim(1), .sign = a.inverse ? -1.0f : 1.0f, .fault = fault_word()};
  with_activation(a.x.dtype, [&](auto x) {
    using T = decltype(x);
    launch(rope_kernel<T>, grid_of(a.x.dim(0)), threads_for(a.x.dim(1) / 2), 0, data_as<T>(a.x), a.x.dim(1), tables);
  });
}

}  // namespace nibble::cuda
