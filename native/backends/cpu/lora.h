// Adapters on rows of a batch that share its base, in pieces: whoever runs them chooses beside what. See ops/linear.h.
#pragma once

#include "backends/cpu/ahead.h"
#include "backends/cpu/workspace.h"
#include "ops/linear.h"

namespace nibble::cpu::NIBBLE_ISA {

// Some rows of one adapter at one layer. [1] h = x A^T, then [2] y += scaling * h B, any columns of it in any order.
class LoraPiece {
 public:
  LoraPiece() = default;
  LoraPiece(const LoraAddArgs& args, int64_t row, int64_t rows, float* space) : a_(&args), row_(row), rows_(rows), h_(space) {}

  static int64_t space_of(int64_t rows, int64_t rank);  // floats

  void shrink() const;
  void expand(int64_t begin, int64_t end) const;
  void expand() const { expand(0, out()); }  // all of them
  // What they will read.
  void ask_a(Ahead& ahead) const { ahead.add(a_->a.data, a_->a.bytes()); }
  void ask_b(int64_t begin, int64_t end, Ahead& ahead) const;

  int64_t a_bytes() const { return a_->a.bytes(); }
  int64_t b_bytes() const { return a_->b.bytes(); }
  bool is_of(const Tensor& y) const { return a_->y.data == y.data; }

 private:
  int64_t rank() const { return a_->a.dim(0); }
  // Of h, after it; see lora_pairs.h.
  uint32_t* parts() const { return reinterpret_cast<uint32_t*>(h_ + rows_ * rank()); }
  int64_t out() const { return a_->b.dim(1); }
  template <typename X, typename W>
  void shrink_as() const;
  template <typename Y, typename W>
  void expand_as(int64_t begin, int64_t end) const;

  const LoraAddArgs* a_;
  int64_t row_, rows_;
  float* h_;
};

// All pieces of some adds, in their order.
class LoraPieces {
 public:
  LoraPieces(const LoraAddArgs* adds, int count);

  void run() const;  // all of both
  int64_t count() const { return count_; }
  const LoraPiece& operator[](int64_t i) const { return reinterpret_cast<const LoraPiece*>(space_.data())[i]; }

 private:
  int64_t count_ = 0;
  Workspace space_;
};

}  // namespace nibble::cpu::NIBBLE_ISA
