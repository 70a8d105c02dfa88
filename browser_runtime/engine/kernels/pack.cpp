// Packs ggml rows into the formats of formats.h, and reads single rows back (for the embedding table, which is both looked up
// and multiplied). Runs once for each weight while a model loads, so it is written for clarity.
#include "pack.h"

#include "formats.h"

#include <cmath>
#include <vector>

namespace sippet {

namespace {

// The quantised integers of one unit of one row, before they are interleaved.
using unit_values = uint8_t[UNIT];

float half_to_float(uint16_t h) { return ggml_fp16_to_fp32(h); }

// Place column `k` of row `r` into the packed bits of a unit.
template <class F> void put(F & b, int unit, int r, int k, uint8_t value) {
    uint8_t * q = b.q[unit];
    uint8_t * high = const_cast<uint8_t *>(b.high(unit));
    if constexpr (F::BITS == 8) {
        q[(k / 2) * 8 + r * 2 + (k & 1)] = value;
    } else if constexpr (SEVEN_BIT<F>) {
        const int chunk = k / 4, byte = r * 4 + (k & 3);
        q[(chunk & 3) * 16 + byte] |= (uint8_t) ((value & 15) << (chunk < 4 ? 0 : 4));
        if constexpr (F::BITS == 5) {
            high[byte] |= (uint8_t) ((value >> 4) << chunk);
        } else if constexpr (F::BITS == 6) {
            high[16 * (chunk >> 2) + byte] |= (uint8_t) ((value >> 4) << (2 * (chunk & 3)));
        }
    } else {
        const int pair = k / 2, lane = r * 2 + (k & 1);
        reinterpret_cast<uint16_t *>(q + 16 * (pair >> 2))[lane] |= (uint16_t) ((value & 15) << (4 * (pair & 3)));
        if constexpr (F::BITS == 5) {
            reinterpret_cast<uint16_t *>(high)[lane] |= (uint16_t) ((value >> 4) << pair);
        } else if constexpr (F::BITS == 6) {
            reinterpret_cast<uint16_t *>(high + 16 * (pair >> 3))[lane] |= (uint16_t) ((value >> 4) << (2 * (pair & 7)));
        }
    }
}

template <class F> uint8_t get(const F & b, int unit, int r, int k) {
    const uint8_t * q = b.q[unit];
    const uint8_t * high = b.high(unit);
    if constexpr (F::BITS == 8) {
        return q[(k / 2) * 8 + r * 2 + (k & 1)];
    } else if constexpr (SEVEN_BIT<F>) {
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

template <class F> void put_unit(F & b, int unit, int r, const unit_values & values) {
    for (int k = 0; k < UNIT; k++) {
        put(b, unit, r, k, values[k]);
    }
}

// ---- one ggml block of one row -> its place in a packed group ----

void nibbles_of(const uint8_t * qs, unit_values & out) {
    for (int k = 0; k < 16; k++) {
        out[k] = qs[k] & 15;
        out[k + 16] = qs[k] >> 4;
    }
}

void fifth_bits_of(const uint8_t * qh, unit_values & values) {
    uint32_t bits;
    std::memcpy(&bits, qh, sizeof bits);
    for (int k = 0; k < UNIT; k++) {
        values[k] |= (uint8_t) (((bits >> k) & 1) << 4);
    }
}

void pack_block(packed_q4_0 & out, int r, const block_q4_0 & in) {
    unit_values values;
    out.d[r] = in.d;
    nibbles_of(in.qs, values);
    put_unit(out, 0, r, values);
}

void pack_block(packed_q4_1 & out, int r, const block_q4_1 & in) {
    unit_values values;
    out.d[r] = in.d;
    out.m[r] = in.m;
    nibbles_of(in.qs, values);
    put_unit(out, 0, r, values);
}

void pack_block(packed_q5_0 & out, int r, const block_q5_0 & in) {
    unit_values values;
    out.d[r] = in.d;
    nibbles_of(in.qs, values);
    fifth_bits_of(in.qh, values);
    put_unit(out, 0, r, values);
}

void pack_block(packed_q5_1 & out, int r, const block_q5_1 & in) {
    unit_values values;
    out.d[r] = in.d;
    out.m[r] = in.m;
    nibbles_of(in.qs, values);
    fifth_bits_of(in.qh, values);
    put_unit(out, 0, r, values);
}

void pack_block(packed_q8_0 & out, int r, const block_q8_0 & in) {
    unit_values values;
    out.d[r] = in.d;
    std::memcpy(values, in.qs, sizeof values);
    put_unit(out, 0, r, values);
}

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
template <class Packed> void pack_k_nibbles(Packed & out, int r, const uint8_t * qs, const uint8_t * qh) {
    for (int unit = 0; unit < 8; unit++) {
        unit_values values;
        for (int k = 0; k < UNIT; k++) {
            const uint8_t byte = qs[(unit / 2) * 32 + k];
            values[k] = (unit & 1) ? byte >> 4 : byte & 15;
            if (qh) {
                values[k] |= (uint8_t) (((qh[k] >> unit) & 1) << 4);
            }
        }
        put_unit(out, unit, r, values);
    }
}

void pack_block(packed_q4_k & out, int r, const block_q4_K & in) {
    out.d[r] = in.d;
    out.dmin[r] = in.dmin;
    pack_k_scales(out.s, r, in.scales);
    pack_k_nibbles(out, r, in.qs, nullptr);
}

void pack_block(packed_q5_k & out, int r, const block_q5_K & in) {
    out.d[r] = in.d;
    out.dmin[r] = in.dmin;
    pack_k_scales(out.s, r, in.scales);
    pack_k_nibbles(out, r, in.qs, in.qh);
}

void pack_block(packed_q6_k & out, int r, const block_q6_K & in) {
    out.d[r] = in.d;
    for (int i = 0; i < 16; i++) {
        out.s[i][r] = in.scales[i];
    }
    for (int unit = 0; unit < 8; unit++) {  // 128 columns use 64 bytes of ql and 32 of qh (ggml-quants.c, dequantize_row_q6_K)
        const int part = unit / 4, quarter = unit % 4;
        unit_values values;
        for (int k = 0; k < UNIT; k++) {
            const uint8_t low = in.ql[part * 64 + (quarter & 1) * 32 + k];
            const uint8_t high = in.qh[part * 32 + k];
            values[k] = (uint8_t) ((quarter < 2 ? low & 15 : low >> 4) | (((high >> (2 * quarter)) & 3) << 4));
        }
        put_unit(out, unit, r, values);
    }
}

template <class F, class Block> void pack_all(const void * source, void * destination, int64_t rows, int64_t columns) {
    const int64_t blocks = columns / (F::UNITS * UNIT);
    std::vector<Block> group(ROWS * blocks);  // the destination may be the source
    for (int64_t row = 0; row < rows; row += ROWS) {
        std::memcpy(group.data(), (const Block *) source + row * blocks, group.size() * sizeof(Block));
        F * out = (F *) destination + row / ROWS * blocks;
        std::memset(out, 0, blocks * sizeof(F));
        for (int64_t b = 0; b < blocks; b++) {
            for (int r = 0; r < ROWS; r++) {
                pack_block(out[b], r, group[r * blocks + b]);
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
                float d[4], m[4];
                wasm_v128_store(d, s.d[unit * F::HALVES + k / PER_HALF]);
                wasm_v128_store(m, s.m[unit * F::HALVES + k / PER_HALF]);
                const uint8_t q = get(group[b], unit, r, k);
                const float value = F::BITS == 8 ? (float) (int8_t) q : (float) q;
                *out++ = d[r] * value + m[r];
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
    switch (type) {
        case GGML_TYPE_Q4_0: return pack_all<packed_q4_0, block_q4_0>(source, destination, rows, columns);
        case GGML_TYPE_Q4_1: return pack_all<packed_q4_1, block_q4_1>(source, destination, rows, columns);
        case GGML_TYPE_Q5_0: return pack_all<packed_q5_0, block_q5_0>(source, destination, rows, columns);
        case GGML_TYPE_Q5_1: return pack_all<packed_q5_1, block_q5_1>(source, destination, rows, columns);
        case GGML_TYPE_Q8_0: return pack_all<packed_q8_0, block_q8_0>(source, destination, rows, columns);
        case GGML_TYPE_Q4_K: return pack_all<packed_q4_k, block_q4_K>(source, destination, rows, columns);
        case GGML_TYPE_Q5_K: return pack_all<packed_q5_k, block_q5_K>(source, destination, rows, columns);
        case GGML_TYPE_Q6_K: return pack_all<packed_q6_k, block_q6_K>(source, destination, rows, columns);
        default:             GGML_ABORT("type %d can't be packed", (int) type);
    }
}

void unpack_row(ggml_type type, const void * packed, int64_t row, int64_t columns, float * out) {
    switch (type) {
        case GGML_TYPE_Q4_0: return unpack_one<packed_q4_0>(packed, row, columns, out);
        case GGML_TYPE_Q4_1: return unpack_one<packed_q4_1>(packed, row, columns, out);
        case GGML_TYPE_Q5_0: return unpack_one<packed_q5_0>(packed, row, columns, out);
        case GGML_TYPE_Q5_1: return unpack_one<packed_q5_1>(packed, row, columns, out);
        case GGML_TYPE_Q8_0: return unpack_one<packed_q8_0>(packed, row, columns, out);
        case GGML_TYPE_Q4_K: return unpack_one<packed_q4_k>(packed, row, columns, out);
        case GGML_TYPE_Q5_K: return unpack_one<packed_q5_k>(packed, row, columns, out);
        case GGML_TYPE_Q6_K: return unpack_one<packed_q6_k>(packed, row, columns, out);
        default:             GGML_ABORT("type %d isn't packed", (int) type);
    }
}

}  // namespace sippet
