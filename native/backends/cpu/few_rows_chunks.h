// Dot products of few rows of float32 numbers with rows of 4-bit codes of bfloat16 values, where an instruction set has
// no products of bfloat16 pairs (few_rows_pairs.h is for those that have). The two bytes of a value are looked up for many
// codes at a time, and become the upper half of a float32. Every sum is one chain over a row, in the order in which codes
// are decoded, whatever the number of rows of x.
#pragma once

#include "backends/cpu/few_rows_pairs.h"

namespace nibble::cpu::NIBBLE_ISA {

#if defined(__AVX2__) && !defined(__AVX512BF16__)
constexpr bool kDecodesChunks = true;
#else
constexpr bool kDecodesChunks = false;
#endif

// Whether the products below take rows of b.
static inline bool takes_chunks(const Matrix& b, int64_t depth) {
  return kDecodesChunks && b.codes != nullptr && b.is_bf16() && !b.rounded && is_chunked(*b.codes, b.columns, depth);
}

#if defined(__AVX2__) && !defined(__AVX512BF16__)

constexpr int kVectors = kChunk / kWidth;   // of a chunk
constexpr int kDecoded = 4;                 // rows of codes that are multiplied together
constexpr int64_t kDeep = 512;              // elements of them that are decoded for many rows of x: they stay in the cache
#if defined(__AVX512F__)
constexpr int kRowsAtOnce = 6;              // of x, whose sums stay in registers
#else
constexpr int kRowsAtOnce = 3;
#endif

// Which element of a chunk is number `at` as they are decoded.
static inline int64_t element_of(int64_t at) {
  const int64_t v = at / kWidth, lane = at % kWidth;
#if defined(__AVX512F__)
  return 2 * (2 * lane + v % 2) + v / 2;
#else
  return 2 * (lane / 4 * 16 + v / 2 % 2 * 8 + lane % 4 * 2 + v % 2) + v / 4;
#endif
}

// x as [chunks, m, kChunk], chunks in the order of decoding.
static inline void lay_out_chunks(const Matrix& x, int64_t m, int64_t depth, float* to) {
  float chunk[kChunk];
  for (int64_t k = 0; k < depth; k += kChunk)
    for (int64_t r = 0; r < m; ++r, to += kChunk) {
      fetch(x, r, k, kChunk, chunk);
      for (int64_t i = 0; i < kChunk; ++i) to[i] = chunk[element_of(i)];
    }
}

constexpr int kHalf = kVectors / 2;  // vectors of the even elements of a chunk, then of the odd ones

#if defined(__AVX512F__)
struct Values {
  __m512i twice;  // the 16 values of a block
};
#else
struct Values {
  __m256i lower, upper;  // bytes of the 16 values of a block, each twice
};
#endif

// Rows of codes next to each other, each in whole chunks of one block.
struct ChunkRows {
  const uint8_t* bytes;
  const float* constants;  // [rows, blocks]
  int64_t blocks, pitch;
  int shift;
  Vec book[16 / kWidth];  // in the order in which values() packs it

  void skip(int64_t rows) {
    bytes += rows * pitch;
    constants += rows * blocks;
  }
  void ask(int64_t k) const {
    for (int64_t line = 0; line < kDecoded * kChunk / 2; line += kLine) ask_for(bytes + kAhead + k / 2 * kDecoded + line);
  }

  // To nearest, ties to even, in the lower half of a lane; no NaN comes of finite weights.
  static UVec rounded(Vec v) {
    const UVec bits = (UVec)v;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  }

#if defined(__AVX512F__)
  void set_book(const float* of) { book[0] = load(of); }

  // Of row c's block at element k.
  Values values(int64_t c, int64_t k) const {
    const UVec all = rounded(book[0] * constants[c * blocks + (k >> shift)]);
    return {_mm512_broadcast_i64x4(_mm512_cvtepi32_epi16((__m512i)all))};
  }

  // Half `half` of the chunk at element k of row c.
  void decode(int64_t c, int64_t k, const Values& of, int half, Vec (&out)[kHalf]) const {
    const __m512i codes =
        _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + c * pitch + k / 2)));
    const UVec pairs = (UVec)_mm512_permutexvar_epi16(half == 0 ? _mm512_srli_epi16(codes, 4) : codes, of.twice);
    out[0] = (Vec)(pairs << 16);
    out[1] = (Vec)(pairs & 0xffff0000u);
  }
#else
  void set_book(const float* of) {
    for (int i = 0; i < 2; ++i)
      book[i] = (Vec)_mm256_set_m128(_mm_loadu_ps(of + 8 + 4 * i), _mm_loadu_ps(of + 4 * i));
  }

  // Of row c's block at element k.
  Values values(int64_t c, int64_t k) const {
    const float constant = constants[c * blocks + (k >> shift)];
    const __m256i apart = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15,  //
                                           0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i all = _mm256_packus_epi32((__m256i)rounded(book[0] * constant), (__m256i)rounded(book[1] * constant));
    const __m256i bytes_apart = _mm256_shuffle_epi8(all, apart);
    return {_mm256_permute4x64_epi64(bytes_apart, 0x88), _mm256_permute4x64_epi64(bytes_apart, 0xdd)};
  }

  // Half `half` of the chunk at element k of row c.
  void decode(int64_t c, int64_t k, const Values& of, int half, Vec (&out)[kHalf]) const {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + c * pitch + k / 2));
    const __m256i at = _mm256_and_si256(half == 0 ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
    const __m256i low = _mm256_shuffle_epi8(of.lower, at), high = _mm256_shuffle_epi8(of.upper, at);
    const UVec first = (UVec)_mm256_unpacklo_epi8(low, high), second = (UVec)_mm256_unpackhi_epi8(low, high);
    out[0] = (Vec)(first << 16);
    out[1] = (Vec)(first & 0xffff0000u);
    out[2] = (Vec)(second << 16);
    out[3] = (Vec)(second & 0xffff0000u);
  }
