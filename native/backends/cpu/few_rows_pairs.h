// Dot products of few rows of x with rows of bfloat16 numbers, dense or in 4-bit codes, two products of a lane at
// a time (VDPBF16PS). Weights are not rounded: they are bfloat16 already. x is taken as a sum of bfloat16 numbers
// that holds all its bits, so products are those of float32; only what is below the least normal number counts as 0.
#pragma once

#include "backends/cpu/ahead.h"
#include "backends/cpu/elements.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/transpose.h"

namespace nibble::cpu::NIBBLE_ISA {

constexpr int64_t kFewRowsMax = 32;   // of x, where these products or those of few_rows_chunks.h are for them
constexpr int kGroup = 16;            // rows of weights whose products are finished together
constexpr int kRunRowsMax = 16;       // of x, whose sums stay in registers
constexpr int64_t kShallow = 768;     // depth of which as many rows stay in the first-level cache
constexpr int64_t kDecodedMax = 4096; // depth of rows of codes that are decoded beside the sums
constexpr int64_t kChunk = 64;        // elements of a row that are read together; x is filled up to it with 0
constexpr int64_t kBlocksMax = 512;   // of a row of codes
constexpr int64_t kAhead = 4096;      // bytes of weights asked for before their turn
constexpr int64_t kLine = 64;         // bytes of a line of the cache
constexpr int kPartsMax = 3;          // bfloat16 numbers that hold a float32

// Rows of x that run together: 1, 2, 4, 8 or 16, some of them zeros. Row r is the sum of its parts.
struct Run {
  const uint16_t* data;  // [chunks, parts, rows, kChunk]
  int rows, parts;
};

static inline bool is_chunked(const Codes& codes, int64_t columns, int64_t depth) {
  const int shift = codes.shift();
  return shift >= 6 && depth % kChunk == 0 && columns % (int64_t{1} << shift) == 0 && columns >> shift <= kBlocksMax;
}

// Whether the products below take rows of b.
static inline bool takes_pairs(const Matrix& b, int64_t depth) {
  return kMultipliesPairs && b.is_bf16() && !b.rounded && (b.codes == nullptr || is_chunked(*b.codes, b.columns, depth));
}

static inline int64_t chunks_of(int64_t depth) { return (depth + kChunk - 1) / kChunk; }

// Rows of the next run, when `left` are to come: 16 where they stay in the first-level cache, or where codes are decoded
// once for all of them; else up to 8.
static inline int run_rows_of(int64_t left, int64_t depth, bool coded) {
  if (left >= kRunRowsMax - 3 && depth <= (coded ? kDecodedMax : kShallow)) return kRunRowsMax;
  int rows = 1;
  while (rows < left && rows < kRunRowsMax / 2) rows *= 2;
  return rows;
}

// Of all runs that m rows make.
static inline int64_t run_rows_in_all(int64_t m, int64_t depth, bool coded) {
  int64_t rows = 0;
  while (rows < m) rows += run_rows_of(m - rows, depth, coded);
  return rows;
}

// Floats of scratch memory for the runs of m rows, and for rows on the way there.
static inline int64_t pairs_space(int64_t m, int64_t depth, bool coded) {
  return run_rows_in_all(m, depth, coded) * chunks_of(depth) * kChunk * kPartsMax / 2 + m * chunks_of(depth) * kChunk;
}

// `apart`: the even elements of a chunk before the odd ones.
static inline void put_chunk(const uint16_t* chunk, bool apart, uint16_t* to) {
  if (!apart) {
    memcpy(to, chunk, kChunk * 2);
    return;
  }
#if defined(__AVX512BW__)
  alignas(64) uint16_t even[kChunk / 2];
  for (int i = 0; i < kChunk / 2; ++i) even[i] = uint16_t(2 * i);
  const __m512i low = _mm512_loadu_si512(chunk), high = _mm512_loadu_si512(chunk + kChunk / 2);
  const __m512i index = _mm512_load_si512(even), one = _mm512_set1_epi16(1);
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(low, index, high));
  _mm512_storeu_si512(to + kChunk / 2, _mm512_permutex2var_epi16(low, _mm512_or_si512(index, one), high));
#else
  for (int i = 0; i < kChunk; ++i) to[i % 2 * (kChunk / 2) + i / 2] = chunk[i];
#endif
}

