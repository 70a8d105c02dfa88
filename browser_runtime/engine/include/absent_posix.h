// POSIX calls that wasi-libc lacks and that llama.cpp's server code mentions in functions about child processes. They are only
// declared: the engine never reaches those functions, the linker drops them, and a call that stayed in would fail to link.
#pragma once
#define F_DUPFD_CLOEXEC 1030
#ifdef __cplusplus
extern "C" {
#endif
int dup2(int from, int to);
int pipe(int ends[2]);
#ifdef __cplusplus
}
#endif
