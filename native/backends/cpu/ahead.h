// Memory that will be read, asked for a piece at a time beside other work.
#pragma once

#include "backends/cpu/simd.h"
#include "ops/linear.h"

namespace nibble::cpu::NIBBLE_ISA {

// Bytes that follow each other.
class Ahead {
 public:
  Ahead() = default;
  explicit Ahead(const Tensor& t) : at_(t.u8()), end_(at_ + t.count() * size_of(t.dtype)) {}

  int64_t left() const { return end_ - at_; }
  void ask(int64_t bytes) {
    const uint8_t* const stop = left() < bytes ? end_ : at_ + bytes;
    for (; at_ < stop; at_ += kLine) ask_for(at_);
    at_ = stop;
  }
  void skip(int64_t bytes) { at_ += left() < bytes ? left() : bytes; }

 private:
  static constexpr int64_t kLine = 64;
  const uint8_t *at_ = nullptr, *end_ = nullptr;
};

// The matrices of adapters, in the order in which lora_adds reads them.
class AdaptersAhead {
 public:
  AdaptersAhead(const LoraAddArgs* adds, int count) : next_(adds), end_(adds + count) {}

  static int64_t bytes_of(const LoraAddArgs* adds, int count) {
    int64_t bytes = 0;
    for (const LoraAddArgs* a = adds; a < adds + count; ++a) bytes += Ahead(a->a).left() + Ahead(a->b).left();
    return bytes;
  }
  void skip(int64_t bytes) { each(bytes, [](Ahead& part, int64_t n) { part.skip(n); }); }
  void ask(int64_t bytes) { each(bytes, [](Ahead& part, int64_t n) { part.ask(n); }); }

 private:
  template <typename Take>
  void each(int64_t bytes, Take take) {
    while (bytes > 0) {
      if (part_.left() == 0) {
        if (next_ == end_) return;
        part_ = Ahead(in_b_ ? next_->b : next_->a);
        if (in_b_) ++next_;
        in_b_ = !in_b_;
      }
      const int64_t n = part_.left() < bytes ? part_.left() : bytes;
      take(part_, n);
      bytes -= n;
    }
  }

  Ahead part_;
  const LoraAddArgs *next_, *end_;
  bool in_b_ = false;
};

}  // namespace nibble::cpu::NIBBLE_ISA