// A chunk as the sum of `parts` bfloat16 numbers, part p at to + p * step.
static inline void split_chunk(const float* x, int parts, bool apart, uint16_t* to, int64_t step) {
  float left[kChunk];
  memcpy(left, x, sizeof left);
  for (int p = 0; p < parts; ++p, to += step) {
    uint16_t part[kChunk];
    for (int64_t i = 0; i < kChunk; i += kWidth) {
      const Vec rounded = round_bf16(load(left + i));
      store(reinterpret_cast<Bf16*>(part + i), rounded);
      store(left + i, load(left + i) - rounded);
    }
    put_chunk(part, apart, to);
  }
}

// Whether bfloat16 holds every one of them: the low halves of their bits are zeros.
static inline bool fit_bf16(const float* x, int64_t count) {
  UVec bits{};
  for (int64_t i = 0; i < count; i += kWidth) bits |= (UVec)load(x + i) & 0xffffu;
  uint32_t lanes[kWidth], any = 0;
  memcpy(lanes, &bits, sizeof lanes);
  for (uint32_t lane : lanes) any |= lane;
  return any == 0;
}

// body(r, k, to, step): chunk k of row r goes to `to`, its parts `step` apart.
template <typename Body>
static inline void each_chunk(int64_t m, int64_t depth, bool coded, int parts, uint16_t* to, Body body) {
  const int64_t chunks = chunks_of(depth);
  for (int64_t first = 0; first < m;) {
    const int64_t run = run_rows_of(m - first, depth, coded);
    for (int64_t r = 0; r < run && first + r < m; ++r)
      for (int64_t k = 0; k < chunks; ++k) body(first + r, k, to + (k * parts * run + r) * kChunk, run * kChunk);
    to += run * chunks * parts * kChunk;
    first += run;
  }
}

// Lays the m rows of x out in runs at `space`, for rows of codes if `apart`; the number of parts of an element.
static inline int lay_out_pairs(const Matrix& x, int64_t m, int64_t depth, bool apart, float* space) {
  const int64_t chunks = chunks_of(depth), all = run_rows_in_all(m, depth, apart);
  auto* to = reinterpret_cast<uint16_t*>(space);
  if (x.dtype == DType::kBF16 && x.codes == nullptr && x.is_bf16()) {
    if (all > m) memset(to, 0, size_t(all * chunks * kChunk) * 2);
    each_chunk(m, depth, apart, 1, to, [&](int64_t r, int64_t k, uint16_t* at, int64_t) {
      const uint16_t* from = static_cast<const uint16_t*>(x.data) + r * x.columns + k * kChunk;
      if (depth - k * kChunk >= kChunk) return put_chunk(from, apart, at);
      uint16_t part[kChunk] = {};
      memcpy(part, from, size_t(depth - k * kChunk) * 2);
      put_chunk(part, apart, at);
    });
    return 1;
  }
  float* rows = space + all * chunks * kChunk * kPartsMax / 2;
  memset(rows, 0, size_t(m * chunks * kChunk) * 4);
  for (int64_t r = 0; r < m; ++r) fetch(x, r, 0, depth, rows + r * chunks * kChunk);
  const int parts = fit_bf16(rows, m * chunks * kChunk) ? 1 : kPartsMax;
  memset(to, 0, size_t(all * chunks * kChunk * parts) * 2);
  each_chunk(m, depth, apart, parts, to, [&](int64_t r, int64_t k, uint16_t* at, int64_t step) {
    split_chunk(rows + (r * chunks + k) * kChunk, parts, apart, at, step);
  });
  return parts;
}

#if defined(__AVX512BF16__)

