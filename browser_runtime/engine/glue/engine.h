#pragma once

#include "common.h"
#include "json.h"

#include <map>
#include <memory>
#include <string>

struct server_context;
struct server_context_impl;
struct server_context_meta;
struct server_slot;

enum class request_kind { completion = 0, chat = 1, embedding = 2, rerank = 3 };

// One loaded model and its requests. Not for use by more than one thread.
// Every method throws engine_error or a standard exception; abi.cpp turns those into error objects.
class engine {
  public:
    engine();
    ~engine();

    // Load a model with the options of config.cpp; returns info().
    common_json load(const common_json & config);
    // What was loaded: sizes, capabilities, the GGUF metadata.
    common_json info() const;

    // Queue a request in llama-server's schema; returns its number.
    int submit(request_kind kind, const common_json & body);
    // Do at most one micro-batch of work for all requests; true while there is more to do.
    bool step();
    // What a request produced since the last call: {"state": "more"|"done"|"error", "chunks": [...], "error": {...}}.
    // "done" and "error" end the request.
    common_json result(int id);
    // Drop a request, finished or not, and free its slot. Unknown numbers are ignored.
    void cancel(int id);

    common_json tokenize(const common_json & body) const;
    common_json detokenize(const common_json & body) const;
    common_json apply_template(const common_json & body) const;

    // The tokens and the KV cache of one idle slot, as bytes that slot_restore takes back.
    std::string slot_save(int index) const;
    common_json slot_restore(int index, const char * data, size_t size);

  private:
    struct request;

    // ggml's unit for how long a worker spins before it sleeps; about 2 ms, longer than the gap between two graphs.
    static const int SPIN_BEFORE_PARKING = 4;

    void start_threads(int wanted);
    server_context_impl & loaded() const;
    server_slot & idle_slot(int index) const;
    void add_completion(request & req, bool chat);
    void add_embedding(request & req);
    void add_rerank(request & req);
    common_json combine(request & req) const;

    common_params                            params;
    std::unique_ptr<server_context>          server;
    std::unique_ptr<server_context_meta>     meta;
    std::map<int, std::unique_ptr<request>>  requests;
    int last_request = 0;
    int threads      = 1;
};
