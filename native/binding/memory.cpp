// Tensors, threads, instruction set and the memory report.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backends/meta/backend.h"
#include "binding/arguments.h"
#include "core/device_memory.h"
#include "core/device_products.h"
#include "core/parts.h"
#include "core/thread_pool.h"
#include "ops/backend.h"

namespace nibble::binding {

namespace {

// Whether there are bytes behind a tensor to read and write.
bool has_bytes(const Tensor& t) { return t.device != Device::kMeta || t.dtype == DType::kI32; }

// Dimensions from argument i on; -1 ends the shape.
Tensor shape_at(const Arguments& a, size_t i) {
  Tensor shape;
  for (int d = 0; d < kMaxRank; ++d) {
    const int64_t n = a.integer(i + size_t(d));
    if (n < 0) break;
    shape.shape[shape.rank++] = n;
  }
  return shape;
}

// (dtype, device, kind, d0, d1, d2, d3, pagingFolder | null); a dimension of -1 ends the shape.
Napi::Value tensor_create(Napi::Env env, const Arguments& a) {
  const Tensor shape = shape_at(a, 3);
  const auto dtype = a.choice<DType>(0, 6);
  const auto device = a.choice<Device>(1, kDevices);
  if (device == Device::kCuda) cuda_backend();
  if (!a.is_null(7)) return Napi::Number::New(env, double(handles(env).create_paged(dtype, device, shape, a.text(7))));
  return Napi::Number::New(env, double(handles(env).create(dtype, device, shape, a.choice<Kind>(2, kKinds))));
}

// (descriptor, bytes, path)
Napi::Value file_map(Napi::Env env, const Arguments& a) {
  return Napi::Number::New(env, double(handles(env).map(int(a.integer(0)), a.integer(1), a.text(2))));
}

Napi::Value file_unmap(Napi::Env env, const Arguments& a) {
  handles(env).unmap(a.handle(0));
  return env.Undefined();
}

// (mapping, byteOffset, dtype, device, d0, d1, d2, d3)
Napi::Value tensor_mapped(Napi::Env env, const Arguments& a) {
  const auto dtype = a.choice<DType>(2, 6);
  const auto device = a.choice<Device>(3, kDevices);
  const uint64_t mapping = a.handle(0);
  return Napi::Number::New(env, double(handles(env).create_mapped(mapping, a.integer(1), dtype, device, shape_at(a, 4))));
}

// What is written to a mapped file's memory would be a crash.
void refuse_mapped(Napi::Env env, const Arguments& a, const char* op, size_t i = 0) {
  if (!handles(env).is_mapped(a.handle(i))) return;
  throw Error(Code::kFailedPrecondition, op, "expected a tensor of its own, got one that is a file's");
}

// (handle, ...)
Napi::Value tensor_free(Napi::Env env, const Arguments& a) {
  for (size_t i = 0; i < a.count(); ++i) a.tensor(i);  // all of them live, or none is freed
  for (size_t i = 0; i < a.count(); ++i) handles(env).release(a.handle(i));
  return env.Undefined();
}

// (handle, use): of a paged tensor; see core/spill_file.h.
Napi::Value tensor_advise(Napi::Env env, const Arguments& a) {
  handles(env).advise(a.handle(0), a.choice<Use>(1, 2));
  return env.Undefined();
}

// (handle, bytes, byteOffset): copies bytes into the tensor.
Napi::Value tensor_write(Napi::Env env, const Arguments& a) {
  refuse_mapped(env, a, "tensor_write");
  const Tensor t = a.tensor(0);
  const Napi::Uint8Array from = a.bytes(1);
  const int64_t offset = a.integer(2), size = int64_t(from.ByteLength());
  require(offset >= 0 && offset + size <= t.bytes(), "tensor_write", "expected at most ", t.bytes() - offset,
          " bytes at offset ", offset, ", got ", size);
  if (size == 0 || !has_bytes(t)) return env.Undefined();
  if (t.device == Device::kCuda) {
    cuda::upload(t.u8() + offset, from.Data(), size);
  } else {
    std::memcpy(t.u8() + offset, from.Data(), size_t(size));
  }
  return env.Undefined();
}

// (handle, bytes, byteOffset): copies from the tensor into bytes.
Napi::Value tensor_read(Napi::Env env, const Arguments& a) {
  const Tensor t = a.tensor(0);
  Napi::Uint8Array into = a.bytes(1);
  const int64_t offset = a.integer(2), size = int64_t(into.ByteLength());
  require(offset >= 0 && offset + size <= t.bytes(), "tensor_read", "expected at most ", t.bytes() - offset,
          " bytes at offset ", offset, ", got ", size);
  if (size == 0 || !has_bytes(t)) return env.Undefined();
  if (t.device == Device::kCuda) {
    cuda::download(into.Data(), t.u8() + offset, size);
  } else {
    std::memcpy(into.Data(), t.u8() + offset, size_t(size));
  }
  return env.Undefined();
}

// (handle, ...)
Napi::Value tensor_zero(Napi::Env env, const Arguments& a) {
  constexpr int64_t kTaskBytes = 1 << 18;
  for (size_t i = 0; i < a.count(); ++i) refuse_mapped(env, a, "tensor_zero", i);
  std::vector<Tensor> on_host;
  Parts parts(kTaskBytes);
  for (size_t i = 0; i < a.count(); ++i) {
    const Tensor t = a.tensor(i);
    if (t.device == Device::kCuda) {
      cuda::clear(t.data, t.bytes());
    } else if (has_bytes(t)) {
      on_host.push_back(t);
      parts.add(t.bytes());
    }
  }
  parallel_for(parts.count(), [&](int64_t task) {
    const Part part = parts.at(task);
    std::memset(on_host[size_t(part.thing)].u8() + part.begin, 0, size_t(part.end - part.begin));
  });
  return env.Undefined();
}

Napi::Object by_kind(Napi::Env env, const int64_t (&bytes)[kKinds]) {
  Napi::Object o = Napi::Object::New(env);
  for (int k = 0; k < kKinds; ++k) o.Set(kKindNames[k], double(bytes[k]));
  return o;
}

// (device)
Napi::Value memory_report(Napi::Env env, const Arguments& a) {
  const MemoryReport r = memory_of(a.choice<Device>(0, kDevices)).report();
  Napi::Object o = Napi::Object::New(env);
  o.Set("current", by_kind(env, r.current));
  o.Set("peak", by_kind(env, r.peak));
  o.Set("atPeak", by_kind(env, r.at_peak));
  o.Set("peakTotal", double(r.peak_total));
  o.Set("cached", double(r.cached));
  o.Set("paged", double(r.paged));
  o.Set("pagedPeak", double(r.paged_peak));
  o.Set("mapped", double(r.mapped));
  return o;
}

// (device)
Napi::Value memory_reset_peak(Napi::Env env, const Arguments& a) {
  memory_of(a.choice<Device>(0, kDevices)).reset_peak();
  return env.Undefined();
}

// (bytes, device)
Napi::Value memory_set_limit(Napi::Env env, const Arguments& a) {
  memory_of(a.choice<Device>(1, kDevices)).set_limit(a.integer(0));
  return env.Undefined();
}

// (device)
Napi::Value memory_trim(Napi::Env env, const Arguments& a) {
  return Napi::Number::New(env, double(memory_of(a.choice<Device>(0, kDevices)).trim()));
}

// (bytes)
Napi::Value memory_size(Napi::Env env, const Arguments& a) {
  return Napi::Number::New(env, double(allocated_size(a.integer(0))));
}

// null where there is no device: cudaUnavailable says why.
Napi::Value cuda_device(Napi::Env env, const Arguments&) {
  if (!cuda::unavailable().empty()) return env.Null();
  const cuda::DeviceFacts f = cuda::device_facts();
  Napi::Object o = Napi::Object::New(env);
  o.Set("name", f.name);
  o.Set("architecture", f.architecture);
  o.Set("totalBytes", double(f.total));
  o.Set("freeBytes", double(f.free));
  o.Set("bytesPerSecond", double(f.bandwidth));
  o.Set("processors", double(f.processors));
  return o;
}

Napi::Value cuda_unavailable(Napi::Env env, const Arguments&) { return Napi::String::New(env, cuda::unavailable()); }

Napi::Value cuda_synchronize(Napi::Env env, const Arguments&) {
  cuda_backend();
  cuda::synchronize();
  return env.Undefined();
}

// (products, -1: as they are): who multiplies.
Napi::Value cuda_products(Napi::Env env, const Arguments& a) {
  if (a.integer(0) >= 0) cuda::choose_products(a.choice<cuda::Products>(0, 2));
  return Napi::Number::New(env, int(cuda::chosen_products()));
}

// (device)
Napi::Value meta_counts(Napi::Env env, const Arguments& a) {
  count_workspace_of(a.choice<Device>(0, kDevices));
  return env.Undefined();
}

Napi::Value threads(Napi::Env env, const Arguments& a) {
  if (a.integer(0) > 0) set_thread_count(int(std::min<int64_t>(a.integer(0), 4096)));
  return Napi::Number::New(env, thread_count());
}

Napi::Value isa(Napi::Env env, const Arguments& a) {
  if (a.integer(0) >= 0) choose_isa(a.choice<Isa>(0, kIsaCount));
  return Napi::String::New(env, isa_name());
}

Napi::Value isa_is_supported(Napi::Env env, const Arguments& a) {
  return Napi::Boolean::New(env, isa_supported(a.choice<Isa>(0, kIsaCount)));
}

}  // namespace

void define_memory(Napi::Object exports) {
  define<tensor_create>(exports, "tensorCreate");
  define<tensor_mapped>(exports, "tensorMapped");
  define<file_map>(exports, "fileMap");
  define<file_unmap>(exports, "fileUnmap");
  define<tensor_free>(exports, "tensorFree");
  define<tensor_advise>(exports, "tensorAdvise");
  define<tensor_write>(exports, "tensorWrite");
  define<tensor_read>(exports, "tensorRead");
  define<tensor_zero>(exports, "tensorZero");
  define<memory_report>(exports, "memoryReport");
  define<memory_reset_peak>(exports, "memoryResetPeak");
  define<memory_set_limit>(exports, "memorySetLimit");
  define<memory_trim>(exports, "memoryTrim");
  define<memory_size>(exports, "memorySize");
  define<cuda_device>(exports, "cudaDevice");
  define<cuda_unavailable>(exports, "cudaUnavailable");
  define<cuda_synchronize>(exports, "cudaSynchronize");
  define<cuda_products>(exports, "cudaProducts");
  define<meta_counts>(exports, "metaCounts");
  define<threads>(exports, "threads");
  define<isa>(exports, "isa");
  define<isa_is_supported>(exports, "isaSupported");
}

}  // namespace nibble::binding
