// Package seccomp prevents the programs that a thread starts from setting the
// set-user-ID and set-group-ID bits of files.
//
// A guest is root in its share. If it made a file there set-user-ID root, any user of
// the host who ran the file would become root, even long after the VM has been removed,
// so a mount option does not help. The virtiofsd of a confined share therefore runs
// under a seccomp filter, seccomp(2), which reports every call with such a mode to the
// supervisor. Set-group-ID on a directory, where it only passes on the group, is
// allowed; everything else is refused and logged.
package seccomp
