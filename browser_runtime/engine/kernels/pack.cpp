// Packs ggml rows into the formats of formats.h, and reads single rows back (for the embedding table, which is both looked up
// and multiplied). Packing runs once for each weight while a model loads; reading rows back is rare, and written for clarity.
#include "pack.h"

#include "formats.h"

#include <cmath>
#include <vector>

namespace sippet {

namespace {

// The quantised integers of one unit, before they are interleaved.
using row_values = uint8_t[UNIT];
using unit_values = row_values[ROWS];

float half_to_float(uint16_t h) { return ggml_fp16_to_fp32(h); }

// Where the byte of column `k` of row `r` lies in a unit of a format with whole bytes.
template <class F> constexpr int byte_place(int r, int k) {
    return F::BYTES ? (k / 4) * 16 + r * 4 + (k & 3) : (k / 2) * 8 + r * 2 + (k & 1);
}

// A unit's eight chunks: four bytes of each row.
void interleave(const unit_values & values, v128_t * chunks) {
    for (int half = 0; half < 2; half++, chunks += 4) {
        v128_t v[ROWS];
        for (int r = 0; r < ROWS; r++) {
            v[r] = wasm_v128_load(values[r] + 16 * half);
        }
        const v128_t low01 = wasm_i32x4_shuffle(v[0], v[1], 0, 4, 1, 5), low23 = wasm_i32x4_shuffle(v[2], v[3], 0, 4, 1, 5);
        const v128_t high01 = wasm_i32x4_shuffle(v[0], v[1], 2, 6, 3, 7), high23 = wasm_i32x4_shuffle(v[2], v[3], 2, 6, 3, 7);
        chunks[0] = wasm_i64x2_shuffle(low01, low23, 0, 2);
        chunks[1] = wasm_i64x2_shuffle(low01, low23, 1, 3);
        chunks[2] = wasm_i64x2_shuffle(high01, high23, 0, 2);
        chunks[3] = wasm_i64x2_shuffle(high01, high23, 1, 3);
    }
}

// The low nibbles of vectors of bytes (or of halves with small values), moved up by `shift`.
v128_t low_bits(v128_t v, int shift) { return wasm_i16x8_shl(wasm_v128_and(v, wasm_i8x16_splat(15)), shift); }

// The bits above them: one or two, moved up by `shift`.
template <int BITS> v128_t high_bits(v128_t v, int shift) {
    return wasm_i16x8_shl(wasm_v128_and(wasm_u16x8_shr(v, 4), wasm_i8x16_splat((1 << (BITS - 4)) - 1)), shift);
}

// Store the values of a unit in the order that formats.h describes.
template <class F> void put_unit(F & b, int unit, const unit_values & values) {
    constexpr int STEPS = F::BYTES ? 8 : 16, LOW_STEPS = F::BYTES ? 2 : 4, EXTRA_BITS = F::BITS == 8 ? 0 : F::BITS - 4;
    uint8_t * q = b.q[unit];
    uint8_t * high = const_cast<uint8_t *>(b.high(unit));
    v128_t chunks[8], steps[STEPS];  // chunks of bytes or pairs of halves
    interleave(values, chunks);
    for (int c = 0; c < 8; c++) {
        if constexpr (F::BYTES) {
            steps[c] = chunks[c];
        } else {
            const v128_t pairs = wasm_i16x8_shuffle(chunks[c], chunks[c], 0, 2, 4, 6, 1, 3, 5, 7);
            steps[2 * c] = wasm_u16x8_extend_low_u8x16(pairs);
            steps[2 * c + 1] = wasm_u16x8_extend_high_u8x16(pairs);
            chunks[c] = pairs;
        }
    }
    if constexpr (F::BITS == 8) {
        std::memcpy(q, chunks, sizeof chunks);
        return;
    }
    for (int j = 0; j < 4; j++) {
        v128_t low = wasm_i8x16_splat(0);
        for (int n = 0; n < LOW_STEPS; n++) {
            low = wasm_v128_or(low, low_bits(steps[F::BYTES ? j + 4 * n : 4 * j + n], 4 * n));
        }
        wasm_v128_store(q + 16 * j, low);
    }
    if constexpr (EXTRA_BITS > 0) {
        constexpr int A_PLANE = STEPS / EXTRA_BITS;
        for (int plane = 0; plane < EXTRA_BITS; plane++) {
            v128_t bits = wasm_i8x16_splat(0);
            for (int n = 0; n < A_PLANE; n++) {
                bits = wasm_v128_or(bits, high_bits<F::BITS>(steps[plane * A_PLANE + n], EXTRA_BITS * n));
            }
            wasm_v128_store(high + 16 * plane, bits);
        }
    }
}

template <class F> uint8_t get(const F & b, int unit, int r, int k) {
    const uint8_t * q = b.q[unit];
    const uint8_t * high = b.high(unit);
    if constexpr (F::BITS == 8) {
        return q[byte_place<F>(r, k)];
    } else if constexpr (F::BYTES) {
        const int chunk = k / 4, byte = r * 4 + (k & 3);
        uint8_t value = (q[(chunk & 3) * 16 + byte] >> (chunk < 4 ? 0 : 4)) & 15;
        if constexpr (F::BITS == 5) {
            value |= ((high[byte] >> chunk) & 1) << 4;
        } else if constexpr (F::BITS == 6) {
            value |= ((high[16 * (chunk >> 2) + byte] >> (2 * (chunk & 3))) & 3) << 4;
        }
        return value;
    } else {
        const int pair = k / 2, lane = r * 2 + (k & 1);
        uint8_t value = (reinterpret_cast<const uint16_t *>(q + 16 * (pair >> 2))[lane] >> (4 * (pair & 3))) & 15;
        if constexpr (F::BITS == 5) {
            value |= ((reinterpret_cast<const uint16_t *>(high)[lane] >> pair) & 1) << 4;
        } else if constexpr (F::BITS == 6) {
            value |= ((reinterpret_cast<const uint16_t *>(high + 16 * (pair >> 3))[lane] >> (2 * (pair & 7))) & 3) << 4;
        }
        return value;
    }
}

// ---- one ggml block of one row: its scales go to their place, its values are noted for put_unit ----

void nibbles_of(const uint8_t * qs, row_values & out) {
    for (int k = 0; k < 16; k++) {
        out[k] = qs[k] & 15;
        out[k + 16] = qs[k] >> 4;
    }
}

void fifth_bits_of(const uint8_t * qh, row_values & values) {
    uint32_t bits;
    std::memcpy(&bits, qh, sizeof bits);
    for (int k = 0; k < UNIT; k++) {
        values[k] |= (uint8_t) (((bits >> k) & 1) << 4);
    }
}

void pack_block(packed_q4_0 & out, int r, const block_q4_0 & in, unit_values * values) {
    out.d[r] = in.d;
    nibbles_of(in.qs, values[0][r]);
}

void pack_block(packed_q4_1 & out, int r, const block_q4_1 & in, unit_values * values) {
    out.d[r] = in.d;
    out.m[r] = in.m;
    nibbles_of(in.qs, values[0][r]);
}

void pack_block(packed_q5_0 & out, int r, const block_q5_0 & in, unit_values * values) {
    out.d[r] = in.d;
    nibbles_of(in.qs, values[0][r]);
    fifth_bits_of(in.qh, values[0][r]);
}

void pack_block(packed_q5_1 & out, int r, const block_q5_1 & in, unit_values * values) {
    out.d[r] = in.d;
    out.m[r] = in.m;
    nibbles_of(in.qs, values[0][r]);
    fifth_bits_of(in.qh, values[0][r]);
}

template <class F> void pack_bytes(F & out, int r, const block_q8_0 & in, row_values & values) {
    out.d[r] = in.d;
    const uint8_t offset = (uint8_t) F::offset();
    for (int k = 0; k < UNIT; k++) {
        values[k] = (uint8_t) in.qs[k] + offset;
    }
}

void pack_block(packed_q8_0 & out, int r, const block_q8_0 & in, unit_values * values) { pack_bytes(out, r, in, values[0][r]); }
void pack_block(packed_q8_0_chunks & out, int r, const block_q8_0 & in, unit_values * values) { pack_bytes(out, r, in, values[0][r]); }

// Scales and minima of Q4_K and Q5_K: eight of 6 bits each in 12 bytes; the layout is ggml's (ggml-quants.c, get_scale_min_k4).
void pack_k_scales(packed_k_scales & out, int r, const uint8_t * s) {
    for (int unit = 0; unit < 8; unit++) {
        const int scale = unit < 4 ? s[unit] & 63 : (s[unit + 4] & 15) | ((s[unit - 4] >> 6) << 4);
        const int minimum = unit < 4 ? s[unit + 4] & 63 : (s[unit + 4] >> 4) | ((s[unit] >> 6) << 4);
        const int i = unit * ROWS + r, shift = i < 16 ? 0 : 2;
        out.low[i] = (uint8_t) ((scale & 15) | ((minimum & 15) << 4));
        out.high[i & 15] |= (uint8_t) (((scale >> 4) << shift) | ((minimum >> 4) << (4 + shift)));
    }
}

// Q4_K and Q5_K keep columns 64j..64j+31 in the low nibbles of 32 bytes and 64j+32..64j+63 in the high ones.
void k_nibbles_of(const uint8_t * qs, const uint8_t * qh, int r, unit_values * values) {
    for (int unit = 0; unit < 8; unit++) {
        const int shift = unit & 1 ? 4 : 0;
        for (int k = 0; k < UNIT; k++) {
            values[unit][r][k] = (qs[(unit / 2) * 32 + k] >> shift) & 15;
        }
        for (int k = 0; qh && k < UNIT; k++) {
            values[unit][r][k] |= (uint8_t) (((qh[k] >> unit) & 1) << 4);
        }
    }
}

void pack_block(packed_q4_k & out, int r, const block_q4_K & in, unit_values * values) {
    out.d[r] = in.d;
    out.dmin[r] = in.dmin;
    pack_k_scales(out.s, r, in.scales);
    k_nibbles_of(in.qs, nullptr, r, values);
}

void pack_block(packed_q5_k & out, int r, const block_q5_K & in, unit_values * values) {
    out.d[r] = in.d;
    out.dmin[r] = in.dmin;
    pack_k_scales(out.s, r, in.scales);
    k_nibbles_of(in.qs, in.qh, r, values);
}

void pack_block(packed_q6_k & out, int r, const block_q6_K & in, unit_values * values) {
    out.d[r] = in.d;
    for (int i = 0; i < 16; i++) {
        out.s[i][r] = in.scales[i];
    }
    for (int unit = 0; unit < 8; unit++) {  // 128 columns use 64 bytes of ql and 32 of qh (ggml-quants.c, dequantize_row_q6_K)
        const int part = unit / 4, quarter = unit % 4, shift = quarter < 2 ? 0 : 4;
        for (int k = 0; k < UNIT; k++) {
            const uint8_t low = in.ql[part * 64 + (quarter & 1) * 32 + k];
            const uint8_t high = in.qh[part * 32 + k];
            values[unit][r][k] = (uint8_t) (((low >> shift) & 15) | (((high >> (2 * quarter)) & 3) << 4));
        }
    }
}

template <class F> void pack_all(const void * source, void * destination, int64_t rows, int64_t columns) {
    using Block = typename F::block;
    const int64_t blocks = columns / (F::UNITS * UNIT);
    std::vector<Block> group(ROWS * blocks);  // the destination may be the source
    for (int64_t row = 0; row < rows; row += ROWS) {
        std::memcpy(group.data(), (const Block *) source + row * blocks, group.size() * sizeof(Block));
        F * out = (F *) destination + row / ROWS * blocks;
        std::memset(out, 0, blocks * sizeof(F));
        for (int64_t b = 0; b < blocks; b++) {
            unit_values values[F::UNITS];
            for (int r = 0; r < ROWS; r++) {
                pack_block(out[b], r, group[r * blocks + b], values);
            }
            for (int unit = 0; unit < F::UNITS; unit++) {
                put_unit(out[b], unit, values[unit]);
            }
        }
    }
}

template <class F> void unpack_one(const void * packed, int64_t row, int64_t columns, float * out) {
    const int64_t blocks = columns / (F::UNITS * UNIT);
    const F * group = (const F *) packed + row / ROWS * blocks;
    const int r = (int) (row % ROWS);
    constexpr int PER_HALF = UNIT / F::HALVES;
    for (int64_t b = 0; b < blocks; b++) {
        scales<F::UNITS * F::HALVES> s;
        load_scales(group[b], s);
        for (int unit = 0; unit < F::UNITS; unit++) {
            for (int k = 0; k < UNIT; k++) {
                const int i = unit * F::HALVES + k / PER_HALF;
                float d[4], m[4] = {};
                wasm_v128_store(d, s.d[i]);
                if constexpr (F::HAS_MINIMUM) {
                    wasm_v128_store(m, s.m[i]);
                }
                const uint8_t stored = get(group[b], unit, r, k);
                const int q = F::BITS == 8 ? (int8_t) (stored - F::offset()) : stored - F::offset();
                *out++ = d[r] * (float) q + m[r];
            }
        }
    }
}

}  // namespace

bool can_pack(ggml_type type, int64_t columns) {
    switch (type) {
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q4_1:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q5_1:
        case GGML_TYPE_Q8_0: return columns % UNIT == 0;
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:
        case GGML_TYPE_Q6_K: return columns % QK_K == 0;
        default:             return false;
    }
}

void pack_rows(ggml_type type, const void * source, void * destination, int64_t rows, int64_t columns) {
    with_format(type, [=]<class F>() { pack_all<F>(source, destination, rows, columns); });
}

void unpack_row(ggml_type type, const void * packed, int64_t row, int64_t columns, float * out) {
    with_format(type, [=]<class F>() { unpack_one<F>(packed, row, columns, out); });
}

}  // namespace sippet
