#include "config.h"

#include "chat.h"
#include "errors.h"
#include "log.h"

#include <functional>
#include <map>

namespace {

const char * const MEDIA_FOLDER = "/media/";

int32_t as_int(const common_json & value) {
    if (!value.is_number_integer()) {
        throw std::invalid_argument("must be an integer");
    }
    return value.get<int32_t>();
}

float as_float(const common_json & value) {
    if (!value.is_number()) {
        throw std::invalid_argument("must be a number");
    }
    return value.get<float>();
}

bool as_bool(const common_json & value) {
    if (!value.is_boolean()) {
        throw std::invalid_argument("must be true or false");
    }
    return value.get<bool>();
}

std::string as_string(const common_json & value) {
    if (!value.is_string()) {
        throw std::invalid_argument("must be a string");
    }
    return value.get<std::string>();
}

template <typename T> T choose(const common_json & value, const std::map<std::string, T> & choices) {
    const auto it = choices.find(as_string(value));
    if (it != choices.end()) {
        return it->second;
    }
    std::string names;
    for (const auto & [name, unused] : choices) {
        names += (names.empty() ? "" : ", ") + name;
    }
    throw std::invalid_argument("must be one of " + names);
}

ggml_type cache_type(const common_json & value) {
    return choose<ggml_type>(value, {
        {"f32", GGML_TYPE_F32}, {"f16", GGML_TYPE_F16}, {"q8_0", GGML_TYPE_Q8_0}, {"q5_1", GGML_TYPE_Q5_1},
        {"q5_0", GGML_TYPE_Q5_0}, {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0},
    });
}

void read_lora(common_params & params, const common_json & list) {
    if (!list.is_array()) {
        throw std::invalid_argument("must be an array of {\"path\", \"scale\"}");
    }
    for (const auto & entry : list) {
        common_adapter_lora_info info;
        info.path  = as_string(entry.at("path"));
        info.scale = entry.contains("scale") ? as_float(entry.at("scale")) : 1.0f;
        info.ptr   = nullptr;
        params.lora_adapters.push_back(info);
    }
}

using setter = std::function<void(common_params &, const common_json &)>;

const std::map<std::string, setter> & setters() {
    static const std::map<std::string, setter> table = {
        {"model", [](auto & p, const auto & v) { p.model.path = as_string(v); }},
        {"mmproj", [](auto & p, const auto & v) { p.mmproj.path = as_string(v); }},
        {"lora", read_lora},
        {"n_ctx", [](auto & p, const auto & v) { p.n_ctx = as_int(v); }},
        {"n_batch", [](auto & p, const auto & v) { p.n_batch = p.n_ubatch = as_int(v); }},
        {"n_parallel", [](auto & p, const auto & v) { p.n_parallel = as_int(v); }},
        {"n_predict", [](auto & p, const auto & v) { p.n_predict = as_int(v); }},
        {"kv_unified", [](auto & p, const auto & v) { p.kv_unified = as_bool(v); }},
        {"cache_type_k", [](auto & p, const auto & v) { p.cache_type_k = cache_type(v); }},
        {"cache_type_v", [](auto & p, const auto & v) { p.cache_type_v = cache_type(v); }},
        {"cache_ram_mib", [](auto & p, const auto & v) { p.cache_ram_mib = as_int(v); }},
        {"ctx_checkpoints", [](auto & p, const auto & v) { p.n_ctx_checkpoints = as_int(v); }},
        {"slot_prompt_similarity", [](auto & p, const auto & v) { p.slot_prompt_similarity = as_float(v); }},
        {"context_shift", [](auto & p, const auto & v) { p.ctx_shift = as_bool(v); }},
        {"swa_full", [](auto & p, const auto & v) { p.swa_full = as_bool(v); }},
        {"flash_attn",
         [](auto & p, const auto & v) {
             p.flash_attn_type = choose<enum llama_flash_attn_type>(v, {{"auto", LLAMA_FLASH_ATTN_TYPE_AUTO},
                                                                   {"on", LLAMA_FLASH_ATTN_TYPE_ENABLED},
                                                                   {"off", LLAMA_FLASH_ATTN_TYPE_DISABLED}});
         }},
        {"embedding", [](auto & p, const auto & v) { p.embedding = as_bool(v); }},
        {"pooling",
         [](auto & p, const auto & v) {
             p.pooling_type = choose<enum llama_pooling_type>(
                 v, {{"none", LLAMA_POOLING_TYPE_NONE}, {"mean", LLAMA_POOLING_TYPE_MEAN}, {"cls", LLAMA_POOLING_TYPE_CLS},
                     {"last", LLAMA_POOLING_TYPE_LAST}, {"rank", LLAMA_POOLING_TYPE_RANK}});
         }},
        {"chat_template", [](auto & p, const auto & v) { p.chat_template = as_string(v); }},
        {"reasoning_format",
         [](auto & p, const auto & v) { p.reasoning_format = common_reasoning_format_from_name(as_string(v)); }},
        {"rope_freq_base", [](auto & p, const auto & v) { p.rope_freq_base = as_float(v); }},
        {"rope_freq_scale", [](auto & p, const auto & v) { p.rope_freq_scale = as_float(v); }},
        {"image_min_tokens", [](auto & p, const auto & v) { p.image_min_tokens = as_int(v); }},
        {"image_max_tokens", [](auto & p, const auto & v) { p.image_max_tokens = as_int(v); }},
        {"repack", [](auto & p, const auto & v) { p.no_extra_bufts = !as_bool(v); }},
        {"warmup", [](auto & p, const auto & v) { p.warmup = as_bool(v); }},
        {"threads", [](auto & p, const auto & v) { p.cpuparams.n_threads = p.cpuparams_batch.n_threads = as_int(v); }},
        {"log_verbosity", [](auto & p, const auto & v) { p.verbosity = as_int(v); }},
    };
    return table;
}

common_params browser_defaults() {
    common_params params;
    params.load_mode         = LLAMA_LOAD_MODE_NONE; // there is no mmap: weights are read straight into their buffers
    params.fit_params        = false;                // the caller plans memory from the GGUF header
    params.warmup            = false;
    params.n_ctx             = 4096;
    params.n_batch           = 64; // one step computes one batch, and a cancel waits for one step
    params.n_ubatch          = 64;
    params.n_parallel        = 1;
    params.kv_unified        = true;
    params.cache_ram_mib     = 0; // memory never shrinks in a page: no hidden second cache of prompts
    params.cache_idle_slots  = false;
    params.n_ctx_checkpoints = 2;
    params.verbosity         = LOG_LEVEL_WARN;
    params.media_path        = MEDIA_FOLDER;
    params.use_jinja         = true;
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1;
    return params;
}

}  // namespace

common_params params_from_config(const common_json & config) {
    if (!config.is_object()) {
        throw engine_error("bad_request", "the load options must be one JSON object");
    }
    common_params params = browser_defaults();
    for (const auto & [name, value] : config.items()) {
        const auto it = setters().find(name);
        if (it == setters().end()) {
            throw engine_error("bad_request", "unknown load option \"" + name + "\"");
        }
        try {
            it->second(params, value);
        } catch (const std::exception & error) {
            throw engine_error("bad_request", "load option \"" + name + "\": " + error.what());
        }
    }
    if (params.model.path.empty()) {
        throw engine_error("bad_request", "load option \"model\" is missing");
    }
    if (params.n_batch < 8 || params.n_parallel < 1 || params.n_ctx < 0) {
        throw engine_error("bad_request", "n_batch must be at least 8, n_parallel at least 1, n_ctx at least 0");
    }
    // A pooled embedding needs its whole input in one batch; the caller chose n_batch for that.
    params.cpuparams_batch = params.cpuparams;
    return params;
}
