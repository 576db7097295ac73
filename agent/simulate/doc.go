// Package simulate is a plant on loopback for trying Sluice out and for its
// main demonstration: an MQTT broker with publishing machines, Modbus TCP
// meters, an embedded Kafka, and a link to Kafka that can be cut.
//
// It is linked into a binary of its own, sluice-simulate, so that the servers
// it embeds never get into the agent's binary. Nothing here is used by the
// agent.
//
// The plant keeps a ledger of what it handed over: each MQTT message that the
// broker acknowledged to the machine that published it, and each Modbus answer
// that a meter served. The demonstration runs the real agent between the plant
// and Kafka, cuts the link in the middle, and at the end compares the ledger
// with what the Kafka topics hold.
//
//	machines -> Broker --+                                  +-> Kafka topics
//	   |                 +-> sluice run (a child) -> Link --+        |
//	   |      Meters ----+                                           v
//	   +------- Ledger ------------------------------------------> Compare
package simulate
