/* Mutexes. */
#include "common.h"
#include <sched.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;

static void *adds(void *mutex) {
    count_threads();
    for (int i = 0; i < 1000; i++) {
        long seen;
        must(pthread_mutex_lock(mutex));
        seen = total;
        if (i % 50 == 0) sched_yield();
        total = seen + 1;
        must(pthread_mutex_unlock(mutex));
    }
    return NULL;
}

static void one_at_a_time(void) {
    int types[] = {PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK,
                   PTHREAD_MUTEX_ADAPTIVE_NP};
    for (int type = 0; type < 4; type++) {
        pthread_mutex_t mutex = mutex_of(types[type]);
        pthread_t threads[8];
        total = 0;
        for (int i = 0; i < 8; i++) threads[i] = start(adds, &mutex);
        for (int i = 0; i < 8; i++) must(ended(threads[i]) != NULL);
        say("type %d: %ld, destroy: %s\n", type, total, word(pthread_mutex_destroy(&mutex)));
    }
}

static void *locks_and_waits(void *mutex) {
    must(pthread_mutex_lock(mutex));
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    total++;
    must(pthread_mutex_unlock(mutex));
    return NULL;
}

static void *locks(void *mutex) {
    must(pthread_mutex_lock(mutex));
    total++;
    must(pthread_mutex_unlock(mutex));
    return NULL;
}

static void held(void) {
    pthread_t holder, waiters[5];
    struct timespec soon;
    gates();
    total = 0;
    holder = start(locks_and_waits, &lock);
    gate_pass(&inside, 1);
    for (int i = 0; i < 5; i++) waiters[i] = start(locks, &lock);
    say("trylock: %s\n", word(pthread_mutex_trylock(&lock)));
    soon = in_ms(CLOCK_REALTIME, 20);
    say("timedlock: %s", word(pthread_mutex_timedlock(&lock, &soon)));
    say(", it is time: %d\n", is_over(CLOCK_REALTIME, soon));
    soon = in_ms(CLOCK_MONOTONIC, 20);
    say("clocklock: %s", word(pthread_mutex_clocklock(&lock, CLOCK_MONOTONIC, &soon)));
    say(", it is time: %d\n", is_over(CLOCK_MONOTONIC, soon));
    soon = (struct timespec){.tv_nsec = 1000000000};
    say("no time: %s\n", word(pthread_mutex_timedlock(&lock, &soon)));
    say("destroy: %s\n", word(pthread_mutex_destroy(&lock)));
    gate_open(&go, 1);
    must(ended(holder) != NULL);
    for (int i = 0; i < 5; i++) must(ended(waiters[i]) != NULL);
    say("%ld, trylock: %s\n", total, word(pthread_mutex_trylock(&lock)));
    must(pthread_mutex_unlock(&lock));
    no_gates();
}

static void *from_another(void *mutex) {
    say("another: trylock: %s", word(pthread_mutex_trylock(mutex)));
    say(", unlock: %s\n", word(pthread_mutex_unlock(mutex)));
    return NULL;
}

static void recursive(void) {
    static pthread_mutex_t fixed = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
    pthread_mutex_t made = mutex_of(PTHREAD_MUTEX_RECURSIVE), *both[] = {&fixed, &made};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        must(pthread_mutex_lock(both[i]));
        must(pthread_mutex_lock(both[i]));
        must(pthread_mutex_trylock(both[i]));
        must(ended(start(from_another, both[i])) != NULL);
        must(pthread_mutex_unlock(both[i]));
        must(pthread_mutex_unlock(both[i]));
        total = 0;
        thread = start(locks, both[i]);
        sched_yield();
        say("still held: %d\n", total == 0);
        must(pthread_mutex_unlock(both[i]));
        must(ended(thread) != NULL);
        say("one too many: %s\n", word(pthread_mutex_unlock(both[i])));
    }
}

static void errorcheck(void) {
    static pthread_mutex_t fixed = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
    pthread_mutex_t made = mutex_of(PTHREAD_MUTEX_ERRORCHECK), *both[] = {&fixed, &made};
    for (int i = 0; i < 2; i++) {
        struct timespec soon = in_ms(CLOCK_REALTIME, 3600000);
        must(pthread_mutex_lock(both[i]));
        say("again: %s", word(pthread_mutex_lock(both[i])));
        say(", %s", word(pthread_mutex_trylock(both[i])));
        say(", %s\n", word(pthread_mutex_timedlock(both[i], &soon)));
        must(ended(start(from_another, both[i])) != NULL);
        must(pthread_mutex_unlock(both[i]));
        say("not held: %s\n", word(pthread_mutex_unlock(both[i])));
    }
}

const struct section mutexes[] = {
    {"mutexes: one at a time", one_at_a_time},
    {"mutexes: held across a wait", held},
    {"mutexes: recursive", recursive},
    {"mutexes: with checks", errorcheck},
    {NULL, NULL},
};
