package cli

import "golang.org/x/sync/errgroup"

// atOnce is how many builds and evaluations run at a time; each of nix's
// takes some gigabytes.
const atOnce = 4

// inParallel calls do with 0 to n-1, some at a time.
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
