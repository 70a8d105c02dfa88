// Matrix products with packed weights: see formats.h for what a group, a unit, a chunk and a pair are.
//
// Few tokens (decoding): weights are unpacked in registers and used at once for all tokens; nothing is written back.
// Many tokens (prefill): a panel of PANEL_GROUPS groups is unpacked once into scratch memory that stays in the first-level
// cache, and multiplied with four tokens at a time.
#include "matmul.h"

#include "formats.h"

#include <algorithm>

namespace sippet {

namespace {

constexpr int PANEL_GROUPS = 2;
constexpr int TILE_TOKENS = 4;
constexpr uint32_t PANEL_COLUMNS = 1024;  // a panel this long takes 16 KiB at most, next to its tokens in the first-level cache

template <bool Bytes> struct dot;

// Four columns at once: signed 8-bit activations times weights that i32x4.relaxed_dot_i8x16_i7x16_add reads alike everywhere (below
// 128), or as byte_dot_reads() says.
template <> struct dot<true> {
    static constexpr int STEPS = 8, VALUE_BYTES = 1;
#ifdef __wasm_relaxed_simd__
    SIPPET_INLINE v128_t add(v128_t sum, v128_t activation, v128_t weight) {
        return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(activation, weight, sum);
    }
#endif
    // Chunks that share a vector follow each other, so that the vector doesn't take a register for long.
    static constexpr int step(int position, int bits) { return bits == 8 ? position : (position & 1) * 4 + position / 2; }
    template <class F> SIPPET_INLINE v128_t weight(const F & b, int unit, int step) {
        return load_chunk<F::BITS>(b.q[unit], b.high(unit), step);
    }
};

// Two columns at once in 16 bits.
template <> struct dot<false> {
    static constexpr int STEPS = 16, VALUE_BYTES = 2;
    SIPPET_INLINE v128_t add(v128_t sum, v128_t activation, v128_t weight) {
        return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(activation, weight));
    }
    static constexpr int step(int position, int) { return position; }
    template <class F> SIPPET_INLINE v128_t weight(const F & b, int unit, int step) {
        return load_pair<F::BITS>(b.q[unit], b.high(unit), step);
    }
};

constexpr int STEP_BYTES = 4;

template <class F> constexpr activation_layout layout(int64_t columns) {
    const size_t values = (size_t) columns * dot<F::BYTES>::VALUE_BYTES;
    const size_t numbers = (size_t) columns / UNIT * (1 + F::HALVES);
    return {(values + numbers * sizeof(float) + 63) & ~(size_t) 63, values};
}

template <class F> void quantize(const float * in, int64_t columns, uint8_t * out) {
    const int64_t units = columns / UNIT;
    float * scale = (float *) (out + layout<F>(columns).scale_offset);
    float * sums = scale + units;
    const int offset = F::offset();
    const auto store_sum = [=](int64_t index, float d, int32_t sum) {
        if constexpr (F::HAS_MINIMUM) {
            sums[index] = d * (float) sum;
        } else {
            ((int32_t *) sums)[index] = -offset * sum;
        }
    };
    for (int64_t u = 0; u < units; u++, in += UNIT, out += UNIT * dot<F::BYTES>::VALUE_BYTES) {
        v128_t v[8], largest = wasm_f32x4_splat(0.0f);
        for (int i = 0; i < 8; i++) {
            v[i] = wasm_v128_load(in + 4 * i);
            largest = wasm_f32x4_max(largest, wasm_f32x4_abs(v[i]));
        }
        const float d = horizontal_max(largest) / 127.0f;
        const v128_t inverse = wasm_f32x4_splat(d != 0.0f ? 1.0f / d : 0.0f);
        v128_t half[4];
        for (int i = 0; i < 4; i++) {
            half[i] = wasm_i16x8_narrow_i32x4(nearest_integer(wasm_f32x4_mul(v[2 * i], inverse)),
                                              nearest_integer(wasm_f32x4_mul(v[2 * i + 1], inverse)));
        }
        if constexpr (F::BYTES) {
            wasm_v128_store(out, wasm_i8x16_narrow_i16x8(half[0], half[1]));
            wasm_v128_store(out + 16, wasm_i8x16_narrow_i16x8(half[2], half[3]));
        } else {
            for (int i = 0; i < 4; i++) {
                wasm_v128_store(out + 16 * i, half[i]);
            }
        }
        scale[u] = d;
        const int32_t first = horizontal_sum(wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(half[0], half[1])));
        const int32_t second = horizontal_sum(wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(half[2], half[3])));
        if constexpr (F::HALVES == 2) {
            store_sum(2 * u, d, first);
            store_sum(2 * u + 1, d, second);
        } else {
            store_sum(u, d, first + second);
        }
    }
}

