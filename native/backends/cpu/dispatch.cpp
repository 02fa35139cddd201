// Chooses the CPU backend's instruction set at run time: one binary runs on every machine.
#include <atomic>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "ops/backend.h"

namespace nibble {

namespace cpu {
namespace portable {
const Backend& backend();
}
#if defined(__x86_64__)
namespace avx2 {
const Backend& backend();
}
namespace avx512 {
const Backend& backend();
}
namespace avx512_bf16 {
const Backend& backend();
}
#endif
}  // namespace cpu

namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};

const Backend& backend_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512Bf16) return cpu::avx512_bf16::backend();
  if (isa == Isa::kAvx512) return cpu::avx512::backend();
  if (isa == Isa::kAvx2) return cpu::avx2::backend();
#endif
  (void)isa;
  return cpu::portable::backend();
}

// NIBBLE_CPU_ISA=portable|avx2|avx512|avx512_bf16 lowers the choice; by default the best one is taken.
Isa initial_isa() {
  const char* wanted = std::getenv("NIBBLE_CPU_ISA");
  for (int i = 3; i >= 0; --i) {
    const bool allowed = wanted == nullptr || std::string(wanted) == kNames[i];
    if (allowed && isa_supported(Isa(i))) return Isa(i);
  }
  return Isa::kPortable;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{initial_isa()};
  return isa;
}

}  // namespace

bool isa_supported(Isa isa) {
  if (isa == Isa::kPortable) return true;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::kAvx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (isa == Isa::kAvx512) return avx512;
  return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

void choose_isa(Isa isa) {
  if (!isa_supported(isa)) {
    throw Error(Code::kFailedPrecondition, "choose_isa",
                std::string("this machine has no ") + kNames[int(isa)]);
  }
  chosen() = isa;
}

const char* isa_name() { return kNames[int(chosen().load())]; }

const Backend& cpu_backend() { return backend_for(chosen()); }

}  // namespace nibble
