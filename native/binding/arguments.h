// Reads the positional arguments of one call. native/index.ts has checked types; what is checked here
// protects the process, not the user.
#pragma once

#include <napi.h>

#include <string>

#include "binding/handles.h"
#include "core/error.h"

namespace nibble::binding {

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info), handles_(handles(info.Env())) {}

  Tensor tensor(size_t i) const { return handles_.get(uint32_t(number(i))); }
  // null gives an empty tensor.
  Tensor maybe_tensor(size_t i) const { return info_[i].IsNull() ? Tensor{} : tensor(i); }
  double number(size_t i) const {
    require(info_[i].IsNumber(), "binding", "argument ", i, ": expected a number");
    return info_[i].As<Napi::Number>().DoubleValue();
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

void define_memory(Napi::Object exports);
void define_quantize(Napi::Object exports);
void define_attention(Napi::Object exports);

}  // namespace nibble::binding
