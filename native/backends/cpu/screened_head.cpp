// One pass over the head's rows in 8 bits bounds every logit; then only what may be among the largest is multiplied as
// it is stored. Few rows of x wait for memory, and are taken as two 8-bit numbers an element, 254 hi + lo, so that nearly
// all of the bound is what the head lost. For many rows the products take longer: hi alone bounds less well, and costs half.
#include "ops/screened_head.h"

#include <float.h>
#include <math.h>

#include "backends/cpu/few_rows_pairs.h"
#include "backends/cpu/math.h"
#include "backends/cpu/ops.h"
#include "backends/cpu/workspace.h"
#include "core/thread_pool.h"

namespace nibble::cpu::NIBBLE_ISA {

namespace {

constexpr int64_t kTaskRows = 64;
constexpr int64_t kSpan = 8 * kWidth;      // logits whose largest is looked at together
constexpr int64_t kGathered = 64;          // rows that are multiplied together
constexpr int64_t kCandidateShare = 16;    // of so many rows one: beyond that the whole head is multiplied
constexpr float kSumError = 1.001f;        // of a sum of squares in float32, at most
constexpr float kLeast = 1e-30f;           // below, numbers have no 8-bit form
constexpr int kLow = 254;                  // parts of a step of hi
constexpr int64_t kFineRows = 1;           // of x at most, to be taken as two numbers an element
constexpr int kTogether = 4;               // rows of x, and of codes, whose sums are made together

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
  uint8_t* codes = a.screen.codes.u8() + row * pitch;
  a.screen.scale.f32()[row] = scale;
  a.screen.norm.f32()[row] = finite ? norm_of(values, pitch) : 0;
  if (coded) take_steps(values, pitch, scale, whole);
  for (int64_t i = 0; i < pitch; ++i) codes[i] = uint8_t(coded ? whole[i] + 128 : 128);
  a.screen.error.f32()[row] = finite ? norm_of(values, pitch) : INFINITY;
}

// A row of x in one or two 8-bit parts, and what bounds its logits: |logit - screened| <= of_error * error + of_norm * norm.
struct Screened {
  int parts;
  const int8_t* part[2];  // hi, lo: [pitch]
  int32_t start[2][16];   // -128 times what a lane of four codes each is multiplied with
  float step;             // of the last part; 0: the row has no such form
  float of_error, of_norm;

  bool is_fine() const { return parts == 2; }
};

Screened screen_x(const float* x, int64_t columns, int count, float* values, int8_t* parts) {
  const int64_t pitch = screen_pitch(columns);
  memset(values, 0, size_t(pitch) * 4);
  memcpy(values, x, size_t(columns) * 4);
  const float largest = largest_of(values, pitch);
  Screened s{.parts = count, .part = {parts, parts + pitch}, .start = {}, .step = 0, .of_error = 0, .of_norm = 0};
  memset(parts, 0, size_t(pitch) * 2);
  if (!(largest < INFINITY) || largest <= kLeast) return s;
  const float norm = norm_of(values, pitch);
  int32_t whole[kScreenPad];
  for (int part = 0; part < count; ++part) {
    s.step = part == 0 ? largest / 127 : s.step / kLow;
    for (int64_t k = 0; k < pitch; k += kScreenPad) {
      take_steps(values + k, kScreenPad, s.step, whole);
      for (int64_t i = 0; i < kScreenPad; ++i) {
        parts[part * pitch + k + i] = int8_t(whole[i]);
        s.start[part][i / 4] -= 128 * whole[i];
      }
    }
  }
  const float lost = norm_of(values, pitch);
  // Sums in float32, here and of the exact logits: some columns / 2 units in the last place, taken eight times.
  const float rounding = float(columns + 64) * 4 * FLT_EPSILON;
  s.of_error = norm + lost + kLeast;
  s.of_norm = lost + rounding * norm;
  return s;
}

#if defined(__AVX512BF16__)
// The same as dot_codes8 for up to kTogether coarse rows of x at out[r * kGroup], and count a multiple of kTogether.
void dot_together(const uint8_t* codes, int64_t pitch, int64_t count, const Screened* x, int rows, float* out) {
  const Screened* row_of[kTogether];
  for (int r = 0; r < kTogether; ++r) row_of[r] = x + (r < rows ? r : 0);
  for (int64_t column = 0; column < count; column += kTogether, codes += kTogether * pitch) {
    __m512i sum[kTogether][kTogether];
    for (int r = 0; r < kTogether; ++r)
      for (int c = 0; c < kTogether; ++c) sum[r][c] = _mm512_loadu_si512(row_of[r]->start[0]);
    for (int64_t k = 0; k < pitch; k += kScreenPad) {
      __m512i row[kTogether];
#pragma GCC unroll 4
      for (int c = 0; c < kTogether; ++c) {
        row[c] = _mm512_loadu_si512(codes + c * pitch + k);
        ask_for(codes + c * pitch + k + kAhead);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kTogether; ++r) {
        const __m512i hi = _mm512_loadu_si512(row_of[r]->part[0] + k);
#pragma GCC unroll 4
        for (int c = 0; c < kTogether; ++c) sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], row[c], hi);
      }
    }
    __m512 floats[kTogether * kTogether];
    for (int i = 0; i < kTogether * kTogether; ++i) floats[i] = _mm512_cvtepi32_ps(sum[i / kTogether][i % kTogether]);
    add_totals<kTogether>(sums_of(floats), out + column);
  }
}
#endif

