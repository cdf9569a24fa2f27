/* What the C programs of tests/threads_c.rs share. Each file gives a list of sections,
   which is what is compared: what they say with real threads, and patched.

   Threads wait for each other at gates, which are pipes, so that nothing but the
   threads themselves has to be patched where locks are not the subject. */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct section {
    const char *name;
    void (*run)(void);
};

/* Not by stdio: it has a lock of its own. */
#define say(...) (dprintf(1, __VA_ARGS__), (void)0)

/* For what has no reason to fail. */
#define must(call)                                                        \
    do {                                                                  \
        int answer_ = (call);                                             \
        if (answer_ != 0) {                                               \
            dprintf(2, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,      \
                    strerror(answer_));                            \
            abort();                                                      \
        }                                                                 \
    } while (0)

/* What such a function answers, by its name. */
static inline const char *word(int answer) {
    return answer == 0 ? "0" : strerror(answer);
}

/* Set from outside: counts the threads that the kernel knows of. */
extern void (*count_threads)(void);

struct gate {
    int ends[2];
};

static inline struct gate gate_new(void) {
    struct gate gate;
    must(pipe(gate.ends));
    return gate;
}

/* Lets so many through. */
static inline void gate_open(struct gate *gate, int count) {
    while (count-- > 0) must(write(gate->ends[1], "x", 1) != 1);
}

static inline void gate_pass(struct gate *gate, int count) {
    char byte;
    while (count-- > 0) must(read(gate->ends[0], &byte, 1) != 1);
}

static inline void gate_free(struct gate *gate) {
    must(close(gate->ends[0]));
    must(close(gate->ends[1]));
}

/* Those that most sections need: somebody is inside, and may go. */
static struct gate inside, go;

static inline void gates(void) {
    inside = gate_new();
    go = gate_new();
}

static inline void no_gates(void) {
    gate_free(&inside);
    gate_free(&go);
}

static inline pthread_t start(void *(*function)(void *), void *argument) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, function, argument));
    return thread;
}

static inline void *ended(pthread_t thread) {
    void *result;
    must(pthread_join(thread, &result));
    return result;
}

static inline void *number(intptr_t n) { return (void *)n; }

/* So many milliseconds from now. */
static inline struct timespec in_ms(clockid_t clock, long ms) {
    struct timespec time;
    must(clock_gettime(clock, &time));
    time.tv_sec += ms / 1000;
    time.tv_nsec += ms % 1000 * 1000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_sec += 1;
        time.tv_nsec -= 1000000000;
    }
    return time;
}

static inline int is_over(clockid_t clock, struct timespec time) {
    struct timespec now;
    must(clock_gettime(clock, &now));
    return now.tv_sec > time.tv_sec ||
           (now.tv_sec == time.tv_sec && now.tv_nsec >= time.tv_nsec);
}

static inline pthread_mutex_t mutex_of(int type) {
    pthread_mutex_t mutex;
    pthread_mutexattr_t attributes;
    must(pthread_mutexattr_init(&attributes));
    must(pthread_mutexattr_settype(&attributes, type));
    must(pthread_mutex_init(&mutex, &attributes));
    must(pthread_mutexattr_destroy(&attributes));
    return mutex;
}

#endif
