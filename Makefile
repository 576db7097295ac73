# Sluice. "make" builds bin/sluice, "make demo" shows it at work, "make test"
# runs all hermetic tests; these need Go alone.
VERSION ?= 0.1.0
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w -buildid= -X main.version=$(VERSION) -X main.commit=$(COMMIT)
GOBUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
KAFKA   ?=
FUZZTIME ?= 20s

.PHONY: build demo test e2e fleet-test torture lint fuzz bench cross packages packages-test reproducible images images-boot images-test clean

build:
	$(GOBUILD) -o bin/sluice ./agent/cmd/sluice
	$(GOBUILD) -o bin/sluice-simulate ./agent/cmd/sluice-simulate

demo: build
	@bin/sluice-simulate demo --sluice bin/sluice $(if $(KAFKA),--kafka $(KAFKA))

# With the race detector where there is a C compiler, which it needs on Linux; Go alone will do.
test:
	go vet ./...
	go test $$([ "$$(go env CGO_ENABLED)" != 1 ] || echo -race) -count=1 -timeout 20m ./...

e2e: build
	agent/e2e/install.sh
	go test -tags e2e -count=1 -v -timeout 40m ./agent/e2e/

# A thousand agents in one process against a real Kafka: a rollout, an outage of a minute. FLEET=N makes it another number.
fleet-test:
	agent/e2e/install.sh
	go test -tags 'e2e fleet' -count=1 -v -timeout 30m -run 'TestFleet$$' ./agent/e2e/

# What a power cut, a kill, a damaged or full disk leave of the buffer, at length.
torture:
	agent/e2e/install.sh strace e2fsprogs
	go test -tags torture -count=1 -timeout 20m -run 'Pages|Blocks|Scan' ./buffer/
	go test -count=1 -run TenThousandAgents ./uplink/channel/ # resident memory, which the race detector of make test hides
	go test -tags torture -count=1 -v -timeout 60m ./buffer/powercut/ ./buffer/torture/

lint:
	agent/e2e/lint.sh

# Each fuzz target for FUZZTIME.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

# The last one drains a backlog to a real Kafka (Debian, root).
bench: build
	go test -run '^$$' -bench . -benchmem -timeout 30m ./...
	agent/e2e/install.sh
	SLUICE_E2E_BACKLOG=2000000 go test -tags e2e -count=1 -v -timeout 20m -run TestUplinkDrain ./agent/e2e/

# What the surroundings could change in a binary is set here: the same source, version and Go give the same bytes.
CROSS := GOFLAGS=-mod=readonly GOEXPERIMENT= GOFIPS140=off GOOS=linux GOAMD64=v1 GOARM64=v8.0
ARCHES ?= armv6 armv7 arm64 riscv64 amd64
cross:
	@set -e; for name in $(ARCHES); do \
	  case $$name in armv*) arch=arm arm=$${name#armv};; *) arch=$$name arm=;; esac; \
	  $(CROSS) GOARCH=$$arch GOARM=$$arm $(GOBUILD) -o dist/sluice-linux-$$name ./agent/cmd/sluice; \
	  printf '%s %s bytes\n' dist/sluice-linux-$$name $$(stat -c %s dist/sluice-linux-$$name); \
	done

# deb, rpm, apk, ipk, OCI image, bills of materials, provenance, SHA256SUMS.
packages: cross
	VERSION=$(VERSION) firmware-images/build.sh

# What the packages are worth: checked with the tools of those who will install them (Debian, root).
packages-test: packages
	VERSION=$(VERSION) firmware-images/verify.sh

# What "make packages" has made is made again elsewhere, from nothing, and must be the same; ARCHES says which binaries
# are compiled again.
reproducible:
	VERSION=$(VERSION) firmware-images/reproducible.sh $(ARCHES)

# The same and the bootable arm64 image with its update bundle (Debian, root).
images: packages
	VERSION=$(VERSION) firmware-images/image/build.sh

# Boots the image once in qemu, to the first record in a Kafka here; it is made anew unless dist has it of this source.
images-boot:
	VERSION=$(VERSION) firmware-images/image/test/run.sh boot

# What packages-test and images-boot leave out: everything built twice, the service under a real systemd, and the image's
# updates, power cuts and rollbacks in qemu, which take long.
images-test: packages-test
	VERSION=$(VERSION) firmware-images/reproducible.sh
	VERSION=$(VERSION) firmware-images/test/systemd.sh
	VERSION=$(VERSION) firmware-images/image/test/run.sh all

clean:
	rm -rf bin dist
