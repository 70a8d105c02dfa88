// The engine: llama.cpp's server core, driven one micro-batch at a time by its caller.
// The server core is included as source, because its slots and its loop are private to that file upstream.
#include "server-context.cpp"  // NOLINT(bugprone-suspicious-include)

#include "config.h"
#include "engine.h"
#include "engine_log.h"
#include "errors.h"
#include "ggml-cpu.h"

#include <cstring>

extern "C" {
// Every graph without a pool of its own runs on this one; see the edit of ggml-cpu.c.
ggml_threadpool * sippet_threadpool = nullptr;
}

namespace {

[[noreturn]] void throw_abort(const char * message) {
    throw engine_error("engine_failed", std::string("an internal check of llama.cpp failed: ") + message);
}

bool contains(const std::string & text, const char * part) {
    return text.find(part) != std::string::npos;
}

// Why a model didn't load is only in the log; find the code that belongs to those lines.
engine_error load_error(const std::string & path, std::string log) {
    while (!log.empty() && (log.back() == '\n' || log.back() == ' ')) {
        log.pop_back();
    }
    const std::string message = "\"" + path + "\" can't be loaded: " + (log.empty() ? "no reason was logged" : log);
    if (contains(log, "unknown model architecture") || contains(log, "unsupported") || contains(log, "not supported")) {
        return engine_error("model_unsupported", message);
    }
    if (contains(log, "failed to allocate") || contains(log, "unable to allocate") || contains(log, "bad_alloc")
        || contains(log, "failed to create context") || contains(log, "failed to initialize the context")) {
        return engine_error("out_of_memory", message);
    }
    if (contains(log, "No such file")) {
        return engine_error("model_not_found", message);
    }
    return engine_error("model_invalid", message);
}

std::string code_of(const json & error) {
    const std::string type = json_value(error, "type", std::string());
    if (type == "exceed_context_size_error") {
        return "context_exceeded";
    }
    if (type == "invalid_request_error") {
        return "bad_request";
    }
    return type == "not_supported_error" ? "not_supported" : "decode_failed";
}

json error_object(const std::string & code, const std::string & message) {
    return json{{"code", code}, {"message", message}};
}

std::vector<server_tokens> tokenize_embedding_input(const server_context_impl & server, const json & body) {
    const char * key = body.contains("input") ? "input" : "content";
    if (!body.contains(key)) {
        throw engine_error("bad_request", "an embedding request needs \"input\"");
    }
    const json & input = body.at(key);
    std::vector<server_tokens> prompts;
    const auto add = [&](const json & entry) {
        prompts.push_back(tokenize_input_subprompt(server.vocab, server.mctx, entry, true, true, server.init_opt));
        if (prompts.back().empty()) {
            throw engine_error("bad_request", "an embedding input is empty");
        }
    };
    if (input.is_array() && !json_is_array_and_contains_numbers(input)) {
        for (const auto & entry : input) {
            add(entry);
        }
    } else {
        add(input);
    }
    return prompts;
}

}  // namespace

// One submitted request: its tasks in the server's queue, and what is needed to put their results together.
struct engine::request {
    request(server_context_impl & server, request_kind kind, json body)
        : reader(server.queue_tasks, server.queue_results, 0), kind(kind), body(std::move(body)) {}

    server_response_reader                 reader;
    request_kind                           kind;
    json                                   body;
    std::vector<std::string>               documents;  // rerank only
    std::vector<server_task_result_ptr>    results;    // those that wait for the others
};

engine::engine() = default;

engine::~engine() {
    requests.clear();
    server.reset();
    if (sippet_threadpool) {
        ggml_threadpool_free(sippet_threadpool);
        sippet_threadpool = nullptr;
    }
}

void engine::start_threads(int wanted) {
    threads                       = std::max(wanted, 1);
    ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    params.poll                   = SPIN_BEFORE_PARKING;
    sippet_threadpool             = ggml_threadpool_new(&params);
}

json engine::load(const json & config) {
    if (server) {
        throw engine_error("bad_request", "this engine has a model already: open another one");
    }
    ggml_set_abort_callback(throw_abort);
    params = params_from_config(config);
    common_log_set_verbosity_thold(params.verbosity);
    llama_log_set(common_log_default_callback, nullptr);
    mtmd_helper_log_set(common_log_default_callback, nullptr);
    llama_backend_init();
    start_threads(params.cpuparams.n_threads);
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads;
    params.model_alias.insert("sippet");
    take_recent_errors();

    auto fresh = std::make_unique<server_context>();
    try {
        if (!fresh->load_model(params)) {
            throw load_error(params.model.path, take_recent_errors());
        }
    } catch (const engine_error &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & error) {
        throw load_error(params.model.path, take_recent_errors() + error.what());
    }
    server = std::move(fresh);
    meta   = std::make_unique<server_context_meta>(server->get_meta());
    params = server->impl->params_base;
    return info();
}

