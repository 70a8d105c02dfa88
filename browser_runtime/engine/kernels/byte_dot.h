#pragma once

// What i32x4.relaxed_dot_i8x16_i7x16_add does with weights beyond seven bits is the processor's choice, but always the same one.

#include <wasm_simd128.h>

namespace sippet {

#ifdef __wasm_relaxed_simd__
constexpr bool HAS_BYTE_DOT = true;
#else
constexpr bool HAS_BYTE_DOT = false;
#endif

enum class byte_reading {
    seven_bits,      // an instruction that saturates, or none: weights must stay below 128
    unsigned_bytes,  // x86 with VNNI
    signed_bytes,    // ARM with the dot product extension
};

// Asks the processor, once.
byte_reading byte_dot_reads();

}  // namespace sippet
