/* Conditions. */
#include "common.h"
#include <sched.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

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
    count_threads();
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

const struct section conditions[] = {
    {"conditions: producers and consumers", buffer},
    {"conditions: signal and broadcast", signal_and_broadcast},
    {"conditions: with a time", timed},
    {"conditions: pthread_exit with the lock", exit_with_lock},
    {NULL, NULL},
};
