// The part of POSIX threads that libc++ and ggml use, over wasm atomics.
// The host starts its workers beforehand; pthread_create hands one of them a thread block through the import `thread_spawn`.
// In the single-thread build the import always refuses, so pthread_create fails with EAGAIN and callers stay on one thread.
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STACK_BYTES = 1 << 20, MAX_KEYS = 64, DESTRUCTOR_ROUNDS = 4, LOOKS_BEFORE_SLEEP = 60000, SLEEP_NANOSECONDS = 500000000 };

typedef struct thread {
    uint32_t stack_top; // read by the worker script before it enters: keep these two first
    uint32_t tls_base;
    void * (*start)(void *);
    void * argument;
    void * result;
    int done;
    int detached;
    void * stack;
    void * tls;
    void * keys[MAX_KEYS];
} thread;

__attribute__((import_module("env"), import_name("thread_spawn"))) int host_thread_spawn(thread * block);

static thread main_thread;
static _Thread_local thread * current;
static void (*key_destructors[MAX_KEYS])(void *);
static int key_count;
static int main_may_block = 1;
static size_t tls_bytes, tls_align;

static thread * self(void) { return current ? current : &main_thread; }

// A browser's UI thread must not wait on memory: there the main thread spins instead.
__attribute__((export_name("sippet_set_main_may_block"))) void sippet_set_main_may_block(int allowed) { main_may_block = allowed; }

// The linker knows the size of a thread's local storage only in the pthread build; the host passes it on before it starts threads.
__attribute__((export_name("sippet_set_tls_layout"))) void sippet_set_tls_layout(uint32_t size, uint32_t align) {
    tls_bytes = size;
    tls_align = align;
}

// Wait until *address differs from `expected`, a wake-up or the time limit (nanoseconds, < 0: none). True when time ran out.
static bool wait_on(int * address, int expected, int64_t nanoseconds) {
    if (current || main_may_block) {
        return __builtin_wasm_memory_atomic_wait32(address, expected, nanoseconds) == 2;
    }
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (__atomic_load_n(address, __ATOMIC_ACQUIRE) == expected) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        const int64_t passed = (now.tv_sec - start.tv_sec) * 1000000000LL + (now.tv_nsec - start.tv_nsec);
        if (nanoseconds >= 0 && passed >= nanoseconds) {
            return true;
        }
    }
    return false;
}

static void wake(int * address, uint32_t count) { __builtin_wasm_memory_atomic_notify(address, count); }

// For waits of microseconds, where a system call would cost more than what is waited for.
static int sleeping_waiters;
static int thread_is_lost;

// Called by a worker script whose thread ended in a trap or an exception: whoever waits for that thread would do so for ever.
__attribute__((export_name("sippet_thread_lost"))) void sippet_thread_lost(void) {
    __atomic_store_n(&thread_is_lost, 1, __ATOMIC_SEQ_CST);
}

// Wait until *address differs from `expected`: first by looking again and again, then asleep, but never for a lost thread.
void sippet_spin_then_wait(int * address, int expected) {
    for (int look = 0; look < LOOKS_BEFORE_SLEEP; look++) {
        if (__atomic_load_n(address, __ATOMIC_ACQUIRE) != expected) {
            return;
        }
    }
    __atomic_fetch_add(&sleeping_waiters, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(address, __ATOMIC_SEQ_CST) == expected) {
        if (__atomic_load_n(&thread_is_lost, __ATOMIC_SEQ_CST)) {
            fputs("a thread of the engine ended\n", stderr);
            abort();
        }
        wait_on(address, expected, SLEEP_NANOSECONDS);
    }
    __atomic_fetch_sub(&sleeping_waiters, 1, __ATOMIC_SEQ_CST);
}

// Call after changing *address, with sequential consistency: either we see the sleeper or the sleeper sees the change.
void sippet_wake_waiting(int * address) {
    if (__atomic_load_n(&sleeping_waiters, __ATOMIC_SEQ_CST) > 0) {
        wake(address, UINT32_MAX);
    }
}