json engine::info() const {
    const server_context_impl & impl = loaded();
    const llama_model * model        = impl.model_tgt;
    json metadata                    = json::object();
    char key[256], value[2048];
    for (int32_t i = 0; i < llama_model_meta_count(model); i++) {
        if (llama_model_meta_key_by_index(model, i, key, sizeof key) >= 0
            && llama_model_meta_val_str_by_index(model, i, value, sizeof value) >= 0) {
            metadata[key] = std::string(value);
        }
    }
    json lora = json::array();
    for (size_t i = 0; i < params.lora_adapters.size(); i++) {
        lora.push_back(json{{"id", (int) i}, {"path", params.lora_adapters[i].path}, {"scale", params.lora_adapters[i].scale}});
    }
    char description[256];
    llama_model_desc(model, description, sizeof description);
    const bool has_template = llama_model_chat_template(model, nullptr) != nullptr || !params.chat_template.empty();
    return json{
        {"build", meta->build_info},
        {"description", std::string(description)},
        {"threads", threads},
        {"n_ctx", (int) llama_n_ctx(impl.ctx_tgt)},
        {"n_ctx_slot", meta->slot_n_ctx},
        {"n_ctx_train", meta->model_n_ctx_train},
        {"n_batch", (int) llama_n_batch(impl.ctx_tgt)},
        {"n_parallel", (int) impl.slots.size()},
        {"n_vocab", meta->model_vocab_n_tokens},
        {"n_embd", (int) llama_model_n_embd(model)},
        {"n_params", (double) meta->model_n_params},
        {"size", (double) meta->model_size},
        {"ftype", meta->model_ftype},
        {"bos_token", meta->bos_token_str},
        {"eos_token", meta->eos_token_str},
        {"has_encoder", llama_model_has_encoder(model)},
        {"has_decoder", llama_model_has_decoder(model)},
        {"has_chat_template", has_template},
        {"chat_template_caps", meta->chat_template_caps},
        {"pooling", (int) meta->pooling_type},
        {"embedding", params.embedding},
        {"vision", meta->has_inp_image},
        {"audio", meta->has_inp_audio},
        {"lora", lora},
        {"metadata", metadata},
    };
}

server_context_impl & engine::loaded() const {
    if (!server) {
        throw engine_error("bad_request", "no model is loaded");
    }
    return *server->impl;
}

void engine::add_completion(request & req, bool chat) {
    server_context_impl & impl = loaded();
    common_chat_session session;
    std::vector<raw_buffer> files;
    json body = req.body;
    if (chat) {
        body = oaicompat_chat_params_parse(impl.vocab, body, impl.chat_params, files, session);
    }
    std::vector<server_tokens> prompts;
    if (chat && impl.mctx) {
        prompts.push_back(process_mtmd_prompt(impl.mctx, body.at("prompt").get<std::string>(), files, impl.init_opt));
    } else {
        prompts = tokenize_input_prompts(impl.vocab, impl.mctx, body.at("prompt"), true, true, impl.init_opt);
    }
    const std::string completion_id = gen_chatcmplid();
    std::vector<server_task> tasks;
    for (auto & prompt : prompts) {
        server_task task(SERVER_TASK_TYPE_COMPLETION);
        task.id     = req.reader.get_new_id();
        task.tokens = std::move(prompt);
        task.params = server_schema::eval_llama_cmpl_schema(impl.vocab, params, meta->logit_bias_eog, body);
        task.apply_chat_session(session);
        task.id_slot                  = json_value(body, "id_slot", -1);
        task.params.res_type          = chat ? TASK_RESPONSE_TYPE_OAI_CHAT : TASK_RESPONSE_TYPE_OAI_CMPL;
        task.params.oaicompat_cmpl_id = completion_id;
        task.params.oaicompat_model   = meta->model_name;
        for (int child = 1; child < task.params.n_cmpl; child++) {
            task.add_child(task.id, req.reader.get_new_id());
        }
        if (1 + task.child_tasks.size() > impl.slots.size()) {
            throw engine_error("bad_request", "\"n\" is larger than n_parallel, the number of sequences this engine was opened for");
        }
        if (task.id_slot >= (int) impl.slots.size()) {
            throw engine_error("bad_request", "\"id_slot\" must be less than n_parallel");
        }
        tasks.push_back(std::move(task));
    }
    req.reader.post_tasks(std::move(tasks), session);
}

