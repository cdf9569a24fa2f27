/* Signals and processes. */
#include "common.h"
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* Signals. */

static volatile sig_atomic_t handled;
static pthread_t handled_in;

static void handler(int signal) {
    handled_in = pthread_self();
    handled = signal;
}

static void *signals_itself(void *argument) {
    pthread_t me = pthread_self();
    say("none: %s\n", word(pthread_kill(me, 0)));
    say("no signal: %s\n", word(pthread_kill(me, 999)));
    handled = 0;
    say("a signal: %s", word(pthread_kill(me, SIGUSR1)));
    say(", handled: %d, in it: %d\n", handled == SIGUSR1, pthread_equal(handled_in, me) != 0);
    handled = 0;
    say("raised: %d", raise(SIGUSR1));
    say(", handled: %d, in it: %d\n", handled == SIGUSR1, pthread_equal(handled_in, me) != 0);
    return argument;
}

static void *stays(void *argument) {
    gate_open(&inside, 1);
    gate_pass(&go, 1);
    return argument;
}

static void signals(void) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART}, before;
    pthread_t thread;
    gates();
    must(sigaction(SIGUSR1, &action, &before));
    must(ended(start(signals_itself, NULL)) != NULL);
    say("main\n");
    signals_itself(NULL);
    thread = start(stays, NULL);
    gate_pass(&inside, 1);
    say("none to another: %s\n", word(pthread_kill(thread, 0)));
    say("no signal to another: %s\n", word(pthread_kill(thread, -1)));
    handled = 0;
    say("a signal to another: %s\n", word(pthread_kill(thread, SIGUSR1)));
    while (!handled) sched_yield();
    say("handled\n");
    gate_open(&go, 1);
    must(ended(thread) != NULL);
    must(sigaction(SIGUSR1, &before, NULL));
    no_gates();
}

static sem_t posted;

static void posts(int signal) {
    (void)signal;
    sem_post(&posted);
}

static void *waits_for_the_handler(void *argument) {
    gate_open(&inside, 1);
    must(sem_wait(&posted));
    return argument;
}

static void *raises(void *argument) {
    must(raise(SIGUSR1));
    return argument;
}

static void semaphore_in_handler(void) {
    struct sigaction action = {.sa_handler = posts, .sa_flags = SA_RESTART}, before;
    pthread_t threads[3];
    gates();
    must(sem_init(&posted, 0, 0));
    must(sigaction(SIGUSR1, &action, &before));
    for (int i = 0; i < 3; i++) threads[i] = start(waits_for_the_handler, NULL);
    gate_pass(&inside, 3);
    must(ended(start(raises, NULL)) != NULL);
    must(kill(getpid(), SIGUSR1));
    raises(NULL);
    for (int i = 0; i < 3; i++) must(ended(threads[i]) != NULL);
    say("all three were woken\n");
    must(sigaction(SIGUSR1, &before, NULL));
    must(sem_destroy(&posted));
    no_gates();
}

/* As programs do that have a thread for signals. */
static void *waits_for_signals(void *set) {
    int signal = 0;
    gate_open(&inside, 1);
    must(sigwait(set, &signal));
    say("waited for: %d\n", signal == SIGUSR2);
    return NULL;
}

static void signal_thread(void) {
    sigset_t set, before;
    pthread_t thread;
    gates();
    must(sigemptyset(&set));
    must(sigaddset(&set, SIGUSR2));
    must(pthread_sigmask(SIG_BLOCK, &set, &before));
    thread = start(waits_for_signals, &set);
    gate_pass(&inside, 1);
    must(kill(getpid(), SIGUSR2));
    must(ended(thread) != NULL);
    must(pthread_sigmask(SIG_SETMASK, &before, NULL));
    no_gates();
}

/* Processes. */

static void *forks(void *argument) {
    pthread_t me = pthread_self();
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        say("child: itself: %d\n", pthread_equal(me, pthread_self()) != 0);
        _exit(7);
    }
    must(waitpid(child, &status, 0) != child);
    say("child: %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    say("system: %d\n", WEXITSTATUS(system("exit 4")));
    return argument;
}

static void forked(void) { must(ended(start(forks, NULL)) != NULL); }

static void before_fork(void) { say("before\n"); }

static void in_child(void) {
    say("child\n");
    gate_open(&inside, 1);
}

static void in_parent(void) {
    gate_pass(&inside, 1);
    say("parent\n");
}

static void *forks_only(void *argument) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) _exit(0);
    must(waitpid(child, &status, 0) != child);
    return argument;
}

/* Once only, and last: they stay. */
static void at_fork(void) {
    inside = gate_new();
    must(pthread_atfork(before_fork, in_parent, in_child));
    must(ended(start(forks_only, NULL)) != NULL);
}

struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    sem_t semaphore;
    pthread_barrier_t barrier;
    long total, turn;
};

static struct shared *shared_new(void) {
    int protection = PROT_READ | PROT_WRITE;
    struct shared *shared = mmap(NULL, sizeof *shared, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t of_mutex;
    pthread_condattr_t of_cond;
    pthread_barrierattr_t of_barrier;
    must(shared == MAP_FAILED);
    must(pthread_mutexattr_init(&of_mutex));
    must(pthread_mutexattr_setpshared(&of_mutex, PTHREAD_PROCESS_SHARED));
    must(pthread_mutex_init(&shared->mutex, &of_mutex));
    must(pthread_condattr_init(&of_cond));
    must(pthread_condattr_setpshared(&of_cond, PTHREAD_PROCESS_SHARED));
    must(pthread_cond_init(&shared->changed, &of_cond));
    must(pthread_barrierattr_init(&of_barrier));
    must(pthread_barrierattr_setpshared(&of_barrier, PTHREAD_PROCESS_SHARED));
    must(pthread_barrier_init(&shared->barrier, &of_barrier, 2));
    must(sem_init(&shared->semaphore, 1, 0));
    return shared;
}

/* Takes every second turn, and the semaphore each time. */
static void take_turns(struct shared *shared, int mine) {
    for (int i = 0; i < 200; i++) {
        must(pthread_mutex_lock(&shared->mutex));
        while (shared->turn % 2 != mine)
            must(pthread_cond_wait(&shared->changed, &shared->mutex));
        shared->turn++;
        shared->total += mine + 1;
        must(pthread_cond_broadcast(&shared->changed));
        must(pthread_mutex_unlock(&shared->mutex));
        if (mine)
            must(sem_post(&shared->semaphore));
        else
            must(sem_wait(&shared->semaphore));
    }
    (void)pthread_barrier_wait(&shared->barrier);
}

static void *is_the_parent(void *shared) {
    take_turns(shared, 0);
    return NULL;
}

static void between_processes(void) {
    struct shared *shared = shared_new();
    pthread_t thread = start(is_the_parent, shared);
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        take_turns(shared, 1);
        _exit(0);
    }
    must(ended(thread) != NULL);
    must(waitpid(child, &status, 0) != child);
    say("child: %d, turns %ld, total %ld\n", status, shared->turn, shared->total);
    must(munmap(shared, sizeof *shared));
}

const struct section processes[] = {
    {"signals", signals},
    {"signals: a handler that posts a semaphore", semaphore_in_handler},
    {"signals: a thread that waits for them", signal_thread},
    {"fork and system", forked},
    {"locks between processes", between_processes},
    {"handlers of fork", at_fork},
    {NULL, NULL},
};