// The sums of 16 vectors, each in the order of simd.h: halves upon halves.
static inline __m512 sums_of(const __m512* v) {
  __m512 a[8], b[4], c[2];
  for (int i = 0; i < 8; ++i)
    a[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
  for (int i = 0; i < 4; ++i)
    b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));
  for (int i = 0; i < 2; ++i) {
    const __m512d one = _mm512_castps_pd(b[i]), two = _mm512_castps_pd(b[i + 2]);
    c[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, two)), _mm512_castpd_ps(_mm512_unpackhi_pd(one, two)));
  }
  const __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xdd));
  // Lane l of 128 bits holds the sums of 4 * (l % 2 * 2 + l / 2) + {0, 2, 1, 3}, as the pairs above met.
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), sums);
}

// Running dot products of W rows of weights with M rows of x.
template <int W, int M>
struct PairSums {
  __m512 sum[W][M] = {};

  void add(const __m512i (&w)[W], const uint16_t* x) {
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      const __m512bh row = (__m512bh)_mm512_loadu_si512(x + r * kChunk);
#pragma GCC unroll 4
      for (int c = 0; c < W; ++c) sum[c][r] = _mm512_dpbf16_ps(sum[c][r], (__m512bh)w[c], row);
    }
  }
  // to[r * (kGroup / M) + c]
  void put(__m512* to) const {
#pragma GCC unroll 4
    for (int c = 0; c < W; ++c) {
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) to[r * (kGroup / M) + c] = sum[c][r];
    }
  }
};

// Rows of codes next to each other, each in whole chunks of one block.
struct CodeRows {
  const uint8_t* bytes;
  const float* book;       // [16]
  const float* constants;  // [rows, blocks]
  int64_t blocks, depth, pitch;
  int shift;

  void skip(int64_t rows) {
    bytes += rows * pitch;
    constants += rows * blocks;
  }
  // The chunk at element k of row c: the even elements, whose codes are the high nibbles, and the odd ones.
  void decode(int64_t c, int64_t k, __m512 values, __m512i& even, __m512i& odd) const {
    // A block's 16 values, twice: then a look-up takes bit 4 of its index as it comes.
    const __m512 scaled = _mm512_mul_ps(values, _mm512_set1_ps(constants[c * blocks + (k >> shift)]));
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(scaled, scaled);
    const __m512i codes =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + c * pitch + k / 2)));
    even = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), table);
    odd = _mm512_permutexvar_epi16(codes, table);
  }
};

// x is laid out with the even elements of a chunk before the odd ones.
template <int W, int M>
static inline void dot_pairs(const CodeRows& w, const Run& x, __m512* to, Ahead& ahead) {
  ahead.step();
  PairSums<W, M> sums;
  const __m512 book = _mm512_loadu_ps(w.book);
  const uint16_t* from = x.data;
  for (int64_t k = 0; k < w.depth; k += kChunk) {
    for (int64_t line = 0; line < W * kChunk / 2; line += kLine) __builtin_prefetch(w.bytes + kAhead + k / 2 * W + line);
    __m512i high[W], low[W];
#pragma GCC unroll 4
    for (int c = 0; c < W; ++c) w.decode(c, k, book, high[c], low[c]);
    for (int part = 0; part < x.parts; ++part, from += M * kChunk) {
      sums.add(high, from);
      sums.add(low, from + kChunk / 2);
    }
  }
  sums.put(to);
}

struct DenseRows {
  const uint16_t* data;
  int64_t depth, pitch;

  void skip(int64_t rows) { data += rows * pitch; }
};

static inline __m512i load_some(const uint16_t* from, int64_t count) {
  if (count >= 2 * kWidth) return _mm512_loadu_si512(from);
  return count > 0 ? _mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, from) : _mm512_setzero_si512();
}

// One row at a time: memory is read in order, at the speed at which it comes.
template <int W, int M>
static inline void dot_pairs(const DenseRows& w, const Run& x, __m512* to, Ahead&) {
  for (int c = 0; c < W; ++c) {
    PairSums<1, M> sums;
    const uint16_t *from = x.data, *row = w.data + c * w.pitch;
    for (int64_t k = 0; k < w.depth; k += kChunk, row += kChunk) {
      __builtin_prefetch(row + kAhead / 2, 0, 2);
      __builtin_prefetch(row + kAhead / 2 + kLine / 2, 0, 2);
      const __m512i first[1] = {load_some(row, w.depth - k)};
      const __m512i second[1] = {load_some(row + kChunk / 2, w.depth - k - kChunk / 2)};
      for (int part = 0; part < x.parts; ++part, from += M * kChunk) {
        sums.add(first, from);
        sums.add(second, from + kChunk / 2);
      }
    }
    sums.put(to + c);
  }
}