static void free_block(thread * block) {
    free(block->stack);
    free(block->tls);
    free(block);
}

// Called by a worker script, on its own stack and thread-local block.
__attribute__((export_name("sippet_thread_entry"))) void sippet_thread_entry(thread * block) {
    current = block;
    block->result = block->start(block->argument);
    for (int round = 0; round < DESTRUCTOR_ROUNDS; round++) {
        for (int key = 0; key < key_count; key++) {
            void * value = block->keys[key];
            if (value && key_destructors[key]) {
                block->keys[key] = NULL;
                key_destructors[key](value);
            }
        }
    }
    __atomic_store_n(&block->done, 1, __ATOMIC_RELEASE);
    wake(&block->done, UINT32_MAX);
}

int pthread_create(pthread_t * result, const pthread_attr_t * attributes, void * (*start)(void *), void * argument) {
    (void) attributes;
    thread * block = calloc(1, sizeof *block);
    if (!block) {
        return EAGAIN;
    }
    block->stack = aligned_alloc(16, STACK_BYTES);
    block->tls = aligned_alloc(tls_align < 16 ? 16 : tls_align, tls_bytes ? tls_bytes : 16);
    block->stack_top = (uint32_t) (uintptr_t) block->stack + STACK_BYTES;
    block->tls_base = (uint32_t) (uintptr_t) block->tls;
    block->start = start;
    block->argument = argument;
    if (!block->stack || !block->tls || host_thread_spawn(block) != 0) {
        free_block(block);
        return EAGAIN;
    }
    *result = (pthread_t) block;
    return 0;
}

int pthread_join(pthread_t target, void ** result) {
    thread * block = (thread *) target;
    while (!__atomic_load_n(&block->done, __ATOMIC_ACQUIRE)) {
        wait_on(&block->done, 0, -1);
    }
    if (result) {
        *result = block->result;
    }
    free_block(block);
    return 0;
}

// A detached thread's block is never freed: nothing in the engine detaches threads in a loop.
int pthread_detach(pthread_t target) {
    (void) target;
    return 0;
}

pthread_t pthread_self(void) { return (pthread_t) self(); }

#undef pthread_equal
int pthread_equal(pthread_t a, pthread_t b) { return a == b; }

int pthread_attr_init(pthread_attr_t * attributes) {
    memset(attributes, 0, sizeof *attributes);
    return 0;
}
int pthread_attr_destroy(pthread_attr_t * attributes) { return (void) attributes, 0; }

// Mutexes are always recursive: state 0 free, 1 held, 2 held with waiters.
typedef struct {
    int state;
    int depth;
    thread * owner;
} mutex;
_Static_assert(sizeof(mutex) <= sizeof(pthread_mutex_t), "our mutex must fit into libc's");

int pthread_mutexattr_init(pthread_mutexattr_t * attributes) {
    memset(attributes, 0, sizeof *attributes);
    return 0;
}
int pthread_mutexattr_settype(pthread_mutexattr_t * attributes, int type) { return (void) attributes, (void) type, 0; }
int pthread_mutexattr_destroy(pthread_mutexattr_t * attributes) { return (void) attributes, 0; }

int pthread_mutex_init(pthread_mutex_t * m, const pthread_mutexattr_t * attributes) {
    (void) attributes;
    memset(m, 0, sizeof *m);
    return 0;
}
int pthread_mutex_destroy(pthread_mutex_t * m) { return (void) m, 0; }

