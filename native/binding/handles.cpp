#include "binding/handles.h"

#include "core/error.h"

namespace nibble::binding {

uint32_t Handles::create(DType dtype, Device device, const Tensor& shape, Kind kind) {
  Tensor t = shape;
  t.dtype = dtype;
  t.device = device;
  return add(t, memory_of(device).allocate(t.bytes(), kind));
}

uint32_t Handles::create_paged(DType dtype, Device device, const Tensor& shape, const std::string& folder) {
  Tensor t = shape;
  t.dtype = dtype;
  t.device = device;
  return add(t, memory_of(device).allocate_paged(t.bytes(), folder));
}

uint32_t Handles::add(const Tensor& t, void* block) {
  const uint32_t handle = next_++;
  Entry& entry = live_[handle] = {t, block, nullptr};
  entry.tensor.data = block;
  if (t.device == Device::kMeta && t.dtype == DType::kI32) {
    entry.indices = std::make_unique<uint8_t[]>(size_t(t.bytes()));
    entry.tensor.data = entry.indices.get();
  }
  return handle;
}

void Handles::release(uint32_t handle) {
  const Entry& e = entry(handle);
  memory_of(e.tensor.device).release(e.block);
  live_.erase(handle);
}

void Handles::advise(uint32_t handle, Use use) {
  const Entry& e = entry(handle);
  memory_of(e.tensor.device).advise(e.block, use);
}

const Handles::Entry& Handles::entry(uint32_t handle) const {
  const auto found = live_.find(handle);
  require(found != live_.end(), "tensor", "handle ", handle, " is not live: freed, or from another thread");
  return found->second;
}

const Tensor& Handles::get(uint32_t handle) const { return entry(handle).tensor; }

Handles::~Handles() {
  for (auto& [handle, e] : live_) memory_of(e.tensor.device).release(e.block);
}

Handles& handles(Napi::Env env) { return *env.GetInstanceData<Handles>(); }

}  // namespace nibble::binding
