#pragma once

#include <stdexcept>
#include <string>

// An error with a stable code, carried to the caller as {"code": ..., "message": ...}.
//
//   bad_request      the JSON, an option or the prompt is wrong
//   not_supported    this model can't do what was asked
//   model_not_found  no such file
//   model_invalid    not a GGUF file, truncated or corrupt
//   model_unsupported an architecture or file version that this build doesn't know
//   out_of_memory    the memory that a page may use is exhausted
//   context_exceeded the prompt doesn't fit into the context
//   decode_failed    one request failed in the model; others go on
//   engine_failed    an internal check failed: the engine must be closed and opened again
struct engine_error : std::runtime_error {
    std::string code;
    engine_error(std::string code, const std::string & message) : std::runtime_error(message), code(std::move(code)) {}
};
