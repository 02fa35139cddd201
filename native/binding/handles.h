// Tensors as JS sees them: small integers. A handle names one allocation and its dtype and shape; a
// freed handle is never given out again, so a use after free is an error and not a wrong number.
#pragma once

#include <napi.h>

#include <memory>
#include <unordered_map>

#include "core/memory.h"

namespace nibble::binding {

class Handles {
 public:
  uint32_t create(DType dtype, Device device, const Tensor& shape, Kind kind);
  void release(uint32_t handle);  // throws when already released
  const Tensor& get(uint32_t handle) const;
  ~Handles();

 private:
  std::unordered_map<uint32_t, Tensor> live_;
  uint32_t next_ = 1;
};

// The handles of this environment (main thread or worker).
Handles& handles(Napi::Env env);

}  // namespace nibble::binding
