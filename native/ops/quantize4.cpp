#include "ops/quantize4.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "core/thread_pool.h"
#include "ops/backend.h"
#include "ops/checks.h"
#include "ops/code8.h"

namespace nibble {

namespace {

void check_blocks(const char* op, int64_t n, const Tensor& codes, const Tensor& absmax, int64_t block_size) {
  const bool power_of_two = block_size >= 32 && block_size <= 4096 && (block_size & (block_size - 1)) == 0;
  require(power_of_two, op, "block_size: expected one of 32,64,...,4096, got ", block_size);
  check_dtype(op, "codes", codes, DType::kU8);
  check_dtype(op, "absmax", absmax, DType::kF32);
  check_count(op, "codes", codes, (n + 1) / 2);
  check_count(op, "absmax", absmax, (n + block_size - 1) / block_size);
}

// Sum of `size` vectors of 8 floats by aten's cascade (SumKernel.cpp, multi_row_sum with 4 rows).
struct CascadeSum {
  static constexpr int kLanes = 8, kRows = 4, kLevels = 4;
  float level[kLevels][kRows][kLanes] = {};

  void add_step(const float* at) {
    for (int r = 0; r < kRows; ++r)
      for (int l = 0; l < kLanes; ++l) level[0][r][l] += at[r * kLanes + l];
  }
  void carry(int from) {
    for (int r = 0; r < kRows; ++r)
      for (int l = 0; l < kLanes; ++l) {
        level[from + 1][r][l] += level[from][r][l];
        level[from][r][l] = 0;
      }
  }
  void run(const float* values, int64_t steps) {
    const int64_t chunk = cascade_chunk(steps);
    const int power = std::countr_zero(uint64_t(chunk));
    int64_t i = 0;
    while (i + chunk <= steps) {
      for (int64_t j = 0; j < chunk; ++j, ++i) add_step(values + i * kRows * kLanes);
      for (int j = 1; j < kLevels; ++j) {
        carry(j - 1);
        if ((i & ((chunk - 1) << (j * power))) != 0) break;
      }
    }
    for (; i < steps; ++i) add_step(values + i * kRows * kLanes);
    for (int j = 1; j < kLevels; ++j)
      for (int r = 0; r < kRows; ++r)
        for (int l = 0; l < kLanes; ++l) level[0][r][l] += level[j][r][l];
  }
};

constexpr int64_t kNonfiniteTask = 1 << 18;

// NaN and Inf have every bit of the exponent. Almost always there are none, so the first look only asks whether there
// are any, in lanes as wide as the elements.
template <typename Bits>
int64_t count_full_exponents(const Bits* bits, int64_t count, Bits mask) {
  Bits any = 0;
  for (int64_t i = 0; i < count; ++i) any |= Bits((bits[i] & mask) == mask ? ~Bits{0} : Bits{0});
  if (any == 0) return 0;
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += (bits[i] & mask) == mask;
  return found;
}

}  // namespace

int64_t cascade_chunk(int64_t steps) {
  constexpr int kChunkBitsMin = 4;
  const int bits = int(std::bit_width(uint64_t(steps > 0 ? steps - 1 : 0)));
  return int64_t{1} << std::max(kChunkBitsMin, bits / CascadeSum::kLevels);
}

float mean_like_torch(const float* values, int64_t count) {
  constexpr int kLanes = CascadeSum::kLanes, kRows = CascadeSum::kRows;
  const int64_t vectors = count / kLanes, steps = vectors / kRows;
  CascadeSum sum;
  sum.run(values, steps);
  float(&total)[kLanes] = sum.level[0][0];
  for (int64_t v = steps * kRows; v < vectors; ++v)
    for (int l = 0; l < kLanes; ++l) total[l] += values[v * kLanes + l];
  for (int r = 1; r < kRows; ++r)
    for (int l = 0; l < kLanes; ++l) total[l] += sum.level[0][r][l];
  float result = 0;
  for (int64_t k = vectors * kLanes; k < count; ++k) result += values[k];
  for (int l = 0; l < kLanes; ++l) result += total[l];
  return result / float(count);
}

void quantize4(const Quantize4Args& args) {
  const char* op = "quantize4";
  check_float16_or_32(op, "input", args.input);
  check_blocks(op, args.input.count(), args.codes, args.absmax, args.block_size);
  check_device(op, "codes", args.codes, args.input.device);
  check_device(op, "absmax", args.absmax, args.input.device);
  backend_of(args.input.device).quantize4(args);
}

void dequantize4(const Dequantize4Args& args) {
  const char* op = "dequantize4";
  check_float16_or_32(op, "output", args.output);
  check_blocks(op, args.output.count(), args.codes, args.absmax, args.block_size);
  check_device(op, "codes", args.codes, args.output.device);
  check_device(op, "absmax", args.absmax, args.output.device);
  backend_of(args.output.device).dequantize4(args);
}

void quantize_absmax(const QuantizeAbsmaxArgs& args) {
  const char* op = "quantize_absmax";
  const int64_t m = args.absmax.count();
  check_dtype(op, "absmax", args.absmax, DType::kF32);
  check_dtype(op, "codes", args.codes, DType::kU8);
  check_count(op, "codes", args.codes, m);
  check_count(op, "nested_absmax", args.nested_absmax, (m + kBlock8 - 1) / kBlock8);
  check_count(op, "offset", args.offset, 1);
  check_device(op, "codes", args.codes, args.absmax.device);
  check_device(op, "nested_absmax", args.nested_absmax, args.absmax.device);
  check_device(op, "offset", args.offset, args.absmax.device);
  backend_of(args.absmax.device).quantize_absmax(args);
}

void dequantize_absmax(const DequantizeAbsmaxArgs& args) {
  const char* op = "dequantize_absmax";
  const int64_t m = args.codes.count();
  check_dtype(op, "codes", args.codes, DType::kU8);
  check_dtype(op, "map", args.map, DType::kF32);
  check_count(op, "map", args.map, 256);
  check_count(op, "offset", args.offset, 1);
  check_count(op, "nested_absmax", args.nested_absmax, (m + kBlock8 - 1) / kBlock8);
  check_count(op, "absmax", args.absmax, m);
  for (const Tensor* t : {&args.codes, &args.map, &args.offset, &args.nested_absmax}) {
    check_device(op, "codes, map, offset, nested_absmax", *t, args.absmax.device);
  }
  backend_of(args.absmax.device).dequantize_absmax(args);
}

void host_dequantize_absmax(const DequantizeAbsmaxArgs& args) {
  const int64_t m = args.codes.count();
  const float offset = args.offset.f32()[0];
  for (int64_t i = 0; i < m; ++i) {
    const uint8_t code = args.codes.u8()[i];
    args.absmax.f32()[i] = nested_constant(args.map.f32(), code, args.nested_absmax.f32()[i / kBlock8], offset);
  }
}

int64_t count_nonfinite(const Tensor& input) {
  check_float16_or_32("count_nonfinite", "input", input);
  return backend_of(input.device).count_nonfinite(input);
}

int64_t host_count_nonfinite(const Tensor& input) {
  const int64_t n = input.count();
  std::atomic<int64_t> bad = 0;
  parallel_for((n + kNonfiniteTask - 1) / kNonfiniteTask, [&](int64_t task) {
    const int64_t start = task * kNonfiniteTask, count = std::min(kNonfiniteTask, n - start);
    const auto mask16 = uint16_t(input.dtype == DType::kBF16 ? 0x7f80u : 0x7c00u);
    const int64_t found =
        input.dtype == DType::kF32
            ? count_full_exponents(static_cast<const uint32_t*>(input.data) + start, count, 0x7f800000u)
            : count_full_exponents<uint16_t>(input.u16() + start, count, mask16);
    if (found > 0) bad += found;
  });
  return bad;
}

}  // namespace nibble
