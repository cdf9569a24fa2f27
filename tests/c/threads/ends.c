/* How threads end: pthread_exit, cleanup handlers, and the destructors of keys. */
#include "common.h"
#include <limits.h>

static void told(void *text) { say("cleanup %s\n", (const char *)text); }

static void *exits_at_once(void *argument) { pthread_exit(argument); }

static void exits(void) {
    say("%ld\n", (long)(intptr_t)ended(start(exits_at_once, number(5))));
    say("%d\n", ended(start(exits_at_once, NULL)) == NULL);
}

static __attribute__((noinline)) void deep(int depth, void *result) {
    pthread_cleanup_push(told, depth % 2 ? "odd" : "even");
    if (depth > 0)
        deep(depth - 1, result);
    else if (result != number(-1))
        pthread_exit(result);
    say("not reached\n");
    pthread_cleanup_pop(1);
}

static void *exits_from_depth(void *argument) {
    pthread_cleanup_push(told, "outermost");
    pthread_cleanup_push(told, "popped");
    pthread_cleanup_pop(0);
    pthread_cleanup_push(told, "popped and done");
    pthread_cleanup_pop(1);
    deep(5, argument);
    pthread_cleanup_pop(1);
    return NULL;
}

static void from_depth(void) {
    say("%ld\n", (long)(intptr_t)ended(start(exits_from_depth, number(6))));
}

static void *returns_within(void *argument) {
    pthread_cleanup_push(told, "of a thread that goes on");
    say("inside\n");
    pthread_cleanup_pop(1);
    return argument;
}

static void no_exit(void) { must(ended(start(returns_within, NULL)) != NULL); }

static void waits_then_tells(void *text) {
    gate_pass(&go, 1);
    must(ended(start(returns_within, text)) != text);
    told(text);
}

static void *exits_and_waits(void *argument) {
    pthread_cleanup_push(told, "after that");
    pthread_cleanup_push(waits_then_tells, "that waits");
    pthread_exit(argument);
    pthread_cleanup_pop(1);
    pthread_cleanup_pop(1);
}

static void waiting_handler(void) {
    pthread_t thread;
    go = gate_new();
    thread = start(exits_and_waits, number(7));
    say("%ld\n", (long)(intptr_t)ended(start(exits_at_once, number(1))));
    gate_open(&go, 1);
    say("%ld\n", (long)(intptr_t)ended(thread));
    gate_free(&go);
}

/* Run by those compilations that have tables for unwinding. */
static void at_end_of_block(int *of) { say("variable %d\n", *of); }

static void *exits_among_variables(void *argument) {
    __attribute__((cleanup(at_end_of_block))) int outer = 1;
    {
        __attribute__((cleanup(at_end_of_block))) int inner = 2;
        pthread_exit(argument);
    }
}

static void variables(void) {
    say("%ld\n", (long)(intptr_t)ended(start(exits_among_variables, number(8))));
}

static pthread_key_t last;

static void opens(void *gate) { gate_open(gate, 1); }

static void *exits_detached(void *done) {
    pthread_cleanup_push(told, "of a detached one");
    must(pthread_detach(pthread_self()));
    must(pthread_setspecific(last, done));
    deep(0, NULL);
    pthread_cleanup_pop(1);
    return NULL;
}

static void detached(void) {
    struct gate done = gate_new();
    must(pthread_key_create(&last, opens));
    start(exits_detached, &done);
    gate_pass(&done, 1);
    say("the destructor of its key came last\n");
    must(pthread_key_delete(last));
    gate_free(&done);
}

/* Keys. */

static pthread_key_t keys[4];

static void destroyed(void *value) { say("destroyed %s\n", (const char *)value); }

static void *sets_keys(void *exits) {
    must(pthread_getspecific(keys[0]) != NULL);
    must(pthread_setspecific(keys[2], "third"));
    must(pthread_setspecific(keys[0], "first"));
    must(pthread_setspecific(keys[1], "second"));
    must(pthread_setspecific(keys[3], "without a destructor"));
    if (exits != NULL) pthread_exit(NULL);
    return NULL;
}

static void key_order(void) {
    for (int i = 0; i < 3; i++) must(pthread_key_create(&keys[i], destroyed));
    must(pthread_key_create(&keys[3], NULL));
    must(pthread_setspecific(keys[0], "main's"));
    must(ended(start(sets_keys, NULL)) != NULL);
    say("once more, by pthread_exit\n");
    must(ended(start(sets_keys, number(1))) != NULL);
    say("%s\n", (const char *)pthread_getspecific(keys[0]));
    must(pthread_key_delete(keys[1]));
    for (int i = 0; i < 4; i++) {
        if (i != 1) must(pthread_key_delete(keys[i]));
    }
    say("deleted: %s\n", word(pthread_setspecific(keys[0], "none")));
    say("again: %s\n", word(pthread_key_delete(keys[0])));
}

