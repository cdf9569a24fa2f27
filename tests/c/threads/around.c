/* What else of libc knows threads: C11's, streams, and contexts. */
#include "common.h"
#include <sched.h>
#include <setjmp.h>
#include <threads.h>
#include <ucontext.h>

/* C11's threads. */

static mtx_t mutex;
static cnd_t changed;
static tss_t own;
static once_flag flag = ONCE_FLAG_INIT;
static int count, once;

static void initialises(void) { once++; }

static void destroys(void *value) { say("destroyed %s\n", (char *)value); }

static int adds(void *rounds) {
    call_once(&flag, initialises);
    for (int i = 0; i < (int)(intptr_t)rounds; i++) {
        must(mtx_lock(&mutex));
        count++;
        if (i % 16 == 0) thrd_yield();
        must(mtx_unlock(&mutex));
    }
    return (int)(intptr_t)rounds;
}

static int waits(void *argument) {
    must(mtx_lock(&mutex));
    while (count != 77) must(cnd_wait(&changed, &mutex));
    must(mtx_unlock(&mutex));
    must(tss_set(own, argument));
    thrd_exit(7);
}

static void c11(void) {
    thrd_t threads[8];
    int sum = 0, result;
    must(mtx_init(&mutex, mtx_plain));
    must(cnd_init(&changed));
    must(tss_create(&own, destroys));
    for (int i = 0; i < 8; i++) must(thrd_create(&threads[i], adds, number(200)));
    for (int i = 0; i < 8; i++) {
        must(thrd_join(threads[i], &result));
        sum += result;
    }
    say("%d %d, once %d\n", sum, count, once);
    count = 0;
    must(thrd_create(&threads[0], waits, "what is its own"));
    must(mtx_lock(&mutex));
    count = 77;
    must(cnd_broadcast(&changed));
    must(mtx_unlock(&mutex));
    must(thrd_join(threads[0], &result));
    say("%d\n", result);
    tss_delete(own);
    cnd_destroy(&changed);
    mtx_destroy(&mutex);
}

/* C11's locks among POSIX's threads, which are the same. */

static void *holds(void *argument) {
    must(mtx_lock(&mutex));
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    count++;
    must(mtx_unlock(&mutex));
    return argument;
}

static void *wants(void *argument) {
    gate_open(&inside, 1);
    must(mtx_lock(&mutex));
    count++;
    must(mtx_unlock(&mutex));
    return argument;
}

static void mixed(void) {
    pthread_t threads[3];
    gates();
    must(mtx_init(&mutex, mtx_plain));
    count = 0;
    threads[0] = start(holds, NULL);
    gate_pass(&inside, 1);
    for (int i = 1; i < 3; i++) threads[i] = start(wants, NULL);
    gate_pass(&inside, 2);
    gate_open(&go, 1);
    for (int i = 0; i < 3; i++) must(ended(threads[i]) != NULL);
    say("%d\n", count);
    mtx_destroy(&mutex);
    no_gates();
}

/* Streams. */

static void *prints(void *stream) {
    for (int i = 0; i < 50; i++) {
        fprintf(stream, "%s-%d\n", "a line that is printed by one of many", i);
        sched_yield();
    }
    return NULL;
}

static void streams(void) {
    FILE *stream = tmpfile();
    pthread_t threads[10];
    char line[100];
    long lines = 0, good = 0;
    must(stream == NULL);
    for (int i = 0; i < 10; i++) threads[i] = start(prints, stream);
    for (int i = 0; i < 10; i++) must(ended(threads[i]) != NULL);
    rewind(stream);
    for (; fgets(line, sizeof line, stream) != NULL; lines++)
        good += strncmp(line, "a line that is printed by one of many-", 38) == 0;
    say("%ld lines, %ld good\n", lines, good);
    must(fclose(stream));
}

/* Contexts: stacks that a thread has made itself, on which it waits. */

struct contexts {
    ucontext_t outer, inner;
    int step;
};

static _Thread_local struct contexts *mine;

static void on_a_stack_of_its_own(void) {
    for (int i = 0; i < 3; i++) {
        usleep(1000);
        mine->step++;
        must(swapcontext(&mine->inner, &mine->outer));
    }
}

static void *switches(void *argument) {
    size_t size = 1 << 16;
    struct contexts *own = calloc(1, sizeof *own);
    volatile long sum = (intptr_t)argument;
    mine = own;
    must(getcontext(&own->inner));
    own->inner.uc_stack.ss_sp = malloc(size);
    own->inner.uc_stack.ss_size = size;
    own->inner.uc_link = &own->outer;
    makecontext(&own->inner, on_a_stack_of_its_own, 0);
    for (int i = 0; i < 3; i++) {
        must(swapcontext(&own->outer, &own->inner));
        sum = 10 * sum + own->step;
        sched_yield();
    }
    free(own->inner.uc_stack.ss_sp);
    free(own);
    return number(sum);
}

static void contexts(void) {
    pthread_t threads[5];
    for (int i = 0; i < 5; i++) threads[i] = start(switches, number(i));
    for (int i = 0; i < 5; i++) say("%ld ", (long)(intptr_t)ended(threads[i]));
    say("\n");
}

static void *jumps(void *argument) {
    jmp_buf place;
    volatile long jumped = 0;
    if (setjmp(place) < 10) {
        jumped++;
        usleep(100);
        longjmp(place, (int)jumped);
    }
    return number(jumped + (intptr_t)argument);
}

static void long_jumps(void) {
    pthread_t threads[5];
    for (int i = 0; i < 5; i++) threads[i] = start(jumps, number(100 * i));
    for (int i = 0; i < 5; i++) say("%ld ", (long)(intptr_t)ended(threads[i]));
    say("\n");
}

const struct section around[] = {
    {"C11: threads, locks, and what is their own", c11},
    {"streams", streams},
    {"contexts", contexts},
    {"setjmp and longjmp", long_jumps},
    {"C11: locks among the threads of POSIX", mixed},
    {NULL, NULL},
};
