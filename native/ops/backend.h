// What a backend must do: one function an op. Backends never include each other; ops/*.cpp check
// the arguments and call the backend of the tensors' device.
#pragma once

#include "ops/quantize4.h"

namespace nibble {

struct Backend {
  const char* name;
  void (*quantize4)(const Quantize4Args&);
  void (*dequantize4)(const Dequantize4Args&);
};

const Backend& reference_backend();
const Backend& cpu_backend();   // the best instruction set of this machine, or the one chosen
const Backend& cuda_backend();  // throws FAILED_PRECONDITION where there is none

inline const Backend& backend_of(Device device) {
  if (device == Device::kCuda) return cuda_backend();
  return device == Device::kReference ? reference_backend() : cpu_backend();
}

// Instruction sets of the CPU backend, worst first. `supported` asks this machine.
enum class Isa : uint8_t { kPortable, kAvx2, kAvx512 };
const char* isa_name();          // the one in use
bool isa_supported(Isa isa);
void choose_isa(Isa isa);        // throws FAILED_PRECONDITION when unsupported

}  // namespace nibble
