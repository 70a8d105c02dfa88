// Connects the kernels to ggml: a buffer type whose tensors are packed when they are set, and the operations on them.
#include "packed_buffer.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "matmul.h"
#include "pack.h"
#include "row_share.h"
#include "traits.h"

#include <algorithm>

namespace sippet {

namespace {

constexpr int CHUNKS_A_THREAD = 8;  // so that a slow thread doesn't hold up the others
constexpr size_t ALIGNMENT = 64;

size_t aligned(size_t bytes) { return (bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1); }

bool is_packable(const ggml_tensor * t) {
    return ggml_is_contiguous(t) && t->ne[1] % 4 == 0 && t->ne[3] == 1 && can_pack(t->type, t->ne[0]);
}

// Parts of the work memory of one operation: quantised tokens, then the pointer lists and the scratch of each thread.
struct work_plan {
    int64_t token_rows;  // quantised tokens
    int64_t list_length;  // longest list of tokens that is multiplied at once
    size_t token_stride, tokens_at, lists_at, list_bytes, scratch_at, scratch_each, total;

    work_plan(const ggml_tensor * op, int threads) {
        const ggml_tensor *w = op->src[0], *x = op->src[1];
        token_rows = x->ne[1] * x->ne[2] * x->ne[3];
        list_length = op->op == GGML_OP_MUL_MAT_ID ? op->src[2]->ne[0] * op->src[2]->ne[1] : token_rows;
        token_stride = layout_for(w->type, w->ne[0]).stride;
        tokens_at = 0;
        lists_at = aligned((token_rows == 1 ? threads : token_rows) * token_stride);
        list_bytes = aligned(list_length * 2 * sizeof(void *));
        scratch_at = lists_at + threads * list_bytes;
        scratch_each = aligned(scratch_bytes(w->type, w->ne[0]));
        total = scratch_at + threads * scratch_each + ALIGNMENT;
    }
};

uint8_t * work_base(const ggml_compute_params * params) { return (uint8_t *) aligned((size_t) params->wdata); }

// Quantise all tokens of the right-hand matrix, shared among the threads; ends with a barrier.
void quantize_all(const ggml_compute_params * params, const ggml_tensor * w, const ggml_tensor * x, uint8_t * tokens, size_t stride) {
    const int64_t rows = x->ne[1] * x->ne[2] * x->ne[3];
    for (int64_t i = params->ith; i < rows; i += params->nth) {
        const int64_t i1 = i % x->ne[1], i2 = i / x->ne[1] % x->ne[2], i3 = i / (x->ne[1] * x->ne[2]);
        const char * row = (const char *) x->data + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3];
        quantize_token(w->type, (const float *) row, x->ne[0], tokens + i * stride);
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
}

// Decoding: every thread quantises the token for itself and takes an equal share of the rows, because waiting for each other would
// cost more than either.
void compute_mul_vec(const ggml_compute_params * params, const work_plan & plan, uint8_t * base, uint8_t * scratch, ggml_tensor * op) {
    const ggml_tensor *w = op->src[0], *x = op->src[1];
    const auto [first, last] = share_of_rows(params, w->ne[1]);
    if (first >= last) {
        return;
    }
    uint8_t * token = base + plan.tokens_at + params->ith * plan.token_stride;
    quantize_token(w->type, (const float *) x->data, x->ne[0], token);
    float * out = (float *) op->data;
    multiply(w->type, w->data, w->ne[0], first, last, &token, &out, 1, scratch);
}

void compute_mul_mat(const ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor *w = op->src[0], *x = op->src[1];
    const work_plan plan(op, params->nth);
    GGML_ASSERT(plan.total <= params->wsize);
    uint8_t * base = work_base(params);
    uint8_t * scratch = base + plan.scratch_at + params->ith * plan.scratch_each;
    if (plan.token_rows == 1) {
        return compute_mul_vec(params, plan, base, scratch, op);
    }
    const size_t stride = plan.token_stride;
    quantize_all(params, w, x, base + plan.tokens_at, stride);

    const uint8_t ** tokens = (const uint8_t **) (base + plan.lists_at + params->ith * plan.list_bytes);
    float ** outs = (float **) (tokens + plan.list_length);
    for (int64_t i = 0; i < plan.token_rows; i++) {
        const int64_t i1 = i % x->ne[1], i2 = i / x->ne[1] % x->ne[2], i3 = i / (x->ne[1] * x->ne[2]);
        tokens[i] = base + plan.tokens_at + i * stride;
        outs[i] = (float *) ((char *) op->data + i1 * op->nb[1] + i2 * op->nb[2] + i3 * op->nb[3]);
    }
    const int64_t rows = w->ne[1];
    const int64_t chunks_wanted = params->nth == 1 ? 1 : params->nth * CHUNKS_A_THREAD;
    const int64_t chunk_rows = ((rows + chunks_wanted - 1) / chunks_wanted + ROW_STEP - 1) / ROW_STEP * ROW_STEP;
    for (int64_t chunk = params->ith; chunk * chunk_rows < rows; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t first = chunk * chunk_rows;
        multiply(w->type, w->data, w->ne[0], first, std::min(first + chunk_rows, rows), tokens, outs, plan.token_rows, scratch);
    }
}

// Mixture of experts: each expert's matrix is multiplied with the tokens that chose it; every thread takes its share of rows.
void compute_mul_mat_id(const ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor *w = op->src[0], *x = op->src[1], *ids = op->src[2];
    const work_plan plan(op, params->nth);
    GGML_ASSERT(plan.total <= params->wsize);
    uint8_t * base = work_base(params);
    uint8_t * scratch = base + plan.scratch_at + params->ith * plan.scratch_each;
    const size_t stride = plan.token_stride;
    quantize_all(params, w, x, base + plan.tokens_at, stride);

    const uint8_t ** tokens = (const uint8_t **) (base + plan.lists_at + params->ith * plan.list_bytes);
    float ** outs = (float **) (tokens + plan.list_length);
    const auto [first, last] = share_of_rows(params, w->ne[1]);
    if (first >= last) {
        return;
    }
    for (int64_t expert = 0; expert < w->ne[2]; expert++) {
        int64_t count = 0;
        for (int64_t token = 0; token < ids->ne[1]; token++) {
            for (int64_t place = 0; place < ids->ne[0]; place++) {
                const int32_t chosen = *(const int32_t *) ((const char *) ids->data + token * ids->nb[1] + place * ids->nb[0]);
                if (chosen == expert) {
                    tokens[count] = base + plan.tokens_at + (token * x->ne[1] + place % x->ne[1]) * stride;
                    outs[count++] = (float *) ((char *) op->data + place * op->nb[1] + token * op->nb[2]);
                }
            }
        }
        if (count) {
            multiply(w->type, (const char *) w->data + expert * w->nb[2], w->ne[0], first, last, tokens, outs, count, scratch);
        }
    }
}

void compute_get_rows(const ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor *w = op->src[0], *ids = op->src[1];
    const int64_t count = ggml_nelements(ids);
    for (int64_t i = params->ith; i < count; i += params->nth) {
        const int64_t i0 = i % ids->ne[0], i1 = i / ids->ne[0] % ids->ne[1], i2 = i / (ids->ne[0] * ids->ne[1]);
        const int32_t row = *(const int32_t *) ((const char *) ids->data + i0 * ids->nb[0] + i1 * ids->nb[1] + i2 * ids->nb[2]);
        GGML_ASSERT(row >= 0 && row < w->ne[1]);
        float * out = (float *) ((char *) op->data + i0 * op->nb[1] + i1 * op->nb[2] + i2 * op->nb[3]);
        unpack_row(w->type, (const char *) w->data + i1 * w->nb[2], row, w->ne[0], out);
    }
}

class packed_traits : public ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override {
        if (op->op != GGML_OP_MUL_MAT && op->op != GGML_OP_MUL_MAT_ID) {
            size = 0;
            return true;
        }
        size = work_plan(op, n_threads).total;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        switch (op->op) {
            case GGML_OP_MUL_MAT:    compute_mul_mat(params, op); return true;
            case GGML_OP_MUL_MAT_ID: compute_mul_mat_id(params, op); return true;
            case GGML_OP_GET_ROWS:   compute_get_rows(params, op); return true;
            default:                 return false;
        }
    }
};

packed_traits traits;

enum ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    tensor->extra = &traits;
    return GGML_STATUS_SUCCESS;
}

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
    pack_rows(tensor->type, data, tensor->data, ggml_nrows(tensor), tensor->ne[0]);
}

