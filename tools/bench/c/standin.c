/* A hypervisor that is ready at once and does nothing. */
#include <unistd.h>
int main(void) { return pause(); }
