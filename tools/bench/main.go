// Command bench measures the cost of this project's programs, and of other means to
// the same end in the same run, in a container host. It prints medians and their
// ratios, without limits. Its arguments select taps, starts, shares or units; without
// arguments it measures all of them.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const assets = "/usr/lib/microvm-test"

func main() {
	log.SetFlags(0)
	for _, part := range []struct {
		name    string
		measure func()
	}{{"taps", taps}, {"starts", starts}, {"shares", shares}, {"units", units}} {
		if len(os.Args) == 1 || slices.Contains(os.Args[1:], part.name) {
			part.measure()
		}
	}
}

// sh runs a script and returns its output. If the script fails, the benchmark ends.
func sh(script string) string {
	out, err := exec.Command("/bin/sh", "-eu", "-c", script).CombinedOutput()
	if err != nil {
		log.Fatalf("%s\n%v: %s", script, err, out)
	}
	return string(out)
}

// spawn runs a program and returns how long it took.
func spawn(words ...string) time.Duration {
	began := time.Now()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		log.Fatalf("%s: %v: %s", strings.Join(words, " "), err, out)
	}
	return time.Since(began)
}

// median returns the median of n measurements.
func median(n int, measure func() time.Duration) time.Duration {
	times := make([]time.Duration, n)
	for i := range times {
		times[i] = measure()
	}
	slices.Sort(times)
	return times[n/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%8.1f ms", float64(d.Microseconds())/1000) }

const ipScript = `#!/bin/sh
set -e
i=0
while [ $i -lt $2 ]; do
  if [ $1 = up ]; then
    ip tuntap add vm-$i mode tap user microvm vnet_hdr $3
    ip link set vm-$i up
  else
    ip link delete vm-$i
  fi
  i=$((i + 1))
done
`

// taps measures up and down together, for our program, for a script with ip(8), and
// for a static C program with the bare ioctls.
func taps() {
	script := "/run/taps.sh"
	if err := os.WriteFile(script, []byte(ipScript), 0o755); err != nil {
		log.Fatal(err)
	}
	fmt.Println("taps, up + down, wall clock     microvm        script            C   script/microvm")
	for _, multi := range []bool{false, true} {
		for _, n := range []int{1, 8, 64} {
			name := fmt.Sprintf("taps%d%t", n, multi)
			install(name, n, multi)
			sh("/usr/lib/microvm/microvm-set-booted up " + name)
			helper := "/usr/lib/microvm/microvm-tap-interfaces"
			ours := median(7, func() time.Duration { return spawn(helper, "up", name) + spawn(helper, "down", name) })
			sh("/usr/lib/microvm/microvm-set-booted down " + name)
			label := fmt.Sprintf("%d taps", n)
			words := []string{fmt.Sprint(n)}
			if multi {
				label += " multi_queue"
				words = append(words, "multi_queue")
			}
			by := func(program string) time.Duration {
				return median(3, func() time.Duration {
					return spawn(append([]string{program, "up"}, words...)...) + spawn(append([]string{program, "down"}, words...)...)
				})
			}
			byScript, byC := by(script), by(assets+"/taps")
			fmt.Printf("%-28s %s  %s  %s   %.1f\n", label, ms(ours), ms(byScript), ms(byC), float64(byScript)/float64(ours))
		}
	}
}

// install installs a package of text files, as microvm.nix makes them. Its hypervisor
// is the stand-in, because QEMU does not support 64 interfaces.
func install(name string, taps int, multi bool) {
	pkg := filepath.Join("/root/bench", name)
	sh("mkdir -p " + pkg + "/bin " + pkg + "/share/microvm && cp " + assets + "/standin " + pkg + "/bin/microvm-run")
	var ids strings.Builder
	for i := range taps {
		fmt.Fprintf(&ids, "vm-%d\n", i)
	}
	flags := "vnet_hdr\n"
	if multi {
		flags += "multi_queue\n"
	}
	files := map[string]string{"hypervisor": "none\n", "tap-flags": flags}
	if taps > 0 {
		files["tap-interfaces"] = ids.String()
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(pkg, "share/microvm", file), []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	sh("chmod 755 /root; install-microvm -p " + pkg + " " + name)
}

const loneUnit = `[Service]
Type=exec
ExecStart=` + assets + `/standin
`

// starts measures systemctl start until the units are active, for one VM without
// helpers and for a hundred, and for units that run the same stand-in directly.
func starts() {
	const many = 100
	if err := os.WriteFile("/run/systemd/system/lone@.service", []byte(loneUnit), 0o644); err != nil {
		log.Fatal(err)
	}
	names := make([]string, many)
	for i := range names {
		names[i] = fmt.Sprintf("v%d", i)
		install(names[i], 0, false)
	}
	sh("systemctl daemon-reload")
	fmt.Println("\nsystemctl start until active        microvm@    lone unit   microvm/lone")
	for _, n := range []int{1, many} {
		measure := func(template string) time.Duration {
			words := []string{"systemctl", "start"}
			for _, name := range names[:n] {
				words = append(words, template+"@"+name)
			}
			rounds := 5
			if n == 1 {
				rounds = 21
			}
			return median(rounds, func() time.Duration {
				took := spawn(words...)
				sh("systemctl stop '" + template + "@*'")
				return took
			})
		}
		lone := measure("lone")
		ours := measure("microvm")
		fmt.Printf("%-28s %s  %s   %.2f\n", fmt.Sprintf("%d VMs", n), ms(ours), ms(lone), float64(ours)/float64(lone))
	}
	sh("systemctl start microvm@v0")
	time.Sleep(time.Second) // until short-lived processes have exited
	out, _ := exec.Command("pgrep", "-c", "-f", "lib/microvm/microvm-").Output()
	fmt.Printf("\nprocesses of ours while one VM runs: %s", out)
}
