#pragma once
#define LLAMA_VERSION "b11549"
#define LLAMA_COMMIT  "b11549"
