/* A slow link between two network namespaces, for kernels that have no netem.
 *
 *     link NEAR FAR RATE_BITS DELAY_US LOSS_PPM QUEUE_BYTES SEED
 *
 * NEAR and FAR are files such as /run/netns/NAME. In each, a TUN device "slow" is opened; the caller gives it its address and
 * sets it up once "ready" is printed. Packets wait their turn at RATE_BITS a second behind at most QUEUE_BYTES, then DELAY_US;
 * of those from NEAR to FAR, LOSS_PPM of a million vanish. A line on standard input is answered by the counters, as JSON; its
 * end is the end. One thread, asleep when there is nothing to do; SEED makes the losses the same in every run.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_PACKET 2048
#define NUM_SLOTS 8192
#define BATCH 64

struct packet {
    uint64_t due_ns;
    uint32_t num_bytes;
    uint8_t bytes[MAX_PACKET];
};

/* One direction: packets leave in the order they came, so a ring is enough. free_ns: when the wire is next idle. */
struct direction {
    int from, to;
    uint64_t free_ns, loss_ppm;
    uint64_t num_passed, num_lost, num_overflowed, num_passed_bytes;
    uint32_t head, count;
    struct packet *ring;
};

static uint64_t rate_bits, delay_ns, queue_bytes, noise;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t number(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || end == text) {
        fprintf(stderr, "not a number: %s\n", text);
        exit(2);
    }
    return value;
}

/* xorshift64* */
static int is_lost(uint64_t loss_ppm)
{
    noise ^= noise >> 12;
    noise ^= noise << 25;
    noise ^= noise >> 27;
    return ((noise * 0x2545F4914F6CDD1Du) >> 33) % 1000000u < loss_ppm;
}

static int open_tun(const char *namespace_path)
{
    int namespace = open(namespace_path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET) < 0)
        fail(namespace_path);
    close(namespace);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0)
        fail("/dev/net/tun");
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    strcpy(request.ifr_name, "slow");
    if (ioctl(tun, TUNSETIFF, &request) < 0)
        fail("TUNSETIFF");
    return tun;
}

/* Takes what the device has, a batch at most, so that the other direction and the clock have their turn. */
static void take(struct direction *way)
{
    for (int taken = 0; taken < BATCH; taken++) {
        uint8_t spare[MAX_PACKET];
        int is_full = way->count == NUM_SLOTS;
        struct packet *slot = &way->ring[(way->head + way->count) % NUM_SLOTS];
        ssize_t num_bytes = read(way->from, is_full ? spare : slot->bytes, MAX_PACKET);
        if (num_bytes <= 0)
            return;
        uint64_t now = now_ns();
        uint64_t start = way->free_ns > now ? way->free_ns : now;
        if (is_lost(way->loss_ppm)) {
            way->num_lost++;
        } else if (is_full || (start - now) * rate_bits / 8 / 1000000000u + (uint64_t)num_bytes > queue_bytes) {
            way->num_overflowed++;
        } else {
            way->free_ns = start + (uint64_t)num_bytes * 8u * 1000000000u / rate_bits;
            slot->due_ns = way->free_ns + delay_ns;
            slot->num_bytes = (uint32_t)num_bytes;
            way->count++;
        }
    }
}

static void deliver(struct direction *way, uint64_t now)
{
    while (way->count && way->ring[way->head].due_ns <= now) {
        struct packet *packet = &way->ring[way->head];
        if (write(way->to, packet->bytes, packet->num_bytes) == (ssize_t)packet->num_bytes) {
            way->num_passed++;
            way->num_passed_bytes += packet->num_bytes;
        }
        way->head = (way->head + 1) % NUM_SLOTS;
        way->count--;
    }
}

static void set_timer(int timer, const struct direction *ways)
{
    uint64_t next = 0;
    for (int i = 0; i < 2; i++)
        if (ways[i].count && (!next || ways[i].ring[ways[i].head].due_ns < next))
            next = ways[i].ring[ways[i].head].due_ns;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(next / 1000000000u), .tv_nsec = (long)(next % 1000000000u)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0)
        fail("timerfd_settime");
}

static void tell(const struct direction *ways)
{
    static const char *names[] = {"down", "up"};
    for (int i = 0; i < 2; i++)
        printf("%s\"%s\": {\"passed\": %llu, \"passed_bytes\": %llu, \"lost\": %llu, \"overflowed\": %llu}%s", i ? ", " : "{",
               names[i], (unsigned long long)ways[i].num_passed, (unsigned long long)ways[i].num_passed_bytes,
               (unsigned long long)ways[i].num_lost, (unsigned long long)ways[i].num_overflowed, i ? "}\n" : "");
    fflush(stdout);
}

static void watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

int main(int argc, char **argv)
{
    if (argc != 8) {
        fprintf(stderr, "usage: link NEAR FAR RATE_BITS DELAY_US LOSS_PPM QUEUE_BYTES SEED\n");
        return 2;
    }
    rate_bits = number(argv[3]);
    delay_ns = number(argv[4]) * 1000u;
    queue_bytes = number(argv[6]);
    noise = number(argv[7]) * 2u + 1u;
    if (!rate_bits) {
        fprintf(stderr, "a link needs a rate\n");
        return 2;
    }
    int near = open_tun(argv[1]), far = open_tun(argv[2]);
    struct direction ways[2] = {{.from = near, .to = far, .loss_ppm = number(argv[5])}, {.from = far, .to = near}};
    for (int i = 0; i < 2; i++)
        if (!(ways[i].ring = calloc(NUM_SLOTS, sizeof(struct packet))))
            fail("calloc");
    int epoll = epoll_create1(EPOLL_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (epoll < 0 || timer < 0)
        fail("epoll or timerfd");
    watch(epoll, near);
    watch(epoll, far);
    watch(epoll, timer);
    watch(epoll, STDIN_FILENO);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[4];
        int num_events = epoll_wait(epoll, events, 4, -1);
        if (num_events < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < num_events; i++) {
            uint64_t expirations;
            char line[64];
            if (events[i].data.fd == timer) {
                if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                    fail("timer");
            } else if (events[i].data.fd == STDIN_FILENO) {
                if (read(STDIN_FILENO, line, sizeof line) <= 0)
                    return 0;
                tell(ways);
            } else {
                take(&ways[events[i].data.fd == far]);
            }
        }
        uint64_t now = now_ns();
        deliver(&ways[0], now);
        deliver(&ways[1], now);
        set_timer(timer, ways);
    }
}
