/* Threads are created, joined and detached, and know who they are. */
#include "common.h"
#include <sched.h>

void (*count_threads)(void);

static void *same(void *argument) { return argument; }

static void results(void) {
    pthread_t threads[20];
    long sum = 0;
    for (int i = 0; i < 20; i++) threads[i] = start(same, number(i * i));
    for (int i = 0; i < 20; i++) sum += (intptr_t)ended(threads[i]);
    say("sum %ld\n", sum);
    must(pthread_join(start(same, NULL), NULL));
    say("-1: %ld\n", (long)(intptr_t)ended(start(same, number(-1))));
    say("canceled's: %d\n", ended(start(same, PTHREAD_CANCELED)) == PTHREAD_CANCELED);
}

/* Is there, until it is let go. */
static void *stays(void *argument) {
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    return argument;
}

static void together(void) {
    enum { MANY = 300 };
    pthread_t threads[MANY];
    long sum = 0;
    gates();
    for (int i = 0; i < MANY; i++) threads[i] = start(stays, number(i));
    gate_pass(&inside, MANY);
    count_threads();
    say("all are there\n");
    gate_open(&go, MANY);
    for (int i = MANY; i-- > 0;) sum += (intptr_t)ended(threads[i]);
    say("sum %ld\n", sum);
    no_gates();
}

static pthread_t mine;
static struct gate known;

static void *knows(void *main_thread) {
    gate_pass(&known, 1);
    say("itself: %d\n", pthread_equal(pthread_self(), mine) != 0);
    say("main: %d\n", pthread_equal(pthread_self(), *(pthread_t *)main_thread) != 0);
    return number(pthread_equal(pthread_self(), pthread_self()) != 0);
}

static void identity(void) {
    pthread_t main_thread = pthread_self();
    known = gate_new();
    mine = start(knows, &main_thread);
    say("different: %d\n", pthread_equal(mine, main_thread) == 0);
    gate_open(&known, 1);
    say("always: %ld\n", (long)(intptr_t)ended(mine));
    gate_free(&known);
}

static void *is_detached(void *done) {
    gate_pass(&go, 1);
    gate_open(done, 1);
    return NULL;
}

static void *detaches_itself(void *done) {
    say("by itself: %s\n", word(pthread_detach(pthread_self())));
    gate_open(&inside, 1);
    return is_detached(done);
}

