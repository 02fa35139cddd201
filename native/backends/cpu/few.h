// A few objects side by side on the stack, made one after the other: what std::optional would be for, were it not a
// template that the instruction sets would share.
#pragma once

#include <new>

#include "backends/cpu/simd.h"

namespace nibble::cpu::NIBBLE_ISA {

template <typename T, int MAX>
class Few {
 public:
  Few() = default;
  ~Few() {
    while (count_ > 0) (*this)[--count_].~T();
  }
  Few(const Few&) = delete;
  Few& operator=(const Few&) = delete;

  // At most MAX times.
  template <typename... Args>
  T& add(const Args&... args) {
    return *new (space_ + sizeof(T) * count_++) T(args...);
  }
  int count() const { return count_; }
  T& operator[](int i) { return begin()[i]; }
  T* begin() { return reinterpret_cast<T*>(space_); }
  T* end() { return begin() + count_; }

 private:
  alignas(T) unsigned char space_[sizeof(T) * MAX];
  int count_ = 0;
};

}  // namespace nibble::cpu::NIBBLE_ISA
