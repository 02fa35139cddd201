// Rotary position embedding, a block a row, a thread 16 bytes of either half of a head; bound by memory. See ops/rope.h.
#include "ops/rope.h"

#include "backends/cuda/fault.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

struct Tables {
  const int32_t* positions;
  const float *cos, *sin;
  int64_t count, half;  // rows of the tables, columns
  float sign;
  int* fault;
};

template <int N, typename T>
__global__ void rope_kernel(T* x, int64_t width, Tables t) {
  const int64_t n = blockIdx.x, p = checked_index(t.positions[n], t.count, kRopePositions, t.fault);
  if (p < 0) return;
  const int half = int(t.half) / N, packs = int(width / 2) / N;  // in packs
  for (int i = int(threadIdx.x); i < packs; i += int(blockDim.x)) {
    const int head = i / half;
    const int64_t j = int64_t(i % half) * N;
    T* const at = x + n * width + head * 2 * t.half + j;
    float low[N], high[N], c[N], s[N];
    load_floats<N>(at, low);
    load_floats<N>(at + t.half, high);
    load_floats<N>(t.cos + p * t.half + j, c);
    load_floats<N>(t.sin + p * t.half + j, s);
    NIBBLE_UNROLL
    for (int k = 0; k < N; ++k) {
      const float a = low[k], b = high[k];
      low[k] = a * c[k] - b * (s[k] * t.sign);
      high[k] = b * c[k] + a * (s[k] * t.sign);
    }
    store_floats<N>(at, low);
    store_floats<N>(at + t.half, high);
  }
}

}  // namespace

void rope(const RopeArgs& a) {
  const Tables tables{.positions = a.positions.i32(), .cos = a.cos.f32(), .sin = a.sin.f32(), .count = a.cos.dim(0),
                      .half = a.cos.dim(1), .sign = a.inverse ? -1.0f : 1.0f, .fault = fault_word()};
  const int64_t width = a.x.dim(1);
  with_activation(a.x.dtype, [&](auto x) {
    using T = decltype(x);
    constexpr int kPack = kPackOf<T>;
    with_width<kPack>(tables.half % kPack == 0 && all_aligned({a.x.data, tables.cos, tables.sin}), [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(rope_kernel<N, T>, grid_of(a.x.dim(0)), threads_for(width / 2 / N), 0, data_as<T>(a.x), width, tables);
    });
  });
}

}  // namespace nibble::cuda
