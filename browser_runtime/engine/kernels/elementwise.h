#pragma once

// Vector code that ggml lacks for wasm: half floats, exp and what is built on it. Plain C, since ggml-cpu.c reads it too.

#include <stdint.h>
#include <wasm_simd128.h>

#ifdef __wasm_relaxed_simd__
#define SIPPET_FMA(sum, a, b) wasm_f32x4_relaxed_madd(a, b, sum)
#else
#define SIPPET_FMA(sum, a, b) wasm_f32x4_add(wasm_f32x4_mul(a, b), sum)
#endif

// Four half floats to floats; subnormals, infinities and NaNs included.
static inline v128_t sippet_from_half4(const void * p) {
    const v128_t h = wasm_u32x4_load16x4(p);
    const v128_t magnitude = wasm_v128_and(h, wasm_i32x4_splat(0x7fff));
    const v128_t sign = wasm_i32x4_shl(wasm_v128_and(h, wasm_i32x4_splat(0x8000)), 16);
    const v128_t is_special = wasm_i32x4_ge(magnitude, wasm_i32x4_splat(0x7c00));
    const v128_t finite = wasm_f32x4_mul(wasm_i32x4_shl(magnitude, 13), wasm_f32x4_splat(0x1p112f));
    return wasm_v128_or(wasm_v128_or(finite, sign), wasm_v128_and(is_special, wasm_i32x4_splat(0x7f800000)));
}

// Four floats to half floats, rounded to nearest, ties to even (after F. Giesen's float_to_half_fast3_rtne).
static inline void sippet_to_half4(void * p, v128_t x) {
    const v128_t sign = wasm_v128_and(x, wasm_i32x4_splat((int32_t) 0x80000000u));
    const v128_t u = wasm_v128_xor(x, sign);
    const v128_t infinity = wasm_i32x4_splat(0x7f800000), half_limit = wasm_i32x4_splat((127 + 16) << 23);
    const v128_t special = wasm_v128_bitselect(wasm_i32x4_splat(0x7e00), wasm_i32x4_splat(0x7c00), wasm_i32x4_gt(u, infinity));
    const v128_t magic = wasm_i32x4_splat(((127 - 15) + (23 - 10) + 1) << 23);
    const v128_t subnormal = wasm_i32x4_sub(wasm_f32x4_add(u, magic), magic);
    const v128_t odd = wasm_v128_and(wasm_u32x4_shr(u, 13), wasm_i32x4_splat(1));
    const v128_t rebased = wasm_i32x4_add(u, wasm_i32x4_splat((int32_t) (((uint32_t) (15 - 127) << 23) + 0xfff)));
    const v128_t normal = wasm_u32x4_shr(wasm_i32x4_add(rebased, odd), 13);
    v128_t h = wasm_v128_bitselect(subnormal, normal, wasm_i32x4_lt(u, wasm_i32x4_splat(113 << 23)));
    h = wasm_v128_bitselect(special, h, wasm_i32x4_ge(u, half_limit));
    h = wasm_v128_or(h, wasm_u32x4_shr(sign, 16));
    wasm_v128_store64_lane(p, wasm_u16x8_narrow_i32x4(h, h), 0);
}

// exp of four floats, to about two units in the last place: reduction by powers of two, Cephes' polynomial (expf.c, S. Moshier).
// Overflows to infinity, underflows to zero through subnormals, keeps NaN.
static inline v128_t sippet_exp4(v128_t x) {
    x = wasm_f32x4_min(wasm_f32x4_max(x, wasm_f32x4_splat(-104.0f)), wasm_f32x4_splat(89.0f));
    const v128_t n = wasm_f32x4_nearest(wasm_f32x4_mul(x, wasm_f32x4_splat(1.44269504088896341f)));
    v128_t r = SIPPET_FMA(x, n, wasm_f32x4_splat(-0.693359375f));
    r = SIPPET_FMA(r, n, wasm_f32x4_splat(2.12194440e-4f));
    v128_t p = wasm_f32x4_splat(1.9875691500e-4f);
    p = SIPPET_FMA(wasm_f32x4_splat(1.3981999507e-3f), p, r);
    p = SIPPET_FMA(wasm_f32x4_splat(8.3334519073e-3f), p, r);
    p = SIPPET_FMA(wasm_f32x4_splat(4.1665795894e-2f), p, r);
    p = SIPPET_FMA(wasm_f32x4_splat(1.6666665459e-1f), p, r);
    p = SIPPET_FMA(wasm_f32x4_splat(5.0000001201e-1f), p, r);
    p = SIPPET_FMA(wasm_f32x4_add(r, wasm_f32x4_splat(1.0f)), p, wasm_f32x4_mul(r, r));
    // 2^n in two factors, because n reaches beyond the exponents of one float
    const v128_t whole = wasm_i32x4_trunc_sat_f32x4(n), half = wasm_i32x4_shr(whole, 1), bias = wasm_i32x4_splat(127);
    const v128_t first = wasm_i32x4_shl(wasm_i32x4_add(half, bias), 23);
    const v128_t second = wasm_i32x4_shl(wasm_i32x4_add(wasm_i32x4_sub(whole, half), bias), 23);
    return wasm_f32x4_mul(wasm_f32x4_mul(p, first), second);
}

// x / (1 + exp(-x))
static inline v128_t sippet_silu4(v128_t x) {
    return wasm_f32x4_div(x, wasm_f32x4_add(wasm_f32x4_splat(1.0f), sippet_exp4(wasm_f32x4_neg(x))));
}
