#include "ops/code4.h"

#include <algorithm>
#include <numeric>

namespace nibble {

namespace {

void load_values(Codebook4& book, const uint32_t (&bits)[16]) {
  for (int i = 0; i < 16; ++i) book.value[i] = bits_to_float(bits[i]);
}

// `first` = the lowest code in use. Equal values (+0, -0 of FP4) keep the order of their codes.
Codebook4 finish(Codebook4 book, int first) {
  std::iota(book.code_of_rank, book.code_of_rank + 16, uint8_t(first));
  uint8_t* const end = book.code_of_rank + 16 - first;
  std::stable_sort(book.code_of_rank, end,
                   [&](uint8_t a, uint8_t b) { return book.value[a] < book.value[b]; });
  std::fill(end, book.code_of_rank + 16, *(end - 1));
  for (int i = 0; i < 15; ++i) {
    const float low = book.value[book.code_of_rank[i]], high = book.value[book.code_of_rank[i + 1]];
    book.threshold[i] = (low + high) / 2.0f;
  }
  return book;
}

Codebook4 make(Code4 type) {
  Codebook4 book{};
  if (type == Code4::kNf4) load_values(book, codes::kNf4Bits);
  if (type == Code4::kFp4) {
    load_values(book, codes::kFp4Bits);
    book.value[8] = -0.0f;  // bitsandbytes' quant_map holds +0 here, its kernels give -0
  }
  if (type == Code4::kInt4) {
    for (int i = 0; i < 16; ++i) book.value[i] = float(i - 8) / 7.0f;
  }
  return finish(book, type == Code4::kInt4 ? 1 : 0);
}

}  // namespace

const Codebook4& codebook4(Code4 type) {
  static const Codebook4 books[3] = {make(Code4::kNf4), make(Code4::kFp4), make(Code4::kInt4)};
  return books[int(type)];
}

Codebook4 dequantize_codebook4(Code4 type, int64_t count) {
  Codebook4 book = codebook4(type);
  if (type == Code4::kFp4 && count % 2 == 1) book.value[8] = 0.0f;
  return book;
}

}  // namespace nibble
