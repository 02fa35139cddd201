// A warp makes kOutputs outputs of every row: its lanes go over the inputs, 32 each at a time, which is 16 bytes of codes
// and never more than one block; the sums of the lanes are added at the end. x is read once for kOutputs rows of W. Values
// of codes are looked up in shared memory, where the 16 of them lie in banks of their own, so lanes do not wait for each
// other. Bound by reading W: 0.52 bytes a weight with double quantization.
#include "backends/cuda/few_rows.h"

#include "backends/cuda/packs.h"

namespace nibble::cuda {

namespace {

constexpr int kOutputs = 4;
constexpr int kWarps = 4;        // of a block
constexpr int kLaneInputs = 32;  // a lane's at a time
constexpr int kPart = 8;         // of those, held in registers: 4 bytes of codes

struct FewRows {
  const void* x;
  void* y;
  const float* bias;
  int64_t rows;
  WeightView w;
};

template <typename T>
__device__ inline void load_part(const T* from, float* to) {
  struct alignas(16) Part {
    T value[kPart];
  };
  const Part part = read_at(reinterpret_cast<const Part*>(from));
  NIBBLE_UNROLL
  for (int k = 0; k < kPart; ++k) to[k] = to_float(part.value[k]);
}

// kPart elements from flat index `e` on.
template <bool kQuantized>
__device__ inline void load_weights(const WeightView& w, const CodeTables& t, uint32_t codes, float constant, int64_t e,
                                    float* to) {
  if constexpr (!kQuantized) {
    if (w.dtype == DType::kF32) {
      load_part(static_cast<const float*>(w.data) + e, to);
    } else if (w.dtype == DType::kBF16) {
      load_part(static_cast<const BF16*>(w.data) + e, to);
    } else {
      load_part(static_cast<const F16*>(w.data) + e, to);
    }
  } else {
    NIBBLE_UNROLL
    for (int k = 0; k < kPart; k += 2) {
      // As decode_pairs() has them.
      const float even = t.value[(codes >> (4 * k + 4)) & 15] * constant, odd = t.value[(codes >> (4 * k)) & 15] * constant;
      if (w.dtype == DType::kBF16) {
        const uint32_t pair = pack_bf16(even, odd);
        to[k] = bits_to_float(pair << 16);
        to[k + 1] = bits_to_float(pair & 0xffff0000u);
      } else {
        to[k] = round_to(w.dtype, even);
        to[k + 1] = round_to(w.dtype, odd);
      }
    }
  }
}

template <typename T, int kRows, bool kQuantized>
__global__ void __launch_bounds__(kWarps* kWarpThreads) few_rows_kernel(FewRows a) {
  __shared__ CodeTables tables;
  if constexpr (kQuantized) {
    share_tables(a.w, &tables);
    __syncthreads();
  }
  const int lane = int(threadIdx.x) % kWarpThreads;
  const int64_t first = (int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarpThreads) * kOutputs, in = a.w.in;
  if (first >= a.w.out) return;
  const T* const x = static_cast<const T*>(a.x);
  float sum[kOutputs][kRows] = {};
  for (int64_t i = int64_t(lane) * kLaneInputs; i < in; i += kWarpThreads * kLaneInputs) {
    uint4 codes[kOutputs] = {};
    float constant[kOutputs] = {};
    if constexpr (kQuantized) {
      NIBBLE_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        const int64_t e = least(first + o, a.w.out - 1) * in + i;  // past the last output: the last again, not stored
        codes[o] = read_at(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(a.w.data) + e / 2));
        constant[o] = constant_of(a.w, tables, fetch_constant(a.w, e >> a.w.block_shift));
      }
    }
    NIBBLE_UNROLL
    for (int part = 0; part < kLaneInputs / kPart; ++part) {
      const int64_t at = i + part * kPart;
      float row[kRows][kPart], weight[kPart];
      NIBBLE_UNROLL
      for (int n = 0; n < kRows; ++n) load_part(x + least(n, a.rows - 1) * in + at, row[n]);
      NIBBLE_UNROLL
      for (int o = 0; o < kOutputs; ++o) {
        const uint32_t word = part == 0 ? codes[o].x : part == 1 ? codes[o].y : part == 2 ? codes[o].z : codes[o].w;
        const int64_t e = least(first + o, a.w.out - 1) * in + at;
        load_weights<kQuantized>(a.w, tables, word, constant[o], e, weight);
        NIBBLE_UNROLL
        for (int n = 0; n < kRows; ++n)
          NIBBLE_UNROLL
          for (int k = 0; k < kPart; ++k) sum[o][n] = fmaf(row[n][k], weight[k], sum[o][n]);
      }
    }
  }
  NIBBLE_UNROLL
  for (int o = 0; o < kOutputs; ++o) {
    NIBBLE_UNROLL
    for (int n = 0; n < kRows; ++n) {
      const float total = warp_sum(sum[o][n]);
      const int64_t column = first + o;
      if (lane != 0 || column >= a.w.out || n >= a.rows) continue;
      set(static_cast<T*>(a.y)[n * a.w.out + column], total + (a.bias == nullptr ? 0.0f : a.bias[column]));
    }
  }
}

template <typename T, int kRows>
void run(const FewRows& a) {
  const Grid grid = grid_of(blocks_of(a.w.out, kOutputs * kWarps));
  const auto kernel = a.w.quantized ? few_rows_kernel<T, kRows, true> : few_rows_kernel<T, kRows, false>;
  launch(kernel, grid, kWarps * kWarpThreads, 0, a);
}

}  // namespace

bool takes_few_rows(const Tensor& x, const WeightView& w) {
  return x.dim(0) <= kFewRows && w.in % kLaneInputs == 0 && all_aligned({x.data, w.data});
}

void multiply_few_rows(const Tensor& x, const WeightView& w, const float* bias, const Tensor& y) {
  const FewRows a{.x = x.data, .y = y.data, .bias = bias, .rows = x.dim(0), .w = w};
  with_activation(x.dtype, [&](auto t) {
    using T = decltype(t);
    if (a.rows == 1) return run<T, 1>(a);
    if (a.rows <= 2) return run<T, 2>(a);
    if (a.rows <= 4) return run<T, 4>(a);
    run<T, kFewRows>(a);
  });
}

}  // namespace nibble::cuda