// out[c] += codes of row c . hi, or . (254 hi + lo), for `count` rows <= kGroup.
void dot_codes8(const uint8_t* codes, int64_t pitch, int64_t count, const Screened& x, float* out) {
#if defined(__AVX512BF16__)
  __m512 sums[kGroup] = {};
  for (int64_t c = 0; c < count; ++c, codes += pitch) {
    __m512i hi = _mm512_loadu_si512(x.start[0]), lo = _mm512_loadu_si512(x.start[1]);
    for (int64_t k = 0; k < pitch; k += kScreenPad) {
      __builtin_prefetch(codes + kAhead + k);
      const __m512i row = _mm512_loadu_si512(codes + k);
      hi = _mm512_dpbusd_epi32(hi, row, _mm512_loadu_si512(x.part[0] + k));
      lo = _mm512_dpbusd_epi32(lo, row, _mm512_loadu_si512(x.part[1] + k));
    }
    sums[c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(hi), _mm512_set1_ps(x.is_fine() ? kLow : 1), _mm512_cvtepi32_ps(lo));
  }
  add_totals<1>(sums_of(sums), out);
#elif defined(__AVX2__)
  const __m256i middle = _mm256_set1_epi16(128);
  for (int64_t c = 0; c < count; ++c, codes += pitch) {
    __m256i hi = _mm256_setzero_si256(), lo = hi;
    for (int64_t k = 0; k < pitch; k += 16) {
      const auto bytes = [k](const void* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(static_cast<const char*>(p) + k)); };
      const __m256i row = _mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes(codes)), middle);
      hi = _mm256_add_epi32(hi, _mm256_madd_epi16(row, _mm256_cvtepi8_epi16(bytes(x.part[0]))));
      if (x.is_fine()) lo = _mm256_add_epi32(lo, _mm256_madd_epi16(row, _mm256_cvtepi8_epi16(bytes(x.part[1]))));
    }
    float lanes[8], total = 0;
    const __m256 by = _mm256_set1_ps(x.is_fine() ? kLow : 1);
    _mm256_storeu_ps(lanes, _mm256_fmadd_ps(_mm256_cvtepi32_ps(hi), by, _mm256_cvtepi32_ps(lo)));
    for (float lane : lanes) total += lane;
    out[c] += total;
  }
#else
  for (int64_t c = 0; c < count; ++c, codes += pitch) {
    int32_t hi = 0, lo = 0;
    for (int64_t k = 0; k < pitch; ++k) {
      hi += (int32_t(codes[k]) - 128) * x.part[0][k];
      lo += (int32_t(codes[k]) - 128) * x.part[1][k];
    }
    out[c] += float(hi) * float(x.is_fine() ? kLow : 1) + float(lo);
  }
#endif
}

// The products of one or more of `left` rows of x, at out[r * kGroup]; of how many.
int64_t dot_some(const uint8_t* codes, int64_t pitch, int64_t count, const Screened* x, int64_t left, float* out) {
  (void)left;
#if defined(__AVX512BF16__)
  if (!x->is_fine() && count % kTogether == 0) {
    dot_together(codes, pitch, count, x, left < kTogether ? int(left) : kTogether, out);
    return left < kTogether ? left : kTogether;
  }
#endif
  dot_codes8(codes, pitch, count, *x, out);
  return 1;
}

