#include "ops/code8.h"

#include "core/dtype.h"
#include "ops/code_tables.h"

namespace nibble {

namespace {

Codebook8* make(const uint32_t (&bits)[256]) {
  auto* book = new Codebook8;
  float middle[255];
  for (int i = 0; i < 256; ++i) book->value[i] = bits_to_float(bits[i]);
  for (int i = 0; i < 255; ++i) middle[i] = 0.5f * (book->value[i] + book->value[i + 1]);
  int code = 0;
  for (int t = 0; t < 65536; ++t) {
    const float x = -1.0f + (2.0f * float(t)) / 65535.0f;
    while (code < 255 && middle[code] < x) ++code;
    book->nearest[t] = uint8_t(code);
  }
  return book;
}

}  // namespace

const Codebook8& codebook8_signed() {
  static const Codebook8* book = make(codes::kDynamicSignedBits);
  return *book;
}

const Codebook8& codebook8_unsigned() {
  static const Codebook8* book = make(codes::kDynamicUnsignedBits);
  return *book;
}

}  // namespace nibble
