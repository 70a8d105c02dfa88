// Memory allocator of the engine: two-level segregated fit (Masmano et al., "TLSF", ECRTS 2004) with boundary tags.
// Model weights are single blocks of many megabytes, so nothing is rounded up beyond 16 bytes; free neighbours merge at once;
// when memory can't grow the result is NULL with errno ENOMEM, which C++ turns into std::bad_alloc and the engine into an error.
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { ALIGNMENT = 16, HEADER = 8, MIN_CHUNK = 32, SUB_BITS = 4, SUBS = 1 << SUB_BITS, LEVELS = 32, PAGE = 65536 };
enum { GROW_STEP = 1 << 20 };

// A chunk starts 8 bytes before its 16-byte aligned payload. `size` counts the header; its lowest bit says "in use".
typedef struct chunk {
    uint32_t previous_size; // size of the chunk before this one in memory, 0 for the first of a region
    uint32_t size;
    struct chunk * next_free; // only in free chunks
    struct chunk * previous_free;
} chunk;

static chunk * bins[LEVELS][SUBS];
static uint32_t level_map;
static uint32_t sub_map[LEVELS];
static chunk * fence; // zero-payload chunk that ends the newest region
static int lock_word;

extern unsigned char __heap_base;

static void lock(void) {
    while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE) != 0) {
    }
}

static void unlock(void) { __atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE); }

static uint32_t size_of(const chunk * c) { return c->size & ~1u; }
static bool in_use(const chunk * c) { return (c->size & 1u) != 0; }
static chunk * after(chunk * c) { return (chunk *) ((char *) c + size_of(c)); }
static chunk * before(chunk * c) { return (chunk *) ((char *) c - c->previous_size); }
static void * payload(chunk * c) { return (char *) c + HEADER; }
static chunk * chunk_of(void * p) { return (chunk *) ((char *) p - HEADER); }

static void bin_of(uint32_t size, int * level, int * sub) {
    *level = 31 - __builtin_clz(size);
    *sub = (int) ((size >> (*level - SUB_BITS)) & (SUBS - 1));
}

static void insert(chunk * c) {
    int level, sub;
    bin_of(size_of(c), &level, &sub);
    chunk * head = bins[level][sub];
    c->next_free = head;
    c->previous_free = NULL;
    if (head) {
        head->previous_free = c;
    }
    bins[level][sub] = c;
    level_map |= 1u << level;
    sub_map[level] |= 1u << sub;
}

static void take_out(chunk * c) {
    int level, sub;
    bin_of(size_of(c), &level, &sub);
    if (c->next_free) {
        c->next_free->previous_free = c->previous_free;
    }
    if (c->previous_free) {
        c->previous_free->next_free = c->next_free;
        return;
    }
    bins[level][sub] = c->next_free;
    if (!c->next_free) {
        sub_map[level] &= ~(1u << sub);
        if (!sub_map[level]) {
            level_map &= ~(1u << level);
        }
    }
}

// A free chunk of at least `size`: first the bins whose every chunk is large enough, then the bin that `size` itself falls into,
// so that a block as large as the biggest free chunk is found too.
static chunk * find(uint32_t size) {
    int level, sub;
    bin_of(size, &level, &sub);
    uint32_t map = sub + 1 < SUBS ? sub_map[level] & (~0u << (sub + 1)) : 0;
    int at = level;
    if (!map) {
        const uint32_t levels = level < 31 ? level_map & (~0u << (level + 1)) : 0;
        if (levels) {
            at = __builtin_ctz(levels);
            map = sub_map[at];
        }
    }
    if (map) {
        return bins[at][__builtin_ctz(map)];
    }
    for (chunk * c = bins[level][sub]; c; c = c->next_free) {
        if (size_of(c) >= size) {
            return c;
        }
    }
    return NULL;
}

static void release_chunk(chunk * c) {
    chunk * next = after(c);
    if (!in_use(next)) {
        take_out(next);
        c->size = size_of(c) + size_of(next);
    } else {
        c->size = size_of(c);
    }
    if (c->previous_size && !in_use(before(c))) {
        chunk * previous = before(c);
        take_out(previous);
        previous->size = size_of(previous) + size_of(c);
        c = previous;
    }
    after(c)->previous_size = size_of(c);
    insert(c);
}

