// The one error type of the native code. Codes are google.rpc.Code names, so that the binding
// maps them without a table of its own. No exception crosses a thread or a C boundary.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace nibble {

enum class Code { kInvalidArgument, kResourceExhausted, kFailedPrecondition, kDataLoss, kInternal };

const char* code_name(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, std::string op, const std::string& message)
      : std::runtime_error("[" + op + "] " + message), code_(code), op_(std::move(op)) {}
  Code code() const { return code_; }
  const std::string& op() const { return op_; }

 private:
  Code code_;
  std::string op_;
};

// Throws INVALID_ARGUMENT "[op] part part ..." unless `ok`. Say what was expected and what came.
template <typename... Parts>
void require(bool ok, const char* op, const Parts&... parts) {
  if (ok) return;
  std::ostringstream message;
  (message << ... << parts);
  throw Error(Code::kInvalidArgument, op, message.str());
}

}  // namespace nibble
