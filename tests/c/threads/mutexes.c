/* Mutexes and conditions. */
#include "common.h"
#include <sched.h>

static struct gate inside, go;

static void gates(void) {
    inside = gate_new();
    go = gate_new();
}

static void no_gates(void) {
    gate_free(&inside);
    gate_free(&go);
}

static pthread_mutex_t mutex_of(int type) {
    pthread_mutex_t mutex;
    pthread_mutexattr_t attributes;
    must(pthread_mutexattr_init(&attributes));
    must(pthread_mutexattr_settype(&attributes, type));
    must(pthread_mutex_init(&mutex, &attributes));
    must(pthread_mutexattr_destroy(&attributes));
    return mutex;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;

static void *adds(void *mutex) {
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
        count_threads();
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

/* Producers and consumers, of a buffer with room for three. */

static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER;
static long items[3], in_buffer, taken;

static void *produces(void *from) {
    for (long i = 0; i < 500; i++) {
        must(pthread_mutex_lock(&lock));
        while (in_buffer == 3) must(pthread_cond_wait(&not_full, &lock));
        items[in_buffer++] = (intptr_t)from + i;
        must(pthread_cond_signal(&not_empty));
        must(pthread_mutex_unlock(&lock));
    }
    return NULL;
}

static void *consumes(void *argument) {
    for (int i = 0; i < 500; i++) {
        must(pthread_mutex_lock(&lock));
        while (in_buffer == 0) must(pthread_cond_wait(&not_empty, &lock));
        taken += items[--in_buffer];
        must(pthread_cond_signal(&not_full));
        must(pthread_mutex_unlock(&lock));
    }
    return argument;
}

static void buffer(void) {
    pthread_t threads[8];
    taken = 0;
    for (int i = 0; i < 4; i++) {
        threads[2 * i] = start(produces, number(1000 * i));
        threads[2 * i + 1] = start(consumes, NULL);
    }
    count_threads();
    for (int i = 0; i < 8; i++) must(ended(threads[i]) != NULL);
    say("taken %ld, left %ld\n", taken, in_buffer);
}

static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int waiting, tickets;

static void *takes_a_ticket(void *argument) {
    must(pthread_mutex_lock(&lock));
    waiting++;
    gate_open(&inside, 1);
    while (tickets == 0) must(pthread_cond_wait(&changed, &lock));
    tickets--;
    waiting--;
    gate_open(&go, 1);
    must(pthread_mutex_unlock(&lock));
    return argument;
}

static void signal_and_broadcast(void) {
    pthread_t threads[10];
    gates();
    waiting = tickets = 0;
    for (int i = 0; i < 10; i++) threads[i] = start(takes_a_ticket, NULL);
    gate_pass(&inside, 10);
    for (int i = 0; i < 3; i++) {
        /* Whoever has the lock now: all others wait. */
        must(pthread_mutex_lock(&lock));
        tickets++;
        must(pthread_cond_signal(&changed));
        must(pthread_mutex_unlock(&lock));
        gate_pass(&go, 1);
        must(pthread_mutex_lock(&lock));
        say("waiting %d, tickets %d\n", waiting, tickets);
        must(pthread_mutex_unlock(&lock));
    }
    must(pthread_mutex_lock(&lock));
    tickets = 7;
    must(pthread_cond_broadcast(&changed));
    must(pthread_mutex_unlock(&lock));
    for (int i = 0; i < 10; i++) must(ended(threads[i]) != NULL);
    say("waiting %d, tickets %d\n", waiting, tickets);
    no_gates();
}

static void *waits_for_nothing(void *of) {
    clockid_t clock = (clockid_t)(intptr_t)of;
    pthread_condattr_t attributes;
    pthread_cond_t never;
    struct timespec soon = in_ms(clock, 20);
    int answer;
    must(pthread_condattr_init(&attributes));
    must(pthread_condattr_setclock(&attributes, clock));
    must(pthread_cond_init(&never, &attributes));
    must(pthread_mutex_lock(&lock));
    while ((answer = pthread_cond_timedwait(&never, &lock, &soon)) == 0) {}
    say("timedwait: %s, it is time: %d\n", word(answer), is_over(clock, soon));
    soon = in_ms(clock, 20);
    while ((answer = pthread_cond_clockwait(&never, &lock, clock, &soon)) == 0) {}
    say("clockwait: %s, it is time: %d\n", word(answer), is_over(clock, soon));
    soon.tv_nsec = -1;
    say("no time: %s\n", word(pthread_cond_timedwait(&never, &lock, &soon)));
    must(pthread_mutex_unlock(&lock));
    must(pthread_condattr_destroy(&attributes));
    say("destroy: %s\n", word(pthread_cond_destroy(&never)));
    return NULL;
}

static void *waits_for_an_hour(void *argument) {
    struct timespec time = in_ms(CLOCK_REALTIME, 3600000);
    int answer = 0;
    must(pthread_mutex_lock(&lock));
    waiting++;
    while (tickets == 0 && answer == 0) answer = pthread_cond_timedwait(&changed, &lock, &time);
    say("signalled: %s\n", word(answer));
    must(pthread_mutex_unlock(&lock));
    return argument;
}

static void timed(void) {
    pthread_t thread;
    must(ended(start(waits_for_nothing, number(CLOCK_REALTIME))) != NULL);
    must(ended(start(waits_for_nothing, number(CLOCK_MONOTONIC))) != NULL);
    waiting = tickets = 0;
    thread = start(waits_for_an_hour, NULL);
    for (int seen = 0; !seen; sched_yield()) {
        must(pthread_mutex_lock(&lock));
        seen = waiting;
        must(pthread_mutex_unlock(&lock));
    }
    must(pthread_mutex_lock(&lock));
    tickets = 1;
    must(pthread_cond_signal(&changed));
    must(pthread_mutex_unlock(&lock));
    must(ended(thread) != NULL);
}

/* The handler has the lock, as after any wait. */
static void unlocks(void *mutex) { say("unlock: %s\n", word(pthread_mutex_unlock(mutex))); }

static void *waits_and_exits(void *mutex) {
    must(pthread_mutex_lock(mutex));
    pthread_cleanup_push(unlocks, mutex);
    gate_open(&inside, 1);
    while (tickets == 0) must(pthread_cond_wait(&changed, mutex));
    pthread_exit(NULL);
    pthread_cleanup_pop(1);
}

static void *waits_without(void *mutex) {
    say("without the lock: %s\n", word(pthread_cond_wait(&changed, mutex)));
    return NULL;
}

static void exit_with_lock(void) {
    pthread_mutex_t mutex = mutex_of(PTHREAD_MUTEX_ERRORCHECK);
    pthread_t thread;
    gates();
    must(ended(start(waits_without, &mutex)) != NULL);
    tickets = 0;
    thread = start(waits_and_exits, &mutex);
    gate_pass(&inside, 1);
    must(pthread_mutex_lock(&mutex));
    tickets = 1;
    must(pthread_cond_broadcast(&changed));
    must(pthread_mutex_unlock(&mutex));
    must(ended(thread) != NULL);
    say("trylock: %s\n", word(pthread_mutex_trylock(&mutex)));
    must(pthread_mutex_unlock(&mutex));
    no_gates();
}

const struct section mutexes[] = {
    {"mutexes: one at a time", one_at_a_time},
    {"mutexes: held across a wait", held},
    {"mutexes: recursive", recursive},
    {"mutexes: with checks", errorcheck},
    {"conditions: producers and consumers", buffer},
    {"conditions: signal and broadcast", signal_and_broadcast},
    {"conditions: with a time", timed},
    {"conditions: pthread_exit with the lock", exit_with_lock},
    {NULL, NULL},
};