// What the integer sums of a token start with: weights are stored `offset` too large.
template <class F> SIPPET_INLINE v128_t first_sum(const float * sum) {
    return F::HAS_MINIMUM ? wasm_i32x4_splat(0) : splat_from(sum);
}

// Add the scaled integer sums of one unit, or half of one, to a total.
template <class F> SIPPET_INLINE v128_t add_scaled(v128_t total, v128_t sum, v128_t d, v128_t m, v128_t token_d, const float * token_sum) {
    total = multiply_add(d, wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum), token_d), total);
    if constexpr (F::HAS_MINIMUM) {
        total = multiply_add(m, splat_from(token_sum), total);
    }
    return total;
}

// ---- few tokens ------------------------------------------------------------------------------------------------------

// Multiply GROUPS groups that lie `distance` groups apart.
template <class F, int GROUPS, int TOKENS>
void multiply_direct(const F * first, size_t blocks, size_t distance, const activation_layout & at, const uint8_t * const * tokens,
                     float * const * outs, size_t row) {
    using D = dot<F::BYTES>;
    constexpr size_t HALVES = F::HALVES, UNIT_BYTES = UNIT * D::VALUE_BYTES;
    const size_t units = blocks * F::UNITS;
    v128_t total[GROUPS][TOKENS];
    const uint8_t * values[TOKENS];
    const float *scale[TOKENS], *sums[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        values[t] = tokens[t];
        scale[t] = (const float *) (tokens[t] + at.scale_offset);
        sums[t] = scale[t] + units;
        for (int g = 0; g < GROUPS; g++) {
            total[g][t] = wasm_f32x4_splat(0.0f);
        }
    }
    for (const F * const end = first + blocks; first != end; first++) {
        scales<F::UNITS * F::HALVES> s[GROUPS];
        for (int g = 0; g < GROUPS; g++) {
            load_scales(first[g * distance * blocks], s[g]);
        }
        for (int unit = 0; unit < F::UNITS; unit++) {
            v128_t sum[GROUPS][TOKENS][HALVES];
            for (int g = 0; g < GROUPS; g++) {
                for (int t = 0; t < TOKENS; t++) {
                    for (size_t h = 0; h < HALVES; h++) {
                        sum[g][t][h] = first_sum<F>(sums[t] + h);
                    }
                }
            }
#pragma clang loop unroll(full)
            for (int position = 0; position < D::STEPS; position++) {
                const int step = D::step(position, F::BITS);
                const size_t h = HALVES == 2 ? step / (D::STEPS / 2) : 0;
                v128_t a[TOKENS];
                for (int t = 0; t < TOKENS; t++) {
                    a[t] = wasm_v128_load32_splat(values[t] + (size_t) step * STEP_BYTES);
                }
#pragma clang loop unroll(full)
                for (int g = 0; g < GROUPS; g++) {
                    const v128_t w = D::template weight<F>(first[g * distance * blocks], unit, step);
                    for (int t = 0; t < TOKENS; t++) {
                        sum[g][t][h] = D::add(sum[g][t][h], a[t], w);
                    }
                }
            }
            for (int t = 0; t < TOKENS; t++) {
                const v128_t token_d = splat_from(scale[t]);
                for (size_t h = 0; h < HALVES; h++) {
                    const size_t i = unit * HALVES + h;
                    for (int g = 0; g < GROUPS; g++) {
                        total[g][t] = add_scaled<F>(total[g][t], sum[g][t][h], s[g].d[i], s[g].m[i], token_d, sums[t] + h);
                    }
                }
                values[t] += UNIT_BYTES;
                scale[t]++;
                sums[t] += HALVES;
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int g = 0; g < GROUPS; g++) {
            wasm_v128_store(outs[t] + row + g * distance * ROWS, total[g][t]);
        }
    }
}

template <class F, int GROUPS, int TOKENS>
void multiply_few(const F * packed, int64_t columns, int64_t first_row, int64_t last_row, const uint8_t * const * tokens, float * const * outs) {
    const size_t blocks = columns / (F::UNITS * UNIT);
    const activation_layout at = layout<F>(columns);
    // Every group of a call continues where it stopped in the call before: memory is read as GROUPS long streams.
    const size_t first_group = first_row / ROWS, groups = (last_row - first_row) / ROWS, distance = groups / GROUPS;
    for (size_t i = 0; i < distance; i++) {
        const size_t group = first_group + i;
        multiply_direct<F, GROUPS, TOKENS>(packed + group * blocks, blocks, distance, at, tokens, outs, group * ROWS);
    }
    for (size_t group = first_group + distance * GROUPS; group < first_group + groups; group++) {
        multiply_direct<F, 1, TOKENS>(packed + group * blocks, blocks, 1, at, tokens, outs, group * ROWS);
    }
}

// ---- many tokens -----------------------------------------------------------------------------------------------------

// Unpacked weights of GROUPS groups: for each unit all steps of all groups, then the scales in the same order.
template <class F, int GROUPS> struct panel {
    using D = dot<F::BYTES>;
    static constexpr size_t UNIT_VECTORS = D::STEPS * GROUPS;
    static constexpr size_t UNIT_SCALES = F::HALVES * GROUPS;

    v128_t * weights;
    v128_t * d;
    v128_t * m;

    explicit panel(uint8_t * memory) {
        const size_t units = PANEL_COLUMNS / UNIT;
        weights = (v128_t *) memory;
        d = weights + units * UNIT_VECTORS;
        m = d + units * UNIT_SCALES;
    }

    static constexpr size_t bytes() { return PANEL_COLUMNS / UNIT * (UNIT_VECTORS + 2 * UNIT_SCALES) * sizeof(v128_t); }

    void fill(const F * first, size_t blocks_a_row, size_t block_count) {
        v128_t *w = weights, *next_d = d, *next_m = m;
        for (size_t b = 0; b < block_count; b++) {
            scales<F::UNITS * F::HALVES> s[GROUPS];
            for (int g = 0; g < GROUPS; g++) {
                load_scales(first[g * blocks_a_row + b], s[g]);
            }
            for (int unit = 0; unit < F::UNITS; unit++, w += UNIT_VECTORS) {
#pragma clang loop unroll(full)
                for (int position = 0; position < D::STEPS; position++) {
                    const int step = D::step(position, F::BITS);
                    for (int g = 0; g < GROUPS; g++) {
                        w[(size_t) step * GROUPS + g] = D::template weight<F>(first[g * blocks_a_row + b], unit, step);
                    }
                }
                for (int h = 0; h < F::HALVES; h++) {
                    for (int g = 0; g < GROUPS; g++) {
                        *next_d++ = s[g].d[unit * F::HALVES + h];
                        if constexpr (F::HAS_MINIMUM) {
                            *next_m++ = s[g].m[unit * F::HALVES + h];
                        }
                    }
                }
            }
        }
    }
};

// Multiply the panel with TOKENS tokens; adds to the output unless this is the first part of the columns.
template <class F, int GROUPS, int TOKENS>
void multiply_tile(const panel<F, GROUPS> & p, size_t first_unit, size_t unit_count, size_t units, const activation_layout & at,
                   const uint8_t * const * tokens, float * const * outs, size_t row) {
    using D = dot<F::BYTES>;
    constexpr size_t HALVES = F::HALVES, UNIT_BYTES = UNIT * D::VALUE_BYTES;
    v128_t total[GROUPS][TOKENS];
    const uint8_t * values[TOKENS];
    const float *scale[TOKENS], *sums[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        values[t] = tokens[t] + first_unit * UNIT_BYTES;
        scale[t] = (const float *) (tokens[t] + at.scale_offset) + first_unit;
        sums[t] = scale[t] + units + first_unit * (HALVES - 1);  // the sums follow the scales of all units
        for (int g = 0; g < GROUPS; g++) {
            total[g][t] = first_unit ? wasm_v128_load(outs[t] + row + g * ROWS) : wasm_f32x4_splat(0.0f);
        }
    }
    const v128_t *w = p.weights, *d = p.d, *m = p.m;
    for (const v128_t * const end = w + unit_count * panel<F, GROUPS>::UNIT_VECTORS; w != end; w += panel<F, GROUPS>::UNIT_VECTORS) {
#pragma clang loop unroll(full)
        for (int h = 0; h < (int) HALVES; h++) {
            v128_t sum[GROUPS][TOKENS];
            for (int t = 0; t < TOKENS; t++) {
                for (int g = 0; g < GROUPS; g++) {
                    sum[g][t] = first_sum<F>(sums[t] + h);
                }
            }
#pragma clang loop unroll(full)
            for (int step = h * D::STEPS / F::HALVES; step < (h + 1) * D::STEPS / F::HALVES; step++) {
                v128_t weight[GROUPS];
                for (int g = 0; g < GROUPS; g++) {
                    weight[g] = w[(size_t) step * GROUPS + g];
                }
                for (int t = 0; t < TOKENS; t++) {
                    const v128_t a = wasm_v128_load32_splat(values[t] + (size_t) step * STEP_BYTES);
                    for (int g = 0; g < GROUPS; g++) {
                        sum[g][t] = D::add(sum[g][t], a, weight[g]);
                    }
                }
            }
            for (int t = 0; t < TOKENS; t++) {
                const v128_t token_d = splat_from(scale[t]);
                for (int g = 0; g < GROUPS; g++) {
                    total[g][t] = add_scaled<F>(total[g][t], sum[g][t], d[g], m[g], token_d, sums[t] + h);
                }
            }
            d += GROUPS;
            m += GROUPS;
        }
        for (int t = 0; t < TOKENS; t++) {
            values[t] += UNIT_BYTES;
            scale[t]++;
            sums[t] += HALVES;
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int g = 0; g < GROUPS; g++) {
            wasm_v128_store(outs[t] + row + g * ROWS, total[g][t]);
        }
    }
}

template <class F, int GROUPS>
void multiply_panel(const F * packed, int64_t columns, int64_t row, const uint8_t * const * tokens, float * const * outs, int64_t token_count,
                    uint8_t * scratch) {
    const size_t blocks = columns / (F::UNITS * UNIT), units = columns / UNIT;
    const size_t blocks_a_part = PANEL_COLUMNS / (F::UNITS * UNIT);
    const activation_layout at = layout<F>(columns);
    panel<F, GROUPS> p(scratch);
    for (size_t first = 0; first < blocks; first += blocks_a_part) {
        const size_t count = std::min(blocks_a_part, blocks - first);
        const size_t first_unit = first * F::UNITS, unit_count = count * F::UNITS;
        p.fill(packed + row / ROWS * blocks + first, blocks, count);
        int64_t t = 0;
        for (; t + TILE_TOKENS <= token_count; t += TILE_TOKENS) {
            multiply_tile<F, GROUPS, TILE_TOKENS>(p, first_unit, unit_count, units, at, tokens + t, outs + t, row);
        }
        for (; t < token_count; t++) {
            multiply_tile<F, GROUPS, 1>(p, first_unit, unit_count, units, at, tokens + t, outs + t, row);
        }
    }
}

template <class F>
void multiply_all(const void * packed, int64_t columns, int64_t first_row, int64_t last_row, const uint8_t * const * tokens,
                  float * const * outs, int64_t token_count, uint8_t * scratch) {
    const F * weights = (const F *) packed;
    switch (token_count) {
        case 1: return multiply_few<F, 4, 1>(weights, columns, first_row, last_row, tokens, outs);
        case 2: return multiply_few<F, 2, 2>(weights, columns, first_row, last_row, tokens, outs);
        case 3: return multiply_few<F, 2, 3>(weights, columns, first_row, last_row, tokens, outs);
        default: break;
    }
    int64_t row = first_row;
    for (; row + PANEL_GROUPS * ROWS <= last_row; row += PANEL_GROUPS * ROWS) {
        multiply_panel<F, PANEL_GROUPS>(weights, columns, row, tokens, outs, token_count, scratch);
    }
    for (; row < last_row; row += ROWS) {
        multiply_panel<F, 1>(weights, columns, row, tokens, outs, token_count, scratch);
    }
}

}  // namespace

activation_layout layout_for(ggml_type type, int64_t columns) {
    return with_format(type, [=]<class F>() { return layout<F>(columns); });
}

void quantize_token(ggml_type type, const float * in, int64_t columns, uint8_t * out) {
    with_format(type, [=]<class F>() { quantize<F>(in, columns, out); });
}

size_t scratch_bytes(ggml_type type, int64_t /*columns*/) {
    return with_format(type, []<class F>() { return panel<F, PANEL_GROUPS>::bytes(); });
}

void multiply(ggml_type type, const void * packed, int64_t columns, int64_t first_row, int64_t last_row, const uint8_t * const * tokens,
              float * const * outs, int64_t token_count, uint8_t * scratch) {
    with_format(type, [=]<class F>() {
        multiply_all<F>(packed, columns, first_row, last_row, tokens, outs, token_count, scratch);
    });
}

}  // namespace sippet
