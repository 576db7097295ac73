// Package config reads, checks and prints the config file of Sluice.
//
// Load reads a YAML file into Config and collects every problem of it in one
// pass, each with file, line, column and dotted path. The structs are the only
// description of the file: field names, defaults, ranges and enums are read
// from the struct tags by the decoder, and together with the doc comments by
// the generator of docs/config.md and schema.json (go test -run Generated
// -update).
//
//	tag       meaning
//	yaml      the key; ",named": a mapping from names to structs, held as a
//	          slice in the order of the file with the key in Name;
//	          ",inherit": empty means what the doc comment says
//	default   the value when the key is left out, written as in the file
//	range     lowest..highest, both included, written as in the file
//	enum      the allowed words, separated by |
//	required  "true": the key must be there and not empty; "unless KEY": or that
//	          key beside it is true
//	like      an example, as written in the file, for problem texts
//
// A Config is read-only after Load and may be used by many goroutines.
package config

import "time"

// Config is the whole file.
type Config struct {
	// Version of the file format.
	Version int `yaml:"version" range:"1..1" required:"true" like:"version: 1"`
	// The gateway itself.
	Agent Agent `yaml:"agent"`
	// What is read, by name. At least one.
	Sources []Source `yaml:"sources,named" required:"true" like:"sources: { line: { mqtt: … } }"`
	// The lanes that events travel in, by name, each with its own sequence and
	// limits. A class that is used and not listed here has the defaults. Class
	// security holds what the agent reports of refused messages and logins; not
	// listed, it has priority 50, keeps 16MiB for 720h and drops the oldest.
	Classes []Class `yaml:"classes,named"`
	// The durable log that all events go through.
	Buffer Buffer `yaml:"buffer"`
	// Rules that select, change and derive events, in order.
	Pipeline []Rule `yaml:"pipeline"`
	// Where events are sent to, by name. At least one that is not removed. Each
	// gets everything that its classes select.
	Uplinks []Uplink `yaml:"uplinks,named" required:"true" like:"uplinks: { central: { kafka: … } }"`
	// Config, status and commands over an uplink.
	Remote *Remote `yaml:"remote"`
	// How the machine updates itself, for the command update.
	Update *Update `yaml:"update"`
	// The HTTP side: status page, health, metrics.
	Observe Observe `yaml:"observe"`
	// The log of the agent itself, on standard error.
	Log Log `yaml:"log"`

	// Removed are the names under uplinks that are declared as gone for good;
	// they are not among Uplinks.
	Removed []string `yaml:"-"`

	text     []byte            // that it was read from
	where    positions         // where each path stands in the file
	fromFile map[string]string // path -> unexpanded text, for values that hold a ${file:…}
	from     *expander         // reads them again
}

// Agent is the gateway's name and limits.
type Agent struct {
	// Name of this gateway, 1 to 64 of A-Z a-z 0-9 . _ -. Left out: the host name.
	ID string `yaml:"id,inherit"`
	// Free labels, used in topics as {label.NAME} and by remote config.
	Labels map[string]string `yaml:"labels"`
	// Folder of the buffer and of the control socket.
	DataDir string `yaml:"data_dir" default:"/var/lib/sluice"`
	// Bounds all queues together and sets the soft limit of the Go runtime.
	MemoryLimit Size `yaml:"memory_limit" default:"64MiB" range:"16MiB..1TiB"`
}

