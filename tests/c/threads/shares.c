/* Semaphores, and locks for readers and writers. */
#include "common.h"
#include <sched.h>
#include <semaphore.h>

/* What a function that sets errno answers, by its name. */
static const char *answer(int result) { return word(result == 0 ? 0 : errno); }

/* Semaphores. */

static sem_t ping, pong;
static int rounds;

static void *answers(void *argument) {
    for (int i = 0; i < 1000; i++) {
        must(sem_wait(&ping));
        rounds++;
        must(sem_post(&pong));
    }
    return argument;
}

static void to_and_fro(void) {
    pthread_t thread;
    must(sem_init(&ping, 0, 0));
    must(sem_init(&pong, 0, 0));
    thread = start(answers, NULL);
    rounds = 0;
    for (int i = 0; i < 1000; i++) {
        must(sem_post(&ping));
        must(sem_wait(&pong));
        must(rounds != i + 1);
    }
    must(ended(thread) != NULL);
    say("%d rounds\n", rounds);
    must(sem_destroy(&ping));
    must(sem_destroy(&pong));
}

static sem_t seats;
static int sitting, most;

static void *sits(void *argument) {
    count_threads();
    for (int i = 0; i < 50; i++) {
        int now;
        must(sem_wait(&seats));
        now = __atomic_add_fetch(&sitting, 1, __ATOMIC_SEQ_CST);
        if (now > 3) __atomic_store_n(&most, now, __ATOMIC_SEQ_CST);
        sched_yield();
        __atomic_sub_fetch(&sitting, 1, __ATOMIC_SEQ_CST);
        must(sem_post(&seats));
    }
    return argument;
}

static void seats_for_three(void) {
    pthread_t threads[10];
    int value = -1;
    must(sem_init(&seats, 0, 3));
    most = 0;
    for (int i = 0; i < 10; i++) threads[i] = start(sits, NULL);
    for (int i = 0; i < 10; i++) must(ended(threads[i]) != NULL);
    must(sem_getvalue(&seats, &value));
    say("too many: %d, value %d\n", most, value);
    must(sem_destroy(&seats));
}

static void *waits_for_it(void *semaphore) {
    gate_open(&inside, 1);
    must(sem_wait(semaphore));
    return NULL;
}

static void semaphore_answers(void) {
    sem_t semaphore;
    struct timespec soon = in_ms(CLOCK_REALTIME, 20);
    pthread_t threads[5];
    int value = -1;
    gates();
    must(sem_init(&semaphore, 0, 0));
    say("trywait: %s\n", answer(sem_trywait(&semaphore)));
    say("timedwait: %s", answer(sem_timedwait(&semaphore, &soon)));
    say(", it is time: %d\n", is_over(CLOCK_REALTIME, soon));
    soon = in_ms(CLOCK_MONOTONIC, 20);
    say("clockwait: %s", answer(sem_clockwait(&semaphore, CLOCK_MONOTONIC, &soon)));
    say(", it is time: %d\n", is_over(CLOCK_MONOTONIC, soon));
    soon.tv_nsec = -1;
    say("no time: %s\n", answer(sem_timedwait(&semaphore, &soon)));
    must(sem_post(&semaphore));
    say("no time, no wait: %s\n", answer(sem_timedwait(&semaphore, &soon)));
    for (int i = 0; i < 5; i++) threads[i] = start(waits_for_it, &semaphore);
    gate_pass(&inside, 5);
    for (int i = 0; i < 7; i++) must(sem_post(&semaphore));
    for (int i = 0; i < 5; i++) must(ended(threads[i]) != NULL);
    must(sem_getvalue(&semaphore, &value));
    say("value %d\n", value);
    must(sem_destroy(&semaphore));
    say("too large: %s\n", answer(sem_init(&semaphore, 0, 1U << 31)));
    no_gates();
}

/* Readers and writers. */

static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static long left_side, right_side;

static void *reads_with_others(void *argument) {
    must(pthread_rwlock_rdlock(&rwlock));
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    must(pthread_rwlock_unlock(&rwlock));
    return argument;
}

