// One pass over the head's rows in 8 bits bounds every logit; then only what may be among the largest is multiplied as
// it is stored. Few rows of x wait for memory, and are taken as two 8-bit numbers an element, 254 hi + lo, so that nearly
// all of the bound is what the head lost. For many rows the products take longer: hi alone bounds less well, and costs half.
#include "ops/screened_head.h"

#include <float.h>
#include <math.h>

#include "backends/cpu/elements.h"
#include "backends/cpu/math.h"
#include "backends/cpu/matrix.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskRows = 4 * kScreenRows;
constexpr int64_t kSpan = 128;             // logits whose largest is looked at together
constexpr int64_t kGathered = 64;          // rows that are multiplied together
constexpr int64_t kCandidateShare = 16;    // of so many rows one: beyond that the whole head is multiplied
constexpr float kSumError = 1.001f;        // of a sum of squares in float32, at most
constexpr float kLeast = 1e-30f;           // below, numbers have no 8-bit form
constexpr int kLow = 254;                  // parts of a step of hi
constexpr int64_t kFineRows = 1;           // of x at most, to be taken as two numbers an element
constexpr int64_t kAhead = 4096;           // bytes of codes asked for before their turn
constexpr int kRunMax = 16;                // rows of 8-bit numbers whose sums are made together

int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

float largest_of(const float* x, int64_t count) {
  Vec highest{}, bad{};
  for (int64_t i = 0; i < count; i += kWidth) {
    const Vec v = load(x + i), size = (Vec)((UVec)v & 0x7fffffffu);
    highest = size > highest ? size : highest;
    bad += v - v;  // NaN of NaN and Inf
  }
  return sum(bad) == 0 ? max(highest) : INFINITY;
}

float norm_of(const float* x, int64_t count) {
  Vec total{};
  for (int64_t i = 0; i < count; i += kWidth) total = fma(load(x + i), load(x + i), total);
  return sqrtf(sum(total)) * kSumError;
}

// x / step rounded, as whole numbers; the rest stays in x.
void take_steps(float* x, int64_t count, float step, int32_t* whole) {
  const Vec by = splat(1 / step);
  for (int64_t i = 0; i < count; i += kWidth) {
    const Vec v = load(x + i) * by;
    const IVec n = __builtin_convertvector(v + (v < Vec{} ? splat(-0.5f) : splat(0.5f)), IVec);
    memcpy(whole + i, &n, sizeof n);
    store(x + i, load(x + i) - __builtin_convertvector(n, Vec) * splat(step));
  }
}

void screen_row(const ScreenHeadArgs& a, int64_t row, float* values, int32_t* whole) {
  const int64_t columns = a.w.in, pitch = screen_pitch(columns);
  memset(values + columns, 0, size_t(pitch - columns) * 4);
  fetch(matrix_of(a.w.data), row, 0, columns, values);
  const float largest = largest_of(values, pitch);
  const bool finite = largest < INFINITY, coded = finite && largest > kLeast;
  const float scale = coded ? largest / 127 : 0;
  a.screen.scale.f32()[row] = scale;
  a.screen.norm.f32()[row] = finite ? norm_of(values, pitch) : 0;
  if (coded) take_steps(values, pitch, scale, whole);
  a.screen.error.f32()[row] = finite ? norm_of(values, pitch) : INFINITY;
  uint8_t* to = a.screen.codes.u8() + screen_at(row, 0, pitch);
  for (int64_t i = 0; i < pitch; i += kScreenQuad, to += kScreenRows * kScreenQuad) {
    uint8_t quad[kScreenQuad];
    for (int64_t c = 0; c < kScreenQuad; ++c) quad[c] = uint8_t(coded ? whole[i + c] + 128 : 128);
    memcpy(to, quad, kScreenQuad);
  }
}

