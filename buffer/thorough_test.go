//go:build torture

package buffer

// sparing is 1 where every case of a long series is tried.
const sparing = 1
