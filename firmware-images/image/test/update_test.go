//go:build images

package test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// gateway is a machine with the image of tests, at work for a plant.
type gateway struct {
	*machine
	plant  *plant
	remote *remote
}

// trialEnv makes trials short, and those shorter that are to fail: the emulated
// machine is slow, the tests are many.
const (
	trialEnv     = "SLUICE_TRIAL_FOR=5s\n"
	failingTrial = "SLUICE_TRIAL_FOR=5s\nSLUICE_TRIAL_WITHIN=75s\n"
)

func newGateway(t testing.TB, trialEnv string) *gateway {
	t.Helper()
	return newGatewayOf(t, trialEnv, edk2)
}

// newGatewayOf is one with another firmware.
func newGatewayOf(t testing.TB, trialEnv, uefi string) *gateway {
	t.Helper()
	g := &gateway{newMachine(t, filepath.Join(made(t), "disk.img")), newPlant(t), newRemote(t)}
	g.uefi = uefi
	g.provision(map[string]string{"sluice.yaml": g.plant.config(), "trial.env": trialEnv, "test-port": g.remote.port()})
	g.plant.publish(500 * time.Millisecond)
	g.on()
	g.boots("A", "is good")
	g.plant.arrives(1)
	g.plant.counts.Store(true)
	return g
}

// boots waits until the slot has started and the judge has said so.
func (g *gateway) boots(slot, verdict string) {
	g.t.Helper()
	if got := g.started(); got != slot {
		g.t.Fatalf("slot %s starts, want %s", got, slot)
	}
	if said := g.judged(); !strings.HasPrefix(said, "slot "+slot) || !strings.Contains(said, verdict) {
		g.t.Fatalf("the judge says %q, want slot %s %s", said, slot, verdict)
	}
}

// installs brings the bundle to the machine and has RAUC install it.
func (g *gateway) installs(bundle string) {
	g.t.Helper()
	if said, status := g.install(bundle); status != 0 {
		g.t.Fatalf("install %s: exit %d\n%s", bundle, status, said)
	}
}

func (g *gateway) install(bundle string) (string, int) {
	g.t.Helper()
	return g.remote.do(g.machine, g.script(bundle, "rauc install"))
}

// script fetches the bundle and hands it to the installer.
func (g *gateway) script(bundle, installer string) string {
	return "cd /var/lib/rauc; wget -q -O bundle " + g.remote.url(bundle) + "; " + installer + " $PWD/bundle; s=$?; rm bundle; (exit $s)"
}

// refuses wants the bundle to be refused by the agent's installer with the words,
// and with those alone, and nothing changed.
func (g *gateway) refuses(bundle, words string) {
	g.t.Helper()
	before := g.show()
	said, status := g.remote.do(g.machine, g.script(bundle, "/usr/lib/sluice/install"))
	if status == 0 || !strings.Contains(said, words) {
		g.t.Errorf("install %s: exit %d, want a refusal with %q\n%s", bundle, status, words, said)
	}
	if own := strings.Contains(words, "older"); strings.Contains(said, "refused: ") != own {
		g.t.Errorf("install %s: the image's own refusal is told %v, want %v\n%s", bundle, !own, own, said)
	}
	if after := g.show(); !strings.Contains(after, "trial=none") || strings.Fields(after)[1] != strings.Fields(before)[1] {
		g.t.Errorf("after a refused %s the state is %s, was %s", bundle, after, before)
	}
	why, _, _ := strings.Cut(said, "test: end")
	g.t.Logf("%s: refused: %q", bundle, strings.TrimSpace(why))
}

// show is the boot state in words, and the machine's name and id.
func (g *gateway) show() string {
	g.t.Helper()
	said, _ := g.remote.do(g.machine, `echo "[[$(/usr/lib/sluice/bootstate show | tr '\n' ' ')name=$(cat /proc/sys/kernel/hostname) id=$(cat /etc/machine-id)]]"`)
	_, said, _ = strings.Cut(said, "[[")
	said, _, _ = strings.Cut(said, "]]")
	return said
}

func (g *gateway) restart() { g.remote.tell("systemctl reboot") }

// cuts the power n times, each at a random moment of a boot.
func (g *gateway) quickCuts(n int, longest time.Duration) {
	g.t.Helper()
	g.cut()
	for range n {
		g.on()
		g.started()
		time.Sleep(rand.N(longest))
		g.cut()
	}
}

