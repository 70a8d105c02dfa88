// wasi-libc has no copy_file_range; libc++'s filesystem falls back when the call says that it isn't there.
#pragma once
#include <errno.h>
#include <unistd.h>
static inline ssize_t copy_file_range(int, off_t *, int, off_t *, size_t, unsigned) {
    errno = ENOSYS;
    return -1;
}