int pthread_mutex_trylock(pthread_mutex_t * opaque) {
    mutex * m = (mutex *) opaque;
    thread * me = self();
    if (__atomic_load_n(&m->owner, __ATOMIC_RELAXED) == me) {
        m->depth++;
        return 0;
    }
    int expected = 0;
    if (!__atomic_compare_exchange_n(&m->state, &expected, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        return EBUSY;
    }
    __atomic_store_n(&m->owner, me, __ATOMIC_RELAXED);
    m->depth = 1;
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t * opaque) {
    if (pthread_mutex_trylock(opaque) == 0) {
        return 0;
    }
    mutex * m = (mutex *) opaque;
    while (__atomic_exchange_n(&m->state, 2, __ATOMIC_ACQUIRE) != 0) {
        wait_on(&m->state, 2, -1);
    }
    __atomic_store_n(&m->owner, self(), __ATOMIC_RELAXED);
    m->depth = 1;
    return 0;
}

int pthread_mutex_unlock(pthread_mutex_t * opaque) {
    mutex * m = (mutex *) opaque;
    if (--m->depth > 0) {
        return 0;
    }
    __atomic_store_n(&m->owner, NULL, __ATOMIC_RELAXED);
    if (__atomic_exchange_n(&m->state, 0, __ATOMIC_RELEASE) == 2) {
        wake(&m->state, 1);
    }
    return 0;
}

// A condition variable is a counter that every signal increments.
int pthread_cond_init(pthread_cond_t * c, const pthread_condattr_t * attributes) {
    (void) attributes;
    memset(c, 0, sizeof *c);
    return 0;
}
int pthread_cond_destroy(pthread_cond_t * c) { return (void) c, 0; }

int pthread_cond_timedwait(pthread_cond_t * opaque, pthread_mutex_t * m, const struct timespec * deadline) {
    int * counter = (int *) opaque;
    const int seen = __atomic_load_n(counter, __ATOMIC_SEQ_CST);
    int64_t nanoseconds = -1;
    if (deadline) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        nanoseconds = (deadline->tv_sec - now.tv_sec) * 1000000000LL + (deadline->tv_nsec - now.tv_nsec);
        nanoseconds = nanoseconds < 0 ? 0 : nanoseconds;
    }
    pthread_mutex_unlock(m);
    const bool late = wait_on(counter, seen, nanoseconds);
    pthread_mutex_lock(m);
    return late ? ETIMEDOUT : 0;
}
int pthread_cond_wait(pthread_cond_t * c, pthread_mutex_t * m) { return pthread_cond_timedwait(c, m, NULL); }
int pthread_cond_signal(pthread_cond_t * c) {
    __atomic_fetch_add((int *) c, 1, __ATOMIC_SEQ_CST);
    wake((int *) c, 1);
    return 0;
}
int pthread_cond_broadcast(pthread_cond_t * c) {
    __atomic_fetch_add((int *) c, 1, __ATOMIC_SEQ_CST);
    wake((int *) c, UINT32_MAX);
    return 0;
}

int pthread_once(pthread_once_t * once, void (*initialise)(void)) {
    int * state = (int *) once; // 0 not run, 1 running, 2 done
    int expected = 0;
    if (__atomic_load_n(state, __ATOMIC_ACQUIRE) == 2) {
        return 0;
    }
    if (__atomic_compare_exchange_n(state, &expected, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        initialise();
        __atomic_store_n(state, 2, __ATOMIC_RELEASE);
        wake(state, UINT32_MAX);
        return 0;
    }
    while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != 2) {
        wait_on(state, 1, -1);
    }
    return 0;
}

int pthread_key_create(pthread_key_t * key, void (*destructor)(void *)) {
    const int index = __atomic_fetch_add(&key_count, 1, __ATOMIC_SEQ_CST);
    if (index >= MAX_KEYS) {
        __atomic_fetch_sub(&key_count, 1, __ATOMIC_SEQ_CST);
        return EAGAIN;
    }
    key_destructors[index] = destructor;
    *key = (pthread_key_t) index;
    return 0;
}
int pthread_key_delete(pthread_key_t key) { return (void) key, 0; }
void * pthread_getspecific(pthread_key_t key) { return self()->keys[key]; }
int pthread_setspecific(pthread_key_t key, const void * value) {
    self()->keys[key] = (void *) value;
    return 0;
}
