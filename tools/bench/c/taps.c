/* taps up|down N [multi_queue]: creates and raises, or deletes, the taps vm-0 … vm-(N-1) with the
 * bare ioctls, one after the other: the minimum that a program can do this way. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(int result, const char *what) {
  if (result < 0) {
    perror(what);
    exit(1);
  }
}

int main(int argc, char **argv) {
  if (argc != 3 && argc != 4) return 2;
  int up = !strcmp(argv[1], "up"), s = socket(AF_INET, SOCK_DGRAM, 0);
  for (int i = 0; i < atoi(argv[2]); i++) {
    struct ifreq r;
    memset(&r, 0, sizeof r);
    snprintf(r.ifr_name, IFNAMSIZ, "vm-%d", i);
    int fd = open("/dev/net/tun", O_RDWR);
    check(fd, "open /dev/net/tun");
    r.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (argc == 4 ? IFF_MULTI_QUEUE : 0);
    check(ioctl(fd, TUNSETIFF, &r), "TUNSETIFF");
    check(ioctl(fd, TUNSETPERSIST, up), "TUNSETPERSIST");
    if (up) {
      check(ioctl(fd, TUNSETOWNER, 1000), "TUNSETOWNER");
      r.ifr_flags = IFF_UP;
      check(ioctl(s, SIOCSIFFLAGS, &r), "SIOCSIFFLAGS");
    }
    close(fd);
  }
  return 0;
}
