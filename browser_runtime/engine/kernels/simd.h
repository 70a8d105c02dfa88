#pragma once

// Small vector helpers shared by the kernels. Only wasm SIMD is supported: there is no scalar fallback in this engine.

#include <wasm_simd128.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sippet {

#define SIPPET_INLINE static inline __attribute__((always_inline))

// a * b + c
SIPPET_INLINE v128_t multiply_add(v128_t a, v128_t b, v128_t c) {
#ifdef __wasm_relaxed_simd__
    return wasm_f32x4_relaxed_madd(a, b, c);
#else
    return wasm_f32x4_add(wasm_f32x4_mul(a, b), c);
#endif
}

SIPPET_INLINE v128_t splat_from(const float * p) { return wasm_v128_load32_splat(p); }

// Four half floats to four floats. Scales are finite, so infinities and NaNs need no care here; subnormals come out right.
SIPPET_INLINE v128_t load_half4(const void * p) {
    // the half's sign lands on bits 28 to 31; one of them is enough
    const v128_t moved = wasm_i32x4_shl(wasm_i32x4_load16x4(p), 13);
    return wasm_f32x4_mul(wasm_v128_and(moved, wasm_i32x4_splat((int32_t) 0x8fffe000u)), wasm_f32x4_splat(0x1p112f));
}

// Four unsigned bytes to four floats.
SIPPET_INLINE v128_t load_bytes4(const uint8_t * p) {
    return wasm_f32x4_convert_u32x4(wasm_u32x4_extend_low_u16x8(wasm_u16x8_extend_low_u8x16(wasm_v128_load32_zero(p))));
}

// Four signed bytes to four floats.
SIPPET_INLINE v128_t load_signed_bytes4(const int8_t * p) {
    return wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(p))));
}

// Four floats between -2^22 and 2^22 to the nearest integers, ties to even: added to 1.5 * 2^23, they are its lowest bits.
SIPPET_INLINE v128_t nearest_integer(v128_t x) {
    const v128_t magic = wasm_f32x4_splat(12582912.0f);
    return wasm_i32x4_sub(wasm_f32x4_add(x, magic), magic);
}

SIPPET_INLINE float horizontal_max(v128_t v) {
    v = wasm_f32x4_max(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    v = wasm_f32x4_max(v, wasm_i32x4_shuffle(v, v, 1, 0, 3, 2));
    return wasm_f32x4_extract_lane(v, 0);
}

SIPPET_INLINE int32_t horizontal_sum(v128_t v) {
    v = wasm_i32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    v = wasm_i32x4_add(v, wasm_i32x4_shuffle(v, v, 1, 0, 3, 2));
    return wasm_i32x4_extract_lane(v, 0);
}

}  // namespace sippet
