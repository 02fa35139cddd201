// 4-bit blockwise quantization and double quantization, bit for bit as ops/quantize4.h has it.
//
// quantize4: a thread takes 8 elements at a time (16 bytes of bfloat16 in, 4 bytes of codes out), block_size / 8 threads,
// at most a warp, share a block and find its absmax by shuffles. Thresholds lie in shared memory, where different ones
// lie in different banks. Memory read and written: 2.56 bytes an element of bfloat16 with block size 64.
#include "ops/quantize4.h"

#include "backends/cuda/codebook8.h"
#include "backends/cuda/fault.h"
#include "backends/cuda/ops.h"
#include "backends/cuda/packs.h"
#include "core/device_memory.h"

namespace nibble::cuda {

namespace {

constexpr int kOfThread = 8;

// The codebook in shared memory, by the block's first threads.
__device__ void share_codebook(const Codebook4& book, Codebook4* shared) {
  const int i = int(threadIdx.x);
  if (i < 16) {
    shared->value[i] = book.value[i];
    shared->code_of_rank[i] = book.code_of_rank[i];
    if (i < 15) shared->threshold[i] = book.threshold[i];
  }
  __syncthreads();
}

template <typename T>
struct Quantize {
  const T* input;
  uint8_t* codes;
  float* absmax;
  int64_t count, block_size;
  Codebook4 book;
};

// Eight elements from `at` on; zeros past the end.
template <bool kAligned, typename T>
__device__ void load_eight(const T* from, int64_t at, int64_t count, float* to) {
  if (kAligned && at + kOfThread <= count) return load_floats<kOfThread>(from + at, to);
  NIBBLE_UNROLL
  for (int k = 0; k < kOfThread; ++k) to[k] = at + k < count ? to_float(from[at + k]) : 0.0f;
}

// The largest |x| as its bits, among which NaN is the largest.
__device__ inline uint32_t largest(const float* x, uint32_t so_far) {
  NIBBLE_UNROLL
  for (int k = 0; k < kOfThread; ++k) {
    const uint32_t bits = float_to_bits(x[k]) & 0x7fffffffu;
    so_far = bits > so_far ? bits : so_far;
  }
  return so_far;
}

template <bool kAligned, typename T>
__global__ void quantize_kernel(Quantize<T> a, int lanes) {
  __shared__ Codebook4 book;
  share_codebook(a.book, &book);
  const int64_t block = first_index() / lanes, start = block * a.block_size;
  const int64_t begin = start + int64_t(threadIdx.x % unsigned(lanes)) * kOfThread, end = start + a.block_size;
  const int64_t stride = int64_t(lanes) * kOfThread;
  // [1] absmax of the block; NaN wins
  float x[kOfThread];
  uint32_t top = 0;
  for (int64_t at = begin; at < end; at += stride) {
    load_eight<kAligned>(a.input, at, a.count, x);
    top = largest(x, top);
  }
  for (int mask = lanes / 2; mask > 0; mask /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullWarp, top, mask);
    top = other > top ? other : top;
  }
  if (start >= a.count) return;
  const bool full = end <= a.count;
  const float absmax = bits_to_float(top), floored = absmax < kAbsmaxFloor ? kAbsmaxFloor : absmax;
  const float inverse = 1.0f / floored;
  if (begin == start) a.absmax[block] = full ? absmax : floored;
  for (int64_t at = begin; at < end && at < a.count; at += stride) {
    if (stride < a.block_size) load_eight<kAligned>(a.input, at, a.count, x);
    uint32_t packed = 0;
    NIBBLE_UNROLL
    for (int k = 0; k < kOfThread; k += 2) {
      // [2] scale to [-1,1]   [3] nearest code   [4] pack, even index in the high nibble
      const uint8_t first = nearest_code4(book, full ? x[k] * inverse : x[k] / floored);
      const bool is_pad = at + k + 1 >= a.count;  // of an odd tail: 0
      const uint8_t second = nearest_code4(book, is_pad ? 0.0f : full ? x[k + 1] * inverse : x[k + 1] / floored);
      packed |= uint32_t(pack4(first, second)) << (4 * k);
    }
    if (kAligned && at + kOfThread <= a.count) {
      write_at(reinterpret_cast<uint32_t*>(a.codes + at / 2), packed);
    } else {
      for (int64_t k = 0; k < kOfThread / 2 && at + 2 * k < a.count; ++k) a.codes[at / 2 + k] = uint8_t(packed >> (8 * k));
    }
  }
}

// A thread 8 elements: 4 bytes of codes in, 16 bytes of bfloat16 out.
template <bool kAligned, typename T>
__global__ void dequantize_kernel(const uint8_t* codes, const float* absmax, T* output, int64_t count, int block_shift,
                                  Codebook4 values) {
  __shared__ Codebook4 book;
  share_codebook(values, &book);
  const int64_t at = first_index() * kOfThread;
  if (at >= count) return;
  const float constant = absmax[at >> block_shift];
  const bool whole = kAligned && at + kOfThread <= count;
  uint32_t packed = 0;
  if (whole) {
    packed = read_at(reinterpret_cast<const uint32_t*>(codes + at / 2));
  } else {
    for (int k = 0; k < kOfThread && at + k < count; k += 2) packed |= uint32_t(codes[(at + k) / 2]) << (4 * k);
  }
  float v[kOfThread];
  NIBBLE_UNROLL
  for (int k = 0; k < kOfThread; ++k) {
    v[k] = book.value[(packed >> (k % 2 == 0 ? 4 * k + 4 : 4 * k - 4)) & 15] * constant;  // the even one is the high nibble
  }
  if (whole) return store_floats<kOfThread>(output + at, v);
  NIBBLE_UNROLL
  for (int k = 0; k < kOfThread; ++k) {
    if (at + k < count) set(output[at + k], v[k]);
  }
}

// The order of mean_like_torch: 32 sums of every 32nd value, in chunks, of which `chunk` make a group, of which `chunk`
// make a sum of the highest level.
struct Cascade {
  const float* values;
  int64_t count, steps, chunk;

