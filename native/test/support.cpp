#include "test/support.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backends/reference/access.h"
#include "core/device_memory.h"
#include "core/error.h"
#include "core/thread_pool.h"
#include "ops/backend.h"
#include "test/device.h"

namespace nibble::test {

namespace {

struct Restore {
  int threads = thread_count();
  std::string isa = isa_name();
  ~Restore() {
    set_thread_count(threads);
    for (const Isa i : kIsas) {
      if (!isa_supported(i)) continue;
      choose_isa(i);
      if (isa == isa_name()) return;
    }
  }
};

void expect_close(const Tensor& got, const Tensor& want, double tolerance, const std::string& name) {
  double top = 0;
  for (int64_t i = 0; i < want.count(); ++i) top = std::fmax(top, std::fabs(reference::get(want, i)));
  for (int64_t i = 0; i < want.count(); ++i) {
    const double a = reference::get(got, i), b = reference::get(want, i);
    const bool same = (a == b && std::signbit(a) == std::signbit(b)) || (std::isnan(a) && std::isnan(b));
    if (same) continue;
    const double allowed = tolerance == 0 ? -1 : tolerance * top + (want.dtype == DType::kBF16 ? std::fabs(b) / 128 : 0);
    if (!(std::fabs(a - b) <= allowed)) {
      ADD_FAILURE() << name << " " << want.shape_text() << " element " << i << ": expected " << b << " +- " << allowed
                    << ", got " << a;
      return;
    }
  }
}

void expect_same_bits(const Bench& got, const Bench& want, const std::string& name) {
  for (size_t i = 0; i < want.compared().size(); ++i) {
    const Tensor &a = got.compared()[i], &b = want.compared()[i];
    EXPECT_EQ(std::memcmp(a.data, b.data, size_t(b.bytes())), 0) << name << ": tensor " << i << " has other bits";
  }
}

void expect_close(const Bench& got, const Bench& want, double tolerance, const std::string& name) {
  for (size_t i = 0; i < want.compared().size(); ++i) {
    expect_close(got.compared()[i], want.compared()[i], tolerance, name + ", tensor " + std::to_string(i));
  }
}

void run_on_cuda(const std::string& name, double tolerance, const std::function<void(Bench&)>& run) {
  Bench reference(Device::kReference), once(Device::kCuda), again(Device::kCuda);
  run(reference);
  run(once);
  const device::Reversed reversed;
  run(again);
  cuda::synchronize();
  expect_same_bits(again, once, name + " on cuda, a second time");
  expect_close(once, reference, tolerance, name + " on cuda");
}

}  // namespace

Tensor Bench::make(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t;
  t.dtype = dtype;
  t.device = device_;
  for (int64_t n : shape) t.shape[t.rank++] = n;
  if (device_ == Device::kCuda) {
    blocks_.emplace_back(device::allocate(t.bytes()), device::release);
    t.data = blocks_.back().get();
    return t;
  }
  // new gives an aligned address; the tensor starts one element after it and ends where the block does.
  const int64_t skip = size_of(dtype);
  blocks_.emplace_back(new char[size_t(skip + t.bytes())], [](char* block) { delete[] block; });
  t.data = blocks_.back().get() + skip;
  return t;
}

double Bench::uniform() {
  state_ += 0x9E3779B97F4A7C15u;  // splitmix64
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return double((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

Tensor Bench::random(DType dtype, std::initializer_list<int64_t> shape, double size) {
  const Tensor t = make(dtype, shape);
  for (int64_t i = 0; i < t.count(); ++i) put(t, i, (2 * uniform() - 1) * size);
  return t;
}

Tensor Bench::filled(DType dtype, std::initializer_list<int64_t> shape, double value) {
  const Tensor t = make(dtype, shape);
  for (int64_t i = 0; i < t.count(); ++i) put(t, i, value);
  return t;
}

Tensor Bench::values(DType dtype, std::initializer_list<double> values) {
  const Tensor t = make(dtype, {int64_t(values.size())});
  int64_t i = 0;
  for (double v : values) put(t, i++, v);
  return t;
}

Tensor Bench::indices(int64_t count, int64_t limit) {
  const Tensor t = make(DType::kI32, {count});
  for (int64_t i = 0; i < count; ++i) put(t, i, std::floor(uniform() * double(limit)));
  return t;
}

Tensor Bench::out(DType dtype, std::initializer_list<int64_t> shape) {
  const bool whole = dtype == DType::kU8 || dtype == DType::kI32;
  return compared(filled(dtype, shape, whole ? 77 : NAN));
}

Tensor Bench::compared(const Tensor& t) {
  compared_.push_back(t);
  return t;
}

double get(const Tensor& t, int64_t i) {
  if (t.device == Device::kCuda) cuda::synchronize();
  return reference::get(t, i);
}

void put(const Tensor& t, int64_t i, double value) {
  switch (t.dtype) {
    case DType::kF64: static_cast<double*>(t.data)[i] = value; break;
    case DType::kF32: t.f32()[i] = float(value); break;
    case DType::kBF16: t.u16()[i] = float_to_bf16(float(value)); break;
    case DType::kF16: t.u16()[i] = float_to_f16(float(value)); break;
    case DType::kU8: t.u8()[i] = uint8_t(value); break;
    case DType::kI32: t.i32()[i] = int32_t(value); break;
  }
}

void for_each_isa(const std::function<void(const std::string&)>& body) {
  const Restore restore;
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) continue;
    choose_isa(isa);
    body(isa_name());
  }
}

void expect_like_reference(const std::string& name, double tolerance, const std::function<void(Bench&)>& run) {
  expect_cpu_like_reference(name, tolerance, run);
  if (device::has_cuda()) run_on_cuda(name, tolerance, run);
}

void expect_cpu_like_reference(const std::string& name, double tolerance, const std::function<void(Bench&)>& run) {
  Bench reference(Device::kReference);
  run(reference);
  for_each_isa([&](const std::string& isa) {
    set_thread_count(1);
    Bench one(Device::kCpu);
    run(one);
    set_thread_count(3);
    Bench three(Device::kCpu);
    run(three);
    const std::string where = name + " on cpu/" + isa;
    expect_same_bits(three, one, where + " with three threads");
    expect_close(one, reference, tolerance, where);
  });
}

void expect_error(const std::string& text, const std::function<void()>& run) {
  try {
    run();
    ADD_FAILURE() << "expected an error with \"" << text << "\", got none";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
        << "expected \"" << text << "\", got \"" << error.what() << "\"";
  }
}

}  // namespace nibble::test
