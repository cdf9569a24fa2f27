/* What C code calls that waits, for tests/monkey_c.rs: compiled as it stands, and once
   with -O2 -D_FORTIFY_SOURCE=2. The lengths come from outside, so that the compiler
   cannot know them, and the buffers' sizes are known to it: then it calls the
   functions that check (__recv_chk and so on). */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOM 64

long c_recv(int fd, char *out, size_t len) {
    char buffer[ROOM];
    ssize_t n = recv(fd, buffer, len, 0);
    if (n > 0) memcpy(out, buffer, n);
    return n;
}

long c_recvfrom(int fd, char *out, size_t len) {
    char buffer[ROOM];
    struct sockaddr_storage from;
    socklen_t from_len = sizeof from;
    ssize_t n = recvfrom(fd, buffer, len, 0, (struct sockaddr *)&from, &from_len);
    if (n > 0) memcpy(out, buffer, n);
    return n;
}

long c_read(int fd, char *out, size_t len) {
    char buffer[ROOM];
    ssize_t n = read(fd, buffer, len);
    if (n > 0) memcpy(out, buffer, n);
    return n;
}

long c_poll(int fd, char *out, size_t len) {
    struct pollfd fds[1] = {{.fd = fd, .events = POLLIN}};
    (void)out;
    return poll(fds, len, -1);
}

long c_send(int fd, char *out, size_t len) { return send(fd, out, len, MSG_NOSIGNAL); }

long c_write(int fd, char *out, size_t len) { return write(fd, out, len); }

long c_accept(int fd, char *out, size_t len) {
    int accepted = accept(fd, NULL, NULL);
    (void)out, (void)len;
    return accepted < 0 ? -1 : close(accepted);
}

long c_connect(int port, char *out, size_t len) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int answer;
    (void)out, (void)len;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    answer = connect(fd, (struct sockaddr *)&to, sizeof to);
    close(fd);
    return answer;
}

long c_nanosleep(int millis, char *out, size_t len) {
    struct timespec time = {.tv_sec = 0, .tv_nsec = millis * 1000000L};
    (void)out, (void)len;
    return nanosleep(&time, NULL);
}

long c_usleep(int millis, char *out, size_t len) {
    (void)out, (void)len;
    return usleep(millis * 1000);
}

long c_sleep(int millis, char *out, size_t len) {
    (void)out, (void)len;
    return sleep((millis + 999) / 1000);
}
