#include "binding/handles.h"

#include "core/error.h"

namespace nibble::binding {

uint32_t Handles::create(DType dtype, Device device, const Tensor& shape, Kind kind) {
  Tensor t = shape;
  t.dtype = dtype;
  t.device = device;
  t.data = memory().allocate(t.bytes(), kind);
  const uint32_t handle = next_++;
  live_[handle] = t;
  return handle;
}

void Handles::release(uint32_t handle) {
  memory().release(get(handle).data);
  live_.erase(handle);
}

const Tensor& Handles::get(uint32_t handle) const {
  const auto found = live_.find(handle);
  require(found != live_.end(), "tensor", "handle ", handle, " is not live: freed, or from another thread");
  return found->second;
}

Handles::~Handles() {
  for (auto& [handle, t] : live_) memory().release(t.data);
}

Handles& handles(Napi::Env env) { return *env.GetInstanceData<Handles>(); }

}  // namespace nibble::binding