  __device__ float chunk_sum(int64_t first_step, int64_t of_step, int lane) const {
    float sum = 0;
    for (int64_t i = first_step; i < first_step + of_step; ++i) sum += values[i * kWarpThreads + lane];
    return sum;
  }
  __device__ int64_t groups() const { return steps / chunk / chunk; }
};

// groups[g][lane]: a group's sum. A warp a group.
__global__ void group_sums_kernel(Cascade c, float* groups) {
  const int64_t group = first_index() / kWarpThreads;
  const int lane = int(threadIdx.x) % kWarpThreads;
  if (group >= c.groups()) return;
  float sum = 0;
  for (int64_t i = 0; i < c.chunk; ++i) sum += c.chunk_sum((group * c.chunk + i) * c.chunk, c.chunk, lane);
  groups[group * kWarpThreads + lane] = sum;
}

// One warp: the groups, the chunks and steps behind them, the values behind those, the mean.
__global__ void mean_kernel(Cascade c, const float* groups, float* mean) {
  __shared__ float lanes[kWarpThreads];
  const int lane = int(threadIdx.x);
  float level1 = 0, level2 = 0, level3 = 0;
  for (int64_t g = 0; g < c.groups(); ++g) {
    level2 += groups[g * kWarpThreads + lane];
    if ((g + 1) % c.chunk != 0) continue;
    level3 += level2;
    level2 = 0;
  }
  int64_t step = c.groups() * c.chunk * c.chunk;
  for (; step + c.chunk <= c.steps; step += c.chunk) level1 += c.chunk_sum(step, c.chunk, lane);
  float sum = c.chunk_sum(step, c.steps - step, lane);
  sum += level1;
  sum += level2;
  sum += level3;
  lanes[lane] = sum;
  __syncthreads();
  if (lane > 0) return;
  constexpr int kLanes = 8;
  const int64_t vectors = c.count / kLanes;
  for (int64_t v = c.steps * 4; v < vectors; ++v)
    for (int l = 0; l < kLanes; ++l) lanes[l] += c.values[v * kLanes + l];
  for (int l = kLanes; l < kWarpThreads; ++l) lanes[l % kLanes] += lanes[l];
  float result = 0;
  for (int64_t k = vectors * kLanes; k < c.count; ++k) result += c.values[k];
  for (int l = 0; l < kLanes; ++l) result += lanes[l];
  *mean = result / float(c.count);
}

__global__ void quantize_absmax_kernel(const float* absmax, int64_t count, const float* offset, uint8_t* codes,
                                       float* nested_absmax, const Codebook8* book) {
  __shared__ float scratch[kWarpThreads];
  const int64_t i = first_index();
  const float distance = i < count ? absmax[i] - *offset : 0.0f;
  const float top = block_max(fabsf(distance), scratch);
  if (threadIdx.x == 0) nested_absmax[blockIdx.x] = top;
  if (i < count) codes[i] = top == 0 ? uint8_t{0} : nearest_code8(*book, distance * (1.0f / top));
}

__global__ void dequantize_absmax_kernel(const uint8_t* codes, const float* nested_absmax, const float* map,
                                         const float* offset, float* absmax, int64_t count) {
  const int64_t i = first_index();
  if (i < count) absmax[i] = nested_constant(map, codes[i], nested_absmax[i / kBlock8], *offset);
}

template <int N, typename T>
__global__ void nonfinite_kernel(const T* x, int64_t count, unsigned long long* found) {
  unsigned long long bad = 0;
  each_pack<N>(count, [&](int64_t i, auto width) {
    constexpr int n = decltype(width)::value;
    float v[n];
    load_floats<n>(x + i, v);
    NIBBLE_UNROLL
    for (int k = 0; k < n; ++k) bad += (float_to_bits(v[k]) & 0x7f800000u) == 0x7f800000u;
  });
  if (bad > 0) atomicAdd(found, bad);
}

}  // namespace

