#include "core/tensor.h"

namespace nibble {

bool Tensor::has_shape(std::initializer_list<int64_t> want) const {
  if (int(want.size()) != rank) return false;
  int i = 0;
  for (int64_t n : want) {
    if (shape[i++] != n) return false;
  }
  return true;
}

std::string Tensor::shape_text() const {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? "," : "") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace nibble
