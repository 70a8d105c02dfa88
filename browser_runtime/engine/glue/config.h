#pragma once

#include "common.h"
#include "json.h"

// Translate the load options (one flat JSON object) into llama.cpp's parameters.
// Throws engine_error("bad_request") for an unknown option or a wrong type, naming it.
common_params params_from_config(const common_json & config);