// What turns a row of x in one or two 8-bit parts, and its sums, into logits, and bounds them:
// |logit - screened| <= of_error * error + of_norm * norm.
struct Screened {
  float step;  // of the last part; 0: the row has no such form
  float of_error, of_norm;
};

// 8-bit rows, the parts of x: [pitch / kScreenQuad, rows] quads, rows of zeros among them, so that they make whole runs.
struct Parts {
  int32_t *quads, *start;  // start: -128 times the sum of a row, as codes have 128 added
  int64_t rows;

  static int64_t rows_of(int64_t n) { return n <= kFineRows ? 2 : (n + 3) / 4 * 4; }
  static int64_t floats(int64_t n, int64_t pitch) { return rows_of(n) * (pitch / kScreenQuad + 1); }
  Parts(float* space, int64_t n, int64_t pitch) : quads(reinterpret_cast<int32_t*>(space)), rows(rows_of(n)) {
    start = quads + rows * (pitch / kScreenQuad);
    memset(space, 0, size_t(floats(n, pitch)) * 4);
  }
  void put(int64_t row, int64_t column, const int32_t* whole) const {
    int8_t* const to = reinterpret_cast<int8_t*>(quads + column / kScreenQuad * rows + row);
    for (int64_t i = 0; i < kScreenQuad; ++i) {
      to[i] = int8_t(whole[i]);
      start[row] -= 128 * whole[i];
    }
  }
};

// Writes a row of x to rows first ... of `parts`.
Screened screen_x(const float* x, int64_t columns, int count, float* values, const Parts& to, int64_t first) {
  const int64_t pitch = screen_pitch(columns);
  memset(values, 0, size_t(pitch) * 4);
  memcpy(values, x, size_t(columns) * 4);
  const float largest = largest_of(values, pitch);
  Screened s{};
  if (!(largest < INFINITY) || largest <= kLeast) return s;
  const float norm = norm_of(values, pitch);
  int32_t whole[kScreenPad];
  for (int part = 0; part < count; ++part) {
    s.step = part == 0 ? largest / 127 : s.step / kLow;
    for (int64_t k = 0; k < pitch; k += kScreenPad) {
      take_steps(values + k, kScreenPad, s.step, whole);
      for (int64_t i = 0; i < kScreenPad; i += kScreenQuad) to.put(first + part, k + i, whole + i);
    }
  }
  const float lost = norm_of(values, pitch);
  // Sums in float32, here and of the exact logits: some columns / 2 units in the last place, taken eight times.
  const float rounding = float(columns + 64) * 4 * FLT_EPSILON;
  s.of_error = norm + lost + kLeast;
  s.of_norm = lost + rounding * norm;
  return s;
}

