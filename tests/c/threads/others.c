/* Semaphores, locks for readers and writers, barriers, pthread_once, and philosophers. */
#include "common.h"
#include <sched.h>
#include <semaphore.h>

static struct gate inside, go;

static void gates(void) {
    inside = gate_new();
    go = gate_new();
}

static void no_gates(void) {
    gate_free(&inside);
    gate_free(&go);
}

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
    count_threads();
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

/* Barriers. */

static pthread_barrier_t barrier;
static int arrived;

static void *meets(void *argument) {
    long serial = 0;
    for (int i = 1; i <= 20; i++) {
        __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
        int answer = pthread_barrier_wait(&barrier);
        serial += answer == PTHREAD_BARRIER_SERIAL_THREAD;
        must(answer != 0 && answer != PTHREAD_BARRIER_SERIAL_THREAD);
        /* Nobody is past it before all are there. */
        must(__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) < 8 * i);
    }
    return number(serial + (intptr_t)argument);
}

static void barriers(void) {
    pthread_t threads[8];
    long serial = 0;
    arrived = 0;
    say("of nobody: %s\n", word(pthread_barrier_init(&barrier, NULL, 0)));
    must(pthread_barrier_init(&barrier, NULL, 8));
    for (int i = 0; i < 8; i++) threads[i] = start(meets, NULL);
    count_threads();
    for (int i = 0; i < 8; i++) serial += (intptr_t)ended(threads[i]);
    say("serial %ld, arrived %d\n", serial, arrived);
    say("destroy: %s\n", word(pthread_barrier_destroy(&barrier)));
}

static pthread_spinlock_t spinlock;

static void *spins(void *argument) {
    say("trylock: %s\n", word(pthread_spin_trylock(&spinlock)));
    gate_open(&inside, 1);
    must(pthread_spin_lock(&spinlock));
    must(pthread_spin_unlock(&spinlock));
    return argument;
}

/* Held across a wait, which nobody should do; it is spun for. */
static void spinlocks(void) {
    pthread_t thread;
    gates();
    must(pthread_spin_init(&spinlock, PTHREAD_PROCESS_PRIVATE));
    must(pthread_spin_lock(&spinlock));
    thread = start(spins, NULL);
    gate_pass(&inside, 1);
    usleep(2000);
    must(pthread_spin_unlock(&spinlock));
    must(ended(thread) != NULL);
    say("trylock: %s\n", word(pthread_spin_trylock(&spinlock)));
    must(pthread_spin_destroy(&spinlock));
    no_gates();
}

/* pthread_once. */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int initialised;

static void initialises(void) {
    gate_pass(&go, 1);
    initialised++;
}

static void *needs_it(void *argument) {
    gate_open(&inside, 1);
    must(pthread_once(&once, initialises));
    return number(initialised + (intptr_t)argument);
}

static void all_of_them(void) {
    pthread_t threads[6];
    gates();
    for (int i = 0; i < 6; i++) threads[i] = start(needs_it, NULL);
    gate_pass(&inside, 6);
    gate_open(&go, 1);
    for (int i = 0; i < 6; i++) say("%ld ", (long)(intptr_t)ended(threads[i]));
    say("\n");
    no_gates();
}

static pthread_once_t unfinished = PTHREAD_ONCE_INIT;
static int attempts;

static void exits_the_first_time(void) {
    if (attempts++ == 0) pthread_exit(NULL);
}

static void *attempts_it(void *argument) {
    must(pthread_once(&unfinished, exits_the_first_time));
    return argument;
}

/* Who leaves the initialiser by pthread_exit has not initialised it. */
static void exit_in_once(void) {
    must(ended(start(attempts_it, number(1))) != NULL);
    say("second: %ld, ", (long)(intptr_t)ended(start(attempts_it, number(2))));
    say("third: %ld, ", (long)(intptr_t)ended(start(attempts_it, number(3))));
    say("attempts %d\n", attempts);
}

/* Five philosophers, who take the fork with the lower number first. */

static pthread_mutex_t forks[5] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
                                   PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER,
                                   PTHREAD_MUTEX_INITIALIZER};
static int in_use[5], meals[5];

static void *dines(void *seat) {
    int left = (int)(intptr_t)seat, right = (left + 1) % 5;
    int lower = left < right ? left : right, upper = left + right - lower;
    for (int meal = 0; meal < 200; meal++) {
        must(pthread_mutex_lock(&forks[lower]));
        sched_yield();
        must(pthread_mutex_lock(&forks[upper]));
        must(in_use[left]++ + in_use[right]++);
        sched_yield();
        meals[left]++;
        in_use[left]--;
        in_use[right]--;
        must(pthread_mutex_unlock(&forks[upper]));
        must(pthread_mutex_unlock(&forks[lower]));
    }
    return NULL;
}

static void philosophers(void) {
    pthread_t threads[5];
    memset(meals, 0, sizeof meals);
    for (int i = 0; i < 5; i++) threads[i] = start(dines, number(i));
    count_threads();
    for (int i = 0; i < 5; i++) must(ended(threads[i]) != NULL);
    for (int i = 0; i < 5; i++) say("%d ", meals[i]);
    say("\n");
}

const struct section others[] = {
    {"semaphores: to and fro", to_and_fro},
    {"semaphores: seats for three", seats_for_three},
    {"semaphores: answers", semaphore_answers},
    {"rwlocks: answers", rwlock_answers},
    {"rwlocks: readers and writers", readers_and_writers},
    {"rwlocks: writers first", prefers_writers},
    {"barriers", barriers},
    {"spinlocks", spinlocks},
    {"once: all wait for it", all_of_them},
    {"once: left by pthread_exit", exit_in_once},
    {"philosophers", philosophers},
    {NULL, NULL},
};