// Make the heap larger so that one free chunk of `size` bytes exists at its end.
static bool grow(uint32_t size) {
    const uint32_t old_pages = __builtin_wasm_memory_size(0);
    uint64_t want = (uint64_t) size + 2 * ALIGNMENT;
    if (fence && fence->previous_size && !in_use(before(fence))) {
        want -= size_of(before(fence)) < want ? size_of(before(fence)) : 0;
    }
    uint64_t pages = (want + PAGE - 1) / PAGE;
    const uint64_t step = GROW_STEP / PAGE;
    uint64_t start = (uint64_t) old_pages * PAGE;
    if (!fence) { // first use: the rest of the initial memory is ours, and it may do
        start = ((uint64_t) (uintptr_t) &__heap_base + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + HEADER;
        const uint64_t have = (uint64_t) old_pages * PAGE;
        pages = start + want > have ? (start + want - have + PAGE - 1) / PAGE : 0;
    } else if (start != (uint64_t) (uintptr_t) fence + HEADER) { // somebody else grew the memory: start a region of its own
        start += HEADER;
    }
    if (old_pages + pages > PAGE) {
        return false;
    }
    if (pages) {
        const uint64_t eager = pages > step ? pages : step;
        if (__builtin_wasm_memory_grow(0, (uint32_t) eager) == (size_t) -1
            && __builtin_wasm_memory_grow(0, (uint32_t) pages) == (size_t) -1) {
            return false;
        }
    }
    const uint64_t end = (uint64_t) __builtin_wasm_memory_size(0) * PAGE;
    chunk * fresh;
    if (fence && start == (uint64_t) (uintptr_t) fence + HEADER) {
        fresh = fence; // the old fence becomes the header of the new chunk
    } else {
        fresh = (chunk *) (uintptr_t) start;
        fresh->previous_size = 0;
    }
    fence = (chunk *) (uintptr_t) (end - HEADER);
    fresh->size = (uint32_t) ((uintptr_t) fence - (uintptr_t) fresh) | 1u;
    fence->size = 1u; // in use for ever, so nothing merges past it
    release_chunk(fresh);
    return true;
}

static void split(chunk * c, uint32_t size) {
    const uint32_t rest = size_of(c) - size;
    if (rest < MIN_CHUNK) {
        return;
    }
    chunk * tail = (chunk *) ((char *) c + size);
    tail->previous_size = size;
    tail->size = rest | 1u;
    c->size = size | (c->size & 1u);
    after(tail)->previous_size = rest;
    release_chunk(tail);
}

// Size of the chunk that holds a request, or 0 when it can't fit into 32 bits.
static uint32_t chunk_size(size_t bytes) {
    if (bytes > UINT32_MAX - PAGE) {
        return 0;
    }
    const uint32_t size = ((uint32_t) bytes + HEADER + ALIGNMENT - 1) & ~(ALIGNMENT - 1u);
    return size < MIN_CHUNK ? MIN_CHUNK : size;
}

static chunk * allocate(uint32_t size) {
    chunk * c = find(size);
    if (!c && grow(size)) {
        c = find(size);
    }
    if (!c) {
        return NULL;
    }
    take_out(c);
    c->size |= 1u;
    split(c, size);
    return c;
}

void * malloc(size_t bytes) {
    const uint32_t size = chunk_size(bytes);
    lock();
    chunk * c = size ? allocate(size) : NULL;
    unlock();
    if (!c) {
        errno = ENOMEM;
        return NULL;
    }
    return payload(c);
}

void free(void * p) {
    if (!p) {
        return;
    }
    lock();
    release_chunk(chunk_of(p));
    unlock();
}

void * calloc(size_t count, size_t bytes) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    void * p = malloc(total);
    return p ? memset(p, 0, total) : NULL;
}

void * realloc(void * p, size_t bytes) {
    if (!p) {
        return malloc(bytes);
    }
    const uint32_t size = chunk_size(bytes);
    chunk * c = chunk_of(p);
    lock();
    if (size && size > size_of(c) && !in_use(after(c)) && size_of(c) + (uint64_t) size_of(after(c)) >= size) {
        chunk * next = after(c);
        take_out(next);
        c->size = (size_of(c) + size_of(next)) | 1u;
        after(c)->previous_size = size_of(c);
    }
    const bool fits = size && size <= size_of(c);
    if (fits) {
        split(c, size);
    }
    const size_t old_bytes = size_of(c) - HEADER;
    unlock();
    if (fits) {
        return p;
    }
    void * moved = malloc(bytes);
    if (moved) {
        memcpy(moved, p, old_bytes);
        free(p);
    }
    return moved;
}

int posix_memalign(void ** result, size_t alignment, size_t bytes) {
    if (alignment < sizeof(void *) || (alignment & (alignment - 1))) {
        return EINVAL;
    }
    if (alignment <= ALIGNMENT) {
        *result = malloc(bytes);
        return *result ? 0 : ENOMEM;
    }
    const uint32_t size = chunk_size(bytes);
    if (!size || alignment > UINT32_MAX - size - PAGE) {
        return ENOMEM;
    }
    lock();
    chunk * c = allocate(size + (uint32_t) alignment + MIN_CHUNK);
    if (c) {
        const uintptr_t start = (uintptr_t) payload(c);
        uintptr_t aligned = (start + alignment - 1) & ~(uintptr_t) (alignment - 1);
        if (aligned != start && aligned - start < MIN_CHUNK) {
            aligned += alignment;
        }
        if (aligned != start) { // give the bytes before the aligned payload back
            const uint32_t gap = (uint32_t) (aligned - start);
            chunk * kept = (chunk *) (aligned - HEADER);
            kept->previous_size = gap;
            kept->size = (size_of(c) - gap) | 1u;
            after(kept)->previous_size = size_of(kept);
            c->size = gap | 1u;
            release_chunk(c);
            c = kept;
        }
        split(c, size);
    }
    unlock();
    if (!c) {
        return ENOMEM;
    }
    *result = payload(c);
    return 0;
}

void * aligned_alloc(size_t alignment, size_t bytes) {
    void * p = NULL;
    const int error = posix_memalign(&p, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes);
    if (error) {
        errno = error;
        return NULL;
    }
    return p;
}

void * memalign(size_t alignment, size_t bytes) { return aligned_alloc(alignment, bytes); }

size_t malloc_usable_size(void * p) { return p ? size_of(chunk_of(p)) - HEADER : 0; }

// libc's own copies of these call its allocator from inside the same object file; ours must go with our free().
char * strdup(const char * text) {
    const size_t bytes = strlen(text) + 1;
    char * copy = malloc(bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

char * strndup(const char * text, size_t limit) {
    const size_t length = strnlen(text, limit);
    char * copy = malloc(length + 1);
    if (copy) {
        memcpy(copy, text, length);
        copy[length] = 0;
    }
    return copy;
}