// sums[m, c] = row c of a group . row m of M: `quads` vectors of codes, each times M numbers from memory for all its lanes.
#if defined(__AVX512BF16__)
template <int M>
void dot_group(const uint8_t* codes, int64_t quads, const int32_t* x, int64_t x_step, int32_t* sums) {
  constexpr int kChains = M < 8 ? 2 : 1;  // sums of few rows would wait for their own last one
  __m512i sum[kChains][M] = {};
  for (int64_t k = 0; k < quads; k += kChains, codes += kChains * kScreenRows * kScreenQuad) {
#pragma GCC unroll 2
    for (int i = 0; i < kChains; ++i, x += x_step) {
      const __m512i row = _mm512_loadu_si512(codes + i * kScreenRows * kScreenQuad);
      ask_for(codes + i * kScreenRows * kScreenQuad + kAhead);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum[i][m]) : "v"(row), "m"(x[m]));
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
    _mm512_storeu_si512(sums + m * kScreenRows, kChains == 2 ? _mm512_add_epi32(sum[0][m], sum[kChains - 1][m]) : sum[0][m]);
}
#elif defined(__AVX2__)
// Two rows at a time: registers hold no more.
template <int M>
void dot_group(const uint8_t* codes, int64_t quads, const int32_t* x, int64_t x_step, int32_t* sums) {
  constexpr int kAtOnce = 2, kVectors = 4;  // of four rows of codes each, two sums a row
  for (int m = 0; m < M; m += kAtOnce, sums += kAtOnce * kScreenRows) {
    __m256i sum[kAtOnce][kVectors] = {};
    for (int64_t k = 0; k < quads; ++k) {
      __m256i by[kAtOnce];
      for (int i = 0; i < kAtOnce; ++i) by[i] = _mm256_cvtepi8_epi16(_mm_set1_epi32(x[k * x_step + m + i]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const auto* const at = reinterpret_cast<const __m128i*>(codes + k * kScreenRows * kScreenQuad) + v;
        const __m256i row = _mm256_cvtepu8_epi16(_mm_loadu_si128(at));
        for (int i = 0; i < kAtOnce; ++i) sum[i][v] = _mm256_add_epi32(sum[i][v], _mm256_madd_epi16(row, by[i]));
      }
    }
    for (int i = 0; i < kAtOnce; ++i) {
      for (int v = 0; v < kVectors; v += 2) {
        const __m256i pairs = _mm256_hadd_epi32(sum[i][v], sum[i][v + 1]);
        const __m256i ordered = _mm256_permute4x64_epi64(pairs, 0xd8);
        memcpy(sums + i * kScreenRows + v * 4, &ordered, sizeof ordered);
      }
    }
  }
}
#else
template <int M>
void dot_group(const uint8_t* codes, int64_t quads, const int32_t* x, int64_t x_step, int32_t* sums) {
  memset(sums, 0, M * kScreenRows * 4);
  for (int64_t k = 0; k < quads; ++k, codes += kScreenRows * kScreenQuad, x += x_step) {
    for (int m = 0; m < M; ++m) {
      int8_t by[kScreenQuad];
      memcpy(by, x + m, kScreenQuad);
      for (int64_t c = 0; c < kScreenRows * kScreenQuad; ++c) sums[m * kScreenRows + c / kScreenQuad] += codes[c] * by[c % kScreenQuad];
    }
  }
}
#endif

// The sums of one or more of the rows from `row` on; of how many.
int64_t dot_some(const uint8_t* codes, int64_t quads, const Parts& parts, int64_t row, int32_t* sums) {
  const int64_t left = parts.rows - row;
  const int some = left >= kRunMax ? kRunMax : left >= 8 ? 8 : left >= 4 ? 4 : 2;
  const int32_t* const x = parts.quads + row;
  if (some == kRunMax) dot_group<kRunMax>(codes, quads, x, parts.rows, sums);
  if (some == 8) dot_group<8>(codes, quads, x, parts.rows, sums);
  if (some == 4) dot_group<4>(codes, quads, x, parts.rows, sums);
  if (some == 2) dot_group<2>(codes, quads, x, parts.rows, sums);
  for (int64_t m = 0; m < some; ++m)
    for (int64_t c = 0; c < kScreenRows; ++c) sums[m * kScreenRows + c] += parts.start[row + m];
  return some;
}

// y = the logits of a group: of its first `count` rows.
void put_logits(const ScreenedHeadArgs& a, const Screened& x, int64_t group, int64_t count, const int32_t* hi, const int32_t* lo,
                float* y) {
  const auto floats = [](const int32_t* sums) {
    IVec v;
    memcpy(&v, sums, sizeof v);
    return __builtin_convertvector(v, Vec);
  };
  const float* const scale = a.screen.scale.f32() + group;
  each_vector(0, count, [&](int64_t c, int n) NIBBLE_INLINE {
    const Vec sum = lo == nullptr ? floats(hi + c) : fma(floats(hi + c), splat(kLow), floats(lo + c));
    store(y + group + c, sum * (load(scale + c, n) * splat(x.step)), n);
  });
}

void screen_logits(const ScreenedHeadArgs& a, const Screened* x, const Parts& parts) {
  const int64_t vocabulary = a.w.out, pitch = screen_pitch(a.w.in), n = a.x.dim(0);
  parallel_for((vocabulary + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const int64_t end = least_of((task + 1) * kTaskRows, vocabulary);
    for (int64_t i = task * kTaskRows; i < end; i += kScreenRows) {
      const int64_t count = least_of(kScreenRows, end - i);
      const uint8_t* const codes = a.screen.codes.u8() + i * pitch;
      for (int64_t row = 0; row < parts.rows;) {
        alignas(64) int32_t sums[kRunMax * kScreenRows];
        const int64_t first = row;
        row += dot_some(codes, pitch / kScreenQuad, parts, row, sums);
        const bool is_fine = n <= kFineRows;
        for (int64_t r = first; r < row && r < n; ++r) {
          const int32_t* const own = sums + (r - first) * kScreenRows;
          put_logits(a, x[r], i, count, own, is_fine ? own + kScreenRows : nullptr, a.y.f32() + r * vocabulary);
        }
      }
    }
  });
}

// The ids that may be among the `keep` largest of a row of screened logits; -1: too many.
class Candidates {
 public:
  Candidates(const ScreenedHeadArgs& a, const float* y, const Screened& x) : a_(a), y_(y), x_(x) {}

  static int64_t spans(int64_t count) { return (count + kSpan - 1) / kSpan; }

  // `highest` [spans]: scratch, the most that a logit of each span may be.
  int64_t find(float* largest, float* highest, int32_t* ids) const {
    const int64_t count = a_.w.out, most = count / kCandidateShare;
    for (int64_t i = 0; i < a_.keep; ++i) largest[i] = -INFINITY;
    for (int64_t span = 0; span < spans(count); ++span) {
      const int64_t end = least_of((span + 1) * kSpan, count);
      Vec low = splat(-INFINITY), high = low;
      each_vector(span * kSpan, end, [&](int64_t i, int n) NIBBLE_INLINE {
        Vec v = load(y_ + i, n);
        if (n < kWidth)
          for (int l = n; l < kWidth; ++l) v[l] = -INFINITY;
        const Vec off = bound(i, n), least = v - off, greatest = v + off;
        low = least > low ? least : low;
        high = greatest > high ? greatest : high;
      });
      highest[span] = max(high);
      if (max(low) < largest[0]) continue;
      for (int64_t i = span * kSpan; i < end; ++i) push(largest, y_[i] - bound_of(i));
    }
    int64_t found = 0;
    for (int64_t span = 0; span < spans(count); ++span) {
      if (highest[span] < largest[0]) continue;
      for (int64_t i = span * kSpan; i < least_of((span + 1) * kSpan, count); ++i) {
        if (y_[i] + bound_of(i) < largest[0]) continue;
        if (found < most) ids[found] = int32_t(i);
        ++found;
      }
    }
    return found <= most ? found : -1;
  }

 private:
  Vec bound(int64_t i, int n) const {
    return load(a_.screen.error.f32() + i, n) * splat(x_.of_error) + load(a_.screen.norm.f32() + i, n) * splat(x_.of_norm);
  }
  float bound_of(int64_t i) const {
    return a_.screen.error.f32()[i] * x_.of_error + a_.screen.norm.f32()[i] * x_.of_norm;
  }
  // A heap whose least comes first: the new value takes its place.
  void push(float* heap, float value) const {
    if (!(value > heap[0])) return;
    int64_t at = 0;
    for (int64_t child = 1; child < a_.keep; child = 2 * at + 1) {
      if (child + 1 < a_.keep && heap[child + 1] < heap[child]) ++child;
      if (heap[child] >= value) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = value;
  }

  const ScreenedHeadArgs& a_;
  const float* y_;
  const Screened& x_;
};

Tensor matrix(void* data, DType dtype, int64_t rows, int64_t columns) {
  return {.data = data, .dtype = dtype, .rank = 2, .shape = {rows, columns}};
}

// The logits of the ids, as they are.
void multiply(const ScreenedHeadArgs& a, float* x, const int32_t* ids, int64_t count, float* y, uint8_t* rows) {
  const int64_t bytes = a.w.in * size_of(a.w.data.dtype);
  float logits[kGathered];
  for (int64_t i = 0; i < count; i += kGathered) {
    const int64_t some = least_of(kGathered, count - i);
    for (int64_t c = 0; c < some; ++c) memcpy(rows + c * bytes, a.w.data.u8() + ids[i + c] * bytes, size_t(bytes));
    const Weight w{.out = some, .in = a.w.in, .data = matrix(rows, a.w.data.dtype, some, a.w.in)};
    NIBBLE_ISA::linear_forward({.x = matrix(x, DType::kF32, 1, a.w.in), .w = w, .y = matrix(logits, DType::kF32, 1, some)});
    for (int64_t c = 0; c < some; ++c) y[ids[i + c]] = logits[c];
  }
}

}  // namespace

void screen_head(const ScreenHeadArgs& a) {
  const int64_t pitch = screen_pitch(a.w.in);
  const Scratch scratch(2 * pitch, thread_count());
  const int64_t last = screen_at((screen_groups(a.w.out) - 1) * kScreenRows, 0, pitch);
  memset(a.screen.codes.u8() + last, 128, size_t(kScreenRows * pitch));  // not all of its rows may be there
  parallel_for((a.w.out + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const Scratch::Piece piece(scratch);
    const int64_t end = least_of((task + 1) * kTaskRows, a.w.out);
    for (int64_t row = task * kTaskRows; row < end; ++row)
      screen_row(a, row, piece.data(), reinterpret_cast<int32_t*>(piece.data() + pitch));
  });
}

void screened_head(const ScreenedHeadArgs& a) {
  const int64_t n = a.x.dim(0), columns = a.w.in, vocabulary = a.w.out, pitch = screen_pitch(columns);
  const int64_t most = vocabulary / kCandidateShare;
  const bool few = a.keep <= most;
  Workspace values(pitch), quads(Parts::floats(n, pitch)), screened(n * int64_t(sizeof(Screened) / 4));
  const int64_t spans = Candidates::spans(vocabulary);
  Workspace largest(few ? n * a.keep : 0), highest(n * spans), ids(n * most), counts(n), rows(kGathered * columns);
  auto* x = reinterpret_cast<Screened*>(screened.data());
  auto* found = reinterpret_cast<int32_t*>(counts.data());
  const Parts parts(quads.data(), n, pitch);
  for (int64_t r = 0; r < n; ++r)
    x[r] = screen_x(a.x.f32() + r * columns, columns, n <= kFineRows ? 2 : 1, values.data(), parts, r);
  if (few) screen_logits(a, x, parts);
  const auto ids_of = [&](int64_t r) { return reinterpret_cast<int32_t*>(ids.data()) + r * most; };
  parallel_for(n, [&](int64_t r) {
    const Candidates candidates(a, a.y.f32() + r * vocabulary, x[r]);
    found[r] = few && x[r].step > 0 ? int32_t(candidates.find(largest.data() + r * a.keep, highest.data() + r * spans, ids_of(r))) : -1;
  });
  for (int64_t r = 0; r < n; ++r) {
    float *row = a.x.f32() + r * columns, *y = a.y.f32() + r * vocabulary;
    if (found[r] >= 0) {
      multiply(a, row, ids_of(r), found[r], y, reinterpret_cast<uint8_t*>(rows.data()));
    } else {
      NIBBLE_ISA::linear_forward({.x = matrix(row, DType::kF32, 1, columns), .w = a.w, .y = matrix(y, DType::kF32, 1, vocabulary)});
    }
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