// Class is one lane.
type Class struct {
	Name string `yaml:"-"`
	// Events of a higher priority overtake on the link. Alarms have 100 by custom.
	Priority int `yaml:"priority" default:"10" range:"0..1000"`
	// What is kept while an uplink is away.
	Keep Keep `yaml:"keep"`
	// Delivered events are kept this long for replay. 0: not at all.
	Retain time.Duration `yaml:"retain" default:"0s" range:"0s..87600h"`
	// What happens when keep.bytes is used up or the disk is full. block:
	// sources wait (MQTT acks are withheld, polls slow down). drop_newest,
	// drop_oldest: events are dropped, and a gap record says which; where not even
	// that finds room on the disk, drop_newest waits like block. A list such
	// as [ thin: 1s, thin: 1m, drop_oldest ] thins out what is stored before
	// that: thin: 1s leaves one event of each topic or device for each second,
	// the oldest first, and gap records say which are missing. 1 to 4 steps of
	// 100ms to 24h, each longer than those before, then one word.
	WhenFull WhenFull `yaml:"when_full" default:"block" enum:"block|drop_newest|drop_oldest"`
}

// WhenFull is what a full class does: steps of thinning, if there are any, then
// a word.
type WhenFull struct {
	Thin []time.Duration // of each step, growing; none: the word stands alone
	Word string          // block, drop_newest or drop_oldest
}

// thinStep is one step of the list form of WhenFull.
type thinStep struct {
	// One event of each topic or device is left for each such time.
	Thin time.Duration `yaml:"thin" required:"true" range:"100ms..24h"`
}

// Keep bounds what a class holds back for an uplink that is away.
type Keep struct {
	// Bytes on disk.
	Bytes Size `yaml:"bytes" default:"1GiB" range:"1MiB..1PiB"`
	// Older events expire, and a gap record says which. 0: never.
	Age time.Duration `yaml:"age" default:"0s" range:"0s..87600h"`
}

// Buffer is the durable log.
type Buffer struct {
	// Longest wait for company before a commit. 0: as soon as the disk is free.
	CommitDelay time.Duration `yaml:"commit_delay" default:"20ms" range:"0s..10s"`
	// 0: every event is written. Longer: an event that all uplinks took within
	// this time never touches the flash, and its source is told then that it is
	// taken. Not together with exactly_once or retain.
	SpillAfter time.Duration `yaml:"spill_after" default:"0s" range:"0s..1m"`
	// Bytes of one file of the log.
	Segment Size `yaml:"segment" default:"16MiB" range:"1MiB..512MiB"`
	// Share of the file system that stays free; below it the buffer counts as full,
	// from the next commit on. One segment of each class may be held all the same.
	MinFree Share `yaml:"min_free" default:"5%" range:"0%..90%"`
}

// Rule is one step of the pipeline. It has one of Where, Set, Alert, Anomaly and Window.
type Rule struct {
	// Name of the rule, needed where it derives events.
	Name string `yaml:"name"`
	// The class whose events it sees.
	Class string `yaml:"class" required:"true" like:"class: process"`
	// Expression; events for which it is false are not taken.
	Where string `yaml:"where"`
	// Fields to set, each by an expression.
	Set map[string]string `yaml:"set"`
	// Raises and clears an alert.
	Alert *Alert `yaml:"alert"`
	// Finds values that are far from the usual.
	Anomaly *Anomaly `yaml:"anomaly"`
	// Aggregates over time.
	Window *Window `yaml:"window"`
	// The class that derived events go to.
	To string `yaml:"to"`
	// A local reaction that works without the uplink.
	Do *Reaction `yaml:"do"`
}

// Alert is raised and cleared by expressions.
type Alert struct {
	// Expression that raises it.
	When string `yaml:"when" required:"true" like:"value.temperature > 90"`
	// How long it must hold before.
	For time.Duration `yaml:"for" default:"0s" range:"0s..24h"`
	// Expression that clears it. Left out: as soon as `when` is false.
	Clear string `yaml:"clear"`
}

// Anomaly is a distance from the running mean.
type Anomaly struct {
	// Field of the value to watch.
	Field string `yaml:"field" required:"true" like:"field: vibration"`
	// Expression that tells series apart.
	By string `yaml:"by" default:"key"`
	// Standard deviations.
	Threshold float64 `yaml:"threshold" default:"4" range:"0.1..1000"`
	// Values to learn from before the first verdict.
	Warmup int `yaml:"warmup" default:"100" range:"1..1000000"`
}