#endif
};

static inline __m256 half_of(Vec v) {
#if defined(__AVX512F__)
  return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
  return v;
#endif
}

// out[c] += the sum of v[c], for c < kDecoded.
static inline void add_sums(const Vec* v, float* out) {
  const __m256 first = _mm256_hadd_ps(half_of(v[0]), half_of(v[1])), second = _mm256_hadd_ps(half_of(v[2]), half_of(v[3]));
  const __m256 all = _mm256_hadd_ps(first, second);
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sums));
}

// kDecoded rows of codes times M rows of x, few of them: decoded in registers. to[r * kDecoded + c]
template <int M>
static inline void dot_direct(const ChunkRows& w, int64_t depth, const float* x, Vec* to) {
  Vec sum[kDecoded][M] = {};
  for (int64_t k = 0; k < depth; k += kChunk, x += M * kChunk) {
    w.ask(k);
    Values values[kDecoded];
#pragma GCC unroll 4
    for (int c = 0; c < kDecoded; ++c) values[c] = w.values(c, k);
    // Rows take turns half by half: the sums of each are one chain, whose links would wait for each other.
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 4
      for (int c = 0; c < kDecoded; ++c) {
        Vec some[kHalf];
        w.decode(c, k, values[c], half, some);
#pragma GCC unroll 4
        for (int v = 0; v < kHalf; ++v)
#pragma GCC unroll 2
          for (int r = 0; r < M; ++r)
            sum[c][r] = fma(some[v], load(x + r * kChunk + (half * kHalf + v) * kWidth), sum[c][r]);
      }
    }
  }
  for (int c = 0; c < kDecoded; ++c)
    for (int r = 0; r < M; ++r) to[r * kDecoded + c] = sum[c][r];
}

// sum[r * kDecoded + c] += R rows of x, from row `first` of m, times kDecoded rows of decoded chunks.
template <int R>
static inline void dot_tile(const float* decoded, int64_t depth, const float* x, int64_t m, Vec* sums) {
  Vec sum[R][kDecoded];
  memcpy(sum, sums, sizeof sum);
  for (int64_t k = 0; k < depth; k += kChunk, x += m * kChunk, decoded += kDecoded * kChunk) {
    for (int64_t v = 0; v < kChunk; v += kWidth) {
      Vec row[R];
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) row[r] = load(x + r * kChunk + v);
#pragma GCC unroll 4
      for (int c = 0; c < kDecoded; ++c) {
        const Vec w = load(decoded + c * kChunk + v);
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) sum[r][c] = fma(w, row[r], sum[r][c]);
      }
    }
  }
  memcpy(sums, sum, sizeof sum);
}

template <int R = kRowsAtOnce>
static inline void dot_tiles(int64_t rows, const float* decoded, int64_t depth, const float* x, int64_t m, Vec* sums) {
  for (; rows >= R; rows -= R, x += R * kChunk, sums += R * kDecoded) dot_tile<R>(decoded, depth, x, m, sums);
  if constexpr (R > 1) {
    if (rows > 0) dot_tiles<R - 1>(rows, decoded, depth, x, m, sums);
  }
}

// The same sums for many rows of x, and for `count` rows of codes, the others' being 0: each code is decoded once.
static inline void dot_decoded(const ChunkRows& w, int64_t count, int64_t depth, const float* x, int64_t m, Vec* sums) {
  alignas(64) float decoded[kDecoded * kDeep];
  if (count < kDecoded) memset(decoded, 0, sizeof decoded);
  memset(sums, 0, size_t(m * kDecoded) * sizeof(Vec));
  for (int64_t k = 0; k < depth; k += kDeep) {
    const int64_t some = depth - k < kDeep ? depth - k : kDeep;
    for (int64_t i = 0; i < some; i += kChunk) {
      w.ask(k + i);
      for (int64_t c = 0; c < count; ++c) {
        const Values values = w.values(c, k + i);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          Vec some[kHalf];
          w.decode(c, k + i, values, half, some);
          memcpy(decoded + i * kDecoded + c * kChunk + half * kHalf * kWidth, some, sizeof some);
        }
      }
    }
    dot_tiles(m, decoded, some, x + k * m, m, sums);
  }
}

// out[r * kGroup + c] += row r of x . row n + c of b, for r < m and c < count <= kGroup; x as lay_out_chunks has it.
// Columns of a last, incomplete kDecoded are added 0.
static inline void dot_chunks(const Matrix& b, int64_t n, int64_t count, int64_t depth, const float* x, int64_t m, float* out) {
  const int64_t blocks = b.columns >> b.codes->shift();
  float constants[kGroup * kBlocksMax];
  b.codes->constants(n * blocks, count * blocks, constants);
  ChunkRows w{b.codes->bytes + n * b.columns / 2, constants, blocks, b.columns / 2, b.codes->shift(), {}};
  w.set_book(b.codes->book());
  Vec sums[kFewRowsMax * kDecoded];
  for (; count > 0; count -= kDecoded, w.skip(kDecoded), out += kDecoded) {
    if (m == 1 && count >= kDecoded) dot_direct<1>(w, depth, x, sums);
    else if (m == 2 && count >= kDecoded) dot_direct<2>(w, depth, x, sums);
    else dot_decoded(w, count < kDecoded ? count : kDecoded, depth, x, m, sums);
    for (int64_t r = 0; r < m; ++r) add_sums(sums + r * kDecoded, out + r * kGroup);
  }
}

#endif

}  // namespace nibble::cpu::NIBBLE_ISA
