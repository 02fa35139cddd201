// Tensors of tests and the comparison that most tests are: every instruction set of this machine, with
// one thread and with three, and the CUDA backend, on a device or emulated, against the reference backend.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace nibble::test {

// Seeded tensors on one device. Each is a heap block of its own, exactly as long as its elements and no
// better aligned than one element, so that the sanitizer sees the first byte too many. On the CUDA device they are
// aligned, as core/memory.h aligns them, and in memory that the host reads too.
class Bench {
 public:
  explicit Bench(Device device, uint64_t seed = 1) : device_(device), state_(seed) {}

  // Uniform in [-1, 1) times size.
  Tensor random(DType dtype, std::initializer_list<int64_t> shape, double size = 1);
  Tensor filled(DType dtype, std::initializer_list<int64_t> shape, double value);
  Tensor values(DType dtype, std::initializer_list<double> values);
  // Whole numbers in [0, limit).
  Tensor indices(int64_t count, int64_t limit);
  // NaN everywhere; and what it holds in the end is compared.
  Tensor out(DType dtype, std::initializer_list<int64_t> shape);
  // Compared in the end, like `out`.
  Tensor compared(const Tensor& t);

  double uniform();  // [0, 1)
  Device device() const { return device_; }
  const std::vector<Tensor>& compared() const { return compared_; }

 private:
  Tensor make(DType dtype, std::initializer_list<int64_t> shape);

  Device device_;
  uint64_t state_;
  std::vector<std::unique_ptr<char, void (*)(char*)>> blocks_;
  std::vector<Tensor> compared_;
};

// Waits for the device.
double get(const Tensor& t, int64_t i);
void put(const Tensor& t, int64_t i, double value);

// Calls body with each supported instruction set chosen, and its name; then the old one again.
void for_each_isa(const std::function<void(const std::string&)>& body);

// Runs the case on the reference and on every instruction set; compared tensors may differ by `tolerance`
// times the largest value of the tensor, and bfloat16 ones by a unit in the last place besides; with tolerance 0
// not even the sign of a zero may differ. Threads change nothing, nor does a second run on the CUDA device, whose
// emulation then runs threads in the opposite order.
void expect_like_reference(const std::string& name, double tolerance, const std::function<void(Bench&)>& run);

// The same without the CUDA device, which need not have the op.
void expect_cpu_like_reference(const std::string& name, double tolerance, const std::function<void(Bench&)>& run);

// Expects nibble::Error with this text in its message.
void expect_error(const std::string& text, const std::function<void()>& run);

}  // namespace nibble::test