// Window aggregates fields over time.
type Window struct {
	// Length of the window.
	Every time.Duration `yaml:"every" required:"true" range:"100ms..24h"`
	// Expression that tells series apart.
	By string `yaml:"by" default:"key"`
	// Functions by field: mean, min, max, sum, count, first, last.
	Fields map[string][]string `yaml:"fields" required:"true" like:"fields: { temperature: [ mean, max ] }"`
}

// Reaction publishes a derived event on the spot.
type Reaction struct {
	// Name of the MQTT source whose connection is used.
	MQTT string `yaml:"mqtt" required:"true" like:"mqtt: line"`
	// Topic, with placeholders.
	Topic string `yaml:"topic" required:"true" like:"topic: alerts/{device}"`
}

// Remote is config, status and commands over Kafka topics.
type Remote struct {
	// Name of the uplink that is used.
	Uplink string `yaml:"uplink" required:"true" like:"uplink: central"`
	// Compacted topic of signed configs.
	ConfigTopic string `yaml:"config_topic" default:"sluice.config"`
	// Compacted topic that each agent reports to.
	StatusTopic string `yaml:"status_topic" default:"sluice.status"`
	// Topic of signed commands.
	CommandTopic string `yaml:"command_topic" default:"sluice.command"`
	// Public keys that may sign, each ed25519:BASE64.
	Trust []string `yaml:"trust" required:"true" like:"trust: [ ed25519:BASE64 ]"`
	// Signatures that a document needs.
	Threshold int `yaml:"threshold" default:"1" range:"1..16"`
	// A new config must prove itself within this time.
	Trial time.Duration `yaml:"trial" default:"2m" range:"10s..1h"`
	// Paths that remote config may never change.
	Locked []string `yaml:"locked"`
}

// Update fetches bundles that a signed command names and hands them to an
// installer. Needs remote, whose uplink reads bundles in topics. Remote config
// never changes this section: it says what is executed.
type Update struct {
	// Program, with an absolute path, and its arguments; without a shell. {file}
	// stands for the bundle. Exit status 0: the machine runs it after its next start.
	Install []string `yaml:"install" required:"true" like:"install: [ /usr/lib/sluice/install, {file} ]"`
	// Folder for a bundle while it is fetched. Left out: update in agent.data_dir.
	Dir string `yaml:"dir,inherit"`
	// Bytes per second of a fetch. 0: unlimited.
	MaxRate Size `yaml:"max_rate" default:"0" range:"0..1TiB"`
	// Whether a metered link is used, too: see metered of the uplink.
	Metered bool `yaml:"metered" default:"false"`
	// How long a bundle is tried to be had.
	GiveUp time.Duration `yaml:"give_up" default:"168h" range:"1h..8760h"`
}

// Observe is the HTTP side.
type Observe struct {
	// Address that HTTP listens on, host:port. "": off.
	HTTP string `yaml:"http" default:"127.0.0.1:9273"`
}

// Log is the agent's own log.
type Log struct {
	// Least level that is written.
	Level string `yaml:"level" default:"info" enum:"debug|info|warn|error"`
	// Form of a line.
	Format string `yaml:"format" default:"text" enum:"text|json"`
}

// TLS of a connection. Relative paths start at the folder of the config file;
// after Load they are resolved.
type TLS struct {
	// PEM file of the authorities to trust. Left out: those of the system.
	CA string `yaml:"ca"`
	// PEM file of the client's certificate; together with key.
	Cert string `yaml:"cert"`
	// PEM file of the client's private key.
	Key string `yaml:"key"`
	// Name that the server's certificate must hold. Left out: the host of the address.
	ServerName string `yaml:"server_name,inherit"`
	// Takes any certificate. Whoever sits on the wire can then read and change everything.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
}