// out[r * kGroup + c] += totals[r * kGroup / M + c]
template <int M>
static inline void add_totals(__m512 totals, float* out) {
  constexpr int kColumns = kGroup / M;
  if constexpr (M == 4) {
    const auto add = [out](int r, __m128 four) { _mm_storeu_ps(out + r * kGroup, _mm_add_ps(_mm_loadu_ps(out + r * kGroup), four)); };
    add(0, _mm512_castps512_ps128(totals));
    add(1, _mm512_extractf32x4_ps(totals, 1));
    add(2, _mm512_extractf32x4_ps(totals, 2));
    add(3, _mm512_extractf32x4_ps(totals, 3));
  } else {
    float each[kGroup];
    _mm512_storeu_ps(each, totals);
    for (int r = 0; r < M; ++r)
      for (int c = 0; c < kColumns; ++c) out[r * kGroup + c] += each[r * kColumns + c];
  }
}

// The same for kGroup rows of x: totals [columns, rows].
static inline void add_turned(const __m512* totals, float* out) {
  float square[kGroup * kGroup];
  transpose_block(reinterpret_cast<const float*>(totals), kGroup, square, kGroup);
  for (int i = 0; i < kGroup * kGroup; i += kWidth) store(out + i, load(out + i) + load(square + i));
}

// out[r * kGroup + c] += row r of x . row c of w, for c < count <= kGroup
template <int M, typename Rows>
static void dot_run(Rows w, int64_t count, const Run& x, float* out, Ahead& ahead) {
  constexpr int kColumns = kGroup / M;                 // whose sums fill 16 vectors
  constexpr int kAtOnce = kColumns < 4 ? kColumns : 4;  // as many as registers hold
  __m512 turned[kGroup] = {};
  for (int64_t column = 0; column < count; column += kColumns) {
    __m512 sums[16];
    if (column + kColumns <= count) {
      for (int c = 0; c < kColumns; c += kAtOnce, w.skip(kAtOnce)) dot_pairs<kAtOnce, M>(w, x, sums + c, ahead);
    } else {
      memset(sums, 0, sizeof sums);
      for (int c = 0; column + c < count; ++c, w.skip(1)) dot_pairs<1, M>(w, x, sums + c, ahead);
    }
    if constexpr (M == kGroup) turned[column] = sums_of(sums);
    else add_totals<M>(sums_of(sums), out + column);
  }
  if constexpr (M == kGroup) add_turned(turned, out);
}

constexpr int kTile = 4;                  // rows of weights, and of x, whose sums are made together

// Writes rows of codes as [chunks, kTile, kChunk] bfloat16 numbers, the even elements of a chunk before the odd ones.
struct Decoder {
  CodeRows rows;
  __m512 book;
  uint16_t* to;

  Decoder(const CodeRows& w, uint16_t* at) : rows(w), book(_mm512_loadu_ps(w.book)), to(at) {}
  void put(int64_t c, int64_t k) const {
    __m512i even, odd;
    rows.decode(c, k, book, even, odd);
    __builtin_prefetch(rows.bytes + c * rows.pitch + k / 2 + kAhead);
    _mm512_store_si512(to + k * kTile + c * kChunk, even);
    _mm512_store_si512(to + k * kTile + c * kChunk + kChunk / 2, odd);
  }
};