void engine::add_embedding(request & req) {
    server_context_impl & impl = loaded();
    if (!params.embedding) {
        throw engine_error("not_supported", "the model was not loaded for embeddings: set \"embedding\": true");
    }
    const int normalize = json_value(req.body, "embd_normalize", params.embd_normalize);
    std::vector<server_task> tasks;
    for (auto & prompt : tokenize_embedding_input(impl, req.body)) {
        server_task task(SERVER_TASK_TYPE_EMBEDDING);
        task.id                    = req.reader.get_new_id();
        task.tokens                = std::move(prompt);
        task.params.res_type       = meta->pooling_type == LLAMA_POOLING_TYPE_NONE ? TASK_RESPONSE_TYPE_NONE : TASK_RESPONSE_TYPE_OAI_EMBD;
        task.params.embd_normalize = normalize;
        tasks.push_back(std::move(task));
    }
    if (tasks.empty()) {
        throw engine_error("bad_request", "\"input\" is empty");
    }
    req.reader.post_tasks(std::move(tasks));
}

void engine::add_rerank(request & req) {
    server_context_impl & impl = loaded();
    if (!params.embedding || meta->pooling_type != LLAMA_POOLING_TYPE_RANK) {
        throw engine_error("not_supported", "this model can't rerank: it needs a reranker loaded with \"embedding\": true, \"pooling\": \"rank\"");
    }
    if (!req.body.contains("query") || !req.body.at("query").is_string()) {
        throw engine_error("bad_request", "\"query\" must be a string");
    }
    req.documents = json_value(req.body, "documents", std::vector<std::string>());
    if (req.documents.empty()) {
        throw engine_error("bad_request", "\"documents\" must be a non-empty array of strings");
    }
    std::vector<server_task> tasks;
    for (const auto & document : req.documents) {
        server_task task(SERVER_TASK_TYPE_RERANK);
        task.id     = req.reader.get_new_id();
        task.tokens = format_prompt_rerank(impl.model_tgt, impl.vocab, impl.mctx, req.body.at("query").get<std::string>(), document, impl.init_opt);
        tasks.push_back(std::move(task));
    }
    req.reader.post_tasks(std::move(tasks));
}

int engine::submit(request_kind kind, const json & body) {
    if (!body.is_object()) {
        throw engine_error("bad_request", "a request must be one JSON object");
    }
    auto req = std::make_unique<request>(loaded(), kind, body);
    switch (kind) {
        case request_kind::completion: add_completion(*req, false); break;
        case request_kind::chat:       add_completion(*req, true); break;
        case request_kind::embedding:  add_embedding(*req); break;
        case request_kind::rerank:     add_rerank(*req); break;
        default: throw engine_error("bad_request", "unknown kind of request");
    }
    const int id = ++last_request;
    requests.emplace(id, std::move(req));
    return id;
}

bool engine::step() {
    if (!server) {
        return false;
    }
    server_context_impl & impl = *server->impl;
    server->start_loop();
    for (const auto & slot : impl.slots) {
        if (slot.is_processing()) {
            return true;
        }
    }
    return impl.queue_tasks.queue_tasks_deferred_size() > 0;
}

json engine::combine(request & req) const {
    json parts = json::array();
    for (auto & result : req.results) {
        parts.push_back(result->to_json());
    }
    switch (req.kind) {
        case request_kind::embedding:
            if (meta->pooling_type == LLAMA_POOLING_TYPE_NONE) {
                return parts;
            }
            return format_embeddings_response_oaicompat(req.body, meta->model_name, parts, json_value(req.body, "encoding_format", std::string()) == "base64");
        case request_kind::rerank:
            return format_response_rerank(req.body, meta->model_name, parts, false, req.documents,
                                          json_value(req.body, "top_n", (int) req.documents.size()));
        default:
            break;
    }
    if (parts.size() == 1) {
        return parts[0];
    }
    json first = parts[0];
    for (size_t i = 1; i < parts.size(); i++) {
        first["choices"].push_back(parts[i].at("choices")[0]);
    }
    return first;
}

json engine::result(int id) {
    const auto it = requests.find(id);
    if (it == requests.end()) {
        throw engine_error("bad_request", "there is no request " + std::to_string(id));
    }
    request & req     = *it->second;
    const bool stream = (req.kind == request_kind::chat || req.kind == request_kind::completion) && json_value(req.body, "stream", false);
    json chunks       = json::array();
    const auto never  = [] { return true; };
    while (req.reader.has_next()) {
        server_task_result_ptr next = req.reader.next(never);
        if (!next) {
            break;
        }
        if (next->is_error()) {
            const json error = next->to_json();
            const std::string code = code_of(error), message = json_value(error, "message", std::string());
            requests.erase(it);
            return json{{"state", "error"}, {"chunks", chunks}, {"error", error_object(code, message)}};
        }
        if (!stream) {
            req.results.push_back(std::move(next));
            continue;
        }
        const json chunk = next->to_json();
        if (chunk.is_array()) {
            chunks.insert(chunk);
        } else if (!chunk.is_null()) {
            chunks.push_back(chunk);
        }
    }
    if (req.reader.has_next()) {
        return json{{"state", "more"}, {"chunks", chunks}};
    }
    if (!stream) {
        std::sort(req.results.begin(), req.results.end(), [](const auto & a, const auto & b) { return a->index < b->index; });
        chunks.push_back(combine(req));
    }
    requests.erase(it);
    return json{{"state", "done"}, {"chunks", chunks}};
}