// The whole life: to the other slot and back, with all that has to be refused
// in between, and power cuts in a row, which must not bring the old slot back.
func TestUpdateThereAndBack(t *testing.T) {
	g := newGateway(t, trialEnv)
	first := g.show()
	g.refuses("foreign", "signature verification failed")
	g.refuses("tampered", "rror")
	g.refuses("board", "Compatible mismatch")
	started := time.Now()
	g.installs("good")
	t.Logf("fetched and installed in %.0f s", time.Since(started).Seconds())
	g.restart()
	g.boots("B", "good now")
	g.refuses("older", "older than")
	g.refuses("foreign", "signature verification failed") // and not in the words that the last one was refused with
	if got, want := g.show(), "good=B trial=none"; !strings.Contains(got, want) || !strings.Contains(got, "floor=0.2.0") {
		t.Errorf("state %s, want %s floor=0.2.0", got, want)
	}
	if _, name, _ := strings.Cut(first, "name="); !strings.HasSuffix(g.show(), name) || len(name) < 40 {
		t.Errorf("name and machine id were %s, are %s", name, g.show())
	}

	before := g.file("tries.env") + g.file("boot1.env")
	g.quickCuts(5, 8*time.Second)
	if after := g.file("tries.env") + g.file("boot1.env"); after != before {
		t.Errorf("cuts of a good slot changed the boot state:\n%s\nwas\n%s", after, before)
	}
	g.on()
	g.boots("B", "is good")

	g.installs("next")
	g.restart()
	g.boots("A", "good now")
	if got := g.show(); !strings.Contains(got, "good=A trial=none") || !strings.Contains(got, "floor=0.3.0") {
		t.Errorf("state %s, want good=A floor=0.3.0", got)
	}
	g.plant.verdict(sluice(t))
}

// Half a bundle is refused and leaves all as it was, and the next try succeeds.
func TestNetworkLostWhileInstalling(t *testing.T) {
	g := newGateway(t, trialEnv)
	g.remote.served.Store(0)
	g.remote.stopped.Store(9 << 20)
	if said, status := g.install("good"); status == 0 {
		t.Fatalf("half a bundle was installed\n%s", said)
	}
	if got := g.show(); !strings.Contains(got, "good=A trial=none") {
		t.Errorf("state %s, want good=A trial=none", got)
	}
	g.cut()
	g.on()
	g.boots("A", "is good")
	g.remote.stopped.Store(0)
	g.installs("good")
	g.restart()
	g.boots("B", "good now")
	g.plant.verdict(sluice(t))
}

// Whatever an update breaks, three starts later the old slot is at work again,
// and says which one failed. If GRUB cannot load the new one, it is so at once. One
// machine takes them all, one after the other, and loses nothing.
func TestBrokenUpdatesRollBack(t *testing.T) {
	g := newGateway(t, failingTrial)
	for _, broken := range []string{"kernel", "emergency", "agent", "cmdline", "uplink", "hang"} {
		starts := 3
		if broken == "kernel" {
			starts = 1
		}
		if !t.Run(broken, func(t *testing.T) { g.rollsBack(t, broken, starts) }) {
			return // what it has left is no machine for the next one
		}
	}
	g.plant.verdict(sluice(t))
}

func (g *gateway) rollsBack(t *testing.T, broken string, starts int) {
	whole := g.machine.t
	g.machine.t, g.plant.t = t, t
	defer func() { g.machine.t, g.plant.t = whole, whole }()
	g.installs(broken)
	g.restart()
	began := time.Now()
	tries := g.rolledBack()
	if tries != starts {
		t.Errorf("slot B was started %d times, want %d", tries, starts)
	}
	g.wait(`trial: slot B failed its trial; slot A goes on`)
	if said := g.judged(); !strings.HasPrefix(said, "slot A, version 0.1.0, is good") {
		t.Errorf("the judge says %q", said)
	}
	t.Logf("%s: back at slot A after %d starts of B, %.0f s", broken, tries, time.Since(began).Seconds())
	if got := g.show(); !strings.Contains(got, "good=A trial=none") || !strings.Contains(got, "bad=B") || !strings.Contains(got, "floor=0.1.0") {
		t.Errorf("state %s, want good=A trial=none bad=B floor=0.1.0", got)
	}
}

// rolledBack waits until slot A starts, by GRUB's choice or since slot B does not
// load, and returns how often slot B was started before.
func (g *gateway) rolledBack() (tries int) {
	g.t.Helper()
	for {
		switch g.wait(`sluice: slot (A \(state|B \(state|B does not load)`)[1] {
		case "B (state":
			tries++
		default:
			return tries
		}
	}
}

