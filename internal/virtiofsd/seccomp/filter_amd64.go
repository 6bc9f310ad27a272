package seccomp

import "golang.org/x/sys/unix"

// auditArch is what seccomp_data says of this machine's own system calls.
const auditArch = unix.AUDIT_ARCH_X86_64

// modeCalls are the system calls that can give a file its mode.
var modeCalls = append([]modeCall{
	{nr: unix.SYS_CHMOD, mode: 1},
	{nr: unix.SYS_CREAT, mode: 1},
	{nr: unix.SYS_MKNOD, mode: 1},
	{nr: unix.SYS_OPEN, mode: 2, flags: 1, hasFlags: true},
}, commonModeCalls...)
