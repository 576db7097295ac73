//go:build !torture

package buffer

// sparing has long series try one case in so many; make torture tries all.
const sparing = 10
