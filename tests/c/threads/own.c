/* What is a thread's own: its name, attributes, stack and variables. */
#include "common.h"
#include <limits.h>
#include <sys/mman.h>

/* Names. */

static void *has_a_name(void *argument) {
    char name[16] = "?";
    say("set: %s\n", word(pthread_setname_np(pthread_self(), "fifteen bytes..")));
    say("set: %s\n", word(pthread_setname_np(pthread_self(), "sixteen bytes...")));
    say("get: %s", word(pthread_getname_np(pthread_self(), name, sizeof name)));
    say(" \"%s\"\n", name);
    say("get: %s\n", word(pthread_getname_np(pthread_self(), name, 15)));
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    say("get: %s", word(pthread_getname_np(pthread_self(), name, sizeof name)));
    say(" \"%s\"\n", name);
    return argument;
}

static void names(void) {
    char before[16], name[16] = "?";
    pthread_t thread;
    gates();
    must(pthread_getname_np(pthread_self(), before, sizeof before));
    thread = start(has_a_name, NULL);
    gate_pass(&inside, 1);
    must(pthread_getname_np(thread, name, sizeof name));
    say("from outside: \"%s\"\n", name);
    say("set: %s\n", word(pthread_setname_np(thread, "")));
    must(pthread_getname_np(thread, name, sizeof name));
    say("from outside: \"%s\"\n", name);
    say("set: %s\n", word(pthread_setname_np(thread, "from outside")));
    gate_open(&go, 1);
    must(ended(thread) != NULL);
    must(pthread_getname_np(pthread_self(), name, sizeof name));
    say("main's is what it was: %d\n", strcmp(name, before) == 0);
    no_gates();
}

/* Attributes and stacks. */

static int is_on(const pthread_attr_t *attributes, const void *at, size_t least) {
    void *low;
    size_t size;
    must(pthread_attr_getstack(attributes, &low, &size));
    return (const char *)at >= (char *)low && (const char *)at < (char *)low + size &&
           size >= least;
}

static void *looks_at_itself(void *least) {
    pthread_attr_t attributes;
    size_t guard = 0;
    int state;
    must(pthread_getattr_np(pthread_self(), &attributes));
    must(pthread_attr_getguardsize(&attributes, &guard));
    must(pthread_attr_getdetachstate(&attributes, &state));
    say("on its stack: %d, ", is_on(&attributes, &attributes, (size_t)least));
    say("guarded: %d, joinable: %d\n", guard > 0, state == PTHREAD_CREATE_JOINABLE);
    must(pthread_attr_destroy(&attributes));
    return NULL;
}

static void with_stack(size_t size, void *(*function)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    int answer;
    must(pthread_attr_init(&attributes));
    answer = pthread_attr_setstacksize(&attributes, size);
    say("%zu bytes: %s\n", size, word(answer));
    if (answer == 0) {
        answer = pthread_create(&thread, &attributes, function, argument);
        if (answer == 0) must(ended(thread) != NULL);
        say("%zu bytes, create: %s\n", size, word(answer));
    }
    must(pthread_attr_destroy(&attributes));
}

static void stack_sizes(void) {
    size_t sizes[] = {PTHREAD_STACK_MIN, 65536, 102400, 1 << 20, 32 << 20};
    for (int i = 0; i < 5; i++) with_stack(sizes[i], looks_at_itself, number(sizes[i]));
    with_stack(PTHREAD_STACK_MIN - 1, looks_at_itself, NULL);
    with_stack(0, looks_at_itself, NULL);
    with_stack((size_t)1 << 50, looks_at_itself, NULL);
    with_stack(SIZE_MAX / 2 & -4096, looks_at_itself, NULL);
    looks_at_itself(NULL);
}

static __attribute__((noinline)) long deep(long left) {
    volatile char frame[4096];
    frame[left % 4096] = 1;
    return left == 0 ? 0 : deep(left - 1) + frame[left % 4096];
}

static void *goes_deep(void *levels) {
    say("levels: %ld\n", deep((intptr_t)levels));
    return NULL;
}

static void deep_stacks(void) {
    with_stack(64 << 20, goes_deep, number(14000));
    with_stack(1 << 20, goes_deep, number(200));
    must(ended(start(goes_deep, number(400))) != NULL);
}

static void *is_here(void *at) {
    char here;
    *(void **)at = &here;
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    return NULL;
}

static void seen_from_outside(void) {
    pthread_attr_t attributes;
    size_t size = 204800;
    void *at;
    pthread_t thread;
    gates();
    must(pthread_attr_init(&attributes));
    must(pthread_attr_setstacksize(&attributes, size));
    must(pthread_create(&thread, &attributes, is_here, &at));
    must(pthread_attr_destroy(&attributes));
    gate_pass(&inside, 1);
    must(pthread_getattr_np(thread, &attributes));
    say("on its stack: %d, main: %d\n", is_on(&attributes, at, size),
        is_on(&attributes, &attributes, 0));
    must(pthread_attr_destroy(&attributes));
    gate_open(&go, 1);
    must(ended(thread) != NULL);
    no_gates();
}

/* On memory of the program's own. */
static void own_stack(void) {
    size_t size = 1 << 18;
    int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *memory = mmap(NULL, size, protection, flags, -1, 0);
    pthread_attr_t attributes;
    void *at;
    pthread_t thread;
    must(memory == MAP_FAILED);
    gates();
    must(pthread_attr_init(&attributes));
    say("too small: %s\n", word(pthread_attr_setstack(&attributes, memory, 100)));
    must(pthread_attr_setstack(&attributes, memory, size));
    say("create: %s\n", word(pthread_create(&thread, &attributes, is_here, &at)));
    gate_pass(&inside, 1);
    say("on it: %d\n", (char *)at >= memory && (char *)at < memory + size);
    gate_open(&go, 1);
    must(ended(thread) != NULL);
    must(pthread_attr_destroy(&attributes));
    must(munmap(memory, size));
    no_gates();
}

/* Variables. */

static __thread int zero;
static __thread long five = 5;
static __thread char text[100] = "as it is at first";
static __thread int in_place __attribute__((tls_model("initial-exec"))) = 9;
static __thread struct {
    char bytes[200];
} aligned __attribute__((aligned(64)));

static void *has_its_own(void *argument) {
    int me = (int)(intptr_t)argument, good;
    good = zero == 0 && five == 5 && in_place == 9 && aligned.bytes[199] == 0 &&
           strcmp(text, "as it is at first") == 0 && (uintptr_t)&aligned % 64 == 0;
    zero = five = in_place = aligned.bytes[199] = errno = me;
    snprintf(text, sizeof text, "of %d", me);
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    /* errno is left alone by what succeeds. */
    good = good && errno == me && zero == me && five == me && in_place == me &&
           aligned.bytes[199] == me && atoi(text + 3) == me;
    return number(good);
}

static void variables(void) {
    pthread_t threads[50];
    long good = 0;
    gates();
    five = 55;
    for (int i = 0; i < 50; i++) threads[i] = start(has_its_own, number(i + 1));
    gate_pass(&inside, 50);
    gate_open(&go, 50);
    for (int i = 0; i < 50; i++) good += (intptr_t)ended(threads[i]);
    say("%ld of 50, main's: %d %ld %d \"%s\"\n", good, zero, five, in_place, text);
    five = 5;
    no_gates();
}

const struct section own[] = {
    {"names", names},
    {"stack sizes", stack_sizes},
    {"deep stacks", deep_stacks},
    {"a stack seen from outside", seen_from_outside},
    {"a stack of the program's own", own_stack},
    {"variables and errno", variables},
    {NULL, NULL},
};
