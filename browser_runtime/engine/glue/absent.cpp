// What llama.cpp's common and server code refers to and a browser engine must not do: download, load libraries.
#include "build-info.h"
#include "download.h"
#include "ggml/src/ggml-backend-dl.h"
#include "llama-version.h"

#include <stdexcept>

std::pair<long, std::vector<char>> common_remote_get_content(const std::string & url, const common_remote_params & /*params*/) {
    throw std::invalid_argument("media must be given as bytes or a data: URL, not as an address to download: " + url);
}

const char * llama_build_info(void) {
    return LLAMA_VERSION;
}

dl_handle * dl_load_library(const fs::path & /*path*/) {
    return nullptr;
}

void * dl_get_sym(dl_handle * /*handle*/, const char * /*name*/) {
    return nullptr;
}

const char * dl_error() {
    return "a page has no dynamic libraries";
}
