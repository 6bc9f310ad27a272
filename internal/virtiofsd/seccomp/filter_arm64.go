package seccomp

import "golang.org/x/sys/unix"

// auditArch is the value of seccomp_data.arch for this machine's own system calls.
const auditArch = unix.AUDIT_ARCH_AARCH64

// modeCalls are the system calls that can set the mode of a file.
var modeCalls = commonModeCalls
