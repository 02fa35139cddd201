#include "backends/cpu/dropout.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int kBatch = 4 * kWidth;  // elements of kWidth counters

// high and low words of factor * x, lane by lane
void multiply_wide(uint32_t factor, UVec x, UVec& high, UVec& low) {
#if defined(__AVX512F__)
  const __m512i f = _mm512_set1_epi32(int(factor)), v = (__m512i)x;
  const __m512i even = _mm512_mul_epu32(v, f), odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), f);
  high = (UVec)_mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
  low = (UVec)_mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
  const __m256i f = _mm256_set1_epi32(int(factor)), v = (__m256i)x;
  const __m256i even = _mm256_mul_epu32(v, f), odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), f);
  high = (UVec)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  low = (UVec)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#else
  for (int i = 0; i < kWidth; ++i) {
    const uint64_t product = uint64_t{factor} * x[i];
    high[i] = uint32_t(product >> 32);
    low[i] = uint32_t(product);
  }
#endif
}

// a[0], b[0], a[1], b[1], ... of two vectors, in two.
void zip(UVec& a, UVec& b) {
  UVec low, high;  // of lanes; constant-folded
  for (int i = 0; i < kWidth; ++i) {
    low[i] = uint32_t(i / 2 + i % 2 * kWidth);
    high[i] = low[i] + kWidth / 2;
  }
#if defined(__clang__)
  uint32_t both[2 * kWidth];
  memcpy(both, &a, sizeof a);
  memcpy(both + kWidth, &b, sizeof b);
  for (int i = 0; i < kWidth; ++i) {
    a[i] = both[low[i]];
    b[i] = both[high[i]];
  }
#else
  const UVec first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, high);
  a = first;
  b = second;
#endif
}

// The words of the counters index, index + 1, ..., word j of counter i being number 4 * i + j.
void philox_batch(const Dropout& d, uint64_t index, UVec (&c)[4]) {
  for (int i = 0; i < kWidth; ++i) {
    c[0][i] = uint32_t(index + uint64_t(i));
    c[1][i] = uint32_t((index + uint64_t(i)) >> 32);
  }
  c[2] = UVec{} + uint32_t(d.stream);
  c[3] = UVec{} + uint32_t(d.stream >> 32);
  uint32_t k0 = uint32_t(d.seed), k1 = uint32_t(d.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    UVec high0, low0, high2, low2;
    multiply_wide(0xD2511F53u, c[0], high0, low0);
    multiply_wide(0xCD9E8D57u, c[2], high2, low2);
    c[0] = high2 ^ c[1] ^ k0;
    c[2] = high0 ^ c[3] ^ k1;
    c[1] = low2;
    c[3] = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  zip(c[0], c[2]);
  zip(c[1], c[3]);
  zip(c[0], c[1]);
  zip(c[2], c[3]);
}

// The first 24-bit number that is kept, so that no float is needed: uniform >= p.
uint32_t threshold_of(float p) {
  const double scaled = double(p) * 0x1p24;
  const uint32_t floor = uint32_t(scaled);
  return floor + (double(floor) < scaled ? 1 : 0);
}

}  // namespace

void apply_dropout(const Dropout& d, int64_t first, int64_t count, float* values) {
  const float scale = 1.0f / (1.0f - d.p);
  const uint32_t threshold = threshold_of(d.p);
  for (int64_t base = first / 4 * 4; base < first + count; base += kBatch) {
    UVec word[4];
    philox_batch(d, uint64_t(base) / 4, word);
    float mask[kBatch];
    for (int j = 0; j < 4; ++j) {
      const IVec keeps = (IVec)(word[j] >> 8) >= int32_t(threshold);
      store(mask + j * kWidth, (Vec)(keeps & (IVec)splat(scale)));
    }
    const int64_t begin = base < first ? first : base;
    const int64_t end = base + kBatch < first + count ? base + kBatch : first + count;
    for (int64_t e = begin; e < end; ++e) values[e - first] *= mask[e - base];
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
