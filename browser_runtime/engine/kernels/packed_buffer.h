#pragma once

#include "ggml-backend.h"

// The buffer type that keeps quantised weights packed for our kernels. ggml-cpu.cpp lists it among its extra buffer types, so
// llama.cpp puts every weight there that `supports_op` accepts.
ggml_backend_buffer_type_t sippet_packed_buffer_type();