// Ten power cuts, spread over installation and first boot. The slot that runs in
// the end is a good one, and nothing that the broker was told is taken is lost.
func TestTenPowerCuts(t *testing.T) {
	g := newGateway(t, trialEnv)
	for i := range 5 {
		g.remote.tell("echo installing; " + g.script("good", "rauc install"))
		g.wait(`installing`)
		after := time.Duration(i*2500+rand.IntN(2500)) * time.Millisecond
		time.Sleep(after)
		g.cut()
		state := g.state()
		g.on()
		slot := g.started()
		t.Logf("cut %d, %.1f s into the installation: state %s, slot %s starts", i+1, after.Seconds(), state, slot)
		if slot == "B" && !strings.Contains(state, "trial=B") && !strings.Contains(state, "good=B") {
			t.Errorf("slot B starts, though it was not installed")
		}
		g.judged()
	}
	if !strings.Contains(g.show(), "good=B") {
		g.installs("good")
		g.restart()
	} else {
		g.installs("next")
		g.restart()
	}
	for i := range 5 {
		slot := g.started()
		after := time.Duration(i*7000+rand.IntN(7000)) * time.Millisecond
		time.Sleep(after)
		g.cut()
		t.Logf("cut %d, %.1f s after GRUB started slot %s: state %s", i+6, after.Seconds(), slot, g.state())
		g.on()
	}
	g.started()
	t.Logf("at the end: %s", g.judged())
	g.plant.arrives(g.plant.count() + 5)
	g.plant.verdict(sluice(t))
	g.cut()
	t.Log(run(t, sluice(t), "buffer", "verify", "--data-dir", g.data("/lib/sluice")))
}

// The boot state is torn, in one copy or both: the good slot starts, and the
// copies are whole again afterwards.
func TestTornBootState(t *testing.T) {
	g := newGateway(t, trialEnv)
	g.installs("good")
	g.restart()
	g.boots("B", "good now")
	whole := g.file("boot1.env")
	half := whole[:30] + strings.Repeat("\xff", 400) + whole[430:]
	for _, torn := range []struct {
		name     string
		one, two string
		slots    []string
	}{
		{"the first copy is empty", strings.Repeat("\x00", 1024), whole, []string{"B"}},
		{"the first copy is half written", half, whole, []string{"B"}},
		{"the first copy is cut off", whole[:100], whole, []string{"B"}},
		{"the second copy is garbage", whole, half, []string{"B"}},
		{"both are lost", strings.Repeat("\x00", 1024), half, []string{"A", "B"}},
	} {
		g.cut()
		g.damage("boot1.env", []byte(torn.one))
		g.damage("boot2.env", []byte(torn.two))
		g.on()
		for _, slot := range torn.slots {
			if got := g.started(); got != slot {
				t.Fatalf("%s: slot %s starts, want %s", torn.name, got, slot)
			}
		}
		g.judged()
		if got := g.show(); !strings.Contains(got, "running=B good=B trial=none") {
			t.Errorf("%s: state %s", torn.name, got)
		}
		g.cut()
		if one, two := g.file("boot1.env"), g.file("boot2.env"); one != two || !strings.Contains(one, "good=B\n") || !strings.Contains(one, "floor=0.2.0\n") {
			t.Errorf("%s: not mended:\n%s\n%s", torn.name, one, two)
		}
		t.Logf("%s: slot B goes on, mended", torn.name)
	}
}

// A torn counter ends a trial: it must never make one that does not end.
func TestTornCounterEndsTheTrial(t *testing.T) {
	g := newGateway(t, trialEnv)
	g.installs("good")
	g.cut()
	g.damage("tries.env", []byte(strings.Repeat("#", 1024)))
	g.on()
	g.boots("A", "is good")
	if got := g.show(); !strings.Contains(got, "good=A trial=none") {
		t.Errorf("state %s", got)
	}
}

// A good slot whose kernel is gone is stood in for by the other, which can be
// updated from.
func TestDeadGoodSlot(t *testing.T) {
	g := newGateway(t, trialEnv)
	g.cut()
	g.write(slotA, make([]byte, 4<<20))
	g.on()
	g.wait(`sluice: slot A does not load`)
	if said := g.judged(); !strings.HasPrefix(said, "slot B, version 0.1.0, is good now") {
		t.Fatalf("the judge says %q", said)
	}
	g.installs("good")
	g.restart()
	g.boots("A", "good now")
}

// What only tests have is in no image that is released.
func TestNothingOfTestsIsReleased(t *testing.T) {
	list := run(t, "unsquashfs", "-l", "-o", fmt.Sprint(slotA), released(t))
	if !strings.Contains(list, "/usr/bin/sluice\n") || !strings.Contains(list, "/usr/lib/sluice/trial\n") {
		t.Fatalf("this is no listing of the image:\n%s", tail(list, 500))
	}
	for line := range strings.Lines(list) {
		if strings.Contains(line, "test-runner") || strings.Contains(line, "sluice-test") {
			t.Errorf("in the released image: %s", line)
		}
	}
}
