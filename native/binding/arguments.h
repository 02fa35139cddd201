// Reads the positional arguments of one call. native/index.ts has checked types; what is checked here
// protects the process, not the user.
#pragma once

#include <napi.h>

#include <string>

#include "binding/handles.h"
#include "binding/numbers.h"
#include "core/error.h"
#include "ops/linear.h"

namespace nibble::binding {

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info), handles_(handles(info.Env())) {}

  Tensor tensor(size_t i) const { return handles_.get(handle(i)); }
  // null gives an empty tensor.
  Tensor maybe_tensor(size_t i) const { return info_[i].IsNull() ? Tensor{} : tensor(i); }
  uint64_t handle(size_t i) const { return uint64_t(number(i)); }
  size_t count() const { return info_.Length(); }
  Napi::Value value(size_t i) const { return info_[i]; }
  double number(size_t i) const {
    double value = 0;
    const bool is_number = napi_get_value_double(info_.Env(), info_[i], &value) == napi_ok;
    require(is_number, "binding", "argument ", i, ": expected a number");
    return value;
  }
  int64_t integer(size_t i) const { return int64_t(number(i)); }
  bool flag(size_t i) const { return info_[i].ToBoolean().Value(); }
  // A value of an enum mirrored in native/index.ts, below `count`.
  template <typename E>
  E choice(size_t i, int count) const {
    const int64_t value = integer(i);
    require(value >= 0 && value < count, "binding", "argument ", i, ": expected 0..", count - 1, ", got ", value);
    return E(value);
  }
  Weight weight(size_t i) const { return Numbers("binding", info_[i]).weight(); }
  // The positions that loraArguments of native/linear.ts fills.
  static constexpr size_t kLoraArguments = 6;
  struct Lora {
    Tensor a, b;  // empty: no adapter
    float scaling;
    Dropout dropout;
  };
  Lora lora(size_t i) const {
    const Dropout dropout{float(number(i + 3)), uint64_t(integer(i + 4)), uint64_t(integer(i + 5))};
    return {maybe_tensor(i), maybe_tensor(i + 1), float(number(i + 2)), dropout};
  }
  std::string text(size_t i) const {
    require(info_[i].IsString(), "binding", "argument ", i, ": expected a text");
    return info_[i].As<Napi::String>().Utf8Value();
  }
  bool is_null(size_t i) const { return info_[i].IsNull(); }
  Napi::Uint8Array bytes(size_t i) const {
    require(info_[i].IsTypedArray(), "binding", "argument ", i, ": expected a Uint8Array");
    return info_[i].As<Napi::Uint8Array>();
  }

 private:
  const Napi::CallbackInfo& info_;
  Handles& handles_;
};

// Wraps a C++ function of Arguments as a JS function; nibble::Error becomes a JS Error with the
// properties `code` and `op`. The only place where exceptions cross into JS.
using Function = Napi::Value (*)(Napi::Env, const Arguments&);

template <Function fn>
Napi::Value call(const Napi::CallbackInfo& info) {
  try {
    return fn(info.Env(), Arguments(info));
  } catch (const Error& error) {
    Napi::Error js = Napi::Error::New(info.Env(), error.what());
    js.Set("code", code_name(error.code()));
    js.Set("op", error.op());
    throw js;
  } catch (const std::bad_alloc&) {
    Napi::Error js = Napi::Error::New(info.Env(), "[native] out of memory");
    js.Set("code", "RESOURCE_EXHAUSTED");
    throw js;
  }
}

template <Function fn>
void define(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<call<fn>>(exports.Env(), name));
}

void define_linear(Napi::Object exports);
void define_memory(Napi::Object exports);
void define_quantize(Napi::Object exports);
void define_attention(Napi::Object exports);
void define_layers(Napi::Object exports);
void define_graphs(Napi::Object exports);
void define_llama_block(Napi::Object exports);
void define_optimizer(Napi::Object exports);
void define_sampling(Napi::Object exports);
void define_screened_head(Napi::Object exports);

}  // namespace nibble::binding
