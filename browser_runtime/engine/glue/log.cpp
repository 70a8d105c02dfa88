// common/log.h without the writer thread: messages go to stderr at once, where the host keeps them in a ring.
// The newest error lines are kept as well: llama.cpp's loaders say why a model can't be loaded only in the log.
#include "log.h"

#include "engine_log.h"
#include "json.h"

#include <cstdarg>
#include <cstdio>
#include <string>

static int verbosity_threshold = LOG_LEVEL_WARN;
static std::string recent_errors;

struct common_log {};

static const size_t MAX_RECENT_ERRORS = 4096;

std::string take_recent_errors() {
    std::string errors;
    errors.swap(recent_errors);
    return errors;
}

int common_log_get_verbosity_thold(void) {
    return verbosity_threshold;
}

void common_log_set_verbosity_thold(int verbosity) {
    verbosity_threshold = verbosity;
}

bool common_log_get_jsonl(void) {
    return false;
}

void common_log_set_jsonl(bool /*jsonl*/) {}

int common_log_get_verbosity(enum ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_DEBUG: return LOG_LEVEL_DEBUG;
        case GGML_LOG_LEVEL_INFO:  return LOG_LEVEL_TRACE; // what the libraries call information is detail here
        case GGML_LOG_LEVEL_WARN:  return LOG_LEVEL_WARN;
        case GGML_LOG_LEVEL_ERROR: return LOG_LEVEL_ERROR;
        case GGML_LOG_LEVEL_CONT:  return LOG_LEVEL_TRACE;
        default:                   return LOG_LEVEL_OUTPUT;
    }
}

static void write_line(enum ggml_log_level level, const char * text) {
    if (level == GGML_LOG_LEVEL_ERROR && recent_errors.size() < MAX_RECENT_ERRORS) {
        recent_errors += text;
    }
    std::fputs(text, stderr);
}

void common_log_default_callback(enum ggml_log_level level, const char * text, void * /*user_data*/) {
    if (common_log_get_verbosity(level) <= verbosity_threshold) {
        write_line(level, text);
    }
}

struct common_log * common_log_init() {
    return common_log_main();
}

struct common_log * common_log_main() {
    static common_log log;
    return &log;
}

void common_log_add(struct common_log * /*log*/, enum ggml_log_level level, const char * format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write_line(level, text);
}

void common_log_pause(struct common_log *) {}
void common_log_resume(struct common_log *) {}
void common_log_free(struct common_log *) {}
void common_log_set_file(struct common_log *, const char *) {}
void common_log_set_colors(struct common_log *, log_colors) {}
bool common_log_get_colors(struct common_log *) {
    return false;
}
void common_log_set_prefix(struct common_log *, bool) {}
void common_log_set_timestamps(struct common_log *, bool) {}
void common_log_flush(struct common_log *) {}
void common_log_add_json(struct common_log *, const char *, const common_json &) {}
