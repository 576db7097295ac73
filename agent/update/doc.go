// Package update fetches an update bundle for the machine that the agent runs
// on, checks it and hands it to an installer such as RAUC.
//
// A bundle comes from an HTTP server, or in chunks from a partition of a Kafka
// topic, for gateways that reach nothing else. Size and SHA-256 are those of a
// signed command; the installer checks its own signature of the bundle, too.
//
// What was fetched is kept over restarts: a job lives in a folder, as job.json
// and the bundle as far as it has come, until it is installed or given up.
//
//	Update -> job.json -> Run: fetch -> check -> install -> the machine restarts
//	                        ^    |
//	                        +----+ link lost, metered link, restart: from where it was
package update