static void detached(void) {
    struct gate done = gate_new();
    pthread_attr_t attributes;
    pthread_t thread;
    gates();
    thread = start(is_detached, &done);
    say("detach: %s\n", word(pthread_detach(thread)));
    say("again: %s\n", word(pthread_detach(thread)));
    say("join: %s\n", word(pthread_join(thread, NULL)));
    say("tryjoin: %s\n", word(pthread_tryjoin_np(thread, NULL)));
    gate_open(&go, 1);
    gate_pass(&done, 1);
    must(pthread_attr_init(&attributes));
    must(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
    must(pthread_create(&thread, &attributes, is_detached, &done));
    say("created so, join: %s\n", word(pthread_join(thread, NULL)));
    say("created so, detach: %s\n", word(pthread_detach(thread)));
    gate_open(&go, 1);
    gate_pass(&done, 1);
    must(pthread_attr_destroy(&attributes));
    thread = start(detaches_itself, &done);
    gate_pass(&inside, 1);
    say("join: %s\n", word(pthread_join(thread, NULL)));
    gate_open(&go, 1);
    gate_pass(&done, 1);
    no_gates();
    gate_free(&done);
}

static void *many_detached_ones(void *done) {
    for (int i = 0; i < 100; i++) must(pthread_detach(start(is_detached, done)));
    return NULL;
}

static void outlives(void) {
    struct gate done = gate_new();
    gates();
    must(ended(start(many_detached_ones, &done)) != NULL);
    gate_open(&go, 100);
    gate_pass(&done, 100);
    say("all go on when who made them has ended\n");
    no_gates();
    gate_free(&done);
}

static void *joins_itself(void *argument) {
    struct timespec soon = in_ms(CLOCK_REALTIME, 10);
    say("join: %s\n", word(pthread_join(pthread_self(), NULL)));
    say("tryjoin: %s\n", word(pthread_tryjoin_np(pthread_self(), NULL)));
    say("timedjoin: %s\n", word(pthread_timedjoin_np(pthread_self(), NULL, &soon)));
    return argument;
}

static void of_oneself(void) {
    must(ended(start(joins_itself, NULL)) != NULL);
    say("main ");
    joins_itself(NULL);
}

static void tries(void) {
    void *result = NULL;
    struct timespec soon;
    pthread_t thread;
    gates();
    thread = start(stays, number(7));
    gate_pass(&inside, 1);
    say("tryjoin: %s\n", word(pthread_tryjoin_np(thread, &result)));
    soon = in_ms(CLOCK_REALTIME, 20);
    say("timedjoin: %s", word(pthread_timedjoin_np(thread, &result, &soon)));
    say(", it is time: %d\n", is_over(CLOCK_REALTIME, soon));
    soon = in_ms(CLOCK_MONOTONIC, 20);
    say("clockjoin: %s", word(pthread_clockjoin_np(thread, &result, CLOCK_MONOTONIC, &soon)));
    say(", it is time: %d\n", is_over(CLOCK_MONOTONIC, soon));
    soon = (struct timespec){0, 0};
    say("long ago: %s\n", word(pthread_timedjoin_np(thread, &result, &soon)));
#if __GLIBC_PREREQ(2, 34)
    /* Older ones wait without a time. */
    soon = in_ms(CLOCK_MONOTONIC, 20);
    say("no clock: %s\n",
        word(pthread_clockjoin_np(thread, &result, CLOCK_PROCESS_CPUTIME_ID, &soon)));
#endif
    say("nothing yet: %d\n", result == NULL);
    gate_open(&go, 1);
    soon = in_ms(CLOCK_REALTIME, 3600000);
    say("an hour: %s", word(pthread_timedjoin_np(thread, &result, &soon)));
    say(" %ld\n", (long)(intptr_t)result);
    gate_open(&go, 3);
    soon = in_ms(CLOCK_MONOTONIC, 3600000);
    thread = start(stays, number(8));
    say("an hour: %s", word(pthread_clockjoin_np(thread, &result, CLOCK_MONOTONIC, &soon)));
    say(" %ld\n", (long)(intptr_t)result);
    thread = start(stays, number(9));
    while (pthread_tryjoin_np(thread, &result) == EBUSY) sched_yield();
    say("until it has ended: %ld\n", (long)(intptr_t)result);
    thread = start(stays, number(10));
    say("without a time: %s", word(pthread_timedjoin_np(thread, &result, NULL)));
    say(" %ld\n", (long)(intptr_t)result);
    no_gates();
}

static void *tree(void *depth) {
    pthread_t children[3];
    intptr_t sum = 1;
    if (depth == NULL) return number(1);
    for (int i = 0; i < 3; i++) children[i] = start(tree, number((intptr_t)depth - 1));
    for (int i = 0; i < 3; i++) sum += (intptr_t)ended(children[i]);
    return number(sum);
}

static void nested(void) { say("%ld of them\n", (long)(intptr_t)ended(start(tree, number(4)))); }

static void series(void) {
    long sum = 0;
    for (int i = 0; i < 2000; i++) sum += (intptr_t)ended(start(same, number(i)));
    say("sum %ld\n", sum);
}

static void *cancelability(void *argument) {
    int before = -1;
    say("state: %s", word(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before)));
    say(", enabled before: %d\n", before == PTHREAD_CANCEL_ENABLE);
    say("type: %s", word(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before)));
    say(", deferred before: %d\n", before == PTHREAD_CANCEL_DEFERRED);
    say("nonsense: %s\n", word(pthread_setcancelstate(77, &before)));
    must(pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &before));
    must(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before));
    say(", disabled before: %d\n", before == PTHREAD_CANCEL_DISABLE);
    pthread_testcancel();
    return argument;
}

static void uncancelled(void) { must(ended(start(cancelability, NULL)) != NULL); }

static void *asks(void *argument) {
    struct sched_param scheduling = {.sched_priority = 77};
    struct timespec time = {-1, -1};
    clockid_t clock;
    cpu_set_t set;
    int policy = -1;
    say("getschedparam: %s", word(pthread_getschedparam(pthread_self(), &policy, &scheduling)));
    say(" %d %d\n", policy, scheduling.sched_priority);
    say("setschedparam: %s\n", word(pthread_setschedparam(pthread_self(), policy, &scheduling)));
    say("getaffinity: %s", word(pthread_getaffinity_np(pthread_self(), sizeof set, &set)));
    say(", some: %d\n", CPU_COUNT(&set) > 0);
    say("getcpuclockid: %s\n", word(pthread_getcpuclockid(pthread_self(), &clock)));
    say("its time: %d\n", clock_gettime(clock, &time) == 0 && time.tv_nsec >= 0);
    return argument;
}

static void asked(void) { must(ended(start(asks, NULL)) != NULL); }

const struct section life[] = {
    {"what a thread returns is what join gives", results},
    {"all at once", together},
    {"self and equal", identity},
    {"detached", detached},
    {"detached, and made by one that has ended", outlives},
    {"join of oneself", of_oneself},
    {"tryjoin, timedjoin, clockjoin", tries},
    {"threads that make threads", nested},
    {"one after the other", series},
    {"cancelability", uncancelled},
    {"asked of the scheduler", asked},
    {NULL, NULL},
};
