package cli

import "golang.org/x/sync/errgroup"

// atOnce is how many builds and evaluations run at the same time. Each one of nix takes
// some gigabytes of memory.
const atOnce = 4

// inParallel calls do with 0 to n-1, up to atOnce at the same time, and waits for all.
func inParallel(n int, do func(int)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = group.Wait()
}