const char * buffer_type_name(ggml_backend_buffer_type_t) { return "CPU_PACKED"; }

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer) {
        buffer->buft = type;
        buffer->iface.init_tensor = init_tensor;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

size_t buffer_alignment(ggml_backend_buffer_type_t) { return ALIGNMENT; }

class packed_extra : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor *w = op->src[0], *x = op->src[1];
        if (!w || !w->buffer || w->buffer->buft != sippet_packed_buffer_type() || !is_packable(w)) {
            return false;
        }
        if (!x || (x->buffer && !ggml_backend_buft_is_host(x->buffer->buft))) {
            return false;
        }
        switch (op->op) {
            case GGML_OP_MUL_MAT:    return x->type == GGML_TYPE_F32 && ggml_n_dims(w) == 2 && x->nb[0] == sizeof(float);
            case GGML_OP_MUL_MAT_ID: return x->type == GGML_TYPE_F32 && ggml_n_dims(w) == 3 && x->nb[0] == sizeof(float);
            case GGML_OP_GET_ROWS:   return x->type == GGML_TYPE_I32 && ggml_n_dims(w) == 2;
            default:                 return false;
        }
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        const bool known = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID || op->op == GGML_OP_GET_ROWS;
        const bool ours = op->src[0] && op->src[0]->buffer && op->src[0]->buffer->buft == sippet_packed_buffer_type();
        return known && ours ? (ggml::cpu::tensor_traits *) op->src[0]->extra : nullptr;
    }
};

}  // namespace

}  // namespace sippet

ggml_backend_buffer_type_t sippet_packed_buffer_type() {
    static ggml_backend_buffer_type type = {
        /* .iface   = */ {
            /* .get_name         = */ sippet::buffer_type_name,
            /* .alloc_buffer     = */ sippet::alloc_buffer,
            /* .alloc_buffer_n   = */ nullptr,
            /* .get_alignment    = */ sippet::buffer_alignment,
            /* .get_max_size     = */ nullptr,
            /* .get_alloc_size   = */ nullptr,
            /* .get_alloc_size_n = */ nullptr,
            /* .is_host          = */ nullptr,
        },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new sippet::packed_extra(),
    };
    return &type;
}
