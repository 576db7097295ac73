package loopback

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func TestAReservedPortIsNobodyElses(t *testing.T) {
	held := map[string]bool{}
	for range 300 {
		held[Addr(t)] = true
	}
	if len(held) != 300 {
		t.Errorf("%d different addresses of 300", len(held))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 300 {
		other, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		other.Close()
		out, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		out.Close()
		if held[other.Addr().String()] || held[out.LocalAddr().String()] {
			t.Fatalf("%s or %s was reserved", other.Addr(), out.LocalAddr())
		}
	}
}

func TestAReservedPortRefusesUntilItsOwnerListens(t *testing.T) {
	addr := Addr(t)
	refused := func() {
		t.Helper()
		if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
	}
	refused()
	for range 2 {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if other, err := net.Listen("tcp", addr); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("it has another listener: %v, %v", other, err)
		}
		out, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		out.Close()
		ln.Close()
		refused()
	}
}
