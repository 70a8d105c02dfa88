// The C functions that the host calls. JSON goes in as UTF-8 bytes; what comes out stays readable at sippet_output() until
// the next call. Nothing throws out of here: an error is a negative number and {"code", "message"} as output.
#include "engine.h"
#include "errors.h"
#include "log.h"

#include <cstdint>
#include <cstdlib>
#include <new>

#define EXPORT(name) extern "C" __attribute__((export_name(#name), visibility("default")))

namespace {

const int FAILED = -1;

std::unique_ptr<engine> current;
std::string output;
std::string fatal_message;  // set once: after a failed internal check nothing of the engine's state can be trusted

int fail(const std::string & code, const std::string & message) {
    output = common_json{{"code", code}, {"message", message}}.dump_safe();
    return FAILED;
}

template <typename Call> int guarded(Call call) {
    if (!fatal_message.empty()) {
        return fail("engine_failed", fatal_message);
    }
    try {
        output.clear();
        return call();
    } catch (const engine_error & error) {
        if (error.code == "engine_failed") {
            fatal_message = error.what();
        }
        return fail(error.code, error.what());
    } catch (const std::bad_alloc &) {
        return fail("out_of_memory", "the engine ran out of memory: use a smaller model, a smaller context or fewer parallel requests");
    } catch (const std::exception & error) {  // JSON, template and schema errors: the request is wrong
        return fail("bad_request", error.what());
    }
}

common_json parse(const char * text, uint32_t size) {
    return common_json::parse(std::string(text, size));
}

int answer(const common_json & value) {
    output = value.dump_safe();
    return 0;
}

engine & opened() {
    if (!current) {
        throw engine_error("bad_request", "no model is loaded");
    }
    return *current;
}

}  // namespace

EXPORT(sippet_alloc) void * sippet_alloc(uint32_t size) { return std::malloc(size ? size : 1); }
EXPORT(sippet_release) void sippet_release(void * pointer) { std::free(pointer); }
EXPORT(sippet_output) const char * sippet_output() { return output.data(); }
EXPORT(sippet_output_size) uint32_t sippet_output_size() { return (uint32_t) output.size(); }

EXPORT(sippet_load) int sippet_load(const char * text, uint32_t size) {
    return guarded([&] {
        if (current) {
            throw engine_error("bad_request", "a model is loaded already");
        }
        auto fresh = std::make_unique<engine>();
        const int status = answer(fresh->load(parse(text, size)));
        current = std::move(fresh);
        return status;
    });
}

EXPORT(sippet_free) int sippet_free() {
    return guarded([] {
        current.reset();
        return 0;
    });
}

EXPORT(sippet_info) int sippet_info() {
    return guarded([] { return answer(opened().info()); });
}

EXPORT(sippet_submit) int sippet_submit(int kind, const char * text, uint32_t size) {
    return guarded([&] { return opened().submit((request_kind) kind, parse(text, size)); });
}

EXPORT(sippet_step) int sippet_step() {
    return guarded([] { return opened().step() ? 1 : 0; });
}

EXPORT(sippet_result) int sippet_result(int id) {
    return guarded([&] { return answer(opened().result(id)); });
}

EXPORT(sippet_cancel) int sippet_cancel(int id) {
    return guarded([&] {
        opened().cancel(id);
        return 0;
    });
}

EXPORT(sippet_tokenize) int sippet_tokenize(const char * text, uint32_t size) {
    return guarded([&] { return answer(opened().tokenize(parse(text, size))); });
}

EXPORT(sippet_detokenize) int sippet_detokenize(const char * text, uint32_t size) {
    return guarded([&] { return answer(opened().detokenize(parse(text, size))); });
}

EXPORT(sippet_apply_template) int sippet_apply_template(const char * text, uint32_t size) {
    return guarded([&] { return answer(opened().apply_template(parse(text, size))); });
}

EXPORT(sippet_slot_save) int sippet_slot_save(int slot) {
    return guarded([&] {
        output = opened().slot_save(slot);
        return 0;
    });
}

EXPORT(sippet_slot_restore) int sippet_slot_restore(int slot, const char * data, uint32_t size) {
    return guarded([&] { return answer(opened().slot_restore(slot, data, size)); });
}
