/* A stand-in for a hypervisor: it is ready at once and does nothing. */
#include <unistd.h>
int main(void) { return pause(); }
