// The largest logits of a head, exactly, for half the bytes of it: contract. Every row of the head is kept in 8 bits
// as well, with what it lost. A logit from those is off by at most (Cauchy-Schwarz)
//
//   |x . w - x' . w'|  <=  |x'| |w - w'| + |x - x'| |w|        x', w': as numbers of 8 bits (x: of 15)
//
// and by the rounding of sums, so rows whose logit cannot be among the `keep` largest are known without reading them;
// the others are multiplied as they are. Choosing a token from the result by its largest logit or among the top
// keep, as ops/sampling.h does, chooses as from the exact logits. Log-probabilities want all of them exact.
//
// screen_head:    row i of w to codes, scale, error |w - w'| and norm |w|; a row with NaN or Inf is never left out
// screened_head:  y[n, i] = x[n] . w[i], with the bits that linear_forward gives a row alone, for the `keep` largest of
//                 row n and whatever may be one of them; what any other y[n, i] holds is less than those
#pragma once

#include "ops/linear.h"

namespace nibble {

constexpr int64_t kScreenPad = 64;              // codes of a row are filled up to a multiple of this
constexpr int64_t kScreenColumnsMax = 1 << 16;  // sums stay in 32 bits
constexpr int64_t kScreenRows = 16;             // rows whose codes lie side by side
constexpr int64_t kScreenQuad = 4;              // columns of a row that do: what one instruction adds up
inline int64_t screen_pitch(int64_t columns) { return (columns + kScreenPad - 1) / kScreenPad * kScreenPad; }
inline int64_t screen_groups(int64_t rows) { return (rows + kScreenRows - 1) / kScreenRows; }
inline int64_t screen_at(int64_t row, int64_t column, int64_t pitch) {
  const int64_t quad = row / kScreenRows * (pitch / kScreenQuad) + column / kScreenQuad;
  return (quad * kScreenRows + row % kScreenRows) * kScreenQuad + column % kScreenQuad;
}

struct HeadScreen {
  // [screen_groups(V), screen_pitch(C) / kScreenQuad, kScreenRows, kScreenQuad] uint8: 128 + w / scale; 128 where there is no w
  Tensor codes;
  Tensor scale, error, norm;  // [V] float32
};

struct ScreenHeadArgs {
  Weight w;           // [V, C], dense
  HeadScreen screen;  // out
};

struct ScreenedHeadArgs {
  Tensor x;  // [N, C] float32
  Weight w;
  HeadScreen screen;
  int64_t keep;  // at least 1
  Tensor y;      // out [N, V] float32
};

void screen_head(const ScreenHeadArgs& args);
void screened_head(const ScreenedHeadArgs& args);

}  // namespace nibble