void screen_logits(const ScreenedHeadArgs& a, const Screened* rows) {
  const int64_t vocabulary = a.w.out, pitch = screen_pitch(a.w.in), n = a.x.dim(0);
  parallel_for((vocabulary + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const int64_t end = least_of((task + 1) * kTaskRows, vocabulary);
    for (int64_t i = task * kTaskRows; i < end; i += kGroup) {
      const int64_t count = least_of(kGroup, end - i);
      const uint8_t* const codes = a.screen.codes.u8() + i * pitch;
      for (int64_t r = 0; r < n;) {
        float sums[kTogether * kGroup] = {};
        const int64_t some = dot_some(codes, pitch, count, rows + r, n - r, sums);
        for (const int64_t next = r + some; r < next; ++r) {
          const float* const row = sums + (some - (next - r)) * kGroup;
          float* y = a.y.f32() + r * vocabulary + i;
          for (int64_t c = 0; c < count; ++c) y[c] = row[c] * (rows[r].step * a.screen.scale.f32()[i + c]);
        }
      }
    }
  });
}

// Calls body(i) for the logits i of a row for which value(i, n), their vector, may exceed at_least().
template <typename Value, typename Least, typename Body>
void each_above(int64_t count, Value value, Least at_least, Body body) {
  for (int64_t i = 0; i < count; i += kSpan) {
    const int64_t end = least_of(i + kSpan, count);
    Vec highest = splat(-INFINITY);
    each_vector(i, end, [&](int64_t k, int n) NIBBLE_INLINE {
      Vec v = value(k, n);
      if (n < kWidth)
        for (int l = n; l < kWidth; ++l) v[l] = -INFINITY;
      highest = v > highest ? v : highest;
    });
    if (max(highest) < at_least()) continue;
    for (int64_t k = i; k < end; ++k) body(k);
  }
}

// The ids that may be among the `keep` largest of a row of screened logits; -1: too many.
class Candidates {
 public:
  Candidates(const ScreenedHeadArgs& a, const float* y, const Screened& x) : a_(a), y_(y), x_(x) {}

  int64_t find(float* largest, int32_t* ids) const {
    const int64_t count = a_.w.out;
    for (int64_t i = 0; i < a_.keep; ++i) largest[i] = -INFINITY;
    each_above(
        count, [&](int64_t i, int n) { return load(y_ + i, n) - bound(i, n); }, [&] { return largest[0]; },
        [&](int64_t i) { push(largest, y_[i] - bound_of(i)); });
    int64_t found = 0;
    const int64_t most = count / kCandidateShare;
    each_above(
        count, [&](int64_t i, int n) { return load(y_ + i, n) + bound(i, n); }, [&] { return largest[0]; },
        [&](int64_t i) {
          if (y_[i] + bound_of(i) < largest[0]) return;
          if (found < most) ids[found] = int32_t(i);
          ++found;
        });
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
  parallel_for((a.w.out + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const Scratch::Piece piece(scratch);
    const int64_t end = least_of((task + 1) * kTaskRows, a.w.out);
    for (int64_t row = task * kTaskRows; row < end; ++row)
      screen_row(a, row, piece.data(), reinterpret_cast<int32_t*>(piece.data() + pitch));
  });
}

void screened_head(const ScreenedHeadArgs& a) {
  const int64_t n = a.x.dim(0), columns = a.w.in, vocabulary = a.w.out, pitch = screen_pitch(columns);
  const bool few = a.keep <= vocabulary / kCandidateShare;
  Workspace parts(n * pitch / 2 + pitch), screened(n * int64_t(sizeof(Screened) / 4)), largest(few ? a.keep : 0);
  Workspace ids(vocabulary / kCandidateShare), rows(kGathered * columns);
  auto* x = reinterpret_cast<Screened*>(screened.data());
  for (int64_t r = 0; r < n; ++r)
    x[r] = screen_x(a.x.f32() + r * columns, columns, n <= kFineRows ? 2 : 1, parts.data(), reinterpret_cast<int8_t*>(parts.data() + pitch) + r * 2 * pitch);
  if (few) screen_logits(a, x);
  for (int64_t r = 0; r < n; ++r) {
    float *row = a.x.f32() + r * columns, *y = a.y.f32() + r * vocabulary;
    auto* found = reinterpret_cast<int32_t*>(ids.data());
    const int64_t count = few && x[r].step > 0 ? Candidates(a, y, x[r]).find(largest.data(), found) : -1;
    if (count >= 0) {
      multiply(a, row, found, count, y, reinterpret_cast<uint8_t*>(rows.data()));
    } else {
      NIBBLE_ISA::linear_forward({.x = matrix(row, DType::kF32, 1, columns), .w = a.w, .y = matrix(y, DType::kF32, 1, vocabulary)});
    }
  }
}

}  // namespace nibble::cpu::NIBBLE_ISA
