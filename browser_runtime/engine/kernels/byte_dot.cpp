#include "byte_dot.h"

#include <cstdint>

namespace sippet {

namespace {

#ifdef __wasm_relaxed_simd__

int32_t dot(int8_t activation, uint8_t weight) {
    // through memory, so that the compiler, which may assume one reading, doesn't do the sum itself
    volatile int8_t a = activation;
    volatile uint8_t w = weight;
    const v128_t sum = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(wasm_i8x16_splat(a), wasm_i8x16_splat((int8_t) w), wasm_i32x4_splat(0));
    return wasm_i32x4_extract_lane(sum, 0);
}

byte_reading ask() {
    constexpr int8_t activations[] = {1, 127, -127, -128};
    constexpr uint8_t weights[] = {127, 128, 129, 200, 255};
    bool is_unsigned = true, is_signed = true;
    for (const int8_t a : activations) {
        for (const uint8_t w : weights) {
            is_unsigned &= dot(a, w) == 4 * a * (int32_t) w;
            is_signed &= dot(a, w) == 4 * a * (int32_t) (int8_t) w;
        }
    }
    return is_unsigned ? byte_reading::unsigned_bytes : is_signed ? byte_reading::signed_bytes : byte_reading::seven_bits;
}

#else

byte_reading ask() { return byte_reading::seven_bits; }

#endif

}  // namespace

byte_reading byte_dot_reads() {
    static const byte_reading answer = ask();
    return answer;
}

}  // namespace sippet
