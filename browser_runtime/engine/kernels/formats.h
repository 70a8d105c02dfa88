#pragma once

// The packed weight formats. Four rows of a ggml matrix are interleaved so that one vector holds the same columns of four
// rows, and a dot product needs no horizontal sum. A packed group takes exactly as many bytes as its four ggml rows, so a
// tensor is packed where it lies.
//
// Columns come in units of 32. In one unit a weight is an unsigned integer q of BITS bits (4, 5 or 6; its upper bits in planes
// of their own) or, for Q8_0, a byte. Its value is d * (q - offset), or d * q + m in formats that have a minimum, with d and m
// for each row and each 32 / HALVES columns.
//
// Two orders of the quantised bits, by what multiplies them:
//   bytes (relaxed SIMD): i32x4.relaxed_dot_i8x16_i7x16_add takes 4 columns of 4 rows as 16 bytes. A "chunk" c (0..7) is
//       columns 4c..4c+3; byte 4r+i of it is row r, column 4c+i. Vector j (0..3) holds chunk j in the low nibbles, chunk 4+j
//       in the high ones; of Q8_0, vector c is chunk c.
//   halves (plain SIMD): i32x4.dot_i16x8 takes 2 columns of 4 rows as 8 halves. A "pair" p (0..15) is columns 2p, 2p+1; half
//       2r+i is row r, column 2p+i. Vector v (0..3) holds pairs 4v..4v+3 in its four nibbles; of Q8_0, bytes 8p.. are pair p.

#include "byte_dot.h"
#include "simd.h"

#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#include "ggml.h"

