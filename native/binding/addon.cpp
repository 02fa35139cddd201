// The addon's entry point. Only this folder knows N-API.
#include "binding/arguments.h"

namespace nibble::binding {

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  settle_system_allocator();
  env.SetInstanceData(new Handles);  // one set of handles an environment, freed with it
  define_linear(exports);
  define_memory(exports);
  define_quantize(exports);
  define_attention(exports);
  define_layers(exports);
  define_graphs(exports);
  define_llama_block(exports);
  define_optimizer(exports);
  define_sampling(exports);
  define_screened_head(exports);
  exports.Set("boundary", NIBBLE_BOUNDARY);
  return exports;
}

NODE_API_MODULE(nibble, initialize)

}  // namespace nibble::binding