void engine::cancel(int id) {
    requests.erase(id);  // the reader's destructor posts cancels of its tasks
    if (server) {
        server->impl->queue_tasks.process_new_tasks(false);  // they release their slots
    }
}

json engine::tokenize(const json & body) const {
    const server_context_impl & impl = loaded();
    const auto tokens = tokenize_mixed(impl.vocab, body.at("content"), json_value(body, "add_special", false), json_value(body, "parse_special", true));
    return json{{"tokens", tokens}};
}

json engine::detokenize(const json & body) const {
    const server_context_impl & impl = loaded();
    const auto tokens = body.at("tokens").get<llama_tokens>();
    for (const llama_token token : tokens) {
        if (token < 0 || token >= meta->model_vocab_n_tokens) {
            throw engine_error("bad_request", "token " + std::to_string(token) + " is not in the vocabulary");
        }
    }
    return json{{"content", tokens_to_str(impl.vocab, tokens)}};
}

json engine::apply_template(const json & body) const {
    server_context_impl & impl = loaded();
    std::vector<raw_buffer> files;
    common_chat_session session;
    json request = body;
    const json parsed = oaicompat_chat_params_parse(impl.vocab, request, impl.chat_params, files, session);
    return json{{"prompt", parsed.at("prompt")}};
}

server_slot & engine::idle_slot(int index) const {
    server_context_impl & impl = loaded();
    if (index < 0 || index >= (int) impl.slots.size()) {
        throw engine_error("bad_request", "there is no slot " + std::to_string(index));
    }
    server_slot & slot = impl.slots[index];
    if (slot.is_processing()) {
        throw engine_error("bad_request", "slot " + std::to_string(index) + " is busy: wait for its request or cancel it");
    }
    return slot;
}

// A saved slot: magic, number of 32-bit words of packed tokens, those words, llama.cpp's state of the sequence.
static const uint32_t SLOT_MAGIC = 0x31535053;  // "SPS1"

std::string engine::slot_save(int index) const {
    server_slot & slot       = idle_slot(index);
    llama_context * ctx      = loaded().ctx_tgt;
    std::vector<char> packed = slot.prompt.tokens.serialize();
    const uint32_t head[2]   = {SLOT_MAGIC, (uint32_t) (packed.size() / sizeof(llama_token))};
    const size_t state_bytes = llama_state_seq_get_size(ctx, slot.id);
    std::string out(sizeof head + packed.size() + state_bytes, '\0');
    std::memcpy(&out[0], head, sizeof head);
    std::memcpy(&out[sizeof head], packed.data(), packed.size());
    const size_t written = llama_state_seq_get_data(ctx, (uint8_t *) &out[sizeof head + packed.size()], state_bytes, slot.id);
    out.resize(sizeof head + packed.size() + written);
    return out;
}

json engine::slot_restore(int index, const char * data, size_t size) {
    server_slot & slot  = idle_slot(index);
    llama_context * ctx = loaded().ctx_tgt;
    uint32_t head[2]    = {0, 0};
    if (size >= sizeof head) {
        std::memcpy(head, data, sizeof head);
    }
    const size_t packed_bytes = (size_t) head[1] * sizeof(llama_token);
    if (head[0] != SLOT_MAGIC || packed_bytes > size - sizeof head) {
        throw engine_error("bad_request", "these bytes are not a saved slot");
    }
    llama_tokens packed(head[1]);
    std::memcpy(packed.data(), data + sizeof head, packed_bytes);
    server_tokens tokens = server_tokens::deserialize(packed, loaded().mctx != nullptr);
    if (tokens.size() > (size_t) slot.n_ctx || !tokens.validate(ctx)) {
        throw engine_error("bad_request", "the saved slot doesn't fit this model or its context");
    }
    slot.prompt_clear();
    const uint8_t * state = (const uint8_t *) data + sizeof head + packed_bytes;
    if (llama_state_seq_set_data(ctx, state, size - sizeof head - packed_bytes, slot.id) == 0) {
        slot.prompt_clear();
        throw engine_error("bad_request", "the saved slot is damaged, or was saved with another model or other options");
    }
    slot.prompt.tokens = std::move(tokens);
    return json{{"tokens", slot.prompt.n_tokens()}};
}
