package seccomp

import "golang.org/x/sys/unix"

// auditArch is what seccomp_data says of this machine's own system calls.
const auditArch = unix.AUDIT_ARCH_AARCH64

// modeCalls are the system calls that can give a file its mode.
var modeCalls = commonModeCalls