void quantize4(const Quantize4Args& a) {
  const int64_t count = a.input.count(), blocks = blocks_of(count, a.block_size);
  const int lanes = int(least(kWarpThreads, a.block_size / kOfThread));
  with_type(a.input.dtype, [&](auto t) {
    using T = decltype(t);
    const Quantize<T> q{.input = data_as<T>(a.input), .codes = a.codes.u8(), .absmax = a.absmax.f32(), .count = count,
                        .block_size = a.block_size, .book = codebook4(a.type)};
    const auto kernel = all_aligned({q.input, q.codes}) ? quantize_kernel<true, T> : quantize_kernel<false, T>;
    launch(kernel, grid_of(blocks_of(blocks * lanes, kThreads)), kThreads, 0, q, lanes);
  });
}

void dequantize4(const Dequantize4Args& a) {
  const int64_t count = a.output.count();
  int block_shift = 0;
  while ((int64_t{1} << block_shift) < a.block_size) ++block_shift;
  with_type(a.output.dtype, [&](auto t) {
    using T = decltype(t);
    const auto kernel = all_aligned({a.codes.data, a.output.data}) ? dequantize_kernel<true, T> : dequantize_kernel<false, T>;
    launch(kernel, grid_of(blocks_of(count, kThreads * kOfThread)), kThreads, 0, a.codes.u8(), a.absmax.f32(),
           data_as<T>(a.output), count, block_shift, dequantize_codebook4(a.type, count));
  });
}

void quantize_absmax(const QuantizeAbsmaxArgs& a) {
  const int64_t count = a.absmax.count(), steps = count / kWarpThreads;
  const Cascade cascade{.values = a.absmax.f32(), .count = count, .steps = steps, .chunk = cascade_chunk(steps)};
  const int64_t groups = steps / cascade.chunk / cascade.chunk;
  const Workspace<float> sums(groups * kWarpThreads);
  launch(group_sums_kernel, grid_of(blocks_of(groups * kWarpThreads, kThreads)), kThreads, 0, cascade, sums.data());
  launch(mean_kernel, grid_of(1), kWarpThreads, 0, cascade, sums.data(), a.offset.f32());
  static_assert(kThreads == kBlock8);
  launch(quantize_absmax_kernel, grid_of(blocks_of(count, kBlock8)), kThreads, 0, a.absmax.f32(), count,
         a.offset.f32(), a.codes.u8(), a.nested_absmax.f32(), device_codebook8_signed());
}

void dequantize_absmax(const DequantizeAbsmaxArgs& a) {
  const int64_t count = a.codes.count();
  launch(dequantize_absmax_kernel, grid_of(blocks_of(count, kThreads)), kThreads, 0, a.codes.u8(),
         a.nested_absmax.f32(), a.map.f32(), a.offset.f32(), a.absmax.f32(), count);
}

int64_t count_nonfinite(const Tensor& input) {
  const Workspace<unsigned long long> found(1);
  clear(found.data(), sizeof(unsigned long long));
  with_type(input.dtype, [&](auto t) {
    using T = decltype(t);
    with_width<kPackOf<T>>(all_aligned({input.data}), [&](auto n) {
      constexpr int N = decltype(n)::value;
      launch(nonfinite_kernel<N, T>, grid_for(blocks_of(input.count(), N)), kThreads, 0, data_as<T>(input), input.count(),
             found.data());
    });
  });
  unsigned long long bad = 0;
  download(&bad, found.data(), sizeof bad);
  return int64_t(bad);
}

}  // namespace nibble::cuda