static void again(void *count) {
    say("round %ld, empty %d\n", (long)(intptr_t)count, pthread_getspecific(keys[0]) == NULL);
    must(pthread_setspecific(keys[0], number((intptr_t)count + 1)));
}

/* In the round in which it is called, and in the next one. */
static void sets_the_other(void *value) {
    say("one of two: %s\n", (const char *)value);
    if (strcmp(value, "by hand") == 0) must(pthread_setspecific(keys[1], "by a destructor"));
}

static void *sets_one(void *argument) {
    must(pthread_setspecific(keys[0], argument));
    return NULL;
}

static void *sets_the_second(void *argument) {
    must(pthread_setspecific(keys[2], "by hand"));
    return argument;
}

static void key_rounds(void) {
    must(pthread_key_create(&keys[0], again));
    must(ended(start(sets_one, number(1))) != NULL);
    must(pthread_key_delete(keys[0]));
    must(pthread_key_create(&keys[1], sets_the_other));
    must(pthread_key_create(&keys[2], sets_the_other));
    must(ended(start(sets_the_second, NULL)) != NULL);
    must(pthread_key_delete(keys[1]));
    must(pthread_key_delete(keys[2]));
}

static void waits_and_starts(void *value) {
    say("destroying %s\n", (const char *)value);
    gate_pass(&go, 1);
    must(ended(start(returns_within, NULL)) != NULL);
    say("destroyed %s\n", (const char *)value);
}

static void key_waits(void) {
    pthread_t thread;
    go = gate_new();
    must(pthread_key_create(&keys[0], waits_and_starts));
    thread = start(sets_one, "what takes long");
    must(ended(start(exits_at_once, NULL)) != NULL);
    gate_open(&go, 1);
    must(ended(thread) != NULL);
    must(pthread_key_delete(keys[0]));
    gate_free(&go);
}

static void *deleted_meanwhile(void *argument) {
    must(pthread_setspecific(keys[0], "deleted"));
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    return argument;
}

static void key_deleted(void) {
    pthread_t thread;
    gates();
    must(pthread_key_create(&keys[0], destroyed));
    thread = start(deleted_meanwhile, NULL);
    gate_pass(&inside, 1);
    must(pthread_key_delete(keys[0]));
    gate_open(&go, 1);
    must(ended(thread) != NULL);
    say("nothing was destroyed\n");
    no_gates();
}

/* More than glibc has room for in its record of a thread. */
static pthread_key_t many[100];
static intptr_t sum;

static void adds(void *value) { sum += (intptr_t)value; }

static void *sets_many(void *argument) {
    for (int i = 0; i < 100; i++) must(pthread_setspecific(many[i], number(i + 1)));
    for (int i = 0; i < 100; i++) must((intptr_t)pthread_getspecific(many[i]) != i + 1);
    return argument;
}

static void key_many(void) {
    pthread_key_t key;
    int answer, made = 0;
    static pthread_key_t all[PTHREAD_KEYS_MAX + 1];
    for (int i = 0; i < 100; i++) must(pthread_key_create(&many[i], adds));
    must(ended(start(sets_many, NULL)) != NULL);
    say("sum %ld\n", (long)sum);
    must(pthread_getspecific(many[99]) != NULL);
    while (made <= PTHREAD_KEYS_MAX && (answer = pthread_key_create(&key, NULL)) == 0)
        all[made++] = key;
    say("too many: %s\n", word(answer));
    while (made-- > 0) must(pthread_key_delete(all[made]));
    for (int i = 0; i < 100; i++) must(pthread_key_delete(many[i]));
}

const struct section ends[] = {
    {"pthread_exit", exits},
    {"pthread_exit from depth, with cleanup handlers", from_depth},
    {"cleanup handlers of a thread that returns", no_exit},
    {"a cleanup handler that waits", waiting_handler},
    {"pthread_exit among variables with a cleanup", variables},
    {"pthread_exit of a detached one", detached},
    {"keys: the order of destructors", key_order},
    {"keys: rounds of destructors", key_rounds},
    {"keys: a destructor that waits and starts a thread", key_waits},
    {"keys: deleted meanwhile", key_deleted},
    {"keys: many", key_many},
    {NULL, NULL},
};