namespace sippet {

constexpr int ROWS = 4;   // rows in a group
constexpr int UNIT = 32;  // columns in a unit

// d and m of one group for all units of one ggml block; index unit * HALVES + half, lanes are rows. Without a minimum, m is
// neither set nor read.
template <int COUNT> struct scales {
    v128_t d[COUNT];
    v128_t m[COUNT];
};

// The 6-bit scales and minima of a Q4_K or Q5_K group: 8 units of 4 rows each, 64 numbers in 48 bytes.
struct packed_k_scales {
    uint8_t low[32];   // low nibble: 4 lower bits of scale i; high nibble: of minimum i; i = unit * 4 + row
    uint8_t high[16];  // bits 0-1 scale i, 2-3 scale i+16, 4-5 minimum i, 6-7 minimum i+16
};

struct packed_q4_0 {
    using block = block_q4_0;
    static constexpr int BITS = 4, UNITS = 1, HALVES = 1;
    static constexpr bool HAS_MINIMUM = false, BYTES = HAS_BYTE_DOT;
    static int offset() { return 8; }
    uint16_t d[ROWS];
    uint8_t q[UNITS][64];
    const uint8_t * high(int) const { return nullptr; }
};

struct packed_q4_1 {
    using block = block_q4_1;
    static constexpr int BITS = 4, UNITS = 1, HALVES = 1;
    static constexpr bool HAS_MINIMUM = true, BYTES = HAS_BYTE_DOT;
    static int offset() { return 0; }
    uint16_t d[ROWS];
    uint16_t m[ROWS];
    uint8_t q[UNITS][64];
    const uint8_t * high(int) const { return nullptr; }
};

struct packed_q5_0 {
    using block = block_q5_0;
    static constexpr int BITS = 5, UNITS = 1, HALVES = 1;
    static constexpr bool HAS_MINIMUM = false, BYTES = HAS_BYTE_DOT;
    static int offset() { return 16; }
    uint16_t d[ROWS];
    uint8_t h[UNITS][16];
    uint8_t q[UNITS][64];
    const uint8_t * high(int unit) const { return h[unit]; }
};

struct packed_q5_1 {
    using block = block_q5_1;
    static constexpr int BITS = 5, UNITS = 1, HALVES = 1;
    static constexpr bool HAS_MINIMUM = true, BYTES = HAS_BYTE_DOT;
    static int offset() { return 0; }
    uint16_t d[ROWS];
    uint16_t m[ROWS];
    uint8_t h[UNITS][16];
    uint8_t q[UNITS][64];
    const uint8_t * high(int unit) const { return h[unit]; }
};

// Q8_0 as pairs for i32x4.dot_i16x8.
struct packed_q8_0 {
    using block = block_q8_0;
    static constexpr int BITS = 8, UNITS = 1, HALVES = 1;
    static constexpr bool HAS_MINIMUM = false, BYTES = false;
    static int offset() { return 0; }
    uint16_t d[ROWS];
    uint8_t q[UNITS][128];
    const uint8_t * high(int) const { return nullptr; }
};

// Q8_0 as chunks, where the processor's byte dot product takes all eight bits.
struct packed_q8_0_chunks {
    using block = block_q8_0;
    static constexpr int BITS = 8, UNITS = 1, HALVES = 1;
    static constexpr bool HAS_MINIMUM = false, BYTES = true;
    static int offset() { return byte_dot_reads() == byte_reading::unsigned_bytes ? 128 : 0; }
    uint16_t d[ROWS];
    uint8_t q[UNITS][128];
    const uint8_t * high(int) const { return nullptr; }
};

struct packed_q4_k {
    using block = block_q4_K;
    static constexpr int BITS = 4, UNITS = 8, HALVES = 1;
    static constexpr bool HAS_MINIMUM = true, BYTES = HAS_BYTE_DOT;
    static int offset() { return 0; }
    uint16_t d[ROWS];
    uint16_t dmin[ROWS];
    packed_k_scales s;
    uint8_t q[UNITS][64];
    const uint8_t * high(int) const { return nullptr; }
};

struct packed_q5_k {
    using block = block_q5_K;
    static constexpr int BITS = 5, UNITS = 8, HALVES = 1;
    static constexpr bool HAS_MINIMUM = true, BYTES = HAS_BYTE_DOT;
    static int offset() { return 0; }
    uint16_t d[ROWS];
    uint16_t dmin[ROWS];
    packed_k_scales s;
    uint8_t h[UNITS][16];
    uint8_t q[UNITS][64];
    const uint8_t * high(int unit) const { return h[unit]; }
};

struct packed_q6_k {
    using block = block_q6_K;
    static constexpr int BITS = 6, UNITS = 8, HALVES = 2;
    static constexpr bool HAS_MINIMUM = false, BYTES = HAS_BYTE_DOT;
    static int offset() { return 32; }
    uint16_t d[ROWS];
    int8_t s[UNITS * HALVES][ROWS];
    uint8_t h[UNITS][32];
    uint8_t q[UNITS][64];
    const uint8_t * high(int unit) const { return h[unit]; }
};

template <class F> constexpr bool IS_IN_PLACE = sizeof(F) == ROWS * sizeof(typename F::block);
static_assert(IS_IN_PLACE<packed_q4_0> && IS_IN_PLACE<packed_q4_1> && IS_IN_PLACE<packed_q5_0> && IS_IN_PLACE<packed_q5_1>);
static_assert(IS_IN_PLACE<packed_q8_0> && IS_IN_PLACE<packed_q8_0_chunks>);
static_assert(IS_IN_PLACE<packed_q4_k> && IS_IN_PLACE<packed_q5_k> && IS_IN_PLACE<packed_q6_k>);

// Call `action` with the packed format of a type as its template argument.
template <class Action> auto with_format(ggml_type type, Action action) {
    switch (type) {
        case GGML_TYPE_Q4_0: return action.template operator()<packed_q4_0>();
        case GGML_TYPE_Q4_1: return action.template operator()<packed_q4_1>();
        case GGML_TYPE_Q5_0: return action.template operator()<packed_q5_0>();
        case GGML_TYPE_Q5_1: return action.template operator()<packed_q5_1>();
        case GGML_TYPE_Q8_0:
            if constexpr (HAS_BYTE_DOT) {
                if (byte_dot_reads() != byte_reading::seven_bits) {
                    return action.template operator()<packed_q8_0_chunks>();
                }
            }
            return action.template operator()<packed_q8_0>();
        case GGML_TYPE_Q4_K: return action.template operator()<packed_q4_k>();
        case GGML_TYPE_Q5_K: return action.template operator()<packed_q5_k>();
        case GGML_TYPE_Q6_K: return action.template operator()<packed_q6_k>();
        default:             GGML_ABORT("type %d isn't packed", (int) type);
    }
}

// ---- scales ----------------------------------------------------------------------------------------------------------

// Formats with one unit a block.
template <class F> SIPPET_INLINE void load_scales(const F & b, scales<1> & out) {
    out.d[0] = load_half4(b.d);
    if constexpr (F::HAS_MINIMUM) {
        out.m[0] = load_half4(b.m);
    }
}

SIPPET_INLINE void load_k_scales(const uint16_t * d, const uint16_t * dmin, const packed_k_scales & s, scales<8> & out) {
    alignas(16) uint8_t scale[32], minimum[32];
    const v128_t nibble = wasm_i8x16_splat(15), high = wasm_v128_load(s.high);
    for (int half = 0; half < 2; half++) {
        const v128_t low = wasm_v128_load(s.low + 16 * half);
        const v128_t upper_scale = wasm_i8x16_shl(wasm_v128_and(wasm_u8x16_shr(high, 2 * half), wasm_i8x16_splat(3)), 4);
        const v128_t upper_minimum = wasm_i8x16_shl(wasm_v128_and(wasm_u8x16_shr(high, 4 + 2 * half), wasm_i8x16_splat(3)), 4);
        wasm_v128_store(scale + 16 * half, wasm_v128_or(wasm_v128_and(low, nibble), upper_scale));
        wasm_v128_store(minimum + 16 * half, wasm_v128_or(wasm_u8x16_shr(low, 4), upper_minimum));
    }
    const v128_t dv = load_half4(d), mv = wasm_f32x4_neg(load_half4(dmin));
    for (int unit = 0; unit < 8; unit++) {
        out.d[unit] = wasm_f32x4_mul(dv, load_bytes4(scale + 4 * unit));
        out.m[unit] = wasm_f32x4_mul(mv, load_bytes4(minimum + 4 * unit));
    }
}

SIPPET_INLINE void load_scales(const packed_q4_k & b, scales<8> & out) { load_k_scales(b.d, b.dmin, b.s, out); }
SIPPET_INLINE void load_scales(const packed_q5_k & b, scales<8> & out) { load_k_scales(b.d, b.dmin, b.s, out); }

SIPPET_INLINE void load_scales(const packed_q6_k & b, scales<16> & out) {
    const v128_t d = load_half4(b.d);
    for (int i = 0; i < 16; i++) {
        out.d[i] = wasm_f32x4_mul(d, load_signed_bytes4(b.s[i]));
    }
}

// ---- weights of one unit ---------------------------------------------------------------------------------------------

// Shift bits [from, from + BITS - 4) of every lane to bit 4, without the bits around them.
template <int EXTRA_BITS> SIPPET_INLINE v128_t upper_bits(v128_t plane, int from, v128_t mask) {
    const v128_t moved = from >= 4 ? wasm_u16x8_shr(plane, from - 4) : wasm_i16x8_shl(plane, 4 - from);
    return wasm_v128_and(moved, mask);
}

// Chunk `c` of a unit as bytes. `c` must be a constant after unrolling.
template <int BITS> SIPPET_INLINE v128_t load_chunk(const uint8_t * q, const uint8_t * high, int c) {
    if constexpr (BITS == 8) {
        return wasm_v128_load(q + 16 * c);
    }
    const v128_t packed = wasm_v128_load(q + 16 * (c & 3));
    // shifting halves and masking is cheaper than shifting bytes, which x86 can't
    v128_t w = wasm_v128_and(c < 4 ? packed : wasm_u16x8_shr(packed, 4), wasm_i8x16_splat(15));
    if constexpr (BITS == 5) {
        w = wasm_v128_or(w, upper_bits<1>(wasm_v128_load(high), c, wasm_i8x16_splat(0x10)));
    } else if constexpr (BITS == 6) {
        w = wasm_v128_or(w, upper_bits<2>(wasm_v128_load(high + 16 * (c >> 2)), 2 * (c & 3), wasm_i8x16_splat(0x30)));
    }
    return w;
}

// Pair `p` of a unit as 16-bit integers. `p` must be a constant after unrolling.
template <int BITS> SIPPET_INLINE v128_t load_pair(const uint8_t * q, const uint8_t * high, int p) {
    if constexpr (BITS == 8) {
        return wasm_i16x8_load8x8(q + 8 * p);
    }
    const v128_t packed = wasm_v128_load(q + 16 * (p >> 2));
    const int nibble = p & 3;
    const v128_t shifted = nibble ? wasm_u16x8_shr(packed, 4 * nibble) : packed;
    v128_t w = nibble == 3 ? shifted : wasm_v128_and(shifted, wasm_i16x8_splat(15));
    if constexpr (BITS == 5) {
        w = wasm_v128_or(w, upper_bits<1>(wasm_v128_load(high), p, wasm_i16x8_splat(0x10)));
    } else if constexpr (BITS == 6) {
        w = wasm_v128_or(w, upper_bits<2>(wasm_v128_load(high + 16 * (p >> 3)), 2 * (p & 7), wasm_i16x8_splat(0x30)));
    }
    return w;
}

}  // namespace sippet
