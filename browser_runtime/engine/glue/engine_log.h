#pragma once

#include <string>

// The error lines logged since the last call, oldest first.
std::string take_recent_errors();
