package seccomp

import "golang.org/x/sys/unix"

// auditArch is the value of seccomp_data.arch for this machine's own system calls.
const auditArch = unix.AUDIT_ARCH_X86_64

// modeCalls are the system calls that can set the mode of a file.
var modeCalls = append([]modeCall{
	{nr: unix.SYS_CHMOD, mode: 1},
	{nr: unix.SYS_CREAT, mode: 1},
	{nr: unix.SYS_MKNOD, mode: 1},
	{nr: unix.SYS_OPEN, mode: 2, flags: 1, hasFlags: true},
}, commonModeCalls...)
