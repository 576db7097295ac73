//go:build race

package channel

// raceDetector: it needs several times the memory.
const raceDetector = true
