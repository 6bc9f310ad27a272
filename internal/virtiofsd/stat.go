package virtiofsd

import "syscall"

// unixStat is what package os fills into FileInfo.Sys.
type unixStat = syscall.Stat_t