static void *tries(void *who) {
    struct timespec soon = in_ms(CLOCK_REALTIME, 10);
    int answers[4] = {pthread_rwlock_tryrdlock(&rwlock)};
    if (answers[0] == 0) must(pthread_rwlock_unlock(&rwlock));
    answers[1] = pthread_rwlock_trywrlock(&rwlock);
    if (answers[1] == 0) must(pthread_rwlock_unlock(&rwlock));
    answers[2] = pthread_rwlock_timedrdlock(&rwlock, &soon);
    if (answers[2] == 0) must(pthread_rwlock_unlock(&rwlock));
    soon = in_ms(CLOCK_MONOTONIC, 10);
    answers[3] = pthread_rwlock_clockwrlock(&rwlock, CLOCK_MONOTONIC, &soon);
    if (answers[3] == 0) must(pthread_rwlock_unlock(&rwlock));
    say("%s:", (const char *)who);
    for (int i = 0; i < 4; i++) say(" %s", word(answers[i]));
    say("\n");
    return NULL;
}

static void rwlock_answers(void) {
    pthread_t threads[4];
    gates();
    for (int i = 0; i < 4; i++) threads[i] = start(reads_with_others, NULL);
    gate_pass(&inside, 4);
    say("four read at once\n");
    must(ended(start(tries, "while they read")) != NULL);
    gate_open(&go, 4);
    for (int i = 0; i < 4; i++) must(ended(threads[i]) != NULL);
    must(pthread_rwlock_wrlock(&rwlock));
    must(ended(start(tries, "while it is written")) != NULL);
    say("once more: %s", word(pthread_rwlock_wrlock(&rwlock)));
    say(", to read: %s\n", word(pthread_rwlock_rdlock(&rwlock)));
    must(pthread_rwlock_unlock(&rwlock));
    must(ended(start(tries, "free")) != NULL);
    no_gates();
}

static void *reads(void *argument) {
    long torn = 0;
    for (int i = 0; i < 300; i++) {
        must(pthread_rwlock_rdlock(&rwlock));
        torn += left_side != right_side;
        must(pthread_rwlock_unlock(&rwlock));
    }
    return number(torn + (intptr_t)argument);
}

static void *writes(void *argument) {
    for (int i = 0; i < 300; i++) {
        must(pthread_rwlock_wrlock(&rwlock));
        left_side++;
        if (i % 8 == 0) sched_yield();
        right_side++;
        must(pthread_rwlock_unlock(&rwlock));
    }
    return argument;
}

static void readers_and_writers(void) {
    pthread_t threads[12];
    long torn = 0;
    left_side = right_side = 0;
    for (int i = 0; i < 12; i++) threads[i] = start(i % 4 == 0 ? writes : reads, NULL);
    for (int i = 0; i < 12; i++) torn += (intptr_t)ended(threads[i]);
    say("torn %ld, %ld %ld\n", torn, left_side, right_side);
}

static pthread_rwlock_t writers_first;

static void *writes_once(void *argument) {
    must(pthread_rwlock_wrlock(&writers_first));
    right_side++;
    must(pthread_rwlock_unlock(&writers_first));
    return argument;
}

/* As soon as a writer waits, no more readers are let in. */
static void prefers_writers(void) {
    pthread_rwlockattr_t attributes;
    pthread_t thread;
    must(pthread_rwlockattr_init(&attributes));
    must(pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP));
    must(pthread_rwlock_init(&writers_first, &attributes));
    right_side = 0;
    must(pthread_rwlock_rdlock(&writers_first));
    thread = start(writes_once, NULL);
    while (pthread_rwlock_tryrdlock(&writers_first) == 0) {
        must(pthread_rwlock_unlock(&writers_first));
        sched_yield();
    }
    say("a writer waits, written %ld\n", right_side);
    must(pthread_rwlock_unlock(&writers_first));
    must(ended(thread) != NULL);
    must(pthread_rwlock_rdlock(&writers_first));
    say("written %ld\n", right_side);
    must(pthread_rwlock_unlock(&writers_first));
    say("destroy: %s\n", word(pthread_rwlock_destroy(&writers_first)));
}

const struct section shares[] = {
    {"semaphores: to and fro", to_and_fro},
    {"semaphores: seats for three", seats_for_three},
    {"semaphores: answers", semaphore_answers},
    {"rwlocks: answers", rwlock_answers},
    {"rwlocks: readers and writers", readers_and_writers},
    {"rwlocks: writers first", prefers_writers},
    {NULL, NULL},
};