// to[r * kTile + c]: row `first` + r of x times row c of the decoded ones. Beside it, BESIDE rows of the next tile are
// decoded, from row `next` on: look-ups and products use different units of a core.
template <int BESIDE>
static inline void dot_tile(const uint16_t* decoded, int64_t depth, const Run& x, int first, const Decoder& decoder,
                            int next, __m512* to, Ahead& ahead) {
  ahead.step();
  __m512 sum[kTile][kTile] = {};
  const uint16_t* from = x.data + first * kChunk;
  for (int64_t k = 0; k < depth; k += kChunk, decoded += kTile * kChunk) {
#pragma GCC unroll 4
    for (int c = 0; c < BESIDE; ++c) decoder.put(next + c, k);
    for (int part = 0; part < x.parts; ++part, from += x.rows * kChunk) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        __m512bh w[kTile];
#pragma GCC unroll 4
        for (int c = 0; c < kTile; ++c) w[c] = (__m512bh)_mm512_load_si512(decoded + c * kChunk + half * kChunk / 2);
#pragma GCC unroll 4
        for (int r = 0; r < kTile; ++r) {
          const __m512bh row = (__m512bh)_mm512_loadu_si512(from + r * kChunk + half * kChunk / 2);
#pragma GCC unroll 4
          for (int c = 0; c < kTile; ++c) sum[r][c] = _mm512_dpbf16_ps(sum[r][c], w[c], row);
        }
      }
    }
  }
  memcpy(to, sum, sizeof sum);
}

// The same sums as dot_run's, for M = 8 or 16 rows of x and count a multiple of kTile: codes are decoded once for all
// rows, and a vector from memory serves kTile products. (Rows of a dense matrix come from memory faster one by one.)
template <int M>
static void dot_decoded(const CodeRows& w, int64_t count, const Run& x, float* out, Ahead& ahead) {
  constexpr int kBeside = kTile * kTile / M;
  alignas(64) uint16_t space[2][kTile * kDecodedMax];
  Decoder decoder(w, space[0]);
  for (int64_t k = 0; k < w.depth; k += kChunk)
    for (int c = 0; c < kTile; ++c) decoder.put(c, k);
  for (int64_t column = 0; column < count; column += kTile) {
    const uint16_t* const decoded = decoder.to;
    decoder.rows.skip(kTile);
    decoder.to = decoded == space[0] ? space[1] : space[0];
    const bool more = column + kTile < count;
    for (int first = 0; first < M; first += kTile) {
      __m512 sums[kTile * kTile];
      if (more) dot_tile<kBeside>(decoded, w.depth, x, first, decoder, first / kTile * kBeside, sums, ahead);
      else dot_tile<0>(decoded, w.depth, x, first, decoder, 0, sums, ahead);
      add_totals<kTile>(sums_of(sums), out + first * kGroup + column);
    }
  }
}

template <typename Rows>
static void dot_pairs_of(const Rows& w, int64_t count, const Run& x, float* out, Ahead& ahead) {
  if (x.rows == 1) dot_run<1>(w, count, x, out, ahead);
  if (x.rows == 2) dot_run<2>(w, count, x, out, ahead);
  if (x.rows == 4) dot_run<4>(w, count, x, out, ahead);
  if (x.rows == 8) dot_run<8>(w, count, x, out, ahead);
  if (x.rows == 16) dot_run<16>(w, count, x, out, ahead);
}

// The products of the rows n ... n + count of b.
static inline void dot_rows(const Matrix& b, int64_t n, int64_t count, int64_t depth, const Run& x, float* out,
                            Ahead& ahead) {
  if (b.codes == nullptr)
    return dot_pairs_of(DenseRows{static_cast<const uint16_t*>(b.data) + n * b.columns, depth, b.columns}, count, x, out, ahead);
  const int64_t blocks = b.columns >> b.codes->shift();
  float constants[kGroup * kBlocksMax];
  b.codes->constants(n * blocks, count * blocks, constants);
  const CodeRows rows{b.codes->bytes + n * b.columns / 2, b.codes->book(), constants, blocks, depth, b.columns / 2,
                      b.codes->shift()};
  if (x.rows >= 2 * kTile && count % kTile == 0 && depth <= kDecodedMax)
    return x.rows == 8 ? dot_decoded<8>(rows, count, x, out, ahead) : dot_decoded<16>(rows, count, x, out, ahead);
  dot_pairs_of(rows, count, x, out, ahead);
}

#endif

}  // namespace nibble::cpu::NIBBLE_ISA
